# SPDX-License-Identifier: Apache-2.0
"""Pairs of pictures of a scene: matched pixels show the same point, and the relative pose is true."""

from dataclasses import replace

import numpy as np
import pytest

from depthlm_ros.core import Intrinsics
from depthlm_ros.geometry.rotations import rotation_angle_deg
from depthlm_ros.scenes.camera.viewpoints import CLEARANCE_M, clearance_m, pose_from_angles
from depthlm_ros.scenes.questions.view_pairs import MIN_COVISIBLE_SHARE, relative_pose, reproject_pixels, sample_pair
from depthlm_ros.scenes.renderer.render import render
from depthlm_ros.scenes.world.sample import sample_scene

SMALL = Intrinsics(96.0, 96.0, 63.5, 47.5, 128, 96)


@pytest.fixture(scope="module")
def pairs():
    sampled = []
    for seed in range(30):
        rng = np.random.default_rng([4, seed])
        scene = sample_scene(rng)
        sampled.append((scene, sample_pair(rng, scene, SMALL)))
    return sampled


def _rays(uv_px, camera):
    uv = np.asarray(uv_px, float)
    x, y = (uv[:, 0] - camera.cx_px) / camera.fx_px, (uv[:, 1] - camera.cy_px) / camera.fy_px
    return np.column_stack([x, y, np.ones(len(uv))])


def test_matched_pixels_reproject_onto_the_first_picture(pairs):
    checked = 0
    for scene, pair in pairs:
        for uv, match_px in list(zip(pair.uv_px, pair.matched_px, strict=True))[:4]:
            # Render the second picture again with a shifted principal point, so that the match is a pixel centre.
            at = np.rint(match_px).astype(int)
            moved = replace(SMALL, cx_px=SMALL.cx_px - (match_px - at)[0], cy_px=SMALL.cy_px - (match_px - at)[1])
            depth_m = float(render(scene, pair.second.pose, moved).depth_m[at[1], at[0]])
            point = pair.rotation @ (_rays([at], moved)[0] * depth_m) + pair.translation_m
            back = point[:2] / point[2] * 96.0 + (SMALL.cx_px, SMALL.cy_px)
            assert np.abs(back - uv).max() < 0.5
            assert point[2] == pytest.approx(float(pair.first.depth_m[uv[1], uv[0]]), rel=1e-3)
            checked += 1
    assert checked > 100


def test_second_picture_shows_at_least_a_quarter_of_the_first(pairs):
    for _, pair in pairs:
        assert pair.covisible > 0.8 * MIN_COVISIBLE_SHARE
        assert len(pair.uv_px) == len(pair.matched_px) == 64
        assert (pair.matched_px > -0.5).all() and (pair.matched_px < (127.5, 95.5)).all()
    turns = [rotation_angle_deg(pair.rotation) for _, pair in pairs]
    moves = [np.linalg.norm(pair.translation_m) for _, pair in pairs]
    assert max(turns) > 25 and max(moves) > 1.0 and min(turns) < 8


def test_pose_transforms_points_from_camera_two_into_camera_one(pairs):
    point = np.array([0.3, -0.2, 2.0])
    for _, pair in pairs:
        one, two = pair.first.pose, pair.second.pose
        world = two.R @ point + two.t
        assert np.allclose(pair.rotation @ point + pair.translation_m, one.R.T @ (world - one.t))


def test_objects_in_between_hide_matched_pixels(pairs):
    hidden = 0
    for scene, pair in pairs:
        v, u = np.mgrid[2:96:5, 2:128:5].reshape(2, -1)
        depth_m = pair.first.depth_m[v, u]
        uv_px = np.column_stack([u, v])
        matched, visible = reproject_pixels(scene, pair.first.pose, pair.second.pose, uv_px, depth_m, SMALL)
        inside = np.isfinite(matched).all(1) & (matched > -0.5).all(1) & (matched < (127.5, 95.5)).all(1)
        z = ((_rays(uv_px, SMALL) * depth_m[:, None]) @ pair.rotation - pair.translation_m @ pair.rotation)[:, 2]
        at = np.rint(matched[inside]).astype(int)
        seen = pair.second.depth_m[at[:, 1], at[:, 0]]
        # The depth of the second picture agrees, except at edges.
        nearer = seen < 0.93 * z[inside]
        agree = nearer == ~visible[inside]
        assert agree[z[inside] > 0].mean() > 0.9
        hidden += int((nearer & ~visible[inside]).sum())
    assert hidden > 100


def test_second_camera_keeps_its_clearance(pairs):
    for scene, pair in pairs:
        assert clearance_m(scene, pair.second.pose.t) >= CLEARANCE_M


def test_seed_determines_the_pair(pairs):
    rng = np.random.default_rng([4, 3])
    again = sample_pair(rng, sample_scene(rng), SMALL)
    assert np.array_equal(again.second.rgb, pairs[3][1].second.rgb)
    assert np.array_equal(again.matched_px, pairs[3][1].matched_px)


def test_turn_to_the_right_is_a_rotation_about_the_down_axis():
    one, two = pose_from_angles(np.zeros(3), 0.5, 0.0), pose_from_angles(np.zeros(3), 0.4, 0.0)
    rotation, centre = relative_pose(one, two)
    # Camera 2 looks to the right of camera 1: its forward axis has a positive x there.
    assert rotation[0, 2] == pytest.approx(np.sin(0.1)) and not centre.any()
