# SPDX-License-Identifier: Apache-2.0
"""A camera for an image without calibration: a focal length estimated from the single image (`estimate_focal`).

VLM3 uses a learned model for this (AnyCalib, Tirado-Garin and Civera 2025). None is shipped here; a recipe can name one
(focal.estimator). `make_estimator` returns an estimator that reads the file's Exif data, then uses the lines in the
image, and then assumes a fixed field of view. `focal_doubts` says what is unlikely about a calibration that was given.

Exif: tags and types are those of the Exif standard (CIPA DC-008) and TIFF 6.0; nothing else of a file is read.

Lines: edges of rooms, streets and furniture mostly run along three directions at right angles. Each pair of these has
two vanishing points v1, v2 (relative to the image's centre), and f^2 = -v1 . v2 (Caprile and Torre, "Using vanishing
points for camera calibration", 1990). Pairs are drawn from line segments (von Gioi et al.'s LSD, in OpenCV). The score
of a pair is the length of the segments that one of its three directions explains, and the best pairs must agree. Where
they do not, as in a view straight at a wall, which says nothing about f, there is no estimate. bench/focal.py measures
the accuracy.
"""

from __future__ import annotations

import importlib
import math
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import SetupError
from depthlm_ros.geometry.pinhole import centred_camera
from depthlm_ros.image_io import image_size, jpeg_segments, read_rgb

# Exif tags.
ORIENTATION, EXIF_IFD = 0x0112, 0x8769
FOCAL_LENGTH_MM, FOCAL_LENGTH_35MM = 0x920A, 0xA405
PLANE_X_RESOLUTION, PLANE_UNIT = 0xA20E, 0xA210
PIXEL_X_DIMENSION, PIXEL_Y_DIMENSION = 0xA002, 0xA003
# Diagonal of 36 mm x 24 mm film, to which the equivalent focal length refers (CIPA DCG-001).
FILM_DIAGONAL_MM = math.hypot(36.0, 24.0)
# Unit of the resolution -> millimetres.
UNITS_MM = {2: 25.4, 3: 10.0}
# Type -> bytes, for the types that are read here: SHORT, LONG, RATIONAL.
SIZES = {3: 2, 4: 4, 5: 8}
# The segment of a JPEG that contains the tags.
APP1 = 0xE1
# Orientation -> counter-clockwise quarter turns that make the image upright.
QUARTER_TURNS = {3: 2, 6: 3, 8: 1}

# A focal length outside of this range, in longer sides of the image, is a wrong entry (views of 136 and 3 degrees).
FOCAL_SHARES = (0.2, 20.0)
# Nine of ten estimates are within this share of the truth: from Exif data, usually; from the lines of photographs
# (bench/focal.py); from an assumed field of view, as the cameras of phones, robots and laptops differ.
EXIF_ERROR, LINES_ERROR, ASSUMED_ERROR = 0.05, 0.08, 0.33
# A picture whose sides have another ratio than those of its Exif data, by more than this share, was cropped.
SAME_RATIO = 0.02
# A principal point that is farther from the middle than this share of the image is unlikely, except in a cropped image.
USUAL_OFFSET = 0.25

# Segments are detected in an image whose longer side is LONG_PX. Lengths below are in units of the longer side.
LONG_PX = 640
SHORTEST, MOST_SEGMENTS, LEAST_SEGMENTS = 0.04, 250, 12
# Fields of view from 120 to 26 degrees along the longer side.
FOCALS = (0.29, 2.2)
# Number of pairs of vanishing points that are drawn.
DRAWN = 4000
# A vanishing point does not explain a segment that misses it by more than this.
MISSED_DEG = 1.5
# This many of the best pairs must agree: the middle 60 % of their weight lies within AGREED of ln f.
BEST, AGREED = 25, 0.2


@dataclass(frozen=True)
class FocalSettings:
    """Settings for images without intrinsics.

    estimator: "auto" (Exif data, then the lines in the image), "exif", or package.module:name of a callable that
    returns a FocalEstimator. fallback_fov_deg: field of view along the longer side, for images that give no estimate.
    """

    estimator: str = "auto"
    fallback_fov_deg: float = 60.0


class FocalEstimator(Protocol):
    """Estimates a focal length in the place of a calibration."""

    def focal_px(self, image: Path, size_px: tuple[int, int]) -> float:
        """Returns the focal length, pixels, the same on both axes, of an image file of this size (width, height)."""
        ...


