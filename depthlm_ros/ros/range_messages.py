# SPDX-License-Identifier: Apache-2.0
"""Reads the messages of range sensors: Range, LaserScan and PointCloud2 become points in the sensor's frame.

What is no measurement is left out: NaN, infinite, negative, outside range_min to range_max. A message that cannot be
read at all raises BadInput, which says why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from depthlm_ros.errors import BadInput
from depthlm_ros.ros.camera_info_sync import stamp_ns

if TYPE_CHECKING:
    from sensor_msgs.msg import LaserScan, PointCloud2, Range
    from std_msgs.msg import Header

# So many points of a cloud are kept, evenly spread.
MOST_CLOUD_POINTS = 4000
# PointField.FLOAT32 and FLOAT64.
_FLOATS = {7: "f4", 8: "f8"}


@dataclass(frozen=True, eq=False)
class Reading:
    """What one message of a range sensor measured.

    points_m: float64 (N, 3) in the frame of the header, metres. cone_rad: full angle of the sensor's cone; 0: thin.
    """

    header: Header
    stamp_ns: int
    points_m: np.ndarray
    cone_rad: float = 0.0


def read_range(message: Range) -> Reading:
    """Returns a point on the x axis of the sensor's frame (sensor_msgs/Range), or none. Raises BadInput."""
    cone_rad = message.field_of_view
    if not (math.isfinite(cone_rad) and 0 <= cone_rad < math.pi):
        raise BadInput(f"field_of_view is {cone_rad}: it must be an angle from 0 to pi.")
    ranges_m = np.array([message.range], np.float64)
    ranges_m = ranges_m[_is_valid(ranges_m, message.min_range, message.max_range)]
    return _reading(message.header, np.outer(ranges_m, (1.0, 0.0, 0.0)), float(cone_rad))


def read_scan(message: LaserScan) -> Reading:
    """Returns the points of a scan in the x-y plane of the sensor's frame. Raises BadInput."""
    angles = (message.angle_min, message.angle_increment)
    if not all(map(math.isfinite, angles)) or message.angle_increment == 0:
        raise BadInput(f"angle_min is {angles[0]} and angle_increment {angles[1]}: they must be angles.")
    ranges_m = np.asarray(message.ranges, np.float64)
    angle = message.angle_min + message.angle_increment * np.arange(len(ranges_m))
    directions = np.stack([np.cos(angle), np.sin(angle), np.zeros(len(angle))], axis=1)
    valid = _is_valid(ranges_m, message.range_min, message.range_max)
    return _reading(message.header, ranges_m[valid, None] * directions[valid])


def read_cloud(message: PointCloud2) -> Reading:
    """Returns the points of a cloud, at most MOST_CLOUD_POINTS of them. Raises BadInput."""
    order = ">" if message.is_bigendian else "<"
    fields = {field.name: field for field in message.fields}
    if any(name not in fields or fields[name].datatype not in _FLOATS for name in "xyz"):
        raise BadInput(f"the cloud has the fields {', '.join(fields) or '(none)'}: x, y and z must be floats.")
    formats = [order + _FLOATS[fields[name].datatype] for name in "xyz"]
    offsets = [fields[name].offset for name in "xyz"]
    step, row_step = message.point_step, message.row_step
    if any(offset + int(each[-1]) > step for offset, each in zip(offsets, formats, strict=True)):
        raise BadInput(f"point_step is {step} bytes: x, y and z do not fit into it.")
    if row_step < step * message.width or len(message.data) < row_step * message.height:
        raise BadInput(
            f"the cloud has {len(message.data)} bytes: {message.height} rows of {row_step} bytes, of {message.width} "
            f"points of {step} bytes, do not fit into it."
        )
    layout = np.dtype({"names": list("xyz"), "formats": formats, "offsets": offsets, "itemsize": step})
    shape, strides = (message.height, message.width), (row_step, step)
    points = np.ndarray(shape, layout, memoryview(message.data), strides=strides).ravel()
    points = points[:: max(1, -(-len(points) // MOST_CLOUD_POINTS))]
    points_m = np.stack([points[name].astype(np.float64) for name in "xyz"], axis=1).reshape(-1, 3)
    return _reading(message.header, points_m[np.isfinite(points_m).all(1)])


def _is_valid(ranges_m: np.ndarray, low: float, high: float) -> np.ndarray:
    """Returns bool (N,): which ranges are measurements. An upper limit of 0 or NaN is none."""
    with np.errstate(invalid="ignore"):
        valid = np.isfinite(ranges_m) & (ranges_m > 0)
        valid &= ranges_m >= (low if math.isfinite(low) else 0.0)
        return valid & (ranges_m <= (high if high > 0 else math.inf))


def _reading(header: Header, points_m: np.ndarray, cone_rad: float = 0.0) -> Reading:
    """Raises BadInput for a message without time or frame: nobody can say where and when it was measured."""
    at_ns = stamp_ns(header)
    if at_ns <= 0:
        raise BadInput("the stamp is 0: the driver must stamp its messages.")
    if not header.frame_id:
        raise BadInput("frame_id is empty: the driver must name the sensor's frame.")
    return Reading(header, at_ns, points_m, cone_rad)
