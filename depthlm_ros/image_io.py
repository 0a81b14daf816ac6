"""Image files: reads and writes RGB images, and reads the size of an image without decoding it.

`read_rgb`, `decode_rgb`, `write_rgb`, `image_size` (from the first bytes of the file: a check of a million records must
not decode them), `is_truncated` and `jpeg_segments`.
"""

from __future__ import annotations

import struct
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
# Markers of a JPEG file that begin a frame and so contain the size: C0 to CF except tables (C4), JPG (C8) and DAC (CC).
JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# The first bytes of a PNG file; then the name and checksum of its last chunk, which are the same in every file.
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


def read_rgb(path: Path) -> np.ndarray:
    """Reads an image file as uint8 (H, W, 3), red first; grey becomes RGB, alpha is dropped.

    An orientation tag is ignored: intrinsics and labels refer to the pixels in the order in which they are stored.
    Raises BadImage if the file is missing, is not an image, or is truncated.
    """
    try:
        encoded = np.fromfile(path, np.uint8)
    except OSError as exc:
        raise BadImage(f"{path}: cannot be read ({exc.strerror}): give the path of an image file.") from exc
    return decode_rgb(encoded, str(path))


def decode_rgb(encoded: np.ndarray, where: str, upright: bool = False) -> np.ndarray:
    """Decodes the bytes of an image file, uint8 (N,), as read_rgb does.

    where: the name of the image in messages. upright: turn the image as its orientation tag says. Raises BadImage.
    """
    flags = cv2.IMREAD_COLOR | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
    if is_truncated(encoded):
        raise BadImage(
            f"{where}: ends after {encoded.size} bytes without its end marker: it was cut short; copy it again."
        )
    try:
        bgr = cv2.imdecode(encoded, flags) if encoded.size else None
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


def is_truncated(encoded: np.ndarray) -> bool:
    """Whether a JPEG or PNG has lost its end, so that decoders would fill the rest with invented pixels.

    encoded: uint8 (N,), the bytes of the file. Bytes that a camera appends after the end are allowed. False for other
    formats.
    """
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
