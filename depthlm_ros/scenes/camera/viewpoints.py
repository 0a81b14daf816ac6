# SPDX-License-Identifier: Apache-2.0
"""Random camera poses as a person or a robot would hold a camera: inside the room, upright, with free space ahead.

`sample_pose` draws one for a scene, `sample_scene_and_pose` draws a scene too. `sample_far_scene_and_pose`,
`sample_close_scene_and_pose` and `sample_street_scene_and_pose` do the same for large places, for pictures from near
by, and for streets as a vehicle sees them. `pose_from_angles`, `yaw_pitch_toward`, `clearance_m` and `coarse_view` are
the tools for making and checking poses.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from depthlm_ros.scenes.renderer.raycast import geometry, trace
from depthlm_ros.scenes.world.closeups import build_close_scene
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.halls import build_far_scene
from depthlm_ros.scenes.world.primitives import BOX, Pose, Scene, distance_to_solids_m
from depthlm_ros.scenes.world.sample import build_outdoor_scene, sample_scene

# Least distance of a camera to everything, and least depth in the middle of its picture.
CLEARANCE_M = 0.25
FREE_AHEAD_M = 0.5
# Pictures of large places have at least this median depth; all above FAR_WANTED_M are taken. In a place narrower than
# CORRIDOR_WIDE_M, most of a picture is walls at a few metres: CORRIDOR_MEDIAN_M is enough there if a twelfth of the
# picture is farther away than CORRIDOR_END_M.
FAR_MEDIAN_M, FAR_WANTED_M = 3.6, 11.0
CORRIDOR_WIDE_M, CORRIDOR_MEDIAN_M, CORRIDOR_END_M = 4.5, 2.3, 8.0
# The same for pictures from near by: median depth, distance of the camera to everything, and least depth.
CLOSE_MEDIAN_M, CLOSE_CLEARANCE_M, CLOSE_FREE_AHEAD_M = (0.3, 1.3), 0.09, 0.12
# Pictures of a vehicle: distance from the middle of the street, least median depth, and least depth ahead.
LANE_M, STREET_MEDIAN_M, STREET_FREE_AHEAD_M = 3.0, 5.0, 2.5
# Objects up to this size are aimed at as a whole; on larger ones any point is.
SMALL_THING_M = 0.55
POSE_TRIES = 120
# Share of pictures from near by that a robot takes whose camera is 0.15 to 0.5 m above the floor.
ROBOT_SHARE = 0.13


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


def _floor_m(scene: Scene, t: np.ndarray) -> float:
    """Returns the height of the building's floor under point t: steps and galleries are higher than 0, metres."""
    boxes = scene.solids[(scene.object_of < 0) & (scene.solids[:, 12] == BOX)]
    reach = np.abs(boxes[:, 3:12].reshape(-1, 3, 3)).sum(1)
    top = boxes[:, 2] + reach[:, 2]
    under = (np.abs(boxes[:, :2] - t[:2]) < reach[:, :2]).all(1) & (reach[:, :2] > 0.4).all(1)
    return float(top[under & (top < 0.7 * scene.shell_m[1, 2])].max(initial=0.0))


def _propose_far(rng: np.random.Generator, scene: Scene) -> Pose:
    """Draws a camera that looks along the place or across its middle, as pictures of large places are taken."""
    low, high = scene.roam_m.astype(np.float64)
    t = low + (high - low) * rng.random(3)
    axis = 0 if high[0] - low[0] > high[1] - low[1] else 1
    side, habit = rng.choice((-1.0, 1.0)), rng.random()
    if habit < 0.75:
        # Near one end of the place.
        depth = rng.uniform(0.3, 0.25 * (high[axis] - low[axis]))
        t[axis] = high[axis] - depth if side > 0 else low[axis] + depth
    t[2] = _floor_m(scene, t) + _height_m(rng, min(high[2], 2.5))
    aim = np.array([rng.uniform(a + 0.2 * (b - a), b - 0.2 * (b - a)) for a, b in zip(low, high, strict=True)])
    aim[axis] = low[axis] if side > 0 else high[axis]
    yaw = yaw_pitch_toward(t, aim)[0] + rng.normal(0, 0.15 if habit < 0.75 else 0.5)
    pitch = math.radians(float(np.clip(rng.normal(-4, 6), -22, 15)))
    return pose_from_angles(t, yaw, pitch, math.radians(rng.normal(0, 1.5)))


