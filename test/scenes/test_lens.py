"""A lens bends the rays: straight things look bent, and depth, ids and colours of a pixel still belong together."""

import numpy as np
import pytest
from support.small_scenes import CAMERA_M, GREY, SMALL, alone, along_y, scene_with

from depthlm_ros.core import Intrinsics
from depthlm_ros.scenes.camera.lens import Lens, sample_lens
from depthlm_ros.scenes.camera.viewpoints import sample_pose
from depthlm_ros.scenes.questions.generate import ask_about
from depthlm_ros.scenes.questions.visibility import sightings
from depthlm_ros.scenes.renderer.render import render
from depthlm_ros.scenes.world.primitives import Paint, ball, box
from depthlm_ros.scenes.world.sample import sample_scene

WHITE = Paint((0.9, 0.9, 0.9), emission=3.0)
STRONG = Lens(k1=0.12, k2=0.03, p1=0.01, p2=-0.008, dx_px=2.0, dy_px=-1.5)


def expected_px(lens, camera):
    """(H, W, 2): Brown's model written down once more, for whole arrays."""
    v, u = np.mgrid[: camera.height_px, : camera.width_px].astype(float)
    x, y = (u - lens.dx_px - camera.cx_px) / camera.fx_px, (v - lens.dy_px - camera.cy_px) / camera.fy_px
    r2 = x**2 + y**2
    radial = 1 + lens.k1 * r2 + lens.k2 * r2**2
    a = x * radial + lens.p1 * (r2 + 2 * x**2) + 2 * lens.p2 * x * y
    b = y * radial + lens.p2 * (r2 + 2 * y**2) + 2 * lens.p1 * x * y
    return np.stack([a * camera.fx_px + camera.cx_px, b * camera.fy_px + camera.cy_px], -1)


def world_points(rendered, camera):
    """(H, W, 3): where each pixel's bent ray ends."""
    u, v = np.moveaxis(expected_px(STRONG, camera), -1, 0)
    rays = np.stack([(u - camera.cx_px) / camera.fx_px, (v - camera.cy_px) / camera.fy_px, np.ones_like(u)], -1)
    return rendered.pose.t + (rays * rendered.depth_m[..., None].astype(float)) @ rendered.pose.R.T


@pytest.mark.parametrize("camera", [SMALL, Intrinsics(101.0, 87.0, 40.2, 60.7, 97, 83)])
def test_the_rays_are_bent_as_browns_model_says(camera):
    bent_px = render(scene_with(), along_y(), camera, STRONG).bent_px
    assert np.abs(bent_px - expected_px(STRONG, camera)).max() < 1e-9


def test_a_lens_without_distortion_changes_nothing():
    rng = np.random.default_rng(3)
    scene = sample_scene(rng)
    pose = sample_pose(rng, scene)
    plain, through = render(scene, pose, SMALL), render(scene, pose, SMALL, Lens())
    assert np.allclose(plain.depth_m, through.depth_m, rtol=1e-6, equal_nan=True)
    assert np.array_equal(plain.object_id, through.object_id) and np.allclose(plain.rgb, through.rgb, atol=1e-5)


@pytest.mark.parametrize("pitch", [-0.6, 0.0])
def test_bent_rays_end_on_the_walls_at_the_depth_that_is_told(pitch):
    points = world_points(render(scene_with(), along_y(pitch), SMALL, STRONG), SMALL)
    assert np.minimum(np.abs(points), np.abs(points - (8.0, 10.0, 4.0))).min(-1).max() < 1e-4


def test_ids_are_bent_with_the_depth():
    centre, radius = CAMERA_M + np.array([0.9, 2.0, 0.5]), 0.3
    rendered = render(scene_with(alone(ball(tuple(centre), (2 * radius,) * 3, GREY))), along_y(), SMALL, STRONG)
    on_ball = np.abs(np.linalg.norm(world_points(rendered, SMALL) - centre, axis=-1) - radius) < 1e-4
    assert on_ball.sum() > 100 and np.array_equal(on_ball, rendered.object_id == 0)


def _sagitta_px(rgb, rgb_without):
    """How far the middle of a bright upright bar is from the line between its ends, pixels to the right."""
    u = np.arange(rgb.shape[1])
    light = np.maximum(rgb - rgb_without, 0).sum(2)
    across = (light * u).sum(1) / light.sum(1)
    return across[48] - (across[4] + across[91]) / 2


@pytest.mark.parametrize(("k1", "sign"), [(0.15, -1), (0.0, 0), (-0.15, 1)])
def test_a_straight_bar_looks_bent_the_way_the_lens_bends(k1, sign):
    # Left of the middle; k1 > 0 looks farther out near the corners, so the bar's ends seem nearer to the middle.
    bar = box((3.0, 4.0, 2.0), (0.1, 0.02, 4.0), WHITE)
    with_bar, without = (
        render(scene, along_y(), SMALL, Lens(k1=k1)).rgb for scene in (scene_with(alone(bar)), scene_with())
    )
    sagitta = _sagitta_px(with_bar, without)
    assert abs(sagitta) < 0.1 if sign == 0 else sign * sagitta > 0.7


def test_a_wrong_principal_point_shifts_the_picture():
    scene, moved = scene_with(alone(box((4.0, 4.0, 1.5), (0.7, 0.1, 0.9), GREY))), Lens(dx_px=3.0, dy_px=-2.0)
    plain, shifted = render(scene, along_y(-0.2), SMALL), render(scene, along_y(-0.2), SMALL, moved)
    assert np.abs(shifted.depth_m[:-2, 3:] - plain.depth_m[2:, :-3]).max() < 1e-4
    assert np.array_equal(shifted.object_id[:-2, 3:], plain.object_id[2:, :-3])


def test_distances_in_replies_are_along_the_bent_rays():
    scene = scene_with(alone(box((5.0, 4.0, 2.1), (0.8, 0.5, 0.8), GREY)))
    rendered = render(scene, along_y(), SMALL, STRONG)
    distance_m = np.linalg.norm(world_points(rendered, SMALL) - CAMERA_M, axis=-1)
    (seen,) = sightings(scene, rendered, SMALL)
    assert seen.range_m == pytest.approx(np.median(distance_m[rendered.object_id == 0]), rel=1e-6)
    points = [
        asked for asked in ask_about(np.random.default_rng(0), scene, rendered, SMALL, 80) if asked.kind == "point"
    ]
    assert points
    for asked in points:
        ((u, v),) = asked.uv_px
        assert asked.value == pytest.approx(distance_m[v, u], rel=1e-6)


def test_a_level_camera_sees_the_wall_and_not_a_floor_behind_it():
    # Rays between two rows of pixels are then parallel to the floor.
    rendered = render(scene_with(), along_y(), SMALL)
    assert np.isfinite(rendered.rgb).all() and abs(rendered.rgb[47:49].mean() / rendered.rgb[44:52].mean() - 1) < 0.1


def test_what_a_calibration_leaves_is_small_and_differs():
    lenses = [sample_lens(np.random.default_rng(seed), SMALL) for seed in range(200)]
    straight = expected_px(Lens(), SMALL)
    moved = np.array([np.linalg.norm(expected_px(lens, SMALL) - straight, axis=-1).max() for lens in lenses])
    assert len({lens.k1 for lens in lenses}) == 200
    assert 0.3 < np.median(moved) < 1.5 and moved.max() < 4.0
