# SPDX-License-Identifier: Apache-2.0
"""Responses of the services: a pose moves points correctly, and unknown numbers are NaN."""

import math

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")
pytest.importorskip("depthlm_ros.srv")

from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from depthlm_ros import srv  # noqa: E402
from depthlm_ros.core import Answer, Intrinsics, Matches, Measurement, Region, RelativePose, Status  # noqa: E402
from depthlm_ros.geometry.rotations import rotation_from_angles  # noqa: E402
from depthlm_ros.ros.message_out import clear_numbers, fill_answer, fill_matches, fill_pose  # noqa: E402
from depthlm_ros.ros.tf import rotate_and_shift  # noqa: E402

NO_ROTATION, NO_VECTOR = np.full((3, 3), np.nan), np.full(3, np.nan)
S = math.sqrt(0.5)
CAMERA = Intrinsics(9.0, 9.0, 9.0, 9.0, 20, 20)


def over_the_wire(message):
    return deserialize_message(serialize_message(message), type(message))


def pose(rotation=NO_ROTATION, direction=NO_VECTOR, distance_m=math.nan, angle_deg=math.nan, replies=None):
    return RelativePose(rotation, distance_m * direction, angle_deg, direction, distance_m, replies or {})


def response_to(given: RelativePose, child="camera_later") -> srv.RelativePose.Response:
    response = srv.RelativePose.Response(
        first_header=Header(frame_id="camera"), second_header=Header(frame_id="camera")
    )
    response.second_header.stamp.sec = 7
    clear_numbers(response)
    fill_pose(response, given, child)
    return over_the_wire(response)


def quaternion(response):
    turn = response.transform.transform.rotation
    return np.array([turn.x, turn.y, turn.z, turn.w])


def vector(message):
    return np.array([message.x, message.y, message.z])


@pytest.mark.parametrize(
    ("angles_deg", "expected"),
    [
        ((0, 0, 0), [0, 0, 0, 1]),
        ((90, 0, 0), [0, S, 0, S]),
        ((0, 90, 0), [S, 0, 0, S]),
        ((0, 0, 90), [0, 0, S, S]),
        ((-90, 0, 0), [0, -S, 0, S]),
        ((180, 0, 0), [0, 1, 0, 0]),
        ((0, 180, 0), [1, 0, 0, 0]),
        ((0, 0, 180), [0, 0, 1, 0]),
    ],
)
def test_known_rotations_have_the_right_quaternion(angles_deg, expected):
    found = quaternion(response_to(pose(rotation_from_angles(*angles_deg))))
    assert np.allclose(found, expected, atol=1e-7) or np.allclose(found, -np.array(expected), atol=1e-7)


def test_transform_moves_points_of_the_second_camera_into_the_first():
    rotation, direction = rotation_from_angles(89.6, 2.6, 6.1), np.array([-0.6, 0.0, 0.8])
    response = response_to(pose(rotation, direction, 2.0, 89.7, {"rotation": "89.7", "direction": "left, forward"}))
    assert response.status == response.OK and (response.has_rotation, response.has_translation) == (True, True)
    assert response.transform.header.frame_id == "camera" and response.transform.child_frame_id == "camera_later"
    assert response.transform.header.stamp.sec == 7 and response.message == ""
    shift, turn = vector(response.transform.transform.translation), quaternion(response)
    assert np.linalg.norm(turn) == pytest.approx(1.0, abs=1e-12)
    points_m = np.array([[0.0, 0.0, 0.0], [1.0, -2.0, 3.0]])
    assert np.allclose(rotate_and_shift(points_m, tuple(turn), tuple(shift)), points_m @ rotation.T + 2.0 * direction)
    assert response.rotation_angle == pytest.approx(math.radians(89.7)) and response.distance == 2.0
    assert np.allclose(vector(response.direction), direction)
    assert list(response.reply_names) == ["rotation", "direction"] and response.replies[1] == "left, forward"


