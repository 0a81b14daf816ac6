# SPDX-License-Identifier: Apache-2.0
"""Furniture and objects have realistic sizes and report them; cameras are placed in free space."""

import math
from itertools import pairwise

import numpy as np
import pytest
from support.small_scenes import GREY, SMALL, random_pictures, scene_with

from depthlm_ros.scenes.camera.camera_path import MIN_CLEARANCE_M, camera_path, demo_scene
from depthlm_ros.scenes.camera.viewpoints import CLEARANCE_M, clearance_m
from depthlm_ros.scenes.questions.visibility import find_sightings
from depthlm_ros.scenes.questions.wording import VOCABULARY
from depthlm_ros.scenes.renderer.render import render
from depthlm_ros.scenes.world import (
    belongings,
    building,
    catalogue,
    clutter,
    equipment,
    furniture,
    household,
    outdoors,
    tabletop,
)
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.primitives import Piece, PlacedPiece, ball, box, frustum
from depthlm_ros.scenes.world.sample import sample_scene


@pytest.fixture(scope="module")
def pictures():
    return random_pictures()


MAKERS = {m for room in catalogue.ROOMS.values() for m in (*room.at_wall, *room.free, *room.loose)} | set(
    (*tabletop.SMALL, *outdoors.LOOSE)
)


@pytest.mark.parametrize("make", sorted(MAKERS, key=lambda m: m.__name__))
def test_furniture_fits_its_footprint_and_stands_on_the_floor(make):
    for seed in range(20):
        piece = make(Dice(np.random.default_rng(seed)))
        solids = scene_with(PlacedPiece(piece, (0.0, 0.0, 0.0), 0.0)).solids
        reach = np.abs(solids[:, 3:12].reshape(-1, 3, 3)).sum(1)
        low, high = (solids[:, :3] - reach).min(0), (solids[:, :3] + reach).max(0)
        assert -0.05 < low[2] < 0.2 or piece.kind in ("window", "monitor")
        assert (np.maximum(high, -low)[:2] <= np.array(piece.size_m[:2]) / 2 + 0.12).all()
        if piece.kind == "table" and piece.top_m:
            assert 0.3 <= piece.top_m <= 0.8


@pytest.mark.parametrize("yaw", [0.0, 0.5, 2.0])
def test_object_extents_do_not_depend_on_yaw(yaw):
    parts = (
        box((0.2, 0.0, 0.5), (1.0, 0.3, 1.0), GREY),
        frustum((-0.5, 0.0, 0.0), 0.1, 1.4, GREY, -0.5),
        ball((0.0, 0.0, 0.3), (0.2, 0.8, 0.2), GREY),
    )
    scene = scene_with(PlacedPiece(Piece("thing", "", parts, (1.0, 1.0, 1.0)), (4.0, 5.0, 0.0), yaw))
    (thing,) = scene.objects
    assert thing.wide_m == pytest.approx(0.7 + 0.5 + 0.15, abs=1e-5)
    assert thing.tall_m == pytest.approx(1.4, abs=1e-5)


@pytest.mark.parametrize(
    ("make", "axis", "low_m", "high_m"),
    [
        (building.door, 2, 1.95, 2.25),
        (furniture.table, 2, 0.72, 0.77),
        (furniture.desk, 2, 0.71, 0.76),
        (furniture.chair, 2, 0.75, 1.05),
        (furniture.bed, 1, 1.9, 2.2),
        (equipment.fridge, 0, 0.55, 0.78),
        (household.toilet, 2, 0.7, 0.85),
        (household.washing_machine, 0, 0.59, 0.61),
        (clutter.person, 2, 1.5, 1.95),
        (outdoors.car, 0, 3.5, 5.1),
        (outdoors.car, 2, 1.35, 1.8),
        (belongings.bicycle, 0, 1.6, 1.85),
    ],
)
def test_furniture_has_realistic_sizes(make, axis, low_m, high_m):
    for seed in range(40):
        piece = make(Dice(np.random.default_rng(seed)))
        solids = scene_with(PlacedPiece(piece, (0.0, 0.0, 0.0), 0.0)).solids
        reach = np.abs(solids[:, 3:12].reshape(-1, 3, 3)).sum(1)
        size = (solids[:, :3] + reach).max(0) - (solids[:, :3] - reach).min(0)
        assert low_m <= size[axis] <= high_m


def test_shares_of_room_kinds_sum_to_one():
    assert sum(room.share for room in catalogue.ROOMS.values()) == pytest.approx(1.0)


def test_every_name_in_a_scene_is_in_the_vocabulary():
    for seed in range(100):
        scene = sample_scene(np.random.default_rng(seed))
        assert {o.name for o in scene.objects} <= set(VOCABULARY)


def test_cameras_are_in_free_space_and_upright(pictures):
    for scene, rendered in pictures:
        assert clearance_m(scene, rendered.pose.t) >= CLEARANCE_M
        assert np.nanmin(rendered.depth_m[32:64, 43:85], initial=9.0) > 0.3
        R = rendered.pose.R
        assert np.allclose(R.T @ R, np.eye(3)) and np.linalg.det(R) > 0
        assert -R[2, 1] > 0.7  # the camera's down axis points down in the world
        assert -0.67 < R[2, 2] < 0.3


def test_demo_path_is_smooth_and_free_and_shows_the_red_box_and_the_blue_ball():
    scene = demo_scene()
    poses = camera_path(scene, 60)
    assert len(poses) == 60
    assert min(clearance_m(scene, pose.t) for pose in poses) >= MIN_CLEARANCE_M
    steps = np.linalg.norm(np.diff([pose.t for pose in poses], axis=0), axis=1)
    assert steps.max() < 0.15 and steps.sum() > 0.5
    turns = [math.acos(min(1.0, a.R[:, 2] @ b.R[:, 2])) for a, b in pairwise(poses)]
    assert max(turns) < math.radians(4)
    both = 0
    for pose in poses[::6]:
        names = {s.thing.name for s in find_sightings(scene, render(scene, pose, SMALL), SMALL) if s.pixels >= 12}
        both += {"red box", "blue ball"} <= names
    assert both >= 8
