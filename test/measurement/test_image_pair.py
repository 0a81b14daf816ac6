# SPDX-License-Identifier: Apache-2.0
"""Matches and poses that are measured in two images: with the features of the embedded model, on rendered scenes."""

import numpy as np
import pytest

pytest.importorskip("numba")

from depthlm_ros.core import Frame
from depthlm_ros.geometry.pinhole import centred_camera
from depthlm_ros.geometry.rotations import rotation_angle_deg
from depthlm_ros.measurement.image_pair import (
    PairPose,
    cell_centres_px,
    double_rows,
    feature_grid,
    match_pixels,
    relative_pose,
)
from depthlm_ros.model import load_model
from depthlm_ros.scenes.camera.photo import photograph
from depthlm_ros.scenes.questions.view_pairs import sample_pair
from depthlm_ros.scenes.world.sample import sample_scene

CAMERA = centred_camera((256, 192), 204.0)
SCENES = (4, 5, 14, 21)


@pytest.fixture(scope="module")
def model():
    return load_model("tiny", threads=1)


@pytest.fixture(scope="module")
def pairs():
    found = []
    for seed in SCENES:
        rng = np.random.default_rng([41, seed])
        found.append(sample_pair(rng, sample_scene(rng), CAMERA, 24))
    return found


def frame_of(rendered):
    return Frame(photograph(np.random.default_rng(0), rendered), CAMERA)


@pytest.fixture(scope="module")
def views(model, pairs):
    return [model.look_pair(frame_of(pair.first), frame_of(pair.second)) for pair in pairs]


def test_pixels_are_found_near_where_they_are(views, pairs):
    for view, pair in zip(views, pairs, strict=True):
        matches = view.match(pair.uv_px)
        error_px = np.linalg.norm(matches.matched_px - pair.matched_px, axis=1)
        assert np.isfinite(error_px).mean() > 0.6 and np.nanmedian(error_px) < 12
        assert matches.replies == ("",) * len(pair.uv_px)
    assert views[0].match([]).matched_px.shape == (0, 2)


def test_the_turn_of_the_camera_is_measured(views, pairs):
    poses = [view.pose() for view in views]
    errors_deg = [rotation_angle_deg(one.rotation.T @ pair.rotation) for one, pair in zip(poses, pairs, strict=True)]
    assert np.median(errors_deg) < 4 and not any(one.replies for one in poses)
    moved = [rotation_angle_deg(pair.rotation) for pair in pairs]
    assert np.median(moved) > 8


def test_images_of_two_places_have_no_pose_and_no_matches(model, pairs):
    view = model.look_pair(frame_of(pairs[0].first), frame_of(pairs[1].first))
    pose = view.pose()
    assert np.isnan(pose.rotation).all() and np.isnan(pose.translation_m).all() and np.isnan(pose.distance_m)
    assert np.isnan(view.match(pairs[0].uv_px).matched_px).all()


def test_one_image_twice_shows_no_motion(model, pairs):
    frame = frame_of(pairs[0].first)
    view = model.look_pair(frame, frame)
    np.testing.assert_allclose(view.match(pairs[0].uv_px).matched_px, pairs[0].uv_px, atol=8)
    pose = view.pose()
    assert rotation_angle_deg(pose.rotation) < 0.5 and not pose.distance_m > 0.05


def test_an_empty_wall_has_no_matches_and_no_pose(model):
    grey = Frame(np.full((192, 256, 3), 128, np.uint8), CAMERA)
    dark = Frame(np.zeros((192, 256, 3), np.uint8), CAMERA)
    view = model.look_pair(grey, dark)
    assert np.isnan(view.pose().rotation).all() and np.isnan(view.match([(100, 100)]).matched_px).all()


def test_what_the_canvas_does_not_show_is_never_a_match():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((8, 6, 8)).astype(np.float32)
    shown = np.ones((12, 16), bool)
    first, hidden = feature_grid(features, shown, 16), shown.copy()
    hidden[:, 8:] = False
    second = feature_grid(features, hidden, 16)
    uv_px = cell_centres_px((12, 16), 8.0)
    matched_px = match_pixels(first, second, uv_px)
    left = uv_px[:, 0] < 56
    assert (matched_px[:, 0] < 68)[np.isfinite(matched_px[:, 0])].all()
    np.testing.assert_allclose(matched_px[left], uv_px[left], atol=6)
    assert np.isnan(matched_px[~left]).all(1).mean() > 0.7


def test_halves_of_rows_lie_between_their_neighbours():
    rows = np.arange(4.0)[:, None, None] * np.ones((4, 3, 2))
    np.testing.assert_allclose(double_rows(rows)[1:-1, 0, 0], np.arange(0.25, 3.0, 0.5))


@pytest.mark.parametrize(
    ("length_m", "std_m", "has_distance", "has_direction"),
    [(1.0, 0.2, True, True), (0.02, 0.05, True, False), (0.3, 0.5, False, False)],
)
def test_a_motion_smaller_than_its_uncertainty_is_unknown(length_m, std_m, has_distance, has_direction):
    pose = relative_pose(PairPose(np.eye(3), np.array([0.0, 0.0, length_m]), std_m), 0.1)
    assert np.isfinite(pose.distance_m) == np.isfinite(pose.translation_m).all() == has_distance
    assert np.isfinite(pose.direction).all() == has_direction and np.isfinite(pose.rotation).all()
