"""Small scenes of known geometry, and random ones, for the tests of the renderer."""

import functools
import math

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.scenes.camera.viewpoints import look, sample_pose
from depthlm_ros.scenes.renderer.render import render
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.primitives import Paint, Piece, Placed
from depthlm_ros.scenes.world.sample import assemble, sample_scene

SMALL = Intrinsics(96.0, 96.0, 63.5, 47.5, 128, 96)
GREY = Paint((0.5, 0.5, 0.5))
ROOM_M = (8.0, 10.0, 4.0)
CAMERA_M = np.array([4.0, 2.0, 1.5])
PICTURES = 60


def scene_with(*pieces, size=ROOM_M, lights=((4.0, 5.0, 3.5, 0.1, 9.0, 9.0, 9.0, 0.0, 0.0, -1.0),)):
    return assemble(list(pieces), (GREY,) * 6, size, list(lights), Dice(np.random.default_rng(0)), "test")


def alone(part, xyz=(0.0, 0.0, 0.0), yaw=0.0, kind="thing"):
    return Placed(Piece(kind, "", (part,), (1.0, 1.0, 1.0)), xyz, yaw)


def along_y(pitch=0.0):
    return look(CAMERA_M, math.pi / 2, pitch)


def world_points(rendered, camera):
    """(H, W, 3) float64: where each pixel's ray ends."""
    v, u = np.mgrid[: camera.height_px, : camera.width_px].astype(float)
    rays = np.stack([(u - camera.cx_px) / camera.fx_px, (v - camera.cy_px) / camera.fy_px, np.ones_like(u)], -1)
    return rendered.pose.t + (rays * rendered.depth_m[..., None].astype(float)) @ rendered.pose.R.T


@functools.cache
def random_pictures():
    """Random scenes, one picture each."""
    made = []
    for seed in range(PICTURES):
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng)
        made.append((scene, render(scene, sample_pose(rng, scene), SMALL)))
    return made
