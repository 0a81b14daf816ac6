"""The focal length that a camera wrote into its JPEG file.

Tags and types are those of the Exif standard (CIPA DC-008) and TIFF 6.0; nothing else of a file is looked at.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path

from depthlm_ros.imagefile import jpeg_segments

# Exif tags.
EXIF_IFD = 0x8769
FOCAL_LENGTH_MM, FOCAL_LENGTH_35MM = 0x920A, 0xA405
PLANE_X_RESOLUTION, PLANE_UNIT, PIXEL_X_DIMENSION = 0xA20E, 0xA210, 0xA002
# Diagonal of 36 mm x 24 mm film, to which the equivalent focal length refers (CIPA DCG-001).
FILM_DIAGONAL_MM = math.hypot(36.0, 24.0)
UNITS_MM = {2: 25.4, 3: 10.0}
# Bytes of the types that are read here: SHORT, LONG, RATIONAL.
SIZES = {3: 2, 4: 4, 5: 8}
# The segment of a JPEG that holds the tags.
APP1 = 0xE1


def focal_px(path: Path, size_px: tuple[int, int]) -> float | None:
    """Focal length in pixels of an image file of this size (width, height), None where the file does not say."""
    try:
        tags = read_tags(path)
    except (OSError, struct.error):
        return None
    film_mm = tags.get(FOCAL_LENGTH_35MM, 0.0)
    if film_mm > 0:
        return film_mm * math.hypot(*size_px) / FILM_DIAGONAL_MM
    focal_mm, per_unit = tags.get(FOCAL_LENGTH_MM, 0.0), tags.get(PLANE_X_RESOLUTION, 0.0)
    unit_mm = UNITS_MM.get(int(tags.get(PLANE_UNIT, 2)), 0.0)
    if not (focal_mm > 0 and per_unit > 0 and unit_mm):
        return None
    # The resolution is that of the picture as it was taken.
    taken_px = tags.get(PIXEL_X_DIMENSION, 0.0) or max(size_px)
    return focal_mm * per_unit / unit_mm * max(size_px) / taken_px


def read_tags(path: Path) -> dict[int, float]:
    """The numbers of a JPEG file's first and Exif directories by tag; none for a file that has none.

    Raises OSError, or struct.error for a directory that is cut off.
    """
    block = _exif_block(path)
    if block[:4] not in (b"II*\0", b"MM\0*"):
        return {}
    order = "<" if block[:2] == b"II" else ">"
    tags = dict(_directory(block, order, struct.unpack_from(order + "I", block, 4)[0]))
    if EXIF_IFD in tags:
        tags |= dict(_directory(block, order, int(tags[EXIF_IFD])))
    return tags


def _exif_block(path: Path) -> bytes:
    """The TIFF structure in a JPEG's first APP1 segment, empty if there is none."""
    with path.open("rb") as file:
        for marker, size in jpeg_segments(file):
            segment = file.read(size) if marker == APP1 else b""
            if segment.startswith(b"Exif\0\0"):
                return segment[6:]
    return b""


def _directory(block: bytes, order: str, at: int) -> Iterator[tuple[int, float]]:
    (count,) = struct.unpack_from(order + "H", block, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", block, entry)
        if kind not in SIZES or number != 1:
            continue
        place = entry + 8 if SIZES[kind] <= 4 else struct.unpack_from(order + "I", block, entry + 8)[0]
        yield tag, _number(block, order, kind, place)


def _number(block: bytes, order: str, kind: int, at: int) -> float:
    if kind == 5:
        over, under = struct.unpack_from(order + "II", block, at)
        return over / under if under else 0.0
    return float(struct.unpack_from(order + ("H" if kind == 3 else "I"), block, at)[0])
