"""A camera for an image without one: a focal length estimated from the single image.

VLM3 takes a learned model for this (AnyCalib, Tirado-Garin and Civera 2025). None is shipped here: the file's Exif data
are asked, then the lines in the image (vanishing.py); name a learned one in a recipe (focal.estimator). What none of
them tells is a fixed guess.

The focal length that a camera wrote into its JPEG file.

Tags and types are those of the Exif standard (CIPA DC-008) and TIFF 6.0; nothing else of a file is looked at.

A focal length from one image of something built, by the directions that its edges share.

Edges of rooms, streets and furniture mostly run along three directions at right angles. Each pair of these has two
vanishing points v1, v2 (from the image's centre), and f^2 = -v1 . v2 (Caprile and Torre, "Using vanishing points for
camera calibration", 1990). Pairs are drawn from line segments (von Gioi et al.'s LSD, in OpenCV), each is judged by the
length of the segments that one of its three directions explains, and the best have to agree: where they do not, as in
a view straight at a wall, which says nothing about f, nothing is said. bench/focal.py measures how good it is.
"""

from __future__ import annotations

import importlib
import math
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import SetupError
from depthlm_ros.image_io import image_size, jpeg_segments, read_rgb
from depthlm_ros.training.finetune.recipe import FocalSettings

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


# Segments are looked for in an image of this longer side; lengths below are in longer sides.
LONG_PX = 640
SHORTEST, MOST_SEGMENTS, LEAST_SEGMENTS = 0.04, 250, 12
# Fields of view from 120 to 26 degrees along the longer side.
FOCALS = (0.29, 2.2)
DRAWN = 4000
# A segment that misses a vanishing point by more is not explained by it.
MISSED_DEG = 1.5
# So many of the best have to agree, the middle 60 % of their weight within so much of ln f.
BEST, AGREED = 25, 0.2


def focal_from_lines(rgb: np.ndarray) -> float | None:
    """Focal length in pixels, the same on both axes, of an image uint8 (H, W, 3) whose principal point is its centre;
    None where its lines do not tell. The same image gives the same number."""
    segments = find_segments(rgb)
    if len(segments) < LEAST_SEGMENTS:
        return None
    focal, directions = _draw_frames(segments)
    if len(focal) < BEST:
        return None
    found = _agreed(focal, _explained(segments, focal, directions))
    return None if found is None else found * max(rgb.shape[:2])