@dataclass(frozen=True)
class FocalEstimate:
    """An estimated focal length.

    source: what it was read from, in words. error: nine of ten estimates of this kind are within this share of the
    truth; NaN if that is unknown.
    """

    focal_px: float
    source: str
    error: float


# Returns the focal length in pixels of an image file of this size (width, height); None if it has no estimate.
FocalSource = Callable[[Path, tuple[int, int]], float | None]


class FocalWithFallback:
    """Uses the first of several sources that has an estimate; else a fixed field of view, with a warning."""

    def __init__(self, sources: Sequence[FocalSource], fallback_fov_deg: float) -> None:
        if not 0 < fallback_fov_deg < 180:
            raise SetupError(f"focal.fallback_fov_deg is {fallback_fov_deg:g}: it must be between 0 and 180.")
        self.sources, self.fallback_fov_deg = sources, fallback_fov_deg
        self._has_warned = False

    def estimate(self, image: Path, size_px: tuple[int, int]) -> FocalEstimate:
        """Returns the focal length of an image file of this size (width, height), and what it is from."""
        for source in self.sources:
            focal_px = source(image, size_px)
            if focal_px is not None:
                return FocalEstimate(focal_px, *SOURCE_NOTES[source])
        focal_px = max(size_px) / 2 / math.tan(math.radians(self.fallback_fov_deg) / 2)
        note = f"an assumed field of view of {self.fallback_fov_deg:g} degrees, because nothing in the image tells it"
        return FocalEstimate(focal_px, note, ASSUMED_ERROR)

    def focal_px(self, image: Path, size_px: tuple[int, int]) -> float:
        """Returns the focal length, as FocalEstimator says."""
        estimate = self.estimate(image, size_px)
        if estimate.error == ASSUMED_ERROR and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{image} has no intrinsics, and its focal length cannot be estimated: a field of view of "
                f"{self.fallback_fov_deg:g} degrees is assumed for this image and all further ones like it. Metric "
                "depth learnt from them is a guess: give intrinsics, or a learned estimator (focal.estimator).",
                stacklevel=2,
            )
        return estimate.focal_px


def make_estimator(settings: FocalSettings) -> FocalEstimator:
    """Returns the estimator that a recipe names. Raises SetupError if package.module:name cannot be imported."""
    if settings.estimator in FOCAL_SOURCES:
        return FocalWithFallback(FOCAL_SOURCES[settings.estimator], settings.fallback_fov_deg)
    module_name, _, name = settings.estimator.partition(":")
    try:
        estimator = getattr(importlib.import_module(module_name), name)()
    except Exception as exc:  # The module is the user's own: it can raise anything.
        raise SetupError(
            f"the focal estimator {settings.estimator!r} cannot be made ({exc}): write auto, exif, or "
            "package.module:name of a callable without arguments that returns an object with focal_px(image, size_px)."
        ) from exc
    if not callable(getattr(estimator, "focal_px", None)):
        raise SetupError(
            f"the focal estimator {settings.estimator!r} is a {type(estimator).__name__} without focal_px(): give a "
            "callable that returns an object with focal_px(image, size_px)."
        )
    return estimator


def estimate_focal(image: Path, size_px: tuple[int, int], estimator: FocalEstimator) -> FocalEstimate:
    """Returns the focal length of an image file of this size (width, height), what it is from, and its error.

    Raises BadImage, and SetupError if a user's own estimator fails.
    """
    if isinstance(estimator, FocalWithFallback):
        return estimator.estimate(image, size_px)
    name = type(estimator).__name__
    try:
        focal_px = float(estimator.focal_px(image, size_px))
    except Exception as exc:  # The estimator is the user's own: it can raise anything.
        raise SetupError(
            f"{image}: the focal estimator {name} failed ({type(exc).__name__}: {exc}): repair it, or give the camera."
        ) from exc
    return FocalEstimate(focal_px, f"the estimator {name}", math.nan)


def estimated_camera(image: Path, estimator: FocalEstimator) -> Intrinsics:
    """Returns the camera of an image file: estimated focal length, principal point in the middle.

    Raises BadImage, and BadIntrinsics for an estimate that is not a possible focal length.
    """
    size_px = image_size(image)
    return centred_camera(size_px, float(estimator.focal_px(image, size_px)))