def _is_far(scene: Scene, depth_m: np.ndarray) -> bool:
    median_m = np.median(depth_m)
    if (scene.roam_m[1] - scene.roam_m[0])[:2].min() < CORRIDOR_WIDE_M:
        return bool(median_m > CORRIDOR_MEDIAN_M and np.percentile(depth_m, 92) > CORRIDOR_END_M)
    return bool(median_m > FAR_MEDIAN_M)


def sample_far_pose(rng: np.random.Generator, scene: Scene) -> Pose:
    """Draws a camera 0.3 to 2 m above the floor or the step on which it stands, with a far view.

    Raises RuntimeError if it finds none.
    """
    for _ in range(POSE_TRIES):
        pose = _propose_far(rng, scene)
        if clearance_m(scene, pose.t) < CLEARANCE_M:
            continue
        depth, objects = coarse_view(scene, pose)
        if depth.min() < FREE_AHEAD_M or depth[3:6, 4:8].min() < 2 * FREE_AHEAD_M:
            continue
        if _is_far(scene, depth) and rng.random() < min(1.0, np.median(depth) / FAR_WANTED_M) * (objects / 7) ** 2:
            return pose
    raise RuntimeError(f"found no far view in a {scene.room} of size {scene.shell_m[1]} m")


def _object_bounds_m(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Returns two corners (n, 3) of the boxes around the objects of a scene, with and without a name."""
    mine = scene.object_of >= 0
    ids, solids = scene.object_of[mine], scene.solids[mine]
    reach = np.abs(solids[:, 3:12].reshape(-1, 3, 3)).sum(1)
    low = np.full((int(ids.max(initial=-1)) + 1, 3), math.inf)
    high = -low
    np.minimum.at(low, ids, solids[:, :3] - reach)
    np.maximum.at(high, ids, solids[:, :3] + reach)
    return low, high


def _aim_close(rng: np.random.Generator, scene: Scene) -> tuple[np.ndarray, float, float]:
    """Draws a point to look at: an object, a part of a piece of furniture or of a door, or a place on a wall.

    Returns it, and the azimuth and elevation, radians, of the direction from it to the camera.
    """
    (low, high), habit = _object_bounds_m(scene), rng.random()
    small = (high - low).max(1, initial=0.0) < SMALL_THING_M
    azimuth, elevation_deg = rng.uniform(-math.pi, math.pi), rng.uniform(18, 62)
    if habit < 0.78 and small.any():
        # On tables and shelves more often than on the floor.
        weight = np.where(low[small, 2] > 0.25, 4.0, 1.0)
        k = rng.choice(np.flatnonzero(small), p=weight / weight.sum())
        aim = (low[k] + high[k]) / 2 + rng.normal(0, 0.07, 3)
        if rng.random() < 0.3:
            elevation_deg = rng.uniform(60, 88) if rng.random() < 0.4 else rng.uniform(-5, 20)
    elif habit < 0.91 and not small.all():
        k = rng.choice(np.flatnonzero(~small))
        aim, elevation_deg = rng.uniform(low[k], high[k]), rng.uniform(-10, 45)
        if any(thing.object_id == k and thing.kind == "door" for thing in scene.objects):
            # Near its handle.
            aim[2] = rng.normal(1.0, 0.1)
    else:
        axis, side = int(rng.integers(2)), int(rng.integers(2))
        aim, elevation_deg = rng.uniform(*scene.roam_m.astype(np.float64)), rng.uniform(-25, 35)
        aim[axis], aim[2] = scene.shell_m[side, axis], rng.uniform(0.1, 1.9)
        azimuth = math.pi / 2 * axis + math.pi * side + rng.uniform(-1.0, 1.0)
    return aim, azimuth, math.radians(elevation_deg)


def _propose_close(rng: np.random.Generator, scene: Scene) -> Pose:
    """Draws a hand-held camera at 0.28 to 1.15 m from what it looks at, or one on a low robot that looks ahead."""
    aim, azimuth, elevation = _aim_close(rng, scene)
    if rng.random() < ROBOT_SHARE:
        low, high = scene.roam_m.astype(np.float64)
        t = low + (high - low) * rng.random(3)
        t[2] = rng.uniform(0.15, 0.5)
        yaw = yaw_pitch_toward(t, aim)[0] + rng.normal(0, 0.4)
        return pose_from_angles(t, yaw, math.radians(rng.uniform(-32, 0)), math.radians(rng.normal(0, 1.0)))
    flat = math.cos(elevation)
    away = np.array([flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)])
    t = aim + math.exp(rng.uniform(math.log(0.28), math.log(1.15))) * away
    yaw, pitch = yaw_pitch_toward(t, aim)
    yaw, pitch = yaw + rng.normal(0, 0.1), float(np.clip(pitch + rng.normal(0, 0.1), -1.55, 0.6))
    return pose_from_angles(t, yaw, pitch, math.radians(rng.normal(0, 4.0)))


def sample_close_pose(rng: np.random.Generator, scene: Scene) -> Pose:
    """Draws a camera near an object, a piece of furniture, a wall or the floor.

    Raises RuntimeError if it finds none.
    """
    low_m, high_m = CLOSE_MEDIAN_M
    for _ in range(POSE_TRIES):
        pose = _propose_close(rng, scene)
        if clearance_m(scene, pose.t) < CLOSE_CLEARANCE_M:
            continue
        depth, objects = coarse_view(scene, pose)
        is_close = depth.min() > CLOSE_FREE_AHEAD_M and low_m < np.median(depth) < high_m
        # Few pictures show nothing but a wall.
        if is_close and rng.random() < (objects / 6) ** 2:
            return pose
    raise RuntimeError(f"found no view from near by in a {scene.room} of size {scene.shell_m[1]} m")


def _propose_street(rng: np.random.Generator, scene: Scene) -> Pose:
    """Draws a camera on a car or a van, sometimes on a small robot; it mostly looks along the street."""
    low, high = scene.roam_m.astype(np.float64)
    t, middle = low + (high - low) * rng.random(3), (low + high) / 2
    t[0] = middle[0] + rng.uniform(-LANE_M, LANE_M)
    t[2] = rng.uniform(1.2, 2.0) if rng.random() < 0.8 else rng.uniform(0.3, 1.2)
    along = rng.choice((-1.0, 1.0)) * math.pi / 2
    yaw = along + rng.normal(0, 0.12 if rng.random() < 0.75 else 0.8)
    return pose_from_angles(t, yaw, math.radians(rng.normal(-1.5, 3.0)), math.radians(rng.normal(0, 1.0)))


def sample_street_pose(rng: np.random.Generator, scene: Scene) -> Pose:
    """Draws a camera 0.3 to 2 m above a street, as a vehicle carries it. Raises RuntimeError if it finds none."""
    for _ in range(POSE_TRIES):
        pose = _propose_street(rng, scene)
        if clearance_m(scene, pose.t) < CLEARANCE_M:
            continue
        depth, objects = coarse_view(scene, pose)
        is_free = depth[3:6, 4:8].min() > STREET_FREE_AHEAD_M and depth.min() > FREE_AHEAD_M
        if is_free and np.median(depth) > STREET_MEDIAN_M and rng.random() < objects / 6:
            return pose
    raise RuntimeError("found no view along a street")


def _sample_both(
    rng: np.random.Generator,
    scene: Scene | None,
    build: Callable[[Dice], Scene],
    sample: Callable[[np.random.Generator, Scene], Pose],
) -> tuple[Scene, Pose]:
    while True:
        scene = scene or build(Dice(rng))
        try:
            return scene, sample(rng, scene)
        except RuntimeError:
            scene = None


def sample_far_scene_and_pose(rng: np.random.Generator, scene: Scene | None = None) -> tuple[Scene, Pose]:
    """Returns a large place with a camera that sees far in it; scene: a place to use again, None draws a new one.

    The median depth of a picture is mostly 4 to 15 m.
    """
    return _sample_both(rng, scene, build_far_scene, sample_far_pose)


def sample_close_scene_and_pose(rng: np.random.Generator, scene: Scene | None = None) -> tuple[Scene, Pose]:
    """Returns a room with a camera near something in it; scene: a room to use again, None draws a new one.

    The median depth of a picture is 0.3 to 1.3 m.
    """
    return _sample_both(rng, scene, build_close_scene, sample_close_pose)


def sample_street_scene_and_pose(rng: np.random.Generator, scene: Scene | None = None) -> tuple[Scene, Pose]:
    """Returns a street with a camera of a vehicle on it; scene: a street to use again, None draws a new one.

    The median depth of a picture is mostly 5 to 20 m.
    """
    return _sample_both(rng, scene, build_outdoor_scene, sample_street_pose)
