# SPDX-License-Identifier: Apache-2.0
"""Pairs of pictures of one scene, with exact pixel matches and the exact motion of the camera.

`sample_poses` draws two cameras that see enough of the same surfaces, `sample_pair` renders them as a `ViewPair`,
`reproject_pixels` finds pixels of the first picture in the second, and `relative_pose` gives the motion between two
poses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.geometry.pinhole import pixels_inside
from depthlm_ros.scenes.camera.viewpoints import (
    CLEARANCE_M,
    FREE_AHEAD_M,
    clearance_m,
    coarse_view,
    pose_from_angles,
    sample_pose,
    yaw_pitch_toward,
)
from depthlm_ros.scenes.renderer.jit import cached_kernel
from depthlm_ros.scenes.renderer.raycast import geometry, solid_entry, trace
from depthlm_ros.scenes.renderer.render import RenderedImage, camera_vector, render
from depthlm_ros.scenes.world.primitives import SKY, Pose, Scene

# The second picture shows at least this share of the first one.
MIN_COVISIBLE_SHARE = 0.25
ATTEMPTS = 60
# Covisibility is first estimated on a lattice with this many columns.
COARSE_COLUMNS = 24
# A surface blocks a line of sight if the line meets it before this share of its length.
BLOCKED_SHARE = 1.0 - 2e-4


@dataclass(frozen=True)
class ViewPair:
    """Two pictures of a scene.

    rotation: float64 (3, 3), turns vectors of camera 2 into the frame of camera 1. translation_m: float64 (3,), centre
    of camera 2 in the frame of camera 1 (as in core.RelativePose). uv_px: int64 (N, 2), pixels of the first picture
    that the second one shows too. matched_px: float64 (N, 2), their positions in the second picture. covisible: share
    of the first picture's pixels that the second one shows.
    """

    first: RenderedImage
    second: RenderedImage
    rotation: np.ndarray
    translation_m: np.ndarray
    uv_px: np.ndarray
    matched_px: np.ndarray
    covisible: float


@cached_kernel
def _hidden(geo, points, eye):
    """Returns bool (N,): whether a solid stands between the eye (3,) and each point (N, 3)."""
    hidden = np.zeros(points.shape[0], np.bool_)
    for m in range(points.shape[0]):
        dx, dy, dz = points[m, 0] - eye[0], points[m, 1] - eye[1], points[m, 2] - eye[2]
        for n in range(geo.shape[0]):
            x, y, z = eye[0] - geo[n, 0], eye[1] - geo[n, 1], eye[2] - geo[n, 2]
            t = solid_entry(
                int(geo[n, 15]),
                geo[n, 16],
                geo[n, 3] * x + geo[n, 4] * y + geo[n, 5] * z,
                geo[n, 6] * x + geo[n, 7] * y + geo[n, 8] * z,
                geo[n, 9] * x + geo[n, 10] * y + geo[n, 11] * z,
                geo[n, 3] * dx + geo[n, 4] * dy + geo[n, 5] * dz,
                geo[n, 6] * dx + geo[n, 7] * dy + geo[n, 8] * dz,
                geo[n, 9] * dx + geo[n, 10] * dy + geo[n, 11] * dz,
            )
            if t < BLOCKED_SHARE:
                hidden[m] = True
                break
    return hidden


def relative_pose(first: Pose, second: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rotation (3, 3) from camera 2 into camera 1, and the centre (3,) of camera 2 in camera 1, metres."""
    return first.R.T @ second.R, first.R.T @ (second.t - first.t)


def reproject_pixels(
    scene: Scene, first: Pose, second: Pose, uv_px: np.ndarray, depth_m: np.ndarray, intrinsics: Intrinsics
) -> tuple[np.ndarray, np.ndarray]:
    """Finds pixels (N, 2) of the first picture, whose z-depths in metres are depth_m (N,), in the second picture.

    Returns their positions, float64 (N, 2), and whether the second picture shows them, bool (N,): the position is
    inside the picture and in front of the camera, and nothing hides the point. Pixels with NaN depth are not visible.
    """
    k, uv = intrinsics, np.asarray(uv_px, np.float64)
    rays = np.column_stack([(uv[:, 0] - k.cx_px) / k.fx_px, (uv[:, 1] - k.cy_px) / k.fy_px, np.ones(len(uv))])
    points = first.t + (rays * np.asarray(depth_m, np.float64)[:, None]) @ first.R.T
    x, y, z = ((points - second.t) @ second.R).T
    with np.errstate(divide="ignore", invalid="ignore"):
        matched = np.column_stack([x / z * k.fx_px + k.cx_px, y / z * k.fy_px + k.cy_px])
        inside = (z > 0) & pixels_inside(matched, k.size_px)
    visible = inside.copy()
    visible[inside] = ~_hidden(geometry(scene.solids), points[inside], second.t)
    return matched, visible