def test_unknown_parts_of_a_pose_are_nan_and_never_the_identity():
    forward = {"direction": np.array([0.0, 0.0, 1.0])}
    response = response_to(pose(**forward, replies={"direction": "forward"}))
    assert response.status == response.OK and not response.has_rotation and not response.has_translation
    assert np.isnan(quaternion(response)).all() and np.isnan(vector(response.transform.transform.translation)).all()
    assert np.isnan(response.rotation_angle) and np.isnan(response.distance) and response.direction.z == 1.0
    for name in ("rotation", "translation", "rotation_angle", "distance"):
        assert name in response.message
    # A measured pose states no angle beside its rotation.
    measured = response_to(pose(**forward))
    assert "rotation, translation, distance" in measured.message and "angle" not in measured.message
    nothing = response_to(pose(replies={"rotation": "I cannot say."}))
    assert nothing.status == nothing.NOT_UNDERSTOOD and np.isnan(vector(nothing.direction)).all()


def test_response_that_was_not_filled_holds_no_numbers():
    response = srv.RelativePose.Response()
    clear_numbers(response)
    assert np.isnan(quaternion(response)).all() and np.isnan(response.distance) and np.isnan(response.rotation_angle)
    answer = srv.SpatialQuery.Response()
    clear_numbers(answer)
    assert np.isnan(answer.value) and np.isnan(answer.std)


def test_matches_are_given_for_each_pixel_and_nan_where_not_found():
    response = srv.MatchPixels.Response()
    matched_px = np.array([[12.5, 7.0], [np.nan, np.nan], [np.nan, 3.0]])
    fill_matches(response, Matches(np.zeros((3, 2)), matched_px, ("(1, 2)", "nowhere", "(, 3)")))
    response = over_the_wire(response)
    assert response.status == response.OK and response.message == ""
    assert (response.pixels[0].x, response.pixels[0].y, response.pixels[0].z) == (12.5, 7.0, 0.0)
    assert all(math.isnan(point.x) and math.isnan(point.y) for point in response.pixels[1:])
    assert list(response.replies) == ["(1, 2)", "nowhere", "(, 3)"]


def test_response_is_not_found_if_no_pixel_was_found():
    response = srv.MatchPixels.Response()
    fill_matches(response, Matches(np.zeros((1, 2)), np.full((1, 2), np.nan), ("nowhere",)))
    assert response.status == response.NOT_FOUND and "none of the pixels" in response.message


def test_measurements_keep_their_numbers_and_get_points_in_the_frame_of_the_answer():
    measurement = Measurement("gap", 0.42, "m", np.float32(0.02), (np.int64(1), 0), np.zeros((2, 3)))
    response = srv.SpatialQuery.Response()
    points_m = [np.zeros((0, 3)), np.array([[1.0, 2.0, 3.0], [np.nan, 0.0, 0.0]])]
    fill_answer(response, Answer("It is 0.42 m.", measurements=(measurement,)), points_m, CAMERA)
    (message,) = over_the_wire(response).measurements
    assert (message.quantity, message.value, message.unit) == ("gap", 0.42, "m")
    assert message.std == pytest.approx(0.02) and list(message.about) == [1, 0]
    assert (message.points[0].z, len(message.points)) == (3.0, 2) and np.isnan(message.points[1].x)


def test_regions_keep_their_names_in_the_same_order():
    regions = (Region(1.0, 2.0, 3.0, 4.0, "red box"), Region(5.0, 6.0, 7.0, 8.0))
    response = srv.SpatialQuery.Response()
    fill_answer(response, Answer("It is there.", Status.OK, regions=regions), [np.zeros((0, 3))], CAMERA)
    assert list(response.region_labels) == ["red box", ""] and response.regions[1].x_offset == 5


def test_an_inconsistent_answer_has_its_own_status_and_says_which_number_is_measured():
    text = "It is 5.00 meters away. But the depth map says 2.00 meters."
    answer = Answer(text, Status.INCONSISTENT, 2.0, "m", 3.0, words_value=5.0)
    response = srv.SpatialQuery.Response()
    clear_numbers(response)
    fill_answer(response, answer, [np.zeros((0, 3))], CAMERA)
    response = over_the_wire(response)
    assert response.status == response.INCONSISTENT == 8
    assert (response.value, response.std, response.answer) == (2.0, 3.0, text)
    assert "`value` is the measured number" in response.message