def unit_doubts(camera: Intrinsics) -> str:
    """Returns why intrinsics seem to be in another unit than pixels, with what to do; "" if they do not."""
    width, height = camera.size_px
    focal_px = min(camera.fx_px, camera.fy_px)
    if focal_px >= FOCAL_SHARES[0] * max(width, height):
        return ""
    fov_deg = 2 * math.degrees(math.atan(max(width, height) / 2 / focal_px))
    return (
        f"a focal length of {focal_px:g} pixels would be a field of view of {fov_deg:.0f} degrees for an image of "
        f"{width} x {height}: intrinsics are in pixels of this image. Millimetres are multiplied by {width} / "
        f"(width of the sensor in millimetres), shares of the image by {width} and {height}."
    )


def focal_doubts(camera: Intrinsics) -> str:
    """Returns what is unlikely about intrinsics that were typed in, with what to do; "" if nothing is."""
    if doubt := unit_doubts(camera):
        return doubt
    width, height = camera.size_px
    off_x, off_y = abs(camera.cx_px - (width - 1) / 2) / width, abs(camera.cy_px - (height - 1) / 2) / height
    if max(off_x, off_y) > USUAL_OFFSET:
        return (
            f"the principal point ({camera.cx_px:g}, {camera.cy_px:g}) is far from the middle of the {width} x "
            f"{height} image: is the order FX FY CX CY, and is this the calibration of this resolution?"
        )
    return ""


def orientation_from_exif(path: Path) -> int:
    """Returns the orientation tag of an image file, 1 to 8; 1 (upright) for a file that has none."""
    try:
        return int(read_tags(path).get(ORIENTATION, 1))
    except (OSError, struct.error):
        return 1


def focal_from_exif(path: Path, size_px: tuple[int, int]) -> float | None:
    """Returns the focal length, pixels, of an image file of this size (width, height); None if the file has none.

    A focal length that no camera has is a wrong entry, which counts as none.
    """
    try:
        focal_px = _focal_from_tags(read_tags(path), size_px)
    except (OSError, struct.error):
        return None
    return focal_px if FOCAL_SHARES[0] <= focal_px / max(size_px) <= FOCAL_SHARES[1] else None


def _focal_from_tags(tags: dict[int, float], size_px: tuple[int, int]) -> float:
    """Returns the focal length, pixels, that Exif tags tell; 0 if they tell none."""
    full_px = _full_size(tags, size_px)
    film_mm = tags.get(FOCAL_LENGTH_35MM, 0.0)
    if film_mm > 0:
        return film_mm * math.hypot(*full_px) / FILM_DIAGONAL_MM
    focal_mm, per_unit = tags.get(FOCAL_LENGTH_MM, 0.0), tags.get(PLANE_X_RESOLUTION, 0.0)
    unit_mm = UNITS_MM.get(int(tags.get(PLANE_UNIT, 2)), 0.0)
    if not (focal_mm > 0 and per_unit > 0 and unit_mm):
        return 0.0
    # The resolution refers to the original picture, which may have been resized since.
    original_px = tags.get(PIXEL_X_DIMENSION, 0.0) or max(full_px)
    return focal_mm * per_unit / unit_mm * max(full_px) / original_px


def _full_size(tags: dict[int, float], size_px: tuple[int, int]) -> tuple[float, float]:
    """Returns the size, in pixels of the file, of the whole picture that a camera took.

    That of the file, unless the tags tell a larger size with sides of another ratio: then the file is a part of that.
    A file of the same ratio was made smaller.
    """
    taken = sorted((tags.get(PIXEL_X_DIMENSION, 0.0), tags.get(PIXEL_Y_DIMENSION, 0.0)))
    found = sorted(size_px)
    is_larger = taken[0] >= found[0] and taken[1] >= found[1]
    if is_larger and abs(taken[0] * found[1] / (taken[1] * found[0]) - 1) > SAME_RATIO:
        return taken[1], taken[0]
    return size_px


def read_tags(path: Path) -> dict[int, float]:
    """Returns the numbers in a JPEG file's first and Exif directories by tag; empty for a file without them.

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
    """Returns the TIFF structure in a JPEG's first APP1 segment with Exif data; empty if there is none."""
    with path.open("rb") as file:
        for marker, size in jpeg_segments(file):
            segment = file.read(size) if marker == APP1 else b""
            if segment.startswith(b"Exif\0\0"):
                return segment[6:]
    return b""