def find_segments(rgb: np.ndarray) -> np.ndarray:
    """float64 (N, 4): both ends (x, y, x, y) of the longest segments, from the image's centre, in longer sides."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    scale = LONG_PX / max(grey.shape)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    found = cv2.createLineSegmentDetector().detect(grey)[0]
    if found is None:
        return np.zeros((0, 4))
    centre = (np.array(grey.shape[::-1]) - 1) / 2
    segments = (found.reshape(-1, 4).astype(np.float64) - np.tile(centre, 2)) / max(grey.shape)
    lengths = _lengths(segments)
    longest = np.argsort(-lengths, kind="stable")[:MOST_SEGMENTS]
    return segments[longest[lengths[longest] > SHORTEST]]


def _lengths(segments: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(segments[:, 2:] - segments[:, :2], axis=1))


def _draw_frames(segments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Focal lengths (F,), and three directions at right angles (3, F, 3), of pairs of vanishing points, each where two
    segments meet. Longer segments are drawn more often."""
    ends = np.insert(segments.reshape(-1, 2, 2), 2, 1.0, axis=2)
    lines, weight = np.cross(ends[:, 0], ends[:, 1]), np.sqrt(_lengths(segments))
    drawn = np.random.default_rng(0).choice(len(segments), (DRAWN, 4), p=weight / weight.sum())
    v1, v2 = (np.cross(lines[drawn[:, k]], lines[drawn[:, k + 1]]) for k in (0, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        focal = np.sqrt(-(v1[:, :2] * v2[:, :2]).sum(1) / (v1[:, 2] * v2[:, 2]))
    usable = (focal > FOCALS[0]) & (focal < FOCALS[1])
    focal = focal[usable]
    first, second = (_unit(np.column_stack([v[usable, :2], v[usable, 2] * focal])) for v in (v1, v2))
    return focal, np.stack([first, second, np.cross(first, second)])


def _explained(segments: np.ndarray, focal: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """float64 (F,): the share of the segments' length that points at one of the three vanishing points of a frame; what
    points at it less exactly counts less."""
    middles, along = (segments[:, :2] + segments[:, 2:]) / 2, _unit(segments[:, 2:] - segments[:, :2])
    best = np.zeros((len(focal), len(segments)))
    for direction in directions:
        # Towards the vanishing point, also where that is at infinity.
        towards = _unit(focal[:, None, None] * direction[:, None, :2] - direction[:, None, 2:] * middles)
        sine = towards[..., 0] * along[:, 1] - towards[..., 1] * along[:, 0]
        best = np.maximum(best, 1 - (sine / math.sin(math.radians(MISSED_DEG))) ** 2)
    lengths = _lengths(segments)
    return np.asarray(best @ lengths / lengths.sum())


def _agreed(focal: np.ndarray, score: np.ndarray) -> float | None:
    """The weighted median of the best, None if they do not agree."""
    best = np.argsort(-score, kind="stable")[:BEST]
    best = best[np.argsort(focal[best], kind="stable")]
    share = np.cumsum(score[best]) / score[best].sum()
    low, middle, high = np.log(focal[best][np.searchsorted(share, (0.2, 0.5, 0.8))])
    return float(math.exp(middle)) if high - low < AGREED else None


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-12))


class FocalEstimator(Protocol):
    """What stands in for a calibration."""

    def focal_px(self, image: Path, size_px: tuple[int, int]) -> float:
        """Focal length, pixels, the same on both axes, of an image file of this size (width, height)."""
        ...


# Focal length in pixels of an image file of this size; None where it does not tell.
Told = Callable[[Path, tuple[int, int]], float | None]


class FirstTold:
    """What the first of several ways tells; where none does, a fixed field of view, with a warning."""

    def __init__(self, ways: Sequence[Told], fallback_fov_deg: float) -> None:
        if not 0 < fallback_fov_deg < 180:
            raise SetupError(f"focal.fallback_fov_deg is {fallback_fov_deg:g}: it must be between 0 and 180.")
        self.ways, self.fallback_fov_deg = ways, fallback_fov_deg
        self._warned = False

    def focal_px(self, image: Path, size_px: tuple[int, int]) -> float:
        for way in self.ways:
            told = way(image, size_px)
            if told is not None:
                return told
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{image} has no intrinsics, and nothing in it tells its focal length: a field of view of "
                f"{self.fallback_fov_deg:g} degrees is assumed for it and all further such ones. Metric depth learnt "
                "from them is a guess; give intrinsics, or a learned estimator (focal.estimator).",
                stacklevel=2,
            )
        return max(size_px) / 2 / math.tan(math.radians(self.fallback_fov_deg) / 2)


@lru_cache(maxsize=1 << 16)
def lines_focal_px(image: Path, size_px: tuple[int, int]) -> float | None:
    """By vanishing points (vanishing.py); kept, since an image is shown many times. Raises BadImage."""
    return focal_from_lines(read_rgb(image))


# Settings of a recipe -> what is asked, in this order.
WAYS: dict[str, tuple[Told, ...]] = {"auto": (focal_px, lines_focal_px), "exif": (focal_px,)}


def make_estimator(settings: FocalSettings) -> FocalEstimator:
    """The estimator that a recipe names. Raises SetupError if package.module:name cannot be had."""
    if settings.estimator in WAYS:
        return FirstTold(WAYS[settings.estimator], settings.fallback_fov_deg)
    module_name, _, name = settings.estimator.partition(":")
    try:
        made = getattr(importlib.import_module(module_name), name)()
    except (ImportError, AttributeError, TypeError, ValueError) as exc:
        raise SetupError(
            f"focal.estimator is {settings.estimator!r}, which cannot be made ({exc}): write auto, exif, or "
            "package.module:name of a callable without arguments that gives an object with focal_px(image, size_px)."
        ) from exc
    if not callable(getattr(made, "focal_px", None)):
        raise SetupError(f"focal.estimator {settings.estimator!r} gave a {type(made).__name__} without focal_px().")
    return made


def estimated_camera(image: Path, estimator: FocalEstimator) -> Intrinsics:
    """The camera of an image file: estimated focal length, principal point in the middle. Raises BadImage, and
    BadIntrinsics for an estimate that is no focal length."""
    width, height = image_size(image)
    focal_px = float(estimator.focal_px(image, (width, height)))
    return Intrinsics(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2, width, height)
