# SPDX-License-Identifier: Apache-2.0
"""The scale of the depth by a camera's height, range sensors and odometry: found within 5 %, or nothing is said."""

import dataclasses
import math

import cv2
import numpy as np
import pytest
from support.checkered_room import CAMERA, FLOOR_M, render_room

from depthlm_ros.core import DepthMap, Intrinsics
from depthlm_ros.geometry.pinhole import backproject, centred_camera
from depthlm_ros.geometry.rotations import rotation_from_angles
from depthlm_ros.measurement.floor_height import floor_heights, height_ratios
from depthlm_ros.measurement.motion_scale import MovedCamera, motion_ratios
from depthlm_ros.measurement.range_scale import range_ratios
from depthlm_ros.measurement.scale import WINDOW_S, ScaleEstimate, ScaleTracker, SmoothScale, robust_mean

LEVEL = np.array([0.0, 1.0, 0.0])
FACTORS = (0.7, 1.4)
SMALL = centred_camera((320, 240), 255.0)
HOSTILE = np.array([np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-9, 1e9])


def told(factor, true_m=None, camera=CAMERA):
    true_m = render_room()[1] if true_m is None else true_m
    return DepthMap((factor * true_m).astype(np.float32), camera)


def estimated(ratios, images=5):
    tracker = ScaleTracker()
    for number in range(images):
        tracker.add(0.2 * number, "source", ratios)
    return tracker.estimate(0.2 * images)


def with_outliers(depth_m, share=0.3, one_sided=False):
    rng = np.random.default_rng(0)
    wild = rng.random(depth_m.shape) < share
    factors = rng.uniform(1.5, 3.0, depth_m.shape) if one_sided else np.exp(rng.uniform(-1.2, 1.2, depth_m.shape))
    return np.where(wild, factors * depth_m, depth_m)


class TestCameraHeight:
    @pytest.mark.parametrize("factor", FACTORS)
    def test_scale_is_found_by_the_floor(self, factor):
        estimate = estimated(height_ratios(told(factor), FLOOR_M, LEVEL))
        assert estimate.is_sure and estimate.ratio == pytest.approx(1 / factor, rel=0.01)
        assert 0 < estimate.std < 0.1 * estimate.ratio

    @pytest.mark.parametrize("factor", FACTORS)
    @pytest.mark.parametrize("one_sided", [False, True])
    def test_a_third_of_wrong_pixels_changes_little(self, factor, one_sided):
        true_m = with_outliers(render_room()[1], one_sided=one_sided)
        estimate = estimated(height_ratios(told(factor, true_m), FLOOR_M, LEVEL))
        assert estimate.ratio == pytest.approx(1 / factor, rel=0.05)

    @pytest.mark.parametrize("factor", FACTORS)
    def test_half_of_the_floor_may_be_covered_by_boxes(self, factor):
        true_m = render_room()[1]
        true_m[100:, 40:200] = np.minimum(true_m[100:, 40:200], 1.8)  # a box from the floor's far to its near end
        estimate = estimated(height_ratios(told(factor, true_m), FLOOR_M, LEVEL))
        assert estimate.ratio == pytest.approx(1 / factor, rel=0.05)

    @pytest.mark.parametrize("pitch_deg", [-5.0, 25.0, 60.0])
    def test_a_tilted_camera_finds_the_floor_with_its_own_gravity(self, pitch_deg):
        down = np.array([0.0, math.cos(math.radians(pitch_deg)), math.sin(math.radians(pitch_deg))])
        x, y = np.meshgrid(np.arange(320), np.arange(240))
        rays = np.stack([(x - CAMERA.cx_px) / CAMERA.fx_px, (y - CAMERA.cy_px) / CAMERA.fy_px, np.ones(x.shape)], -1)
        slope = rays @ down
        true_m = np.where(slope > 0.01, 1.1 / np.maximum(slope, 0.01), np.nan)
        assert np.median(floor_heights(told(0.7, true_m), down)) == pytest.approx(0.77, rel=0.01)

    def test_a_wall_alone_tells_no_height(self):
        assert not len(floor_heights(told(1.0, np.full((240, 320), 2.0)), LEVEL))

    def test_a_table_with_the_floor_below_it_is_not_the_floor(self):
        true_m = render_room()[1]
        table_m = true_m * 0.5
        table_m[:, :28] = true_m[:, :28]  # the floor beside it, too little to be measured
        assert not len(floor_heights(told(1.0, table_m), LEVEL))

    def test_a_wrong_pitch_tells_no_height(self):
        wrong = np.array([0.0, math.cos(math.radians(15)), math.sin(math.radians(15))])
        assert not len(floor_heights(told(1.0), wrong))

    @pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0])
    def test_a_map_without_depth_tells_nothing(self, value):
        assert not len(floor_heights(told(1.0, np.full((240, 320), value)), LEVEL))

    @pytest.mark.parametrize("shape", [(1, 1), (2, 5), (7, 700)])
    def test_a_map_of_any_size_is_taken(self, shape):
        camera = Intrinsics(100.0, 100.0, 1.0, 1.0, shape[1], shape[0])
        assert len(floor_heights(DepthMap(np.ones(shape, np.float32), camera), LEVEL)) >= 0


