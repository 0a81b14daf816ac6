# SPDX-License-Identifier: Apache-2.0
"""A fixed scene (`demo_scene`) and a smooth path of a camera through a scene (`camera_path`), for the demo."""

from __future__ import annotations

import math

import numpy as np

from depthlm_ros.scenes.camera.viewpoints import clearance_m, pose_from_angles
from depthlm_ros.scenes.renderer.raycast import geometry, trace
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.primitives import SIMPLE_KINDS, Pose, Scene, SceneObject
from depthlm_ros.scenes.world.sample import build_room_scene

# The camera stays this far away from everything.
MIN_CLEARANCE_M = 0.35
CANDIDATES = 150
HEIGHT_M = 1.3
# Upper limit of the largest turn between two frames times the number of frames; a faster turn would blur the pictures
# of a real camera.
MAX_TURN_DEG = 130.0
DEMO_SEED = 4


def demo_scene() -> Scene:
    """Returns a living room with a red box and a blue ball; it is always the same."""
    required = (("red", "box", 0.45), ("blue", "ball", 0.4))
    return build_room_scene(Dice(np.random.default_rng(DEMO_SEED)), "living room", (5.6, 7.2, 2.7), required)


def camera_path(scene: Scene, n_frames: int) -> list[Pose]:
    """Returns n_frames poses of a camera that moves on a smooth curve and looks at the scene's named objects.

    Tries a fixed set of random curves that stay MIN_CLEARANCE_M away from everything, and takes the one that sees most
    of the coloured objects. Raises RuntimeError if the room is too full for all of them.
    """
    rng = np.random.default_rng(0)
    best, best_score = None, -1.0
    for _ in range(CANDIDATES):
        poses = _sample_path(rng, scene, n_frames)
        if _turn_deg(poses) > MAX_TURN_DEG or min(clearance_m(scene, pose.t) for pose in poses) < MIN_CLEARANCE_M:
            continue
        score = _score(scene, poses[:: max(1, n_frames // 8)])
        if score > best_score:
            best, best_score = poses, score
    if best is None:
        raise RuntimeError(f"found no free path for a camera in a {scene.room} of size {scene.shell_m[1]} m")
    return best


def _sample_path(rng: np.random.Generator, scene: Scene, n_frames: int) -> list[Pose]:
    """Draws a quadratic curve through the room; the camera turns from one target point to a second one."""
    low, high = scene.shell_m.astype(np.float64)
    knots = low + (high - low) * (0.08 + 0.84 * rng.random((3, 3)))
    knots[:, 2] = min(HEIGHT_M, high[2] - 0.4) + rng.uniform(-0.15, 0.25, 3)
    centre = np.mean([thing.centre_m for thing in _targets(scene)], axis=0)
    targets_m = centre + rng.normal(0, 0.4, (2, 3))
    poses = []
    for s in np.linspace(0.0, 1.0, n_frames):
        e = s * s * (3 - 2 * s)
        t = (1 - e) ** 2 * knots[0] + 2 * e * (1 - e) * knots[1] + e**2 * knots[2]
        ahead = (1 - e) * targets_m[0] + e * targets_m[1] - t
        poses.append(
            pose_from_angles(t, math.atan2(ahead[1], ahead[0]), math.atan2(ahead[2], math.hypot(*ahead[:2])) * 0.7)
        )
    return poses


def _turn_deg(poses: list[Pose]) -> float:
    """Returns the largest turn between two frames, times the number of frames."""
    ahead = np.array([pose.R[:, 2] for pose in poses])
    cosine = (ahead[1:] * ahead[:-1]).sum(1).min(initial=1.0)
    return len(poses) * math.degrees(math.acos(min(1.0, cosine)))


def _targets(scene: Scene) -> list[SceneObject]:
    """Returns two objects to look at, coloured ones if there are any."""
    coloured = [thing for thing in scene.objects if thing.kind in SIMPLE_KINDS]
    return coloured[:2] or list(scene.objects[:2])


def _score(scene: Scene, poses: list[Pose]) -> float:
    """Returns the mean share of visible targets, with a bonus for wide views, many objects and a long path."""
    geo, cam, total = geometry(scene.solids), np.array([40.0, 40.0, 23.5, 17.5]), 0.0
    targets = _targets(scene)
    for pose in poses:
        depth, hit = trace(geo, scene.shell_m, pose.R, pose.t, cam, 0.0, 36, 48, None)
        ids = scene.object_of[hit[hit >= 0]]
        total += sum(np.count_nonzero(ids == thing.object_id) >= 8 for thing in targets) / len(targets)
        total += 0.3 * min(1.0, float(np.median(depth)) / 3.0) + 0.2 * len(np.unique(ids)) / 12
    moved = float(np.linalg.norm(poses[-1].t - poses[0].t))
    return total / len(poses) + 0.1 * min(3.0, moved)
