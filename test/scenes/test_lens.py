# SPDX-License-Identifier: Apache-2.0
"""Lens distortion bends the rays: straight objects look bent; depth, id and colour of a pixel belong together."""

import numpy as np
import pytest
from support.small_scenes import CAMERA_M, GREY, SMALL, alone, along_y, scene_with

from depthlm_ros.core import Intrinsics
from depthlm_ros.scenes.camera.lens import LensDistortion, sample_lens
from depthlm_ros.scenes.camera.viewpoints import sample_pose
from depthlm_ros.scenes.questions.generate import sample_questions
from depthlm_ros.scenes.questions.visibility import find_sightings
from depthlm_ros.scenes.renderer.render import render
from depthlm_ros.scenes.world.primitives import Paint, ball, box
from depthlm_ros.scenes.world.sample import sample_scene

WHITE = Paint((0.9, 0.9, 0.9), emission=3.0)
STRONG = LensDistortion(k1=0.12, k2=0.03, p1=0.01, p2=-0.008, dx_px=2.0, dy_px=-1.5)


def expected_px(lens, camera):
    """Returns (H, W, 2), Brown's model in a second implementation for whole arrays."""
    v, u = np.mgrid[: camera.height_px, : camera.width_px].astype(float)
    x, y = (u - lens.dx_px - camera.cx_px) / camera.fx_px, (v - lens.dy_px - camera.cy_px) / camera.fy_px
    r2 = x**2 + y**2
    radial = 1 + lens.k1 * r2 + lens.k2 * r2**2
    a = x * radial + lens.p1 * (r2 + 2 * x**2) + 2 * lens.p2 * x * y
    b = y * radial + lens.p2 * (r2 + 2 * y**2) + 2 * lens.p1 * x * y
    return np.stack([a * camera.fx_px + camera.cx_px, b * camera.fy_px + camera.cy_px], -1)


def world_points(rendered, camera):
    """Returns (H, W, 3), the point where the distorted ray of each pixel ends."""
    u, v = np.moveaxis(expected_px(STRONG, camera), -1, 0)
    rays = np.stack([(u - camera.cx_px) / camera.fx_px, (v - camera.cy_px) / camera.fy_px, np.ones_like(u)], -1)
    return rendered.pose.t + (rays * rendered.depth_m[..., None].astype(float)) @ rendered.pose.R.T


@pytest.mark.parametrize("camera", [SMALL, Intrinsics(101.0, 87.0, 40.2, 60.7, 97, 83)])
def test_rays_are_distorted_as_in_browns_model(camera):
    lattice_px = render(scene_with(), along_y(), camera, STRONG).undistorted_lattice_px
    assert np.abs(lattice_px - expected_px(STRONG, camera)).max() < 1e-9


def test_zero_distortion_changes_nothing():
    rng = np.random.default_rng(3)
    scene = sample_scene(rng)
    pose = sample_pose(rng, scene)
    plain, through = render(scene, pose, SMALL), render(scene, pose, SMALL, LensDistortion())
    assert np.allclose(plain.depth_m, through.depth_m, rtol=1e-6, equal_nan=True)
    assert np.array_equal(plain.object_id, through.object_id) and np.allclose(plain.rgb, through.rgb, atol=1e-5)


@pytest.mark.parametrize("pitch", [-0.6, 0.0])
def test_distorted_rays_end_on_the_walls_at_the_returned_depth(pitch):
    points = world_points(render(scene_with(), along_y(pitch), SMALL, STRONG), SMALL)
    assert np.minimum(np.abs(points), np.abs(points - (8.0, 10.0, 4.0))).min(-1).max() < 1e-4


def test_object_ids_are_distorted_like_the_depth():
    centre, radius = CAMERA_M + np.array([0.9, 2.0, 0.5]), 0.3
    rendered = render(scene_with(alone(ball(tuple(centre), (2 * radius,) * 3, GREY))), along_y(), SMALL, STRONG)
    on_ball = np.abs(np.linalg.norm(world_points(rendered, SMALL) - centre, axis=-1) - radius) < 1e-4
    assert on_ball.sum() > 100 and np.array_equal(on_ball, rendered.object_id == 0)


def _sagitta_px(rgb, rgb_without):
    """Returns by how many pixels the middle of a bright vertical bar is to the right of the line between its ends."""
    u = np.arange(rgb.shape[1])
    light = np.maximum(rgb - rgb_without, 0).sum(2)
    across = (light * u).sum(1) / light.sum(1)
    return across[48] - (across[4] + across[91]) / 2


@pytest.mark.parametrize(("k1", "sign"), [(0.15, -1), (0.0, 0), (-0.15, 1)])
def test_straight_bar_bends_in_the_direction_of_the_distortion(k1, sign):
    # The bar is left of the middle. With k1 > 0 rays near the corners point farther out, so its ends are closer to the
    # middle of the picture.
    bar = box((3.0, 4.0, 2.0), (0.1, 0.02, 4.0), WHITE)
    with_bar, without = (
        render(scene, along_y(), SMALL, LensDistortion(k1=k1)).rgb for scene in (scene_with(alone(bar)), scene_with())
    )
    sagitta = _sagitta_px(with_bar, without)
    assert abs(sagitta) < 0.1 if sign == 0 else sign * sagitta > 0.7


def test_principal_point_offset_shifts_the_picture():
    scene, moved = scene_with(alone(box((4.0, 4.0, 1.5), (0.7, 0.1, 0.9), GREY))), LensDistortion(dx_px=3.0, dy_px=-2.0)
    plain, shifted = render(scene, along_y(-0.2), SMALL), render(scene, along_y(-0.2), SMALL, moved)
    assert np.abs(shifted.depth_m[:-2, 3:] - plain.depth_m[2:, :-3]).max() < 1e-4
    assert np.array_equal(shifted.object_id[:-2, 3:], plain.object_id[2:, :-3])


def test_distances_in_replies_follow_the_distorted_rays():
    scene = scene_with(alone(box((5.0, 4.0, 2.1), (0.8, 0.5, 0.8), GREY)))
    rendered = render(scene, along_y(), SMALL, STRONG)
    distance_m = np.linalg.norm(world_points(rendered, SMALL) - CAMERA_M, axis=-1)
    (seen,) = find_sightings(scene, rendered, SMALL)
    assert seen.range_m == pytest.approx(np.median(distance_m[rendered.object_id == 0]), rel=1e-6)
    points = [
        question
        for question in sample_questions(np.random.default_rng(0), scene, rendered, SMALL, 80)
        if question.kind == "point"
    ]
    assert points
    for question in points:
        ((u, v),) = question.uv_px
        assert question.value == pytest.approx(distance_m[v, u], rel=1e-6)


def test_level_camera_shows_the_wall_and_no_floor_behind_it():
    # The rays between two rows of pixels are parallel to the floor.
    rendered = render(scene_with(), along_y(), SMALL)
    assert np.isfinite(rendered.rgb).all() and abs(rendered.rgb[47:49].mean() / rendered.rgb[44:52].mean() - 1) < 0.1


def test_sampled_distortion_is_small_and_varies():
    lenses = [sample_lens(np.random.default_rng(seed), SMALL) for seed in range(200)]
    straight = expected_px(LensDistortion(), SMALL)
    moved = np.array([np.linalg.norm(expected_px(lens, SMALL) - straight, axis=-1).max() for lens in lenses])
    assert len({lens.k1 for lens in lenses}) == 200
    assert 0.3 < np.median(moved) < 1.5 and moved.max() < 4.0
