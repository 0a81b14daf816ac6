# SPDX-License-Identifier: Apache-2.0
"""Turns the points of a laser scanner into the depth map of a camera; rigid transforms."""

from __future__ import annotations

import numpy as np

from depthlm_ros.core import Intrinsics

# Transform from a frame with x forward, y left, z up (Waymo's cameras and vehicles) to the optical frame.
OPTICAL_FROM_FORWARD = np.array([[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0, 0, 0, 1.0]])
# Value of the pixels of a depth map that hold no point.
EMPTY = np.float32(np.nan)


def rigid_transform(quaternion_wxyz: np.ndarray, translation_m: np.ndarray) -> np.ndarray:
    """Returns float64 (4, 4): the transform of a quaternion (w first, not zero) and a translation (3,)."""
    w, x, y, z = np.asarray(quaternion_wxyz, np.float64) / np.linalg.norm(quaternion_wxyz)
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = translation_m
    return matrix


def transform_points(transform: np.ndarray, points_m: np.ndarray) -> np.ndarray:
    """Returns float64 (N, 3): points (N, 3) after a rigid transform (4, 4)."""
    return np.asarray(points_m, np.float64) @ transform[:3, :3].T + transform[:3, 3]


def invert_rigid(transform: np.ndarray) -> np.ndarray:
    """Returns float64 (4, 4): the inverse of a rigid transform."""
    out = np.eye(4)
    out[:3, :3] = transform[:3, :3].T
    out[:3, 3] = -transform[:3, :3].T @ transform[:3, 3]
    return out


def project_px(points_m: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """Returns float64 (N, 2): the pixels of points (N, 3) in front of the camera."""
    x, y, z = np.asarray(points_m, np.float64).T
    return np.stack([camera.fx_px * x / z + camera.cx_px, camera.fy_px * y / z + camera.cy_px], axis=1)


def project_to_depth(points_m: np.ndarray, camera: Intrinsics, cut: bool = False, last: bool = False) -> np.ndarray:
    """Returns float32 (H, W): z of the nearest of the points (N, 3), optical frame, in each pixel; NaN without a point.

    A point belongs to the pixel whose centre is nearest. The options reproduce released scripts. cut: round pixels
    down, which moves points half a pixel up and to the left. last: keep the last point of a pixel, not the nearest.
    """
    points_m = points_m[points_m[:, 2] > 0]
    uv_px = project_px(points_m, camera)
    return z_buffer(np.floor(uv_px) if cut else np.rint(uv_px), points_m[:, 2], camera.size_px, last)


def z_buffer(uv_px: np.ndarray, z_m: np.ndarray, size_px: tuple[int, int], last: bool = False) -> np.ndarray:
    """Returns float32 (H, W): the nearest (or the last) depth (N,) at each whole pixel (N, 2); NaN elsewhere."""
    width, height = size_px
    depth_m = np.full((height, width), EMPTY, np.float32)
    inside = np.all((uv_px >= 0) & (uv_px < [width, height]), axis=1)
    u, v = uv_px[inside].astype(np.int64).T
    z_m = z_m[inside]
    # Later values overwrite earlier ones, so that the nearest must come last.
    order = np.arange(len(z_m)) if last else np.argsort(-z_m, kind="stable")
    depth_m[v[order], u[order]] = z_m[order]
    return depth_m
