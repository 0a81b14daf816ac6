"""Random cameras that a person or a robot could hold: inside the room, upright, with free space ahead."""

from __future__ import annotations

import math

import numpy as np

from depthlm_ros.scenes.primitives import Pose, Scene
from depthlm_ros.scenes.raycast import geometry, trace

CLEAR_M = 0.25
AHEAD_M = 0.4


def look(t: np.ndarray, yaw: float, pitch: float, roll: float = 0.0) -> Pose:
    """Camera at t; yaw about z from +x, pitch up, roll clockwise, radians."""
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    ahead = np.array([cy * cp, sy * cp, sp])
    right = np.array([sy, -cy, 0.0])
    down = np.cross(ahead, right)
    cr, sr = math.cos(roll), math.sin(roll)
    return Pose(np.column_stack((cr * right + sr * down, cr * down - sr * right, ahead)), np.asarray(t, np.float64))


def clearance_m(scene: Scene, t: np.ndarray) -> float:
    """Distance from a point to the nearest solid's box or to the shell (0 inside a solid)."""
    centre, axes = scene.solids[:, :3], scene.solids[:, 3:12].reshape(-1, 3, 3)
    half = np.sqrt((axes**2).sum(2))
    local = np.abs(np.einsum("nij,nj->ni", axes, t.astype(np.float32) - centre)) / half
    gap = np.sqrt((np.maximum(local - half, 0) ** 2).sum(1)).min(initial=math.inf)
    return float(min(gap, (t - scene.shell_m[0]).min(), (scene.shell_m[1] - t).min()))


def glance(scene: Scene, pose: Pose) -> np.ndarray:
    """float64 (9, 12): a very small depth picture of 67 by 53 degrees."""
    cam = np.array([9.0, 9.0, 5.5, 4.0])
    return trace(geometry(scene.solids), scene.shell_m, pose.R, pose.t, cam, 0.0, 9, 12)[0]


def _propose(rng: np.random.Generator, scene: Scene) -> Pose:
    low, high = scene.shell_m.astype(np.float64)
    t = low + (high - low) * rng.random(3)
    t[2] = min(rng.uniform(0.3, 2.0) if rng.random() < 0.4 else rng.uniform(1.0, 1.8), high[2] - 0.3)
    yaw, pitch = rng.uniform(-math.pi, math.pi), math.radians(np.clip(rng.normal(-8, 9), -35, 15))
    kind = rng.random()
    if kind < 0.45 and scene.objects:
        aim = np.array(scene.objects[rng.integers(len(scene.objects))].centre_m) - t
        yaw = math.atan2(aim[1], aim[0]) + rng.normal(0, 0.25)
        slope = math.degrees(math.atan2(aim[2], math.hypot(aim[0], aim[1])))
        pitch = math.radians(np.clip(slope * rng.uniform(0.3, 1.0) + rng.normal(0, 5), -40, 15))
    elif kind < 0.6:
        pitch = math.radians(rng.uniform(-35, -18))
    elif kind < 0.8:
        # Along the longer side of the room: corridors and halls are seen in depth.
        along = np.array([0.0, 1.0]) if high[1] - low[1] > high[0] - low[0] else np.array([1.0, 0.0])
        away = 1.0 if (t - (low + high) / 2)[:2] @ along < 0 else -1.0
        yaw = math.atan2(*(away * along)[::-1]) + rng.normal(0, 0.3)
    return look(t, yaw, pitch, math.radians(rng.normal(0, 1.5)))


def dullness(depth_m: np.ndarray) -> float:
    """Probability of refusing a view: bare walls and noses against furniture teach little, so few are kept."""
    flat = np.std(np.log(depth_m)) < 0.2
    median_m = np.median(depth_m)
    return max(0.85 if flat else 0.0, 0.8 if median_m < 1.0 else 0.4 if median_m < 2.0 else 0.0)


def sample_pose(rng: np.random.Generator, scene: Scene) -> Pose:
    """A camera 0.3 to 2 m above the floor with at least 0.4 m free ahead.

    Views of nothing but a near wall are mostly refused. Raises RuntimeError if the room is too full.
    """
    for attempt in range(400):
        pose = _propose(rng, scene)
        if clearance_m(scene, pose.t) < CLEAR_M:
            continue
        depth = glance(scene, pose)
        if depth.min() < AHEAD_M * 0.7 or depth[3:6, 4:8].min() < AHEAD_M:
            continue
        if attempt < 200 and rng.random() < dullness(depth):
            continue
        return pose
    raise RuntimeError(f"no free place for a camera in a {scene.room} of {scene.shell_m[1]} m")
