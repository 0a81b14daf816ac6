"""Width and height of a picture from the first bytes of its file: checking a million records must not decode them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from depthlm_ros.errors import BadImage
from depthlm_ros.imagefile import jpeg_segments, read_rgb

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
