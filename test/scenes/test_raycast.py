# SPDX-License-Identifier: Apache-2.0
"""The depth of the renderer is exact: every ray ends on the surface that its pixel shows."""

import math

import numpy as np
import pytest
from support.small_scenes import (
    CAMERA_M,
    GREY,
    ROOM_M,
    SMALL,
    alone,
    along_y,
    random_pictures,
    scene_with,
    world_points,
)

from depthlm_ros.core import Intrinsics
from depthlm_ros.geometry.pinhole import rays
from depthlm_ros.scenes.camera.viewpoints import pose_from_angles
from depthlm_ros.scenes.renderer.render import render
from depthlm_ros.scenes.world.primitives import SKY, ball, box, frustum

ODD = Intrinsics(101.0, 87.0, 40.2, 60.7, 97, 83)


@pytest.fixture(scope="module")
def pictures():
    return random_pictures()


@pytest.mark.parametrize("camera", [SMALL, ODD])
def test_wall_ahead_has_its_depth_at_every_pixel(camera):
    depth_m = render(scene_with(), along_y(), camera).depth_m
    row = int(camera.cy_px)
    slope = np.abs(np.arange(camera.width_px) - camera.cx_px) / camera.fx_px
    # The end wall is 8 m ahead; the side walls are 4 m to the left and right.
    assert np.abs(depth_m[row] - np.minimum(8.0, 4.0 / np.maximum(slope, 1e-9))).max() < 1e-4


@pytest.mark.parametrize("camera", [SMALL, ODD])
@pytest.mark.parametrize("pitch", [-0.6, 0.1])
def test_every_ray_in_an_empty_room_ends_on_the_shell(camera, pitch):
    points = world_points(render(scene_with(), along_y(pitch), camera), camera)
    gap = np.minimum(np.abs(points), np.abs(points - np.array(ROOM_M))).min(-1)
    assert gap.max() < 1e-4


def test_surface_beyond_the_far_limit_has_no_depth():
    scene = scene_with(size=(500.0, 500.0, 500.0))
    assert np.isnan(
        render(scene, pose_from_angles(np.array([250.0, 1.0, 250.0]), math.pi / 2, 0.0), SMALL).depth_m[48, 64]
    )


@pytest.mark.parametrize("distance_m", [0.6, 3.0, 6.5])
def test_ball_has_its_radius(distance_m):
    centre, radius = CAMERA_M + np.array([0.2, distance_m, -0.1]), 0.25
    rendered = render(scene_with(alone(ball(tuple(centre), (2 * radius,) * 3, GREY))), along_y(), SMALL)
    hit = rendered.object_id == 0
    assert hit.sum() > 20
    assert np.abs(np.linalg.norm(world_points(rendered, SMALL)[hit] - centre, axis=-1) - radius).max() < 1e-4


@pytest.mark.parametrize("yaw", [0.0, 0.7])
def test_box_has_its_faces(yaw):
    size, foot = np.array([0.8, 0.5, 1.1]), np.array([4.1, 4.5, 0.3])
    part = box((0.0, 0.0, size[2] / 2), tuple(size), GREY)
    rendered = render(scene_with(alone(part, tuple(foot), yaw)), along_y(-0.2), SMALL)
    points = world_points(rendered, SMALL)[rendered.object_id == 0] - foot - (0, 0, size[2] / 2)
    turn = np.array([[math.cos(yaw), math.sin(yaw), 0], [-math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]])
    local = np.abs(points @ turn.T) / (size / 2)
    assert len(local) > 200
    assert np.abs(local.max(-1) - 1).max() < 3e-4


@pytest.mark.parametrize("taper", [0.0, 0.5, 0.97])
def test_cylinder_and_cone_have_their_side_and_top(taper):
    radius, height, foot = 0.4, 0.9, np.array([4.0, 4.0, 0.0])
    rendered = render(scene_with(alone(frustum(tuple(foot), radius, height, GREY, taper))), along_y(-0.4), SMALL)
    points = world_points(rendered, SMALL)[rendered.object_id == 0] - foot
    out, up = np.linalg.norm(points[:, :2], axis=-1), points[:, 2]
    on_side = np.abs(out - radius * (1 - taper * up / height))
    on_top = np.abs(up - height) + np.maximum(0, out - radius * (1 - taper))
    assert len(points) > 200
    assert np.minimum(on_side, on_top).max() < 2e-4


