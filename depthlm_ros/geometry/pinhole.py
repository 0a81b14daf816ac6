"""Pinhole arithmetic: pixels to rays, depth to points and back.

Optical frame (REP 103): x right, y down, z forward. u = fx x / z + cx, v = fy y / z + cy
(Hartley and Zisserman, Multiple View Geometry, 2nd ed., eq. 6.2); (0, 0) is a pixel's centre.
"""

from __future__ import annotations

import numpy as np

from depthlm_ros.core import Intrinsics

# Whole-image arithmetic goes through so many rows at a time: the intermediate results then stay in
# the cache and in memory the process already has, which is several times faster than whole images.
ROWS_AT_ONCE = 32


def ray_slopes(intrinsics: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
    """x / z of every column, float32 (W,), and y / z of every row, float32 (H,)."""
    x = (np.arange(intrinsics.width_px) - intrinsics.cx_px) / intrinsics.fx_px
    y = (np.arange(intrinsics.height_px) - intrinsics.cy_px) / intrinsics.fy_px
    return x.astype(np.float32), y.astype(np.float32)


def rays(intrinsics: Intrinsics) -> np.ndarray:
    """float32 (H, W, 3): the ray through every pixel centre, scaled so that z = 1."""
    x, y = ray_slopes(intrinsics)
    out = np.ones((intrinsics.height_px, intrinsics.width_px, 3), np.float32)
    out[..., 0] = x
    out[..., 1] = y[:, None]
    return out


def z_from_range(uv_px: np.ndarray, range_m: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """float64 (N,) depth along the optical axis from distance along the ray (N,) of N pixels (N, 2), metres."""
    return range_m / _ray_length(uv_px, intrinsics)


def range_from_z(uv_px: np.ndarray, depth_m: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """float64 (N,) distance along the ray from depth along the optical axis (N,) of N pixels (N, 2), metres."""
    return depth_m * _ray_length(uv_px, intrinsics)


def _ray_length(uv_px: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """float64 (N,): length of the ray through each pixel up to z = 1."""
    ends = backproject(uv_px, np.ones(len(uv_px)), intrinsics)
    return np.linalg.norm(ends, axis=1)


def backproject(uv_px: np.ndarray, depth_m: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """float64 (N, 3) points, metres, of N pixels (N, 2) at z-depths (N,); NaN depth gives a NaN point."""
    uv = np.asarray(uv_px, np.float64).reshape(-1, 2)
    z = np.asarray(depth_m, np.float64).reshape(-1)
    z = np.where(np.isfinite(z), z, np.nan)
    x = (uv[:, 0] - intrinsics.cx_px) / intrinsics.fx_px * z
    y = (uv[:, 1] - intrinsics.cy_px) / intrinsics.fy_px * z
    return np.stack([x, y, z], axis=1)


def project(points_m: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """float64 (N, 2) pixels of N points (N, 3), metres; NaN for a point that is not in front of the camera."""
    points = np.asarray(points_m, np.float64).reshape(-1, 3)
    z = np.where(points[:, 2] > 0, points[:, 2], np.nan)
    u = intrinsics.fx_px * points[:, 0] / z + intrinsics.cx_px
    v = intrinsics.fy_px * points[:, 1] / z + intrinsics.cy_px
    return np.stack([u, v], axis=1)