class TestRanges:
    def points(self, share_wrong=0.0):
        rng = np.random.default_rng(1)
        uv_px = rng.integers(5, (315, 235), (200, 2))
        true_m = render_room()[1][uv_px[:, 1], uv_px[:, 0]]
        wrong = rng.random(200) < share_wrong
        return backproject(uv_px, np.where(wrong, true_m * rng.uniform(0.2, 0.6, 200), true_m), CAMERA)

    @pytest.mark.parametrize("factor", FACTORS)
    def test_scale_is_found_by_points_of_which_a_third_are_wrong(self, factor):
        estimate = estimated(range_ratios(told(factor), self.points(share_wrong=0.3)))
        assert estimate.is_sure and estimate.ratio == pytest.approx(1 / factor, rel=0.05)

    def test_points_that_the_camera_does_not_see_do_not_count(self):
        unseen = [[0.0, 0.0, -2.0], [9.0, 0.0, 1.0], [np.nan, 0.0, 1.0], [0.0, np.inf, 1.0], [0.0, 0.0, 0.0]]
        assert not len(range_ratios(told(1.0), np.array(unseen)))
        assert not len(range_ratios(told(1.0), np.zeros((0, 3))))

    def test_a_point_beside_an_edge_does_not_count(self):
        true_m = np.where(np.arange(320) < 160, 1.0, 3.0) * np.ones((240, 1))
        at_edge, beside = (backproject(np.array([[u, 120]]), np.array([1.0]), CAMERA) for u in (159, 120))
        assert not len(range_ratios(told(1.0, true_m), at_edge)) and len(range_ratios(told(1.0, true_m), beside)) == 1

    def test_a_point_where_depth_is_unknown_does_not_count(self):
        assert not len(range_ratios(told(1.0, np.full((240, 320), np.nan)), self.points()))

    def test_a_wide_cone_measures_its_nearest_surface(self):
        true_m = np.full((240, 320), 3.0)
        true_m[100:140, 165:205] = 1.5  # off the axis, but in the cone
        axis_m = np.array([[0.0, 0.0, 1.5]])
        assert range_ratios(told(0.7, true_m), axis_m, cone_rad=0.4) == pytest.approx(1 / 0.7, rel=0.01)
        assert range_ratios(told(0.7, true_m), axis_m) == pytest.approx(0.5 / 0.7, rel=0.01)

    def test_wild_pixels_are_not_the_nearest_surface_of_a_cone(self):
        true_m = with_outliers(np.full((240, 320), 2.0), share=0.2)
        assert range_ratios(told(1.0, true_m), np.array([[0.0, 0.0, 2.0]]), 0.4) == pytest.approx(1.0, rel=0.1)


@pytest.fixture(scope="module")
def moved():
    pytest.importorskip("numba")
    from depthlm_ros.scenes.camera.photo import photograph
    from depthlm_ros.scenes.camera.viewpoints import sample_pose
    from depthlm_ros.scenes.renderer.render import render
    from depthlm_ros.scenes.world.sample import sample_scene

    rng = np.random.default_rng(3)
    scene = sample_scene(rng)
    pose = sample_pose(rng, scene)
    shift_m, turn = np.array([0.22, 0.03, 0.3]), rotation_from_angles(2.0, 1.0, 0.0)
    later = dataclasses.replace(pose, t=pose.t + pose.R @ shift_m, R=pose.R @ turn)
    pictures = [render(scene, each, SMALL) for each in (pose, later)]
    photographs = [photograph(np.random.default_rng(seed), each) for seed, each in enumerate(pictures)]
    greys = [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in photographs]
    return pictures[0].depth_m, greys, MovedCamera(turn, shift_m)


