# SPDX-License-Identifier: Apache-2.0
"""read_depth and read_cloud return the values that the node wrote into its messages."""

import array

import numpy as np
import pytest

pytestmark = pytest.mark.ros

DEPTH_M = np.array([[0.5, np.nan, 2.25], [3.125, 10.0, 0.001]], np.float32)


@pytest.fixture
def header():
    from std_msgs.msg import Header

    return Header(frame_id="camera")


@pytest.mark.parametrize("encoding", ["32FC1", "16UC1"])
def test_depth_image_is_read_in_metres(header, encoding):
    from depthlm_ros.ros.message_out import depth_image
    from depthlm_ros.ros.tools.depth_listener import read_depth

    read_m = read_depth(depth_image(header, DEPTH_M, encoding))
    assert read_m.dtype == np.float32
    np.testing.assert_allclose(read_m, DEPTH_M, atol=0.0005)


@pytest.mark.parametrize("big_endian", [False, True])
def test_padded_rows_and_both_byte_orders_are_read(header, big_endian):
    from sensor_msgs.msg import Image

    from depthlm_ros.ros.tools.depth_listener import read_depth

    rows = np.full((2, 20), 0x7F, np.uint8)
    rows[:, :12] = DEPTH_M.astype(">f4" if big_endian else "<f4").view(np.uint8).reshape(2, 12)
    message = Image(header=header, width=3, height=2, step=20, encoding="32FC1", is_bigendian=int(big_endian))
    message.data = array.array("B", rows.tobytes())
    np.testing.assert_array_equal(read_depth(message), DEPTH_M)


def test_colour_image_is_refused_as_depth(header):
    from sensor_msgs.msg import Image

    from depthlm_ros.errors import BadImage
    from depthlm_ros.ros.tools.depth_listener import read_depth

    with pytest.raises(BadImage, match="rgb8"):
        read_depth(Image(header=header, encoding="rgb8"))


def test_cloud_is_read_point_by_point(header):
    from depthlm_ros.ros.message_out import point_cloud
    from depthlm_ros.ros.tools.depth_listener import read_cloud

    points = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    read = read_cloud(point_cloud(header, points, ("x", "y", "z", "rgb")))
    np.testing.assert_array_equal(read, points[..., :3])
