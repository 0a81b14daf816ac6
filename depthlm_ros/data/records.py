# SPDX-License-Identifier: Apache-2.0
"""Labelled images: `Record`, `PairRecord`, their depth maps, and the problems that are found in them.

A `Record` is one image with its camera, labelled points and, where there is one, the file of its depth map. A depth has
one of three meanings, which is always stated with it:
    z      distance along the optical axis
    range  distance along the ray of the pixel
    mixed  sqrt(z^2 + x^2 + y^2) with x, y of the ray at z = 1. This is neither z nor range, but it is what DepthLM's
           release computes for ScanNet++. It is read only so that published numbers can be reproduced.

No data are dropped silently: every problem becomes a `RecordProblem`, and problems are counted by reason. The `parse_*`
functions check single values of a line of labels; they raise BadRecord, which says what is wrong with the value.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadInput, BadIntrinsics
from depthlm_ros.geometry.pinhole import backproject, range_from_z, z_from_range

Z, RANGE, MIXED = "z", "range", "mixed"
# Names of the meanings in files -> meaning. DepthVLM's files say z_depth.
DEPTH_TYPES = {"z": Z, "z_depth": Z, "range": RANGE, "ray": RANGE, "mixed": MIXED}

# Formats of depth maps that the suffix of the file does not show.
RAW_FLOAT32 = "binary_float32"  # ETH3D: little-endian float32 values, row by row
ROTATED_16 = "rotated_16"  # SUN RGB-D: millimetres whose 16 bits are rotated left by three

NO_CAPS_M = (0.0, float("inf"))
# Word in the path of a file -> (nearest, farthest) depth in metres that is taken as known. Source: DepthVLM's released
# loader, which searches the path of the JSONL file for these words and sets depth outside of the limits to unknown.
CAPS_M = {
    "argoverse": (0.05, 120.0),
    "ddad": (0.05, 120.0),
    "waymo": (0.05, 70.0),
    "nuscenes": (0.05, 80.0),
    "scannetpp": (0.001, 10.0),
    "taskonomy": (0.005, 15.0),
    "hm3d": (0.01, 10.0),
    "matterport": (0.01, 10.0),
    "sunrgbd": (0.005, 8.0),
    "ibims": (0.005, 25.0),
    "nyuv2": (0.005, 10.0),
    "eth3d": (0.01, 50.0),
}
# Number of problems of each reason that are reported with their full message.
EXAMPLES = 3


@dataclass(frozen=True)
class DepthFile:
    """A depth map on disk: metres = value / scale. Values of 0, infinity and NaN are unknown.

    size_px: (width, height); None if the record does not state it. format: RAW_FLOAT32, ROTATED_16, or "" for an image
    or .npy file, which its suffix identifies. masks: images that are > 0 where the depth can be trusted. caps_m:
    (nearest, farthest); depth outside of them is unknown.
    """

    path: Path
    scale: float
    size_px: tuple[int, int] | None = None
    format: str = ""
    masks: tuple[Path, ...] = ()
    caps_m: tuple[float, float] = NO_CAPS_M


@dataclass(frozen=True)
class Record:
    """One labelled image.

    where: "file:line", for messages. uv_px: float64 (N, 2), pixels inside the image. depth_m: float64 (N,), positive.
    depth_type: the meaning of depth_m and of the depth map's values (Z, RANGE or MIXED). N may be 0 if there is a depth
    map.
    """

    where: str
    image: Path
    intrinsics: Intrinsics
    uv_px: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    depth_m: np.ndarray = field(default_factory=lambda: np.zeros(0))
    depth_type: str = Z
    depth: DepthFile | None = None
    scene: str = ""
    camera: str = ""
    split: str = ""

    def as_z(self) -> Record:
        """Returns the record with its points' depths along the optical axis.

        A depth map of another meaning is removed, because its values are not converted here.
        """
        if self.depth_type == Z:
            return self
        return replace(
            self,
            depth_m=z_from_depth(self.depth_type, self.depth_m, self.uv_px, self.intrinsics),
            depth_type=Z,
            depth=None,
        )


@dataclass(frozen=True)
class PairRecord:
    """Two views of one scene.

    uv_px, matched_px: float64 (N, 2), the same N points of the scene in the first and in the second image. rotation:
    float64 (3, 3), turns vectors of camera 2 into camera 1. translation_m: float64 (3,), centre of camera 2 in the
    optical frame of camera 1. covisibility: the share of a view that the other view sees, the smaller of the two.
    """

    where: str
    images: tuple[Path, Path]
    intrinsics: tuple[Intrinsics, Intrinsics]
    uv_px: np.ndarray
    matched_px: np.ndarray
    rotation: np.ndarray
    translation_m: np.ndarray
    covisibility: float
    scene: str = ""


@dataclass(frozen=True)
class RecordProblem:
    """Something that is wrong with a record: `count` of its points, or the record itself (count 1).

    where: "file:line" or an item of a data set. reason: a short fixed name, by which problems are counted.
    """

    where: str
    reason: str
    message: str
    count: int = 1

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class BadRecord(BadInput):
    """A line, an image or a depth map that cannot be used. reason: the short name by which problems are counted."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadRecord], tuple[str, str]]:
        # Exceptions of worker processes are pickled.
        return type(self), (self.reason, str(self))


