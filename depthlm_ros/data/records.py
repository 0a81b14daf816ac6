"""What a record is: one image with its camera, labelled points, and the file of its depth map where there is one.

Depth has one of three meanings, always written beside it:
    z      along the optical axis
    range  along the ray of the pixel
    mixed  sqrt(z^2 + x^2 + y^2) with x, y of the ray at z = 1: neither of both, but what DepthLM's release computes for
           ScanNet++; read only so that published numbers can be repeated

How near and far depth is believed, metres: DepthVLM's caps per data set, found by a word in the name of the file.

Source: DepthVLM's released loader, which matches the path of the JSONL file and sets what is outside to unknown.

Pixels of one picture in another of another size that shows the same: the edges coincide, not the outer centres.

What was wrong with data, counted by reason: nothing is dropped without a trace.

Checks of single values of a line of labels. Each raises BadRecord saying what was wrong with the value.
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
# What files call them. DepthVLM's say z_depth.
MEANINGS = {"z": Z, "z_depth": Z, "range": RANGE, "ray": RANGE, "mixed": MIXED}

# How a depth map is stored where its suffix does not say it.
RAW_FLOAT32 = "binary_float32"  # ETH3D: little-endian, row by row
ROTATED_16 = "rotated_16"  # SUN RGB-D: millimetres, their bits rotated left by three


@dataclass(frozen=True)
class DepthFile:
    """A depth map on disk: metres = value / scale; 0, infinity and NaN are unknown.

    size_px: (width, height), None where the record does not say. format: "" for a picture or .npy, by its suffix;
    RAW_FLOAT32; ROTATED_16. masks: pictures that are > 0 where the depth can be trusted. caps_m: what is nearer or
    farther is unknown.
    """

    path: Path
    scale: float
    size_px: tuple[int, int] | None = None
    format: str = ""
    masks: tuple[Path, ...] = ()
    caps_m: tuple[float, float] = (0.0, float("inf"))


@dataclass(frozen=True)
class Record:
    """One labelled image.

    where: "file:line", for messages. uv_px: float64 (N, 2), pixels of the image, inside it. depth_m: float64 (N,),
    positive, what depth_type says (z, range, mixed; the depth map's values mean the same). N may be 0 where there is
    a depth map.
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
        """The same record with its points' depths along the optical axis, and without the depth map if that is not."""
        if self.depth_type == Z:
            return self
        return replace(
            self, depth_m=z_of(self.depth_type, self.depth_m, self.uv_px, self.intrinsics), depth_type=Z, depth=None
        )


@dataclass(frozen=True)
class PairRecord:
    """Two views of one scene. uv_px, matched_px: float64 (N, 2): the same N points of the scene in either image.

    rotation (3, 3) turns vectors of camera 2 into camera 1; translation_m (3,): centre of camera 2 in camera 1, in the
    first camera's optical frame. covisibility: share of each view that the other sees, the smaller of the two.
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


def z_of(depth_type: str, depth_m: np.ndarray, uv_px: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """float64 (N,): depth along the optical axis of N pixels (N, 2) from depth (N,) of this type."""
    if depth_type == RANGE:
        return z_from_range(uv_px, depth_m, intrinsics)
    if depth_type == MIXED:
        square = np.square(depth_m) - _slope_square(uv_px, intrinsics)
        return np.sqrt(np.where(square > 0, square, np.nan))
    return np.asarray(depth_m, np.float64)


def depth_of(depth_type: str, z_m: np.ndarray, uv_px: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """float64 (N,): depth of this type from depth along the optical axis (N,) of N pixels (N, 2); inverse of z_of."""
    if depth_type == RANGE:
        return range_from_z(uv_px, z_m, intrinsics)
    if depth_type == MIXED:
        return np.sqrt(np.square(z_m) + _slope_square(uv_px, intrinsics))
    return np.asarray(z_m, np.float64)


def _slope_square(uv_px: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """float64 (N,): x^2 + y^2 of the ray through each pixel at z = 1."""
    return np.square(backproject(uv_px, np.ones(len(uv_px)), intrinsics)[:, :2]).sum(axis=1)


def inside_image(uv_px: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """bool (N,): which pixels (N, 2) lie on the image, whose first pixel reaches from -0.5 to 0.5."""
    return np.all((uv_px > -0.5) & (uv_px < np.array(intrinsics.size_px) - 0.5), axis=1)


NO_CAPS_M = (0.0, float("inf"))
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


def caps_for(path: Path) -> tuple[float, float]:
    """(nearest, farthest) for a JSONL file, by the first word that its path holds; no caps if it holds none."""
    text = str(path).lower()
    return next((caps for word, caps in CAPS_M.items() if word in text), NO_CAPS_M)


def between_grids(uv_px: np.ndarray, from_px: tuple[int, int], to_px: tuple[int, int]) -> np.ndarray:
    """float64 (N, 2): pixels (N, 2) of a picture of size (width, height) in one of another size."""
    uv_px = np.asarray(uv_px, np.float64).reshape(-1, 2)
    if from_px == to_px:
        return uv_px
    scale = np.array(to_px, np.float64) / np.array(from_px, np.float64)
    return (uv_px + 0.5) * scale - 0.5


def resized(intrinsics: Intrinsics, size_px: tuple[int, int]) -> Intrinsics:
    """The camera of the same picture at another size (width, height)."""
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


# So many problems of a kind are told in full.
EXAMPLES = 3


@dataclass(frozen=True)
class Problem:
    """What was left out: `count` points of a record, or the record itself (count 1); `reason` is a short fixed name."""

    where: str
    reason: str
    message: str
    count: int = 1

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class BadRecord(BadInput):
    """A line, an image or a depth map that is no usable data; `reason` is the short name under which it is counted."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadRecord], tuple[str, str]]:
        return type(self), (self.reason, str(self))  # it comes back from worker processes


def nothing_usable(path: Path, problems: Sequence[Problem], what: str = "record") -> BadInput:
    """The error of a file of which nothing is left."""
    if not problems:
        return BadInput(f"{path}: it has no lines: give a JSONL file of labels.")
    return BadInput(f"{path}: no usable {what}: {len(problems)} problems, the first is {problems[0]}")


def told(problems: Iterable[Problem], examples: int = EXAMPLES) -> list[str]:
    """Lines for people: each reason with its count, the commonest first, and its first examples."""
    by_reason: dict[str, list[Problem]] = {}
    for problem in problems:
        by_reason.setdefault(problem.reason, []).append(problem)
    counts = {reason: sum(problem.count for problem in found) for reason, found in by_reason.items()}
    lines = []
    for reason in sorted(counts, key=lambda name: -counts[name]):
        lines += [f"{counts[reason]} x {reason}", *(f"    {one}" for one in by_reason[reason][:examples])]
    return lines


def count_by_reason(problems: Iterable[Problem]) -> dict[str, int]:
    """How many records or points each reason cost."""
    counts: Counter[str] = Counter()
    for problem in problems:
        counts[problem.reason] += problem.count
    return dict(counts)


def image(name: object, folder: Path, kind: str = "image", key: str = "image") -> Path:
    """The file that a relative path names. kind: what it is, for messages."""
    if not isinstance(name, str) or not name:
        raise BadRecord(f"{kind} path malformed", f"{key} is {name!r}: expected a path relative to the labels.")
    path = folder / name
    if not path.is_file():
        raise BadRecord(f"{kind} missing", f"{kind} {path} does not exist.")
    return path


def camera(values: object) -> Intrinsics:
    """From [fx, fy, cx, cy, W, H]."""
    found = numbers("intrinsics", values)
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


def points(pixel_coords: object, depth: object) -> tuple[np.ndarray, np.ndarray]:
    """float64 (N, 2) and (N,)."""
    uv_px, depth_m = numbers("pixel_coords", pixel_coords), numbers("depth", depth)
    uv_px = uv_px.reshape(0, 2) if uv_px.size == 0 else uv_px
    if uv_px.ndim != 2 or uv_px.shape[1] != 2 or depth_m.shape != (len(uv_px),):
        raise BadRecord(
            "points malformed",
            f"pixel_coords have shape {uv_px.shape} and depth {depth_m.shape}: expected (N, 2) and (N,).",
        )
    return uv_px, depth_m


def numbers(key: str, values: object, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """float64, of this shape where one is asked for."""
    try:
        found = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError) as exc:
        raise BadRecord(f"{key} malformed", f"{key} is not an even list of numbers ({exc}).") from exc
    if shape is not None and found.shape != shape:
        raise BadRecord(f"{key} malformed", f"{key} has shape {found.shape}: expected {shape}.")
    return found


def rows(key: str, values: object, width: int) -> np.ndarray:
    """float64 (N, width), N may be 0."""
    found = numbers(key, values)
    found = found.reshape(0, width) if found.size == 0 else found
    if found.ndim != 2 or found.shape[1] != width:
        raise BadRecord(f"{key} malformed", f"{key} has shape {found.shape}: expected (N, {width}).")
    return found


def size(key: str, values: object) -> tuple[int, int]:
    """(width, height), both at least one pixel."""
    width, height = numbers(key, values, (2,)).tolist()
    if not (float(width).is_integer() and float(height).is_integer() and min(width, height) >= 1):
        raise BadRecord(f"{key} malformed", f"{key} is {width:g} x {height:g}: expected whole pixels.")
    return int(width), int(height)


def positive(key: str, value: object) -> float:
    """A positive finite number."""
    found = float(numbers(key, value, ()))
    if not (math.isfinite(found) and found > 0):
        raise BadRecord(f"{key} malformed", f"{key} is {value!r}: expected a positive number.")
    return found


def depth_type(said: object) -> str:
    """One of records.Z, RANGE, MIXED."""
    if not isinstance(said, str) or said not in MEANINGS:
        known = "', '".join(MEANINGS)
        raise BadRecord("depth_type unknown", f"depth_type is {said!r}: expected one of '{known}'.")
    return MEANINGS[said]


def text(fields: Mapping[str, object], *keys: str) -> str:
    """The first of these keys that is there, as text; "" if none is."""
    return next((str(fields[key]) for key in keys if fields.get(key) not in (None, "")), "")