def _directory(block: bytes, order: str, at: int) -> Iterator[tuple[int, float]]:
    """Yields the tag and value of each single number in the directory at this offset; order: "<" or ">"."""
    (count,) = struct.unpack_from(order + "H", block, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", block, entry)
        if kind not in SIZES or number != 1:
            continue
        place = entry + 8 if SIZES[kind] <= 4 else struct.unpack_from(order + "I", block, entry + 8)[0]
        yield tag, _number(block, order, kind, place)


def _number(block: bytes, order: str, kind: int, at: int) -> float:
    """Returns the number of this type at an offset; a rational number with denominator 0 is 0."""
    if kind == 5:
        numerator, denominator = struct.unpack_from(order + "II", block, at)
        return numerator / denominator if denominator else 0.0
    return float(struct.unpack_from(order + ("H" if kind == 3 else "I"), block, at)[0])


def focal_from_lines(rgb: np.ndarray) -> float | None:
    """Returns the focal length in pixels, the same on both axes, of an image uint8 (H, W, 3); None without an estimate.

    The principal point is taken to be the centre of the image. The same image always gives the same number.
    """
    segments = find_segments(rgb)
    if len(segments) < LEAST_SEGMENTS:
        return None
    focal, directions = _draw_frames(segments)
    if len(focal) < BEST:
        return None
    estimate = _agreed_focal(focal, _explained_share(segments, focal, directions))
    return None if estimate is None else estimate * max(rgb.shape[:2])


def find_segments(rgb: np.ndarray) -> np.ndarray:
    """Returns float64 (N, 4): both ends (x, y, x, y) of the longest segments, the longest first.

    Coordinates are relative to the image's centre, in units of its longer side.
    """
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
    """Returns float64 (N,): lengths of segments (N, 4)."""
    return np.asarray(np.linalg.norm(segments[:, 2:] - segments[:, :2], axis=1))


def _draw_frames(segments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns focal lengths (F,), and three directions at right angles (3, F, 3), of random pairs of vanishing points.

    Each vanishing point is where two segments meet. Longer segments are drawn more often.
    """
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


def _explained_share(segments: np.ndarray, focal: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Returns float64 (F,): the share of the segments' length that points at one of three vanishing points.

    A segment that points there less exactly counts less. focal: (F,), directions: (3, F, 3), as _draw_frames returns.
    """
    middles, along = (segments[:, :2] + segments[:, 2:]) / 2, _unit(segments[:, 2:] - segments[:, :2])
    best = np.zeros((len(focal), len(segments)))
    for direction in directions:
        # This points towards the vanishing point, even where that is at infinity.
        towards = _unit(focal[:, None, None] * direction[:, None, :2] - direction[:, None, 2:] * middles)
        sine = towards[..., 0] * along[:, 1] - towards[..., 1] * along[:, 0]
        best = np.maximum(best, 1 - (sine / math.sin(math.radians(MISSED_DEG))) ** 2)
    lengths = _lengths(segments)
    return np.asarray(best @ lengths / lengths.sum())


def _agreed_focal(focal: np.ndarray, score: np.ndarray) -> float | None:
    """Returns the weighted median of the best focal lengths; None if they do not agree."""
    best = np.argsort(-score, kind="stable")[:BEST]
    best = best[np.argsort(focal[best], kind="stable")]
    share = np.cumsum(score[best]) / score[best].sum()
    low, middle, high = np.log(focal[best][np.searchsorted(share, (0.2, 0.5, 0.8))])
    return float(math.exp(middle)) if high - low < AGREED else None


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Returns the vectors (..., K) with length 1."""
    return np.asarray(vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-12))


@lru_cache(maxsize=1 << 16)
def focal_of_file_from_lines(image: Path, size_px: tuple[int, int]) -> float | None:
    """Returns focal_from_lines of an image file. Cached, since training reads an image many times. Raises BadImage."""
    return focal_from_lines(read_rgb(image))


# Value of FocalSettings.estimator -> the sources that are asked, in this order.
FOCAL_SOURCES: dict[str, tuple[FocalSource, ...]] = {
    "auto": (focal_from_exif, focal_of_file_from_lines),
    "exif": (focal_from_exif,),
}
# Source -> what it reads, in words, and the share of the truth within which nine of ten of its estimates are.
SOURCE_NOTES: dict[FocalSource, tuple[str, float]] = {
    focal_from_exif: ("its Exif data", EXIF_ERROR),
    focal_of_file_from_lines: ("the lines in the image", LINES_ERROR),
}
