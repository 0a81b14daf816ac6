# SPDX-License-Identifier: Apache-2.0
"""Image files: reads and writes RGB images, and reads the size of an image without decoding it.

`read_rgb`, `decode_rgb`, `write_rgb`, `image_size` (from the first bytes of the file: a check of a million records must
not decode them), `with_end_marker` and `is_truncated` (was an image cut short?), `to_8_bits` and `jpeg_segments`.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from depthlm_ros.errors import BadImage

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
# The marker of a scan, which is followed by the compressed picture. A scan cannot contain JPEG_END by chance: in it,
# bytes 0xff are followed by 0x00 (ITU-T T.81, B.1.1.5).
JPEG_SCAN = 0xDA
# A JPEG without its end marker is complete if the decoder needs nothing of what comes after its data. So it is decoded
# with several continuations, which the entropy code reads as different pictures. These bytes are no code that libjpeg
# would complain of. So many of them for each column of pixels are enough for one more row of blocks.
CONTINUATION_BYTES = (0x00, 0x55, 0x33)
CONTINUATION_PER_COLUMN = 200
# The markers of frames that are coded in one pass from top to bottom (baseline and extended sequential).
JPEG_SEQUENTIAL = (0xC0, 0xC1)
# Markers of a JPEG file that begin a frame and so contain the size: C0 to CF except tables (C4), JPG (C8) and DAC (CC).
JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# The first bytes of a PNG file; then the name and checksum of its last chunk, which are the same in every file.
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
# Brand in the first box of an ISO media file -> name of the format (ISO/IEC 23008-12, annexes B and D).
PHONE_FORMATS = dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC")
# What a file lacks is said in one line by the code that reads it: OpenCV's own lines about it would come before that.
if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


# The largest picture that is decoded: 400 MB of RGB. A file of 1 MB can promise ten times as much.
MAX_PIXELS = 1 << 27


def check_size(encoded: np.ndarray, where: str) -> None:
    """Raises BadImage if the header of a PNG or JPEG, uint8 (N,), promises more pixels than are decoded."""
    size_px = _read_size(BytesIO(encoded.tobytes()))
    if size_px and size_px[0] * size_px[1] > MAX_PIXELS:
        raise BadImage(f"{where}: it promises {size_px[0]} x {size_px[1]} pixels; at most {MAX_PIXELS} are decoded.")


def read_bytes(path: Path) -> np.ndarray:
    """Returns the content of a file as uint8 (N,). Raises OSError, also for a pipe or a device: it may have no end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not an ordinary file")
    return np.fromfile(path, np.uint8)


def read_rgb(path: Path) -> np.ndarray:
    """Reads an image file as uint8 (H, W, 3), red first; grey becomes RGB, alpha is dropped.

    An orientation tag is ignored: intrinsics and labels refer to the pixels in the order in which they are stored.
    Raises BadImage if the file is missing, is not an image, or is truncated.
    """
    try:
        encoded = read_bytes(path)
    except OSError as exc:
        raise BadImage(f"{path}: cannot be read ({exc.strerror}): give the path of an image file.") from exc
    return decode_rgb(encoded, str(path))


def decode_rgb(encoded: np.ndarray, where: str, upright: bool = False) -> np.ndarray:
    """Decodes the bytes of an image file, uint8 (N,), as read_rgb does.

    where: the name of the image in messages. upright: turn the image as its orientation tag says. Raises BadImage.
    """
    flags = cv2.IMREAD_COLOR | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
    check_size(encoded, where)
    complete = with_end_marker(encoded)
    if complete is None:
        raise BadImage(
            f"{where}: ends after {encoded.size} bytes without its end marker: it was cut short; copy it again."
        )
    check_known_format(encoded, where)
    try:
        bgr = cv2.imdecode(complete, flags) if encoded.size else None
    except cv2.error as exc:  # a header that promises more pixels than OpenCV takes
        raise BadImage(f"{where}: cannot be decoded ({exc.err}): give a PNG or JPEG file of a usual size.") from exc
    if bgr is None:
        raise BadImage(f"{where}: its {encoded.size} bytes are not an image: give a PNG or JPEG file.")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def write_rgb(path: Path, rgb: np.ndarray) -> None:
    """Writes uint8 (H, W, 3), red first; the suffix of the path selects the format.

    Raises BadImage for a suffix that does not name an image format, OSError if the file cannot be written.
    """
    try:
        encoded = cv2.imencode(path.suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1]
    except cv2.error as exc:
        raise BadImage(
            f"{path}: '{path.suffix}' is not an image format that can be written: end the name in .png or .jpg."
        ) from exc
    path.write_bytes(encoded.tobytes())


def image_size(path: Path) -> tuple[int, int]:
    """Returns (width, height). Raises BadImage if the file is missing or is not an image."""
    try:
        with path.open("rb") as file:
            size_px = _read_size(file)
    except OSError as exc:
        raise BadImage(f"{path}: cannot be read ({exc.strerror}): give the path of an image file.") from exc
    if size_px is None:
        height, width = read_rgb(path).shape[:2]
        return width, height
    return size_px


def _read_size(file: BinaryIO) -> tuple[int, int] | None:
    """Returns (width, height) from the header of a PNG or JPEG file; None if only a decoder can tell."""
    start = file.read(24)
    if start.startswith(PNG_START) and len(start) == 24:
        width, height = struct.unpack(">II", start[16:24])
        return width, height
    file.seek(0)
    for marker, _ in jpeg_segments(file):
        if marker in JPEG_FRAMES:
            frame = file.read(5)
            if len(frame) < 5:
                return None
            height, width = struct.unpack(">xHH", frame)
            return width, height
    return None


