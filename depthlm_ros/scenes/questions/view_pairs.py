"""Two pictures of one scene: where pixels of the first are in the second, and how the camera moved, both exact."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.scenes.camera.viewpoints import AHEAD_M, CLEAR_M, clearance_m, glance, look, sample_pose, toward
from depthlm_ros.scenes.renderer.jit import cached
from depthlm_ros.scenes.renderer.raycast import geometry, solid_entry, trace
from depthlm_ros.scenes.renderer.render import Rendered, camera_vector, render
from depthlm_ros.scenes.world.primitives import SKY, Pose, Scene

COVISIBLE = 0.25
ATTEMPTS = 60
# Covisibility is first judged on a lattice of this many columns.
COARSE_COLUMNS = 24
# A surface stops a sight line if it is met before this share of the way.
MET = 1.0 - 2e-4


@dataclass(frozen=True)
class Pair:
    """Two pictures of a scene.

    rotation: float64 (3, 3), turns vectors of camera 2 into camera 1; translation_m: float64 (3,), centre of camera 2
    in camera 1 (as core.RelativePose). uv_px: int64 (N, 2), pixels of the first picture that the second shows too;
    matched_px: float64 (N, 2), where. covisible: share of the first picture's pixels that the second shows.
    """

    first: Rendered
    second: Rendered
    rotation: np.ndarray
    translation_m: np.ndarray
    uv_px: np.ndarray
    matched_px: np.ndarray
    covisible: float


@cached
def _hidden(geo, points, eye):
    """bool (N,): does a solid stand between the eye (3,) and each point (N, 3)?"""
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
            if t < MET:
                hidden[m] = True
                break
    return hidden


def relative_pose(first: Pose, second: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Rotation (3, 3) from camera 2 into camera 1, and the centre (3,) of camera 2 in camera 1, metres."""
    return first.R.T @ second.R, first.R.T @ (second.t - first.t)


def match(
    scene: Scene, first: Pose, second: Pose, uv_px: np.ndarray, depth_m: np.ndarray, intrinsics: Intrinsics
) -> tuple[np.ndarray, np.ndarray]:
    """Where pixels (N, 2) of the first picture with z-depths (N,) are in the second: float64 (N, 2), and bool (N,),
    whether the second shows them: inside it, in front of the camera, nothing between. NaN depths are not shown."""
    k, uv = intrinsics, np.asarray(uv_px, np.float64)
    rays = np.column_stack([(uv[:, 0] - k.cx_px) / k.fx_px, (uv[:, 1] - k.cy_px) / k.fy_px, np.ones(len(uv))])
    points = first.t + (rays * np.asarray(depth_m, np.float64)[:, None]) @ first.R.T
    x, y, z = ((points - second.t) @ second.R).T
    with np.errstate(divide="ignore", invalid="ignore"):
        matched = np.column_stack([x / z * k.fx_px + k.cx_px, y / z * k.fy_px + k.cy_px])
        inside = (z > 0) & (matched > -0.5).all(1) & (matched < (k.width_px - 0.5, k.height_px - 0.5)).all(1)
    shown = inside.copy()
    shown[inside] = ~_hidden(geometry(scene.solids), points[inside], second.t)
    return matched, shown


def _coarse(scene: Scene, pose: Pose, intrinsics: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
    """uv_px (M, 2) of a lattice over the picture, and z-depths (M,), NaN for the sky."""
    step = intrinsics.width_px / COARSE_COLUMNS
    rows = max(2, round(intrinsics.height_px / step))
    cam = camera_vector(intrinsics)
    small = np.array([cam[0] / step, cam[1] / step, (cam[2] + 0.5) / step - 0.5, (cam[3] + 0.5) / step - 0.5])
    depth, hit = trace(geometry(scene.solids), scene.shell_m, pose.R, pose.t, small, 0.0, rows, COARSE_COLUMNS, None)
    sky = (hit < 0) & (scene.paints[np.clip(-1 - hit, 0, 5), 6] == SKY)
    v, u = np.mgrid[:rows, :COARSE_COLUMNS]
    uv = np.column_stack([(u.ravel() + 0.5) * step - 0.5, (v.ravel() + 0.5) * step - 0.5])
    return uv, np.where(sky, np.nan, depth).ravel()


def _moved(rng: np.random.Generator, scene: Scene, first: Pose, depth_m: np.ndarray) -> Pose:
    """A second camera: a step on, a turn on the spot, or from elsewhere towards what the first one sees."""
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
        aim_yaw, aim_pitch = toward(t, target)
        yaw, pitch = aim_yaw + rng.normal(0, 0.15), 0.6 * pitch + 0.4 * aim_pitch + rng.normal(0, 0.06)
    return look(t, yaw, float(np.clip(pitch, -0.7, 0.35)), rng.normal(0, 0.03))


def _is_free(scene: Scene, pose: Pose) -> bool:
    low, high = scene.roam_m.astype(np.float64)
    if (pose.t < low).any() or (pose.t > high).any() or clearance_m(scene, pose.t) < CLEAR_M:
        return False
    return float(glance(scene, pose)[0].min()) > 0.7 * AHEAD_M


def sample_poses(rng: np.random.Generator, scene: Scene, intrinsics: Intrinsics) -> tuple[Pose, Pose]:
    """Two cameras of which the second shows at least COVISIBLE of what the first does. Raises RuntimeError if the
    scene is too full for any."""
    for _ in range(ATTEMPTS):
        first = sample_pose(rng, scene)
        uv_px, depth_m = _coarse(scene, first, intrinsics)
        for _ in range(6):
            second = _moved(rng, scene, first, depth_m)
            if not _is_free(scene, second):
                continue
            if match(scene, first, second, uv_px, depth_m, intrinsics)[1].mean() >= COVISIBLE + 0.02:
                return first, second
    raise RuntimeError(f"no two cameras see the same things in a {scene.room} of {scene.shell_m[1]} m")


def sample_pair(rng: np.random.Generator, scene: Scene, intrinsics: Intrinsics, points: int = 64) -> Pair:
    """Two pictures of one scene with up to `points` matched pixels, drawn from all that both show.

    Raises RuntimeError if the scene is too full for two cameras.
    """
    poses = sample_poses(rng, scene, intrinsics)
    first, second = (render(scene, pose, intrinsics) for pose in poses)
    height, width = first.depth_m.shape
    v, u = np.divmod(rng.permutation(height * width)[: 8 * points], width)
    uv_px = np.column_stack([u, v])
    matched_px, shown = match(scene, *poses, uv_px, first.depth_m[v, u], intrinsics)
    return Pair(
        first,
        second,
        *relative_pose(*poses),
        uv_px[shown][:points],
        matched_px[shown][:points],
        float(shown.mean()),
    )
