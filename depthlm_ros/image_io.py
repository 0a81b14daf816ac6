"""Image files, in and out.

Width and height of a picture from the first bytes of its file: checking a million records must not decode them.
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
# The marker of a scan: the picture itself follows. No scan holds the end by chance: its bytes 0xff are followed by 0x00
# (ITU-T T.81, B.1.1.5).
JPEG_SCAN = 0xDA
# PNG: the last chunk's name and its checksum, the same in every file.
_PNG_START, _PNG_END = b"\x89PNG", b"IEND\xaeB`\x82"


def jpeg_segments(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """(marker, bytes of its content) of each segment of a JPEG, up to the first scan; the file stands at the content.

    Ends where no further segment is; nothing if the file is no JPEG.
    """
    if file.read(2) != JPEG_START:
        return
    while file.read(1) == b"\xff":
        marker = file.read(1)
        while marker == b"\xff":  # fill bytes
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


def cut_short(encoded: np.ndarray) -> bool:
    """Whether a JPEG or PNG (uint8 (N,), the bytes of the file) has lost its end: decoders fill the rest with pixels
    that nobody saw. What a camera appends after the end does no harm. Other formats: False."""
    data = encoded.tobytes()
    if data.startswith(JPEG_START):
        file = BytesIO(data)
        has_scan = any(marker == JPEG_SCAN for marker, _ in jpeg_segments(file))
        # Decoders skip what some cameras write between two segments.
        scan = file.tell() if has_scan else data.find(bytes((0xFF, JPEG_SCAN)), file.tell())
        return scan < 0 or data.find(JPEG_END, scan) < 0
    return data.startswith(_PNG_START) and _PNG_END not in data


def read_rgb(path: Path) -> np.ndarray:
    """Read an image file as uint8 (H, W, 3), red first; grey becomes rgb, alpha is dropped.

    An orientation tag is ignored: intrinsics and labels are about the pixels as they are stored.
    Raises BadImage if the file is missing, is no image, or was cut short.
    """
    try:
        encoded = np.fromfile(path, np.uint8)
    except OSError as exc:
        raise BadImage(f"{path}: cannot be read ({exc.strerror}): give the path of an image file.") from exc
    if cut_short(encoded):
        raise BadImage(
            f"{path}: ends after {encoded.size} bytes without its end marker: it was cut short; copy it again."
        )
    try:
        bgr = cv2.imdecode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if encoded.size else None
    except cv2.error as exc:  # a header that promises more pixels than OpenCV takes
        raise BadImage(f"{path}: cannot be decoded ({exc.err}): give a PNG or JPEG file of a usual size.") from exc
    if bgr is None:
        raise BadImage(f"{path}: {encoded.size} bytes that are no image: give a PNG or JPEG file.")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def write_rgb(path: Path, rgb: np.ndarray) -> None:
    """Write uint8 (H, W, 3), red first; the suffix of the path chooses the format.

    Raises BadImage for a suffix that names no image format, OSError where the file cannot be written.
    """
    try:
        encoded = cv2.imencode(path.suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1]
    except cv2.error as exc:
        raise BadImage(
            f"{path}: '{path.suffix}' is no image format that can be written: end the name in .png or .jpg."
        ) from exc
    path.write_bytes(encoded.tobytes())


PNG = b"\x89PNG\r\n\x1a\n"
# Markers of a JPEG file that begin a frame and so hold the size: all of C0 to CF but tables (C4), JPG (C8), DAC (CC).
JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def image_size(path: Path) -> tuple[int, int]:
    """(width, height). Raises BadImage if the file is missing or is no image."""
    try:
        with path.open("rb") as file:
            size_px = _size(file)
    except OSError as exc:
        raise BadImage(f"{path}: cannot be read ({exc.strerror}): give the path of an image file.") from exc
    if size_px is None:
        height, width = read_rgb(path).shape[:2]
        return width, height
    return size_px


def _size(file: BinaryIO) -> tuple[int, int] | None:
    """None if only a decoder can tell."""
    start = file.read(24)
    if start.startswith(PNG) and len(start) == 24:
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
