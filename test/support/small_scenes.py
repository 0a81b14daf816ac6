# SPDX-License-Identifier: Apache-2.0
"""Small scenes of known geometry, and random scenes, for tests of the renderer."""

import functools
import math

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.scenes.camera.viewpoints import pose_from_angles, sample_pose
from depthlm_ros.scenes.renderer.render import render
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.primitives import Paint, Piece, PlacedPiece
from depthlm_ros.scenes.world.sample import assemble_scene, sample_scene

SMALL = Intrinsics(96.0, 96.0, 63.5, 47.5, 128, 96)
GREY = Paint((0.5, 0.5, 0.5))
ROOM_M = (8.0, 10.0, 4.0)
CAMERA_M = np.array([4.0, 2.0, 1.5])
PICTURES = 60


def scene_with(*pieces, size=ROOM_M, lights=((4.0, 5.0, 3.5, 0.1, 9.0, 9.0, 9.0, 0.0, 0.0, -1.0),)):
    """Returns an empty grey room with these placed pieces."""
    return assemble_scene(list(pieces), (GREY,) * 6, size, list(lights), Dice(np.random.default_rng(0)), "test")


def alone(part, xyz=(0.0, 0.0, 0.0), yaw=0.0, kind="thing"):
    """Returns a placed piece that consists of one part."""
    return PlacedPiece(Piece(kind, "", (part,), (1.0, 1.0, 1.0)), xyz, yaw)


def along_y(pitch=0.0):
    """Returns a camera that looks along +y from CAMERA_M."""
    return pose_from_angles(CAMERA_M, math.pi / 2, pitch)


def world_points(rendered, camera):
    """Returns (H, W, 3) float64, the point in the world where the ray of each pixel ends."""
    v, u = np.mgrid[: camera.height_px, : camera.width_px].astype(float)
    rays = np.stack([(u - camera.cx_px) / camera.fx_px, (v - camera.cy_px) / camera.fy_px, np.ones_like(u)], -1)
    return rendered.pose.t + (rays * rendered.depth_m[..., None].astype(float)) @ rendered.pose.R.T


@functools.cache
def random_pictures():
    """Returns random scenes with one picture each."""
    pictures = []
    for seed in range(PICTURES):
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng)
        pictures.append((scene, render(scene, sample_pose(rng, scene), SMALL)))
    return pictures
