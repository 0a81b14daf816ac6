"""Random camera poses as a person or a robot would hold a camera: inside the room, upright, with free space ahead.

`sample_pose` draws one for a scene, `sample_scene_and_pose` draws a scene too. `pose_from_angles`, `yaw_pitch_toward`,
`clearance_m` and `coarse_view` are the tools for making and checking poses.
"""

from __future__ import annotations

import math

import numpy as np

from depthlm_ros.scenes.renderer.raycast import geometry, trace
from depthlm_ros.scenes.world.primitives import Pose, Scene, distance_to_solids_m
from depthlm_ros.scenes.world.sample import sample_scene

# Least distance of a camera to everything, and least depth in the middle of its picture.
CLEARANCE_M = 0.25
FREE_AHEAD_M = 0.5


def pose_from_angles(t: np.ndarray, yaw: float, pitch: float, roll: float = 0.0) -> Pose:
    """Returns the pose of a camera at t (3,), metres; yaw about z from +x, pitch up, roll clockwise, radians."""
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    ahead = np.array([cy * cp, sy * cp, sp])
    right = np.array([sy, -cy, 0.0])
    down = np.cross(ahead, right)
    cr, sr = math.cos(roll), math.sin(roll)
    return Pose(np.column_stack((cr * right + sr * down, cr * down - sr * right, ahead)), np.asarray(t, np.float64))


def clearance_m(scene: Scene, t: np.ndarray) -> float:
    """Returns the distance from point t (3,) to the nearest bounding box or to the shell, metres; 0 inside a box."""
    return float(min(distance_to_solids_m(scene.solids, t), (t - scene.shell_m[0]).min(), (scene.shell_m[1] - t).min()))


def coarse_view(scene: Scene, pose: Pose) -> tuple[np.ndarray, int]:
    """Renders a very small depth map of 67 by 53 degrees.

    Returns z-depth float64 (9, 12), metres, and the number of different objects and shell faces that it shows.
    """
    cam = np.array([9.0, 9.0, 5.5, 4.0])
    depth, hit = trace(geometry(scene.solids), scene.shell_m, pose.R, pose.t, cam, 0.0, 9, 12, None)
    visible = np.unique(np.where(hit >= 0, scene.object_of[np.maximum(hit, 0)], hit - 1))
    return depth, len(visible)


def yaw_pitch_toward(t: np.ndarray, aim: np.ndarray) -> tuple[float, float]:
    """Returns yaw and pitch, radians, of the direction from point t to point aim."""
    x, y, z = aim - t
    return math.atan2(y, x), math.atan2(z, math.hypot(x, y))


def _height_m(rng: np.random.Generator, ceiling_m: float) -> float:
    """Draws the camera height: hand-held, on a tripod, on a robot, sometimes near the floor."""
    kind = rng.random()
    height_m = rng.normal(1.4, 0.17) if kind < 0.6 else rng.uniform(0.8, 1.8) if kind < 0.85 else rng.uniform(0.35, 1.0)
    return float(min(max(height_m, 0.3), ceiling_m - 0.3))


def _propose(rng: np.random.Generator, scene: Scene) -> Pose:
    """Draws a camera anywhere in the space for cameras; its direction follows one of six habits of photographers."""
    low, high = scene.roam_m.astype(np.float64)
    t = low + (high - low) * rng.random(3)
    t[2] = _height_m(rng, high[2])
    yaw, pitch = rng.uniform(-math.pi, math.pi), math.radians(rng.normal(-5, 6))
    habit, middle = rng.random(), (low + high) / 2
    if habit < 0.3:
        # With the back to a wall, across the room, as rooms are photographed.
        axis = int(rng.integers(2))
        t[axis] = rng.choice((low[axis] + rng.uniform(0.3, 0.9), high[axis] - rng.uniform(0.3, 0.9)))
        yaw = yaw_pitch_toward(t, middle)[0] + rng.normal(0, 0.35)
    elif habit < 0.5:
        # From a corner along the room.
        for axis in range(2):
            t[axis] = rng.choice((low[axis] + rng.uniform(0.3, 1.2), high[axis] - rng.uniform(0.3, 1.2)))
        yaw = yaw_pitch_toward(t, middle)[0] + rng.normal(0, 0.3)
    elif habit < 0.72 and scene.objects:
        yaw, slope = yaw_pitch_toward(t, np.array(scene.objects[rng.integers(len(scene.objects))].centre_m))
        yaw, pitch = yaw + rng.normal(0, 0.25), slope * rng.uniform(0.2, 0.9) + math.radians(rng.normal(0, 5))
    elif habit < 0.8:
        pitch = math.radians(rng.uniform(-32, -14))
    elif habit < 0.94:
        # Along the longer side of the room, so that corridors and halls are visible in their full depth.
        axis = 0 if high[0] - low[0] > high[1] - low[1] else 1
        ahead = -1.0 if t[axis] > middle[axis] else 1.0
        yaw = math.atan2(ahead * axis, ahead * (1 - axis)) + rng.normal(0, 0.3)
    return pose_from_angles(
        t, yaw, float(np.clip(pitch, math.radians(-38), math.radians(15))), math.radians(rng.normal(0, 1.5))
    )


def _is_worth_taking(rng: np.random.Generator, depth: np.ndarray, objects: int) -> bool:
    """Accepts most views with many objects at one to eight metres, as in most pictures that people take."""
    median_m = float(np.median(depth))
    if median_m < 1.3 and rng.random() > (median_m / 1.3) ** 4:
        return False
    return rng.random() < ((objects - 1) / 9) ** 2


def sample_pose(rng: np.random.Generator, scene: Scene) -> Pose:
    """Draws a camera 0.3 to 2 m above the floor with at least 0.5 m of free space ahead.

    Rejects most views that are very close to a surface or show few different objects. Raises RuntimeError if it finds
    no free place.
    """
    for attempt in range(400):
        pose = _propose(rng, scene)
        if clearance_m(scene, pose.t) < CLEARANCE_M:
            continue
        depth, objects = coarse_view(scene, pose)
        if depth.min() < FREE_AHEAD_M * 0.7 or depth[3:6, 4:8].min() < FREE_AHEAD_M:
            continue
        if attempt >= 200 or _is_worth_taking(rng, depth, objects):
            return pose
    raise RuntimeError(f"found no free place for a camera in a {scene.room} of size {scene.shell_m[1]} m")


def sample_scene_and_pose(rng: np.random.Generator, scene: Scene | None = None) -> tuple[Scene, Pose]:
    """Returns the scene with a camera in it, or a new scene if it is None or too full for a camera."""
    while True:
        scene = scene or sample_scene(rng)
        try:
            return scene, sample_pose(rng, scene)
        except RuntimeError:
            scene = None
