# SPDX-License-Identifier: Apache-2.0
"""Messages of range sensors: points in the sensor's frame; what is no measurement is left out or refused."""

import math

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")
pytest.importorskip("depthlm_ros.srv")

from builtin_interfaces.msg import Time  # noqa: E402
from sensor_msgs.msg import LaserScan, PointCloud2, PointField, Range  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from depthlm_ros.errors import BadInput  # noqa: E402
from depthlm_ros.ros.message_out import point_cloud  # noqa: E402
from depthlm_ros.ros.range_messages import MOST_CLOUD_POINTS, read_cloud, read_range, read_scan  # noqa: E402

HEADER = Header(frame_id="sensor", stamp=Time(sec=5))
NAN, INF = math.nan, math.inf
POINTS = np.array([[[1.0, 2.0, 3.0], [NAN, 0.0, 1.0], [4.0, 5.0, 6.0]]], np.float32)


def test_a_range_is_a_point_on_the_x_axis_with_its_cone():
    reading = read_range(Range(header=HEADER, range=1.5, min_range=0.1, max_range=4.0, field_of_view=0.25))
    assert reading.points_m.tolist() == [[1.5, 0.0, 0.0]] and reading.cone_rad == pytest.approx(0.25)
    assert reading.stamp_ns == 5_000_000_000


@pytest.mark.parametrize("value", [NAN, INF, -INF, -1.0, 0.0, 0.05, 4.5])
def test_a_range_that_is_no_measurement_gives_no_point(value):
    assert not len(read_range(Range(header=HEADER, range=value, min_range=0.1, max_range=4.0)).points_m)


def test_limits_that_are_not_stated_do_not_limit():
    for high in (0.0, NAN):
        assert len(read_range(Range(header=HEADER, range=7.0, min_range=NAN, max_range=high)).points_m) == 1


def test_a_scan_keeps_the_angles_of_its_valid_ranges():
    ranges = [NAN, 2.0, INF, -1.0, 9.0, 3.0]
    scan = LaserScan(header=HEADER, angle_min=0.0, angle_increment=math.pi / 2, range_min=0.1, range_max=5.0)
    scan.ranges = ranges
    points_m = read_scan(scan).points_m
    np.testing.assert_allclose(points_m, [[0.0, 2.0, 0.0], [0.0, 3.0, 0.0]], atol=1e-5)
    scan.ranges = []
    assert not len(read_scan(scan).points_m)


@pytest.mark.parametrize("angles", [(NAN, 0.1), (0.0, INF), (0.0, 0.0)])
def test_a_scan_without_angles_is_refused(angles):
    scan = LaserScan(header=HEADER, angle_min=angles[0], angle_increment=angles[1], range_max=5.0, ranges=[1.0])
    with pytest.raises(BadInput, match="angle_increment"):
        read_scan(scan)


def test_a_cloud_gives_its_finite_points_whatever_its_layout():
    cloud = point_cloud(HEADER, POINTS, "xyz")
    assert read_cloud(cloud).points_m.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    swapped = PointCloud2(header=HEADER, height=1, width=1, point_step=32, row_step=40, is_bigendian=True)
    swapped.fields = [
        PointField(name=name, offset=offset, datatype=PointField.FLOAT64, count=1)
        for name, offset in (("z", 0), ("x", 8), ("y", 16))
    ]
    swapped.data.frombytes(np.array([3.0, 1.0, 2.0, 9.0, 9.0], ">f8").tobytes())
    assert read_cloud(swapped).points_m.tolist() == [[1.0, 2.0, 3.0]]


def test_a_dense_cloud_is_thinned():
    cloud = point_cloud(HEADER, np.ones((100, 500, 3), np.float32), "xyz")
    assert MOST_CLOUD_POINTS / 2 <= len(read_cloud(cloud).points_m) <= MOST_CLOUD_POINTS


def damaged(**changes):
    cloud = point_cloud(HEADER, POINTS, "xyz")
    for name, value in changes.items():
        setattr(cloud, name, value)
    return cloud


@pytest.mark.parametrize(
    ("cloud", "words"),
    [
        (PointCloud2(header=HEADER), "(none)"),
        (damaged(height=1000), "do not fit"),
        (damaged(width=1000), "do not fit"),
        (damaged(row_step=1), "do not fit"),
        (damaged(point_step=0), "point_step is 0"),
        (damaged(point_step=8), "point_step is 8"),
        (damaged(fields=[PointField(name=name, datatype=PointField.UINT8) for name in "xyz"]), "floats"),
        (damaged(header=Header(stamp=Time(sec=5))), "frame_id is empty"),
        (damaged(header=Header(frame_id="sensor")), "stamp is 0"),
    ],
)
def test_a_message_that_cannot_be_read_is_refused_with_the_reason(cloud, words):
    with pytest.raises(BadInput) as caught:
        read_cloud(cloud)
    assert words in str(caught.value)


@pytest.mark.parametrize("cone", [NAN, INF, -0.1, 7.0])
def test_a_cone_that_is_no_angle_is_refused(cone):
    with pytest.raises(BadInput, match="field_of_view"):
        read_range(Range(header=HEADER, range=1.0, max_range=4.0, field_of_view=cone))
