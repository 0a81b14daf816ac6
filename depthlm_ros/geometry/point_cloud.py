# SPDX-License-Identifier: Apache-2.0
"""Point clouds from depth and a camera: laid out as PointCloud2 expects them (`CloudBuilder`, `sparse_cloud`), and as a
PLY file (`ply_bytes`)."""

from __future__ import annotations

import cv2
import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadImage
from depthlm_ros.geometry.pinhole import ROWS_AT_ONCE, backproject, ray_slopes

# A point of a PLY file; the names are those of the format's own examples.
PLY_POINT = np.dtype([(axis, "<f4") for axis in "xyz"] + [(colour, "u1") for colour in ("red", "green", "blue")])
_TINY = float(np.finfo(np.float32).tiny)
_HUGE = float(np.finfo(np.float32).max)


class CloudBuilder:
    """Organised clouds of one camera: every `stride`-th pixel of every `stride`-th row, from pixel (0, 0).

    min_m, max_m: z-depths outside this range are unknown. Rays are computed once, here; `build` only reads them and may
    be called from any thread. shape: (H', W', 4), that of the clouds. Raises ValueError for a stride below 1.
    """

    def __init__(
        self, intrinsics: Intrinsics, stride: int = 1, min_m: float = 0.0, max_m: float = float("inf")
    ) -> None:
        if stride < 1:
            raise ValueError(f"cloud stride is {stride}: it must be at least 1 (every pixel).")
        self.stride = stride
        # Zero, negative and infinite depths give no points, whatever the range.
        self.min_m = max(min_m, _TINY)
        self.max_m = min(max_m, _HUGE)
        self._shape = (intrinsics.height_px, intrinsics.width_px)
        x, y = ray_slopes(intrinsics)
        self._x = x[None, ::stride]
        self._y = y[::stride, None]
        self.shape = (self._y.size, self._x.size, 4)

    def build(self, depth_m: np.ndarray, rgb: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Returns float32 (H', W', 4), C-contiguous: x, y, z in metres and packed rgb, 16 bytes a point.

        depth_m: float32 (H, W). rgb: uint8 (H, W, 3), red first. H' = ceil(H / stride), likewise W'.
        x, y, z are NaN where the depth is unknown, infinite or out of range. The fourth value has the bits 0x00RRGGBB,
        as PCL and RViz read the field `rgb` of a PointCloud2. Little-endian.
        out: an array of that shape to fill and return, for a caller who no longer needs an earlier cloud or wants the
        points in a message's own memory; without it every call returns a new array.
        Raises BadImage for another size than the camera's, ValueError for an `out` that cannot be filled.
        """
        for what, array in (("depth", depth_m), ("image", rgb)):
            if array.shape[:2] != self._shape:
                raise BadImage(
                    f"{what} is {array.shape[1]} x {array.shape[0]} but the cloud's camera is "
                    f"{self._shape[1]} x {self._shape[0]}: pass depth and image of the same frame as the intrinsics."
                )
        step = slice(None, None, self.stride)
        depth_m, rgb = depth_m[step, step], rgb[step, step]
        cloud = np.empty(self.shape, "<f4") if out is None else out
        _check_memory(cloud, self.shape)
        for top in range(0, len(depth_m), ROWS_AT_ONCE):
            rows = slice(top, top + ROWS_AT_ONCE)
            z = self._known(depth_m[rows])
            cv2.merge([self._x * z, self._y[rows] * z, z, packed_rgb(rgb[rows])], cloud[rows])
        return cloud

    def _known(self, z: np.ndarray) -> np.ndarray:
        """Returns z, float32 (h, w), with NaN where it is unknown or out of range."""
        if z.min() >= self.min_m and z.max() <= self.max_m:  # False for NaN; usually true, and fast
            return z
        known = z.copy()
        known[~((z >= self.min_m) & (z <= self.max_m))] = np.nan
        return known


def _check_memory(out: np.ndarray, shape: tuple[int, int, int]) -> None:
    """Raises ValueError for an array into which OpenCV would not write: it would silently make a new one."""
    if out.shape != shape or out.dtype != np.dtype("<f4") or not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError(f"out is {out.dtype} {out.shape}: it must be writable, contiguous float32 {shape}.")


def packed_rgb(rgb: np.ndarray) -> np.ndarray:
    """Returns float32 (H, W) with the bits 0x00RRGGBB of an image uint8 (H, W, 3).

    These are bits to copy, not numbers to calculate with.
    """
    bgra = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA).view("<u4")[..., 0]
    bgra &= 0x00FFFFFF  # The alpha byte 255 would make every colour a NaN.
    return bgra.view(np.float32)


def sparse_cloud(uv_px: np.ndarray, depth_m: np.ndarray, std_m: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Returns float32 (N, 4): x, y, z and standard deviation of z, metres, of N pixels (N, 2).

    x, y, z and std are NaN where the depth is not a positive finite number.
    """
    depth = np.asarray(depth_m, np.float64).reshape(-1)
    known = np.isfinite(depth) & (depth > 0)
    points = backproject(uv_px, np.where(known, depth, np.nan), intrinsics)
    std = np.where(known, np.asarray(std_m, np.float64).reshape(-1), np.nan)
    return np.concatenate([points, std[:, None]], axis=1).astype(np.float32)


def ply_bytes(points_m: np.ndarray, rgb: np.ndarray) -> bytes:
    """Returns a PLY file, binary and little-endian, of points (..., 3) in metres with their colours, uint8 (..., 3).

    Points with a NaN or an infinite number, which are unknown, are left out. Coordinates are float32 in the camera's
    optical frame: x right, y down, z forward.
    """
    points_m, rgb = points_m.reshape(-1, 3), rgb.reshape(-1, 3)
    known = np.isfinite(points_m).all(axis=1)
    vertices = np.empty(int(known.sum()), PLY_POINT)
    for column, axis in enumerate("xyz"):
        vertices[axis] = points_m[known, column]
    for column, colour in enumerate(("red", "green", "blue")):
        vertices[colour] = rgb[known, column]
    fields = [f"property {'float' if name in 'xyz' else 'uchar'} {name}" for name in PLY_POINT.names or ()]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}", *fields, "end_header"]
    return ("\n".join(header) + "\n").encode("ascii") + vertices.tobytes()