class TestMotion:
    @pytest.mark.parametrize("factor", FACTORS)
    def test_scale_is_found_by_a_known_motion_of_which_depth_is_wrong_in_a_third(self, moved, factor):
        true_m, greys, pose = moved
        estimate = estimated(motion_ratios(told(factor, with_outliers(true_m), SMALL), *greys, pose))
        assert estimate.is_sure and estimate.ratio == pytest.approx(1 / factor, rel=0.05)

    def test_an_odometry_that_the_images_contradict_tells_nothing(self, moved):
        true_m, greys, pose = moved
        sideways = dataclasses.replace(pose, shift_m=np.array([0.05, 0.37, 0.0]))
        turned = dataclasses.replace(pose, rotation=rotation_from_angles(-15.0, 8.0, 0.0))
        for wrong in (sideways, turned):
            assert not len(motion_ratios(told(1.0, true_m, SMALL), *greys, wrong))

    @pytest.mark.parametrize("shift_m", [np.zeros(3), np.full(3, np.nan), np.full(3, np.inf), np.full(3, 1e-4)])
    def test_a_motion_that_is_too_short_or_unknown_tells_nothing(self, moved, shift_m):
        true_m, greys, pose = moved
        assert not len(motion_ratios(told(1.0, true_m, SMALL), *greys, dataclasses.replace(pose, shift_m=shift_m)))

    def test_images_without_corners_tell_nothing(self, moved):
        grey = np.full((240, 320), 90, np.uint8)
        assert not len(motion_ratios(told(1.0, moved[0], SMALL), grey, grey, moved[2]))


class TestTracker:
    def test_hostile_numbers_are_no_samples(self):
        tracker = ScaleTracker()
        assert tracker.add(0.0, "range", HOSTILE) == 0 and tracker.estimate(0.0) == ScaleEstimate()
        assert tracker.add(0.0, "range", np.append(HOSTILE, 1.25)) == 1

    def test_a_third_of_one_sided_outliers_does_not_shift_the_mean(self):
        rng = np.random.default_rng(2)
        values = np.concatenate([rng.normal(0.3, 0.03, 70), rng.uniform(0.6, 1.5, 30)])
        assert robust_mean(values)[0] == pytest.approx(0.3, abs=0.02)

    def test_single_ranges_of_which_a_third_are_wrong_agree_over_time(self):
        rng, tracker = np.random.default_rng(3), ScaleTracker()
        for number in range(50):
            ratio = rng.uniform(0.3, 0.9) if rng.random() < 0.3 else rng.normal(1.4, 0.05)
            tracker.add(0.1 * number, "range", np.array([ratio]))
        estimate = tracker.estimate(5.0)
        assert estimate.is_sure and estimate.ratio == pytest.approx(1.4, rel=0.05) and estimate.count == 50

    def test_few_samples_and_contradicting_ones_are_not_sure(self):
        assert not estimated(np.full(100, 1.4), images=2).is_sure
        tracker = ScaleTracker()
        for number in range(20):
            tracker.add(0.1 * number, "range", np.array([0.5 if number % 2 else 2.0]))
        assert not tracker.estimate(2.0).is_sure

    def test_samples_are_forgotten_after_a_while_and_those_of_the_future_do_not_count(self):
        tracker = ScaleTracker()
        tracker.add(100.0, "range", np.full(9, 1.4))
        assert tracker.estimate(99.0).count == 0 and tracker.estimate(100.0).count == 9
        assert tracker.estimate(100.1 + WINDOW_S).count == 0

    def test_a_scale_differs_only_beyond_the_tolerance_and_its_own_uncertainty(self):
        sure = {"samples": {"range": 9}, "images": 9}
        assert ScaleEstimate(1.4, 0.05, **sure).differs(0.25) and ScaleEstimate(0.7, 0.05, **sure).differs(0.25)
        assert not ScaleEstimate(1.2, 0.05, **sure).differs(0.25) and not ScaleEstimate(0.85, 0.05, **sure).differs(
            0.25
        )
        assert not ScaleEstimate(1.27, 0.18, **sure).differs(0.25) and not ScaleEstimate().differs(0.25)

    def test_applied_scale_moves_smoothly_and_stays_without_an_estimate(self):
        smooth, estimate = SmoothScale(), ScaleEstimate(1.4, 0.02, {"range": 9}, 9)
        values = [smooth.follow(estimate, 0.1 * number) for number in range(60)]
        assert values[0] == 1.0 and max(np.diff(np.log(values))) < 0.05 and values[-1] == pytest.approx(1.4, rel=0.01)
        assert smooth.follow(ScaleEstimate(), 7.0) == values[-1]
        assert smooth.follow(ScaleEstimate(0.5, 0.4, {"range": 9}, 9), 8.0) == values[-1]