def z_from_depth(depth_type: str, depth_m: np.ndarray, uv_px: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Returns float64 (N,): depth along the optical axis of N pixels (N, 2), from depth (N,) of this type."""
    if depth_type == RANGE:
        return z_from_range(uv_px, depth_m, intrinsics)
    if depth_type == MIXED:
        square = np.square(depth_m) - _slope_square(uv_px, intrinsics)
        return np.sqrt(np.where(square > 0, square, np.nan))
    return np.asarray(depth_m, np.float64)


def depth_from_z(depth_type: str, z_m: np.ndarray, uv_px: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Returns float64 (N,): depth of this type of N pixels (N, 2), from depth along the optical axis (N,).

    This is the inverse of `z_from_depth`.
    """
    if depth_type == RANGE:
        return range_from_z(uv_px, z_m, intrinsics)
    if depth_type == MIXED:
        return np.sqrt(np.square(z_m) + _slope_square(uv_px, intrinsics))
    return np.asarray(z_m, np.float64)


def _slope_square(uv_px: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Returns float64 (N,): x^2 + y^2 of the ray through each pixel at z = 1."""
    return np.square(backproject(uv_px, np.ones(len(uv_px)), intrinsics)[:, :2]).sum(axis=1)


def depth_caps_m(path: Path) -> tuple[float, float]:
    """Returns the (nearest, farthest) depth of a JSONL file by the first word of CAPS_M in its path, else no limits."""
    text = str(path).lower()
    return next((caps for word, caps in CAPS_M.items() if word in text), NO_CAPS_M)


def rescale_pixels(uv_px: np.ndarray, from_px: tuple[int, int], to_px: tuple[int, int]) -> np.ndarray:
    """Returns float64 (N, 2): pixels (N, 2) of an image of size (width, height) in the same image at another size.

    The edges of both images coincide, not the centres of their outer pixels.
    """
    uv_px = np.asarray(uv_px, np.float64).reshape(-1, 2)
    if from_px == to_px:
        return uv_px
    scale = np.array(to_px, np.float64) / np.array(from_px, np.float64)
    return (uv_px + 0.5) * scale - 0.5


def resize_intrinsics(intrinsics: Intrinsics, size_px: tuple[int, int]) -> Intrinsics:
    """Returns the camera of the same image at another size (width, height)."""
    width, height = size_px
    sx, sy = width / intrinsics.width_px, height / intrinsics.height_px
    return replace(
        intrinsics,
        fx_px=intrinsics.fx_px * sx,
        fy_px=intrinsics.fy_px * sy,
        cx_px=(intrinsics.cx_px + 0.5) * sx - 0.5,
        cy_px=(intrinsics.cy_px + 0.5) * sy - 0.5,
        width_px=width,
        height_px=height,
    )


def unusable_file_error(path: Path, problems: Sequence[RecordProblem], what: str = "record") -> BadInput:
    """Returns the error to raise for a file without a usable record."""
    if not problems:
        return BadInput(f"{path}: the file has no lines: give a JSONL file of labels.")
    return BadInput(f"{path}: no usable {what}: {len(problems)} problems, the first is {problems[0]}")


def describe_problems(problems: Iterable[RecordProblem], examples: int = EXAMPLES) -> list[str]:
    """Returns lines for people: each reason with its count, the most frequent first, and its first examples."""
    by_reason: dict[str, list[RecordProblem]] = {}
    for problem in problems:
        by_reason.setdefault(problem.reason, []).append(problem)
    counts = {reason: sum(problem.count for problem in found) for reason, found in by_reason.items()}
    lines = []
    for reason in sorted(counts, key=lambda name: -counts[name]):
        lines += [f"{counts[reason]} x {reason}", *(f"    {one}" for one in by_reason[reason][:examples])]
    return lines


def count_by_reason(problems: Iterable[RecordProblem]) -> dict[str, int]:
    """Returns the number of records or points that each reason affects."""
    counts: Counter[str] = Counter()
    for problem in problems:
        counts[problem.reason] += problem.count
    return dict(counts)


def parse_file_path(name: object, folder: Path, kind: str = "image", key: str = "image") -> Path:
    """Returns the path of an existing file from its name relative to `folder`.

    kind: what the file is, for messages. key: the key of the name in the line.
    """
    if not isinstance(name, str) or not name:
        raise BadRecord(f"{kind} path malformed", f"{key} is {short(name)}: expected a path relative to the labels.")
    if name.startswith("data:"):
        raise BadRecord(
            f"{kind} path malformed",
            f"{key} is {short(name)}, the {kind} itself: write it to a file, and give the path of that.",
        )
    path = folder / name
    try:
        exists = path.is_file()
    except (OSError, ValueError) as exc:  # too long; with a character that no path has
        raise BadRecord(
            f"{kind} path malformed", f"{key} is {short(name)}, which is no path ({_reason(exc)})."
        ) from exc
    if not exists:
        raise BadRecord(f"{kind} missing", f"{kind} {path} does not exist.")
    return path


def short(value: object) -> str:
    """Returns a value as text for a message, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _reason(exc: Exception) -> str:
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc)


def parse_intrinsics(values: object) -> Intrinsics:
    """Returns the camera of [fx, fy, cx, cy, W, H]."""
    found = parse_array("intrinsics", values)
    if found.shape != (6,):
        raise BadRecord(
            "intrinsics malformed", f"intrinsics have shape {found.shape}: expected [fx, fy, cx, cy, W, H]."
        )
    fx, fy, cx, cy, width, height = found.tolist()
    if not (float(width).is_integer() and float(height).is_integer()):
        raise BadRecord("intrinsics malformed", f"image size {width} x {height}: expected whole pixels.")
    try:
        return Intrinsics(fx, fy, cx, cy, int(width), int(height))
    except BadIntrinsics as exc:
        raise BadRecord("intrinsics unusable", str(exc)) from exc


def parse_points(pixel_coords: object, depth: object) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels, float64 (N, 2), and depths, float64 (N,)."""
    uv_px, depth_m = parse_array("pixel_coords", pixel_coords), parse_array("depth", depth)
    uv_px = uv_px.reshape(0, 2) if uv_px.size == 0 else uv_px
    if uv_px.ndim != 2 or uv_px.shape[1] != 2 or depth_m.shape != (len(uv_px),):
        raise BadRecord(
            "points malformed",
            f"pixel_coords have shape {uv_px.shape} and depth {depth_m.shape}: expected (N, 2) and (N,).",
        )
    return uv_px, depth_m


def parse_array(key: str, values: object, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Returns a float64 array, which must have this shape if one is given."""
    try:
        found = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError) as exc:
        raise BadRecord(f"{key} malformed", f"{key} is not a regular list of numbers ({exc}).") from exc
    if shape is not None and found.shape != shape:
        raise BadRecord(f"{key} malformed", f"{key} has shape {found.shape}: expected {shape}.")
    return found


