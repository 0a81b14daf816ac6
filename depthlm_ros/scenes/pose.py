"""Random cameras that a person or a robot could hold: inside the room, upright, with free space ahead."""

from __future__ import annotations

import math

import numpy as np

from depthlm_ros.scenes.primitives import Pose, Scene, gap_m
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
    return float(min(gap_m(scene.solids, t), (t - scene.shell_m[0]).min(), (scene.shell_m[1] - t).min()))


def glance(scene: Scene, pose: Pose) -> tuple[np.ndarray, int]:
    """float64 (9, 12): a very small depth picture of 67 by 53 degrees, and how many different things it shows."""
    cam = np.array([9.0, 9.0, 5.5, 4.0])
    depth, hit = trace(geometry(scene.solids), scene.shell_m, pose.R, pose.t, cam, 0.0, 9, 12)
    things = np.unique(np.where(hit >= 0, scene.object_of[np.maximum(hit, 0)], hit - 1))
    return depth, len(things)


def _toward(t: np.ndarray, aim: np.ndarray) -> tuple[float, float]:
    """Yaw and pitch, radians, from t to aim."""
    x, y, z = aim - t
    return math.atan2(y, x), math.atan2(z, math.hypot(x, y))


def _propose(rng: np.random.Generator, scene: Scene) -> Pose:
    """A camera held anywhere in the room; which way it looks is one of five habits."""
    low, high = scene.shell_m.astype(np.float64)
    t = low + (high - low) * rng.random(3)
    t[2] = min(rng.uniform(0.3, 2.0) if rng.random() < 0.4 else rng.uniform(1.0, 1.8), high[2] - 0.3)
    yaw, pitch = rng.uniform(-math.pi, math.pi), math.radians(rng.normal(-6, 8))
    habit = rng.random()
    if habit < 0.35:
        # Back to a wall, across the room: how rooms are photographed.
        axis = int(rng.integers(2))
        t[axis] = rng.choice((low[axis], high[axis])) * 0.98 + 0.02 * t[axis]
        t[axis] = np.clip(t[axis], low[axis] + rng.uniform(0.3, 0.9), high[axis] - rng.uniform(0.3, 0.9))
        yaw = _toward(t, (low + high) / 2)[0] + rng.normal(0, 0.35)
    elif habit < 0.65 and scene.objects:
        yaw, slope = _toward(t, np.array(scene.objects[rng.integers(len(scene.objects))].centre_m))
        yaw, pitch = yaw + rng.normal(0, 0.25), slope * rng.uniform(0.3, 1.0) + math.radians(rng.normal(0, 5))
    elif habit < 0.78:
        pitch = math.radians(rng.uniform(-35, -18))
    elif habit < 0.92:
        # Along the longer side of the room: corridors and halls are seen in depth.
        axis = 0 if high[0] - low[0] > high[1] - low[1] else 1
        ahead = -1.0 if t[axis] > (low + high)[axis] / 2 else 1.0
        yaw = math.atan2(ahead * axis, ahead * (1 - axis)) + rng.normal(0, 0.3)
    return look(t, yaw, float(np.clip(pitch, math.radians(-38), math.radians(15))), math.radians(rng.normal(0, 1.5)))


def sample_pose(rng: np.random.Generator, scene: Scene) -> Pose:
    """A camera 0.3 to 2 m above the floor with at least 0.4 m free ahead.

    Views that show few different things are mostly refused. Raises RuntimeError if the room is too full.
    """
    for attempt in range(400):
        pose = _propose(rng, scene)
        if clearance_m(scene, pose.t) < CLEAR_M:
            continue
        depth, things = glance(scene, pose)
        if depth.min() < AHEAD_M * 0.7 or depth[3:6, 4:8].min() < AHEAD_M:
            continue
        if attempt < 200 and rng.random() > ((things - 1) / 7) ** 2:
            continue
        return pose
    raise RuntimeError(f"no free place for a camera in a {scene.room} of {scene.shell_m[1]} m")
