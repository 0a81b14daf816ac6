"""Depth and a camera to point clouds, laid out as PointCloud2 wants them."""

from __future__ import annotations

import cv2
import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadImage
from depthlm_ros.geometry.pinhole import ROWS_AT_ONCE, backproject, ray_slopes

_TINY = float(np.finfo(np.float32).tiny)
_HUGE = float(np.finfo(np.float32).max)


class CloudBuilder:
    """Organised clouds of one camera: every `stride`-th pixel of every `stride`-th row, from pixel (0, 0).

    min_m, max_m: z-depths outside are unknown. Rays are computed once, here; `build` only reads them
    and may be called from any thread. Raises ValueError for a stride below 1.
    """

    def __init__(
        self, intrinsics: Intrinsics, stride: int = 1, min_m: float = 0.0, max_m: float = float("inf")
    ) -> None:
        if stride < 1:
            raise ValueError(f"cloud stride is {stride}: it must be at least 1 (every pixel).")
        self.intrinsics = intrinsics
        self.stride = stride
        # Zero, negative and infinite depths are no points, whatever the range asked for.
        self.min_m = max(min_m, _TINY)
        self.max_m = min(max_m, _HUGE)
        x, y = ray_slopes(intrinsics)
        self._x = x[None, ::stride]
        self._y = y[::stride, None]

    def build(self, depth_m: np.ndarray, rgb: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """float32 (H', W', 4), C-contiguous: x, y, z in metres and packed rgb, 16 bytes a point.

        depth_m: float32 (H, W). rgb: uint8 (H, W, 3), red first. H' = ceil(H / stride), likewise W'.
        x, y, z are NaN where the depth is unknown, infinite or out of range. The fourth value holds the
        bits 0x00RRGGBB, as PCL and RViz read a PointCloud2's field `rgb`. Little-endian.
        out: an array of that shape to fill and return, for a caller who is done with an earlier cloud
        or wants the points in a message's own memory; without it every call returns a new array.
        Raises BadImage for another size than the camera's, ValueError for an `out` that cannot be filled.
        """
        self._check("depth", depth_m)
        self._check("image", rgb)
        step = slice(None, None, self.stride)
        depth_m, rgb = depth_m[step, step], rgb[step, step]
        cloud = np.empty((*depth_m.shape, 4), "<f4") if out is None else out
        _check_memory(cloud, (*depth_m.shape, 4))
        for top in range(0, len(depth_m), ROWS_AT_ONCE):
            rows = slice(top, top + ROWS_AT_ONCE)
            z = self._known(depth_m[rows])
            cv2.merge([self._x * z, self._y[rows] * z, z, packed_rgb(rgb[rows])], cloud[rows])
        return cloud

    def _known(self, depth_m: np.ndarray) -> np.ndarray:
        within = (depth_m >= self.min_m) & (depth_m <= self.max_m)
        return np.where(within, depth_m, np.float32(np.nan))

    def _check(self, what: str, array: np.ndarray) -> None:
        width, height = self.intrinsics.size_px
        if array.shape[:2] != (height, width):
            raise BadImage(
                f"{what} is {array.shape[1]} x {array.shape[0]} but the cloud's camera is {width} x {height}: "
                "pass depth and image of the same frame as the intrinsics."
            )


def _check_memory(out: np.ndarray, shape: tuple[int, int, int]) -> None:
    # OpenCV would quietly make a new array instead of filling one that does not suit it.
    if out.shape != shape or out.dtype != np.dtype("<f4") or not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError(f"out is {out.dtype} {out.shape}: it must be writable, contiguous float32 {shape}.")


def packed_rgb(rgb: np.ndarray) -> np.ndarray:
    """float32 (H, W) with the bits 0x00RRGGBB of an image uint8 (H, W, 3); to be copied, never calculated with."""
    bgra = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA).view("<u4")[..., 0]
    bgra &= 0x00FFFFFF  # the alpha byte 255 would make every colour a NaN
    return bgra.view(np.float32)


def sparse_cloud(uv_px: np.ndarray, depth_m: np.ndarray, std_m: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """float32 (N, 4): x, y, z and standard deviation of z, metres, of N pixels (N, 2).

    x, y, z and std are NaN where the depth is not a positive finite number.
    """
    depth = np.asarray(depth_m, np.float64).reshape(-1)
    known = np.isfinite(depth) & (depth > 0)
    points = backproject(uv_px, np.where(known, depth, np.nan), intrinsics)
    std = np.where(known, np.asarray(std_m, np.float64).reshape(-1), np.nan)
    return np.concatenate([points, std[:, None]], axis=1).astype(np.float32)