def parse_rows(key: str, values: object, width: int) -> np.ndarray:
    """Returns float64 (N, width); N may be 0."""
    found = parse_array(key, values)
    found = found.reshape(0, width) if found.size == 0 else found
    if found.ndim != 2 or found.shape[1] != width:
        raise BadRecord(f"{key} malformed", f"{key} has shape {found.shape}: expected (N, {width}).")
    return found


def parse_size(key: str, values: object) -> tuple[int, int]:
    """Returns (width, height), both at least one pixel."""
    width, height = parse_array(key, values, (2,)).tolist()
    if not (float(width).is_integer() and float(height).is_integer() and min(width, height) >= 1):
        raise BadRecord(f"{key} malformed", f"{key} is {width:g} x {height:g}: expected whole pixels.")
    return int(width), int(height)


def parse_positive(key: str, value: object) -> float:
    """Returns a positive finite number."""
    found = float(parse_array(key, value, ()))
    if not (math.isfinite(found) and found > 0):
        raise BadRecord(f"{key} malformed", f"{key} is {value!r}: expected a positive number.")
    return found


def parse_depth_type(value: object) -> str:
    """Returns Z, RANGE or MIXED."""
    if not isinstance(value, str) or value not in DEPTH_TYPES:
        known = "', '".join(DEPTH_TYPES)
        raise BadRecord("depth_type unknown", f"depth_type is {value!r}: expected one of '{known}'.")
    return DEPTH_TYPES[value]


def first_text(fields: Mapping[str, object], *keys: str) -> str:
    """Returns the value of the first of these keys that has one, as text; "" if none has."""
    return next((str(fields[key]) for key in keys if fields.get(key) not in (None, "")), "")
