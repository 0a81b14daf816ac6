# SPDX-License-Identifier: Apache-2.0
"""Tests of the focal length from the lines of one image."""

import math

import cv2
import numpy as np
import pytest
from support.line_drawing import drawing

from depthlm_ros.geometry.focal_estimation import find_segments, focal_from_lines


@pytest.mark.parametrize("focal_px", [350.0, 480.0, 700.0])
@pytest.mark.parametrize(("yaw_deg", "pitch_deg"), [(35, -10), (20, -25), (50, 15)])
def test_a_view_at_an_angle_gives_the_focal_length(focal_px, yaw_deg, pitch_deg):
    assert focal_from_lines(drawing(focal_px, yaw_deg, pitch_deg)) == pytest.approx(focal_px, rel=0.04)


def test_the_focal_length_is_in_pixels_of_the_given_image():
    rgb = drawing(480.0, 35, -10)
    large = cv2.resize(rgb, (1920, 1440), interpolation=cv2.INTER_CUBIC)
    assert focal_from_lines(large) == pytest.approx(3 * 480.0, rel=0.05)
    turned = np.ascontiguousarray(np.rot90(rgb))
    assert focal_from_lines(turned) == pytest.approx(480.0, rel=0.05)


def test_images_without_usable_lines_give_no_estimate():
    rng = np.random.default_rng(0)
    assert focal_from_lines(np.full((480, 640, 3), 128, np.uint8)) is None
    assert focal_from_lines(rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)) is None
    parallel = np.full((480, 640, 3), 200, np.uint8)
    parallel[::40] = 20  # This is a wall of boards, straight ahead.
    assert focal_from_lines(parallel) is None
    assert focal_from_lines(np.zeros((1, 1, 3), np.uint8)) is None


def test_the_same_image_gives_the_same_number_and_is_not_changed():
    rgb = drawing(480.0, 35, -10)
    kept = rgb.copy()
    assert focal_from_lines(rgb) == focal_from_lines(rgb) and np.array_equal(rgb, kept)


def test_segments_are_long_and_relative_to_the_centre():
    segments = find_segments(drawing(480.0, 35, -10))
    assert 12 < len(segments) <= 250
    lengths = np.hypot(*(segments[:, 2:] - segments[:, :2]).T)
    assert lengths.min() > 0.04 and (np.diff(lengths) <= 0).all()
    assert np.abs(segments).max() <= 0.5 and math.isclose(np.abs(segments[:, 1::2]).max(), 0.375, abs_tol=0.02)