def test_negative_taper_widens_upwards():
    part = frustum((4.0, 4.0, 0.0), 0.3, 0.8, GREY, -0.5)
    rendered = render(scene_with(alone(part)), along_y(-0.2), SMALL)
    points = world_points(rendered, SMALL)[rendered.object_id == 0] - (4.0, 4.0, 0.0)
    out = np.linalg.norm(points[:, :2], axis=-1)
    on_side = np.abs(out - 0.3 * (1 + 0.5 * points[:, 2] / 0.8)) < 2e-4
    on_top = (np.abs(points[:, 2] - 0.8) < 2e-4) & (out < 0.4501)
    assert (on_side | on_top).all() and on_side.sum() > 100 and on_top.sum() > 20


def test_pitched_part_is_tilted_about_its_x_axis():
    pitch, centre = -0.3, np.array([4.0, 4.0, 1.2])
    part = box(tuple(centre), (1.0, 0.02, 0.8), GREY, pitch=pitch)
    rendered = render(scene_with(alone(part)), along_y(), SMALL)
    points = world_points(rendered, SMALL)[rendered.object_id == 0] - centre
    # A negative pitch tilts the top towards +y, as the back of a chair.
    normal = np.array([0.0, math.cos(pitch), math.sin(pitch)])
    assert points[points[:, 2] > 0.1][:, 1].mean() > points[points[:, 2] < -0.1][:, 1].mean()
    assert np.abs(np.abs(points @ normal) - 0.01).max() < 1e-2


def test_nearer_of_two_objects_hides_the_other():
    near, far = alone(box((4.0, 4.0, 1.5), (0.4,) * 3, GREY)), alone(box((4.0, 5.0, 1.5), (2.0,) * 3, GREY))
    for order, id_near in (((near, far), 0), ((far, near), 1)):
        rendered = render(scene_with(*order), along_y(), SMALL)
        assert rendered.object_id[48, 64] == id_near
        assert abs(rendered.depth_m[48, 64] - 1.8) < 1e-4


def test_object_that_reaches_behind_the_camera_is_still_visible():
    table = alone(box((4.0, 3.0, 0.7), (3.0, 6.0, 0.05), GREY))
    rendered = render(scene_with(table), along_y(-0.5), SMALL)
    seen = rendered.object_id == 0
    assert seen[-1].all()
    assert np.abs(world_points(rendered, SMALL)[seen][:, 2] - 0.725).max() < 1e-4


def test_depth_is_continuous_within_one_ball_or_cube(pictures):
    for scene, rendered in pictures:
        ids, depth = rendered.object_id.astype(int), rendered.depth_m
        things = {o.object_id for o in scene.objects if o.kind in ("ball", "box") and o.tall_m == o.wide_m}
        for k in things & set(np.unique(ids)):
            # Neighbours on one ball differ by no more than its size.
            tall = next(o.tall_m for o in scene.objects if o.object_id == k)
            same = (ids[:, 1:] == k) & (ids[:, :-1] == k)
            assert (np.abs(np.diff(depth, axis=1))[same] <= tall + 1e-3).all()


def test_every_pixel_except_sky_has_a_depth(pictures):
    outdoors = 0
    for scene, rendered in pictures:
        known = np.isfinite(rendered.depth_m)
        assert np.isfinite(rendered.rgb).all()
        assert rendered.depth_m.dtype == np.float32 and rendered.object_id.dtype == np.int16
        if scene.paints[0, 6] != SKY:
            assert known.all()
            continue
        outdoors += 1
        up = (rays(SMALL).astype(float) @ rendered.pose.R.T)[..., 2]
        # Every object has a depth, and the ground has a depth to at least 20 m.
        assert (rendered.object_id[~known] == -1).all()
        assert known[rendered.pose.t[2] < -20 * up].all()
    assert outdoors > 0
