# SPDX-License-Identifier: Apache-2.0
"""Messages that the node publishes: numbers, layout and header."""

import array
import struct

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")

from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402
from sensor_msgs.msg import RegionOfInterest  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from depthlm_ros.core import Frame, Intrinsics, Region  # noqa: E402
from depthlm_ros.ros import message_fields, message_out  # noqa: E402
from depthlm_ros.ros.message_in import camera_from_info, image_to_rgb  # noqa: E402
from depthlm_ros.ros.tf import rotate_and_shift  # noqa: E402

CAMERA = Intrinsics(500.25, 510.5, 3.5, 1.25, 7, 3)
DEPTH_M = np.array([[0.5, np.nan, np.inf], [1.23456, -np.inf, 65.6]], np.float32)


def header() -> Header:
    header = Header(frame_id="camera_optical_frame")
    header.stamp.sec, header.stamp.nanosec = 12, 345
    return header


def over_the_wire(message):
    """Returns the message as a receiver gets it: rclpy corrupts here what it cannot serialise."""
    return deserialize_message(serialize_message(message), type(message))


def test_depth_image_in_metres_keeps_every_value():
    image = over_the_wire(message_out.depth_image(header(), DEPTH_M, "32FC1"))
    assert (image.encoding, image.height, image.width, image.step, image.is_bigendian) == ("32FC1", 2, 3, 12, 0)
    assert image.header == header() and isinstance(image.data, array.array)
    assert np.array_equal(np.frombuffer(image.data, "<f4").reshape(2, 3), DEPTH_M, equal_nan=True)


def test_depth_image_in_millimetres_is_0_where_depth_is_unknown_or_too_large():
    image = over_the_wire(message_out.depth_image(header(), DEPTH_M, "16UC1"))
    assert (image.encoding, image.step) == ("16UC1", 6)
    assert np.frombuffer(image.data, "<u2").reshape(2, 3).tolist() == [[500, 0, 0], [1235, 0, 0]]


@pytest.mark.parametrize(
    ("depth_m", "expected"),
    [(65.535, 65535), (65.5349, 65535), (65.5356, 0), (0.0004, 0), (0.0006, 1), (0.0, 0), (-1.0, 0), (1e9, 0)],
)
def test_millimetres_are_rounded_and_never_saturated(depth_m, expected):
    assert message_fields.millimetres(np.array([[depth_m]], np.float32)).tolist() == [[expected]]


def test_strided_depth_map_is_copied_into_packed_rows():
    wide = np.arange(12, dtype=np.float32).reshape(2, 6)
    image = message_out.depth_image(header(), wide[:, ::2], "32FC1")
    assert image.step == 12 and np.frombuffer(image.data, "<f4").tolist() == [0, 2, 4, 6, 8, 10]


def test_colour_image_survives_the_round_trip():
    rgb = np.random.default_rng(0).integers(0, 255, (3, 7, 3), dtype=np.uint8)
    assert np.array_equal(image_to_rgb(over_the_wire(message_out.colour_image(header(), rgb))), rgb)


def test_calibration_of_the_depth_describes_a_rectified_image():
    info = over_the_wire(message_out.rectified_camera_info(header(), CAMERA))
    assert info.header == header()
    assert list(info.d) == [0.0] * 5 and np.array_equal(info.r, np.eye(3).ravel())
    assert np.array_equal(info.k, CAMERA.matrix.ravel()) and np.array_equal(info.p.reshape(3, 4)[:, :3], CAMERA.matrix)
    assert (info.binning_x, info.roi.width, info.roi.do_rectify) == (0, 0, False)
    assert camera_from_info(info).rectified_intrinsics == CAMERA


def test_cloud_is_organised_and_readable_by_its_fields():
    points = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    points[1, 2] = np.nan
    cloud = over_the_wire(message_out.point_cloud(header(), points, ("x", "y", "z", "rgb")))
    assert (cloud.height, cloud.width, cloud.point_step, cloud.row_step) == (2, 3, 16, 48)
    assert not cloud.is_dense and not cloud.is_bigendian and len(cloud.data) == 96
    assert [(f.name, f.offset, f.datatype, f.count) for f in cloud.fields] == [
        ("x", 0, 7, 1),
        ("y", 4, 7, 1),
        ("z", 8, 7, 1),
        ("rgb", 12, 7, 1),
    ]
    assert struct.unpack_from("<4f", cloud.data, 48 + 16) == (16.0, 17.0, 18.0, 19.0)


