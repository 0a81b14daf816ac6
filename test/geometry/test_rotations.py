# SPDX-License-Identifier: Apache-2.0
"""Tests of rotations: signs, the angles of the published sample, quaternions."""

import numpy as np
import pytest

from depthlm_ros.geometry.rotations import (
    quaternion_xyzw,
    rotation_angle_deg,
    rotation_from_angles,
    unit_vector,
    view_matrix,
)

FORWARD, RIGHT, DOWN = np.array([0, 0, 1.0]), np.array([1.0, 0, 0]), np.array([0, 1.0, 0])


def test_the_published_sample_angles_give_their_rotation_angle():
    assert rotation_angle_deg(rotation_from_angles(89.6, 2.6, 6.1)) == pytest.approx(89.6547, abs=1e-4)


def test_the_other_sign_of_the_roll_disagrees_with_the_published_samples():
    assert rotation_angle_deg(rotation_from_angles(89.6, 2.6, -6.1)) == pytest.approx(89.93, abs=5e-3)


def test_positive_angles_turn_right_look_up_and_bank_right():
    np.testing.assert_allclose(rotation_from_angles(90, 0, 0) @ FORWARD, RIGHT, atol=1e-12)
    np.testing.assert_allclose(rotation_from_angles(0, 90, 0) @ FORWARD, -DOWN, atol=1e-12)
    np.testing.assert_allclose(rotation_from_angles(0, 0, 90) @ RIGHT, DOWN, atol=1e-12)


def test_pitch_is_about_the_axis_after_yaw():
    """If the camera turns right by 90 degrees and then looks straight up, its own right points backwards."""
    rotation = rotation_from_angles(90, 90, 0)
    np.testing.assert_allclose(rotation @ FORWARD, -DOWN, atol=1e-12)
    np.testing.assert_allclose(rotation @ RIGHT, -FORWARD, atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 1e-6, 30.0, 90.0, 179.9999, 180.0])
def test_the_rotation_angle_is_exact_everywhere(angle):
    assert rotation_angle_deg(rotation_from_angles(0, angle, 0)) == pytest.approx(angle, abs=1e-9)


@pytest.mark.parametrize("angles", [(0, 0, 0), (89.6, 2.6, 6.1), (180, 0, 0), (0, 180, 0), (0, 0, 180), (-170, 80, 30)])
def test_a_quaternion_turns_vectors_as_its_matrix(angles):
    rotation = rotation_from_angles(*angles)
    x, y, z, w = quaternion_xyzw(rotation)
    assert w >= 0
    assert np.hypot(np.hypot(x, y), np.hypot(z, w)) == pytest.approx(1)
    axis, vector = np.array([x, y, z]), np.array([0.3, -1.2, 2.0])
    turned = vector + 2 * w * np.cross(axis, vector) + 2 * np.cross(axis, np.cross(axis, vector))
    np.testing.assert_allclose(turned, rotation @ vector, atol=1e-9)


def test_a_view_matrix_maps_the_second_cameras_centre_to_its_origin():
    rotation, centre = rotation_from_angles(30, -10, 5), np.array([1.0, -0.2, 0.5])
    matrix = view_matrix(rotation, centre)
    np.testing.assert_allclose(matrix @ [*centre, 1.0], 0, atol=1e-12)
    ahead_in_first = centre + rotation @ (2.0 * FORWARD)
    np.testing.assert_allclose(matrix @ [*ahead_in_first, 1.0], 2.0 * FORWARD, atol=1e-12)


@pytest.mark.parametrize("vector", [(0, 0, 0), (np.nan, 0, 1), (np.inf, 0, 1)])
def test_a_vector_without_direction_has_no_unit_vector(vector):
    assert np.isnan(unit_vector(np.array(vector))).all()


def test_a_unit_vector_has_length_one():
    np.testing.assert_allclose(unit_vector(np.array([0, 3, 4])), [0, 0.6, 0.8])