def check_known_format(encoded: np.ndarray, where: str) -> None:
    """Raises BadImage for a picture of a phone's own format, and for a PNG that is damaged.

    libpng would print its own line about that.
    """
    start = encoded[:12].tobytes()
    if start[4:8] == b"ftyp" and start[8:12] in PHONE_FORMATS:
        raise BadImage(
            f"{where}: is a {PHONE_FORMATS[start[8:12]]} picture, a format of phones that is not read here: convert it "
            "to JPEG (heif-convert FILE FILE.jpg, of the package libheif-examples), or let the phone take JPEG."
        )
    if start.startswith(PNG_START) and (chunk := _damaged_chunk(encoded)):
        raise BadImage(f"{where}: is damaged: its part {chunk} does not have its checksum; copy it again.")


def _damaged_chunk(encoded: np.ndarray) -> str:
    """Returns the name of the first needed chunk of a PNG whose checksum is wrong; empty if there is none."""
    data, at = memoryview(encoded.tobytes()), len(PNG_START)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        content, end = data[at + 4 : at + 8 + length], at + 8 + length
        is_needed = content[:1].tobytes().isupper()
        if is_needed and end + 4 <= len(data) and zlib.crc32(content) != struct.unpack_from(">I", data, end)[0]:
            return content[:4].tobytes().decode("latin-1")
        if content[:4] == b"IEND":
            break
        at = end + 4
    return ""


def to_8_bits(pixels: np.ndarray, bit_depth: int = 16) -> np.ndarray:
    """Returns uint8 values of the same shape. bit_depth: how many bits of 16 hold the picture; brighter is white."""
    if pixels.dtype == np.uint16:
        return cv2.convertScaleAbs(pixels, alpha=255.0 / (2**bit_depth - 1)).reshape(pixels.shape)
    return pixels


def with_end_marker(encoded: np.ndarray) -> np.ndarray | None:
    """Returns the bytes of an image file, uint8 (N,), with their end marker; None if the image was cut short.

    Decoders would fill the rest of an image that was cut short with invented pixels. Some cameras leave out the end
    marker of a JPEG that is complete; others append bytes after it. Formats other than JPEG and PNG are returned as
    they are.
    """
    if not _lacks_end(encoded):
        return encoded
    if encoded[:2].tobytes() != JPEG_START or not _is_coded_in_one_scan(encoded):
        return None
    size_px = _read_size(BytesIO(encoded.tobytes()))
    if size_px is None:
        return None
    length = CONTINUATION_PER_COLUMN * size_px[0]
    first, *others = (
        _decoded_or_none(np.append(encoded, np.full(length, byte, np.uint8))) for byte in CONTINUATION_BYTES
    )
    is_complete = first is not None and all(other is not None and np.array_equal(first, other) for other in others)
    return np.append(encoded, np.frombuffer(JPEG_END, np.uint8)) if is_complete else None


def is_truncated(encoded: np.ndarray) -> bool:
    """Whether a JPEG or PNG, uint8 (N,), was cut short. False for other formats."""
    return with_end_marker(encoded) is None


def _decoded_or_none(encoded: np.ndarray) -> np.ndarray | None:
    try:
        return cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None


def _is_coded_in_one_scan(encoded: np.ndarray) -> bool:
    """Whether the one scan of a JPEG holds all its components: else further scans may be missing without a trace."""
    file = BytesIO(encoded.tobytes())
    components = -1
    for marker, content in jpeg_segments(file):
        if marker in JPEG_FRAMES and marker not in JPEG_SEQUENTIAL:
            return False
        if marker in JPEG_SEQUENTIAL and content > 5:
            components = file.read(6)[5]
        if marker == JPEG_SCAN:
            return file.read(1) == bytes((components,)) if components > 0 else False
    return False


def _lacks_end(encoded: np.ndarray) -> bool:
    """Whether the end of a JPEG or PNG is not there. Bytes that a camera appends after the end are allowed."""
    data = encoded.tobytes()
    if data.startswith(JPEG_START):
        file = BytesIO(data)
        has_scan = any(marker == JPEG_SCAN for marker, _ in jpeg_segments(file))
        # Some cameras write other bytes between two segments, which decoders skip.
        scan = file.tell() if has_scan else data.find(bytes((0xFF, JPEG_SCAN)), file.tell())
        return scan < 0 or data.find(JPEG_END, scan) < 0
    return data.startswith(PNG_START[:4]) and PNG_END not in data


def jpeg_segments(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Yields (marker, number of bytes of content) of each segment of a JPEG file, up to the first scan.

    When it yields, the file is positioned at the content. It ends where there is no further segment, and yields nothing
    if the file is not a JPEG.
    """
    if file.read(2) != JPEG_START:
        return
    while file.read(1) == b"\xff":
        marker = file.read(1)
        while marker == b"\xff":  # These are fill bytes.
            marker = file.read(1)
        size = file.read(2)
        content = int.from_bytes(size, "big") - 2
        if len(size) < 2 or content < 0:
            return
        start = file.tell()
        yield marker[0], content
        if marker[0] == JPEG_SCAN:
            return
        file.seek(start + content)