def test_points_and_pixels_are_converted_both_ways():
    points = message_out.points_from(np.array([[1.5, 2.0, 3.0], [np.nan, 0.0, 1.0]], np.float32))
    assert (points[0].x, points[0].z) == (1.5, 3.0) and np.isnan(points[1].x)
    assert message_out.pixels_from(points)[0].tolist() == [1.5, 2.0]
    assert message_out.pixels_from([]).shape == (0, 2)


def test_regions_are_converted_both_ways_and_stay_in_the_image():
    asked = RegionOfInterest(x_offset=1, y_offset=2, width=3, height=1)
    assert message_out.regions_from([asked]) == (Region(1.0, 2.0, 3.0, 1.0),)
    assert message_out.region_message(Region(1.0, 2.0, 3.0, 1.0), CAMERA) == asked
    around = message_out.region_message(Region(-5.5, 0.4, 100.0, 1.2), CAMERA)
    assert (around.x_offset, around.y_offset, around.width, around.height) == (0, 0, 7, 2)


def test_points_are_rotated_then_shifted():
    quarter_turn_about_z = (0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5))
    moved = rotate_and_shift(np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 1.0]]), quarter_turn_about_z, (10.0, 20.0, 30.0))
    assert np.allclose(moved, [[10.0, 21.0, 30.0], [8.0, 20.0, 31.0]])


def test_depths_out_of_range_become_infinite_and_the_given_map_is_not_changed():
    depth_m = np.array([[0.1, 1.0, 9.0, np.nan]], np.float32)
    marked_m = message_fields.mark_out_of_range(depth_m, 0.5, 5.0)
    assert np.array_equal(marked_m, np.array([[-np.inf, 1.0, np.inf, np.nan]], np.float32), equal_nan=True)
    assert depth_m[0, 0] == np.float32(0.1) and marked_m.dtype == np.float32


@pytest.mark.parametrize("stamp_ns", [0, 12_000_000_345, 2**31 * 1_000_000_000 - 1])
def test_header_of_a_frame_is_the_one_of_its_image(stamp_ns):
    frame = Frame(np.zeros((3, 7, 3), np.uint8), CAMERA, stamp_ns, "camera")
    made = over_the_wire(message_out.header_of(frame))
    assert (made.stamp.sec * 1_000_000_000 + made.stamp.nanosec, made.frame_id) == (stamp_ns, "camera")


def test_cloud_that_was_built_in_the_message_s_own_memory_is_sent_as_it_is():
    message = message_out.point_cloud(header(), np.zeros((2, 3, 4), np.float32), "xyzr")
    memory = message_out.own_memory(message, (2, 3, 4), "<f4")
    memory[...] = np.arange(24).reshape(2, 3, 4)
    cloud = over_the_wire(message_out.point_cloud(header(), memory, ("x", "y", "z", "rgb"), message))
    assert np.frombuffer(cloud.data, "<f4").tolist() == list(range(24))
    assert [field.name for field in cloud.fields] == ["x", "y", "z", "rgb"] and not cloud.is_dense
    smaller = message_out.own_memory(message, (1, 2, 4), "<f4")
    assert smaller.shape == (1, 2, 4) and len(message.data) == 32


@pytest.mark.parametrize(
    ("min_m", "max_m", "expected"),
    [
        (0.0, 100.0, [[0.5, np.nan, np.inf], [1.23456, -np.inf, 65.6]]),
        (1.0, 100.0, [[-np.inf, np.nan, np.inf], [1.23456, -np.inf, 65.6]]),
        (0.0, 2.0, [[0.5, np.nan, np.inf], [1.23456, -np.inf, np.inf]]),
        (1.0, 2.0, [[-np.inf, np.nan, np.inf], [1.23456, -np.inf, np.inf]]),
    ],
)
def test_depth_out_of_range_is_marked_and_the_given_map_stays(min_m, max_m, expected):
    given = DEPTH_M.copy()
    marked = message_fields.mark_out_of_range(given, min_m, max_m)
    assert np.array_equal(marked, np.array(expected, np.float32), equal_nan=True)
    assert np.array_equal(given, DEPTH_M, equal_nan=True)
    unknown = np.full((2, 2), np.nan, np.float32)
    assert np.isnan(message_fields.mark_out_of_range(unknown, min_m, max_m)).all()
