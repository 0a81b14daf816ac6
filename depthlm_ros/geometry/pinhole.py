# SPDX-License-Identifier: Apache-2.0
"""Pinhole arithmetic: pixels and the image's edges, pixels to rays, depth to points and back.

Optical frame (REP 103): x right, y down, z forward. u = fx x / z + cx, v = fy y / z + cy (Hartley and Zisserman,
Multiple View Geometry, 2nd ed., eq. 6.2). The centre of the top-left pixel is (0, 0), so an image of width W and height
H covers -0.5 <= u < W - 0.5 and -0.5 <= v < H - 0.5. `pixels_inside` is the one test for this.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadQuestion

# Whole-image arithmetic handles this many rows at a time: the intermediate results then stay in the cache and in memory
# that the process already has, which is several times faster than whole images.
ROWS_AT_ONCE = 32


def centred_camera(size_px: tuple[int, int], focal_px: float) -> Intrinsics:
    """Returns the camera of an image of this size (width, height) whose principal point is the image's centre."""
    width, height = size_px
    return Intrinsics(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2, width, height)


def turned_camera(camera: Intrinsics, quarter_turns: int) -> Intrinsics:
    """Returns the camera of an image after numpy.rot90(image, quarter_turns), which turns counter-clockwise.

    In one quarter turn pixel (u, v) of an image of width W moves to (v, W - 1 - u).
    """
    for _ in range(quarter_turns % 4):
        cx_px, cy_px = camera.cy_px, camera.width_px - 1 - camera.cx_px
        camera = Intrinsics(camera.fy_px, camera.fx_px, cx_px, cy_px, camera.height_px, camera.width_px)
    return camera


def nearest_pixel(uv_px: np.ndarray) -> np.ndarray:
    """Returns int64 (N, 2): column and row of the pixel that contains each (u, v), halves rounded up.

    numpy.rint rounds halves to even, so that neighbouring pixels would not all be equally wide.
    """
    return np.floor(np.asarray(uv_px, np.float64).reshape(-1, 2) + 0.5).astype(np.int64)


def pixels_inside(uv_px: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """Returns bool (N,): whether each pixel (N, 2) lies in an image of this size (width, height); False for NaN.

    Where it is True, `nearest_pixel` gives a valid index.
    """
    nearest = np.floor(np.asarray(uv_px, np.float64).reshape(-1, 2) + 0.5)
    return np.asarray(((nearest >= 0) & (nearest < size_px)).all(axis=1))


def check_pixels_inside(uv_px: np.ndarray | Sequence, size_px: tuple[int, int]) -> np.ndarray:
    """Returns the pixels as float64 (N, 2). Raises BadQuestion for a pixel outside an image of size (width, height)."""
    uv_px = np.asarray(uv_px, np.float64).reshape(-1, 2)
    for u, v in uv_px[~pixels_inside(uv_px, size_px)]:
        width, height = size_px
        raise BadQuestion(
            f"pixel ({u:g}, {v:g}) is outside the {width} x {height} image: u 0..{width - 1}, v 0..{height - 1}."
        )
    return uv_px


def ray_slopes(intrinsics: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
    """Returns x / z of every column, float32 (W,), and y / z of every row, float32 (H,)."""
    x = (np.arange(intrinsics.width_px) - intrinsics.cx_px) / intrinsics.fx_px
    y = (np.arange(intrinsics.height_px) - intrinsics.cy_px) / intrinsics.fy_px
    return x.astype(np.float32), y.astype(np.float32)


def rays(intrinsics: Intrinsics) -> np.ndarray:
    """Returns float32 (H, W, 3): the ray through every pixel centre, scaled so that z = 1."""
    x, y = ray_slopes(intrinsics)
    out = np.ones((intrinsics.height_px, intrinsics.width_px, 3), np.float32)
    out[..., 0] = x
    out[..., 1] = y[:, None]
    return out


def z_from_range(uv_px: np.ndarray, range_m: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Returns float64 (N,): depth along the optical axis from distance along the ray (N,), of N pixels (N, 2)."""
    return range_m / _ray_length(uv_px, intrinsics)


def range_from_z(uv_px: np.ndarray, depth_m: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Returns float64 (N,): distance along the ray from depth along the optical axis (N,), of N pixels (N, 2)."""
    return depth_m * _ray_length(uv_px, intrinsics)


def _ray_length(uv_px: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Returns float64 (N,): length of the ray through each pixel up to z = 1."""
    ends = backproject(uv_px, np.ones(len(uv_px)), intrinsics)
    return np.linalg.norm(ends, axis=1)


def backproject(uv_px: np.ndarray, depth_m: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Returns float64 (N, 3): points, metres, of N pixels (N, 2) at z-depths (N,).

    A depth that is NaN or infinite gives a NaN point.
    """
    uv = np.asarray(uv_px, np.float64).reshape(-1, 2)
    z = np.asarray(depth_m, np.float64).reshape(-1)
    z = np.where(np.isfinite(z), z, np.nan)
    x = (uv[:, 0] - intrinsics.cx_px) / intrinsics.fx_px * z
    y = (uv[:, 1] - intrinsics.cy_px) / intrinsics.fy_px * z
    return np.stack([x, y, z], axis=1)


def project(points_m: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Returns float64 (N, 2): pixels of N points (N, 3), metres; NaN for a point that is not in front of the camera."""
    points = np.asarray(points_m, np.float64).reshape(-1, 3)
    z = np.where(points[:, 2] > 0, points[:, 2], np.nan)
    u = intrinsics.fx_px * points[:, 0] / z + intrinsics.cx_px
    v = intrinsics.fy_px * points[:, 1] / z + intrinsics.cy_px
    return np.stack([u, v], axis=1)