def _coarse_depth(scene: Scene, pose: Pose, intrinsics: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels uv_px (M, 2) of a lattice over the picture, and their z-depths (M,), NaN for the sky."""
    step = intrinsics.width_px / COARSE_COLUMNS
    rows = max(2, round(intrinsics.height_px / step))
    cam = camera_vector(intrinsics)
    small = np.array([cam[0] / step, cam[1] / step, (cam[2] + 0.5) / step - 0.5, (cam[3] + 0.5) / step - 0.5])
    depth, hit = trace(geometry(scene.solids), scene.shell_m, pose.R, pose.t, small, 0.0, rows, COARSE_COLUMNS, None)
    sky = (hit < 0) & (scene.paints[np.clip(-1 - hit, 0, 5), 6] == SKY)
    v, u = np.mgrid[:rows, :COARSE_COLUMNS]
    uv = np.column_stack([(u.ravel() + 0.5) * step - 0.5, (v.ravel() + 0.5) * step - 0.5])
    return uv, np.where(sky, np.nan, depth).ravel()


def _propose_second_pose(rng: np.random.Generator, scene: Scene, first: Pose, depth_m: np.ndarray) -> Pose:
    """Draws a second camera: after a small step, after a turn, or from elsewhere towards the same target."""
    ahead, t, kind = first.R[:, 2], first.t.copy(), rng.random()
    yaw, pitch = math.atan2(ahead[1], ahead[0]), math.asin(float(np.clip(ahead[2], -1, 1)))
    if kind < 0.4:
        t += rng.normal(0, (0.25, 0.25, 0.06))
        yaw, pitch = yaw + rng.normal(0, 0.15), pitch + rng.normal(0, 0.06)
    elif kind < 0.55:
        yaw, pitch = yaw + rng.normal(0, 0.35), pitch + rng.normal(0, 0.1)
    else:
        known = depth_m[np.isfinite(depth_m)]
        target = t + ahead * (float(np.median(known)) if len(known) else 3.0)
        t += rng.normal(0, (0.9, 0.9, 0.15))
        aim_yaw, aim_pitch = yaw_pitch_toward(t, target)
        yaw, pitch = aim_yaw + rng.normal(0, 0.15), 0.6 * pitch + 0.4 * aim_pitch + rng.normal(0, 0.06)
    return pose_from_angles(t, yaw, float(np.clip(pitch, -0.7, 0.35)), rng.normal(0, 0.03))


def _is_free(scene: Scene, pose: Pose) -> bool:
    low, high = scene.roam_m.astype(np.float64)
    if (pose.t < low).any() or (pose.t > high).any() or clearance_m(scene, pose.t) < CLEARANCE_M:
        return False
    return float(coarse_view(scene, pose)[0].min()) > 0.7 * FREE_AHEAD_M


def sample_poses(rng: np.random.Generator, scene: Scene, intrinsics: Intrinsics) -> tuple[Pose, Pose]:
    """Draws two cameras; the second shows at least MIN_COVISIBLE_SHARE of what the first one shows.

    Raises RuntimeError if the scene is too full for two such cameras.
    """
    for _ in range(ATTEMPTS):
        first = sample_pose(rng, scene)
        uv_px, depth_m = _coarse_depth(scene, first, intrinsics)
        for _ in range(6):
            second = _propose_second_pose(rng, scene, first, depth_m)
            if not _is_free(scene, second):
                continue
            if (
                reproject_pixels(scene, first, second, uv_px, depth_m, intrinsics)[1].mean()
                >= MIN_COVISIBLE_SHARE + 0.02
            ):
                return first, second
    raise RuntimeError(f"found no two cameras that see the same objects in a {scene.room} of size {scene.shell_m[1]} m")


def sample_pair(rng: np.random.Generator, scene: Scene, intrinsics: Intrinsics, points: int = 64) -> ViewPair:
    """Renders two pictures of one scene, with up to `points` matched pixels drawn from all that both show.

    Raises RuntimeError if the scene is too full for two cameras.
    """
    poses = sample_poses(rng, scene, intrinsics)
    first, second = (render(scene, pose, intrinsics) for pose in poses)
    height, width = first.depth_m.shape
    v, u = np.divmod(rng.permutation(height * width)[: 8 * points], width)
    uv_px = np.column_stack([u, v])
    matched_px, visible = reproject_pixels(scene, *poses, uv_px, first.depth_m[v, u], intrinsics)
    return ViewPair(
        first,
        second,
        *relative_pose(*poses),
        uv_px[visible][:points],
        matched_px[visible][:points],
        float(visible.mean()),
    )
