"""Random cameras that a person or a robot could hold: inside the room, upright, with free space ahead."""

from __future__ import annotations

import math

import numpy as np

from depthlm_ros.scenes.renderer.raycast import geometry, trace
from depthlm_ros.scenes.world.primitives import Pose, Scene, gap_m

CLEAR_M = 0.25
AHEAD_M = 0.5


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
    depth, hit = trace(geometry(scene.solids), scene.shell_m, pose.R, pose.t, cam, 0.0, 9, 12, None)
    things = np.unique(np.where(hit >= 0, scene.object_of[np.maximum(hit, 0)], hit - 1))
    return depth, len(things)


def toward(t: np.ndarray, aim: np.ndarray) -> tuple[float, float]:
    """Yaw and pitch, radians, from t to aim."""
    x, y, z = aim - t
    return math.atan2(y, x), math.atan2(z, math.hypot(x, y))


def _height_m(rng: np.random.Generator, ceiling_m: float) -> float:
    """Hand-held, on a tripod, on a robot, now and then near the floor."""
    kind = rng.random()
    height_m = rng.normal(1.4, 0.17) if kind < 0.6 else rng.uniform(0.8, 1.8) if kind < 0.85 else rng.uniform(0.35, 1.0)
    return float(min(max(height_m, 0.3), ceiling_m - 0.3))


def _propose(rng: np.random.Generator, scene: Scene) -> Pose:
    """A camera held anywhere in the part of a scene that is walked in; which way it looks is one of six habits."""
    low, high = scene.roam_m.astype(np.float64)
    t = low + (high - low) * rng.random(3)
    t[2] = _height_m(rng, high[2])
    yaw, pitch = rng.uniform(-math.pi, math.pi), math.radians(rng.normal(-5, 6))
    habit, middle = rng.random(), (low + high) / 2
    if habit < 0.3:
        # Back to a wall, across the room: how rooms are photographed.
        axis = int(rng.integers(2))
        t[axis] = rng.choice((low[axis] + rng.uniform(0.3, 0.9), high[axis] - rng.uniform(0.3, 0.9)))
        yaw = toward(t, middle)[0] + rng.normal(0, 0.35)
    elif habit < 0.5:
        # From a corner along the room.
        for axis in range(2):
            t[axis] = rng.choice((low[axis] + rng.uniform(0.3, 1.2), high[axis] - rng.uniform(0.3, 1.2)))
        yaw = toward(t, middle)[0] + rng.normal(0, 0.3)
    elif habit < 0.72 and scene.objects:
        yaw, slope = toward(t, np.array(scene.objects[rng.integers(len(scene.objects))].centre_m))
        yaw, pitch = yaw + rng.normal(0, 0.25), slope * rng.uniform(0.2, 0.9) + math.radians(rng.normal(0, 5))
    elif habit < 0.8:
        pitch = math.radians(rng.uniform(-32, -14))
    elif habit < 0.94:
        # Along the longer side of the room: corridors and halls are seen in depth.
        axis = 0 if high[0] - low[0] > high[1] - low[1] else 1
        ahead = -1.0 if t[axis] > middle[axis] else 1.0
        yaw = math.atan2(ahead * axis, ahead * (1 - axis)) + rng.normal(0, 0.3)
    return look(t, yaw, float(np.clip(pitch, math.radians(-38), math.radians(15))), math.radians(rng.normal(0, 1.5)))


def _is_worth(rng: np.random.Generator, depth: np.ndarray, things: int) -> bool:
    """Most pictures people take show many things, from about one to eight metres away."""
    median_m = float(np.median(depth))
    if median_m < 1.3 and rng.random() > (median_m / 1.3) ** 4:
        return False
    return rng.random() < ((things - 1) / 9) ** 2


def sample_pose(rng: np.random.Generator, scene: Scene) -> Pose:
    """A camera 0.3 to 2 m above the floor with at least 0.5 m free ahead.

    Views that are very close or show few different things are mostly refused. Raises RuntimeError if there is no
    free place.
    """
    for attempt in range(400):
        pose = _propose(rng, scene)
        if clearance_m(scene, pose.t) < CLEAR_M:
            continue
        depth, things = glance(scene, pose)
        if depth.min() < AHEAD_M * 0.7 or depth[3:6, 4:8].min() < AHEAD_M:
            continue
        if attempt >= 200 or _is_worth(rng, depth, things):
            return pose
    raise RuntimeError(f"no free place for a camera in a {scene.room} of {scene.shell_m[1]} m")
