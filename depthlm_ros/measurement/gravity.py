"""Which way is down in a depth map (`estimate_down`): floors, walls, table tops and boxes agree about it."""

from __future__ import annotations

import math

import cv2
import numpy as np

from depthlm_ros.core import DepthMap

BLOCK_PX = 8
# Within how many degrees a surface counts as horizontal or vertical, round by round.
TOLERANCES_DEG = (45.0, 45.0, 45.0, 15.0, 15.0, 15.0, 5.0, 5.0, 2.0, 2.0)
# If not more than this share of the surfaces is horizontal or vertical in the end, they say nothing.
AGREE, AGREE_DEG = 0.3, 5.0
# Weight of the camera's own down, for each surface.
PRIOR_WEIGHT = 1e-4
CAMERA_DOWN = (0.0, 1.0, 0.0)


def estimate_down(depth: DepthMap) -> np.ndarray:
    """Returns float64 (3,): the unit vector along gravity in the optical frame.

    It is the direction to which the most surfaces are parallel or perpendicular, starting from the camera's own down,
    for a camera that is held upright within about 35 degrees (Gupta, Arbelaez, Malik: Perceptual Organization and
    Recognition of Indoor Scenes from RGB-D Images, CVPR 2013, section 3.1, with a last, narrower round). It is the
    camera's own down where the surfaces do not agree.
    """
    normals = _normals(depth)
    down = np.array(CAMERA_DOWN)
    if len(normals) < 3:
        return down
    # Where all surfaces are alike, such as a wall seen from the front, many directions fit: this prefers the camera's.
    prior = PRIOR_WEIGHT * len(normals) * (np.eye(3) - np.outer(down, down))
    for tolerance_deg in TOLERANCES_DEG:
        flat, upright = _aligned(normals, down, tolerance_deg)
        # Least squares: normals of upright surfaces have no part along it, those of flat surfaces no part across it.
        down = np.linalg.eigh(upright.T @ upright - flat.T @ flat + prior)[1][:, 0]
        down *= math.copysign(1.0, down[1])
    flat, upright = _aligned(normals, down, AGREE_DEG)
    return down if len(flat) + len(upright) > AGREE * len(normals) else np.array(CAMERA_DOWN)


def _aligned(normals: np.ndarray, down: np.ndarray, tolerance_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns those of the normals (N, 3) that are along a direction, and those that are across it."""
    cosine = np.abs(normals @ down)
    return (
        normals[cosine > math.cos(math.radians(tolerance_deg))],
        normals[cosine < math.sin(math.radians(tolerance_deg))],
    )


def _normals(depth: DepthMap) -> np.ndarray:
    """Returns float64 (N, 3): unit normals of the surfaces at blocks of BLOCK_PX x BLOCK_PX pixels.

    1 / z = a u + b v + c on a plane, and then (a fx, b fy, a cx + b cy + c) is its normal over its distance (see
    surface_patches.py).
    """
    height, width = (size // BLOCK_PX for size in depth.depth_m.shape)
    if min(height, width) < 3:
        return np.zeros((0, 3))
    depth_m = depth.depth_m[: height * BLOCK_PX, : width * BLOCK_PX]
    known = np.isfinite(depth_m) & (depth_m > 0)
    inverse = np.divide(1, depth_m, out=np.zeros(depth_m.shape, np.float32), where=known)
    share, block = (
        cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).astype(np.float64)
        for image in (known.astype(np.float32), inverse)
    )
    block = np.divide(block, share, out=np.full(block.shape, np.nan), where=share > 0.5)
    camera, size = depth.intrinsics, float(BLOCK_PX)
    a = (block[1:-1, 2:] - block[1:-1, :-2]) / (2 * size)
    b = (block[2:, 1:-1] - block[:-2, 1:-1]) / (2 * size)
    u, v = ((np.arange(1, count - 1) + 0.5) * size - 0.5 for count in (width, height))
    towards = block[1:-1, 1:-1] - a * (u - camera.cx_px) - b * (v[:, None] - camera.cy_px)
    normals = np.stack([a * camera.fx_px, b * camera.fy_px, towards], axis=-1).reshape(-1, 3)
    length = np.linalg.norm(normals, axis=1)
    sure = np.isfinite(length) & (length > 0)
    return normals[sure] / length[sure, None]
