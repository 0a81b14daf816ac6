"""What a record is: one image with its camera, labelled points, and the file of its depth map where there is one.

Depth has one of three meanings, always written beside it:
    z      along the optical axis
    range  along the ray of the pixel
    mixed  sqrt(z^2 + x^2 + y^2) with x, y of the ray at z = 1: neither of both, but what DepthLM's release computes for
           ScanNet++; read only so that published numbers can be repeated
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from depthlm_ros.core import Intrinsics
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
