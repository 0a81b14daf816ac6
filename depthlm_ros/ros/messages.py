"""Messages out: depth images, calibrations, clouds and answers as sensor_msgs and depthlm_ros.srv messages.

Byte fields are copied from buffer to buffer: assigning bytes or an ndarray to `.data` costs a Python object per byte.
A message that was published may be filled again: fresh memory for megabytes costs more than writing them. Numbers are
cast to Python's own types, because rclpy does not check them and numpy scalars arrive as garbage.
"""

from __future__ import annotations

import array
import math
import sys
from collections.abc import Sequence

import numpy as np
from geometry_msgs.msg import Point
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField, RegionOfInterest
from std_msgs.msg import Header

from depthlm_ros.core import Intrinsics, Region

_LARGEST_MM = 65535.0


def depth_image(header: Header, depth_m: np.ndarray, encoding: str, message: Image | None = None) -> Image:
    """A depth image as REP 118 has it, from float32 (H, W) metres. message: one to be filled again.

    32FC1: metres, NaN and infinities as they are. 16UC1: millimetres, 0 = unknown; what 16 bits cannot hold,
    65.535 m and beyond as well as infinities, is unknown too, because a saturated value would be an invented one.
    """
    pixels = depth_m if encoding == "32FC1" else millimetres(depth_m)
    message = message or Image()
    message.header, message.encoding = header, encoding
    message.is_bigendian = int(sys.byteorder == "big")
    message.height, message.width = depth_m.shape
    message.step = pixels.itemsize * message.width
    _fill(message, pixels)
    return message


def colour_image(header: Header, rgb: np.ndarray) -> Image:
    """An rgb8 image from uint8 (H, W, 3), red first."""
    message = Image(header=header, encoding="rgb8")
    message.height, message.width = rgb.shape[:2]
    message.step = 3 * message.width
    _fill(message, rgb)
    return message


def millimetres(depth_m: np.ndarray) -> np.ndarray:
    """uint16 (H, W) millimetres, rounded; 0 where the depth is NaN, infinite, not positive or above 65.535 m."""
    rounded = np.rint(depth_m * np.float32(1000.0))
    known = (rounded > 0) & (rounded <= _LARGEST_MM)
    return np.where(known, rounded, 0).astype(np.uint16)


def rectified_camera_info(header: Header, camera: Intrinsics) -> CameraInfo:
    """The calibration of a rectified image: no distortion, R the identity, K and P alike, no binning, no window."""
    message = CameraInfo(header=header, width=camera.width_px, height=camera.height_px)
    message.distortion_model = "plumb_bob"
    message.d = [0.0] * 5
    message.k = camera.matrix.ravel()
    message.r = np.eye(3).ravel()
    message.p = np.hstack([camera.matrix, np.zeros((3, 1))]).ravel()
    return message


def point_cloud(
    header: Header, points: np.ndarray, fields: Sequence[str], message: PointCloud2 | None = None
) -> PointCloud2:
    """An organised cloud from float32 (H, W, len(fields)), one value per field; unknown points are NaN.

    message: one to be filled again.
    """
    message = message or PointCloud2()
    message.height, message.width, channels = points.shape
    message.header, message.is_dense = header, False
    message.is_bigendian = sys.byteorder == "big"
    message.fields = [
        PointField(name=name, offset=4 * place, datatype=PointField.FLOAT32, count=1)
        for place, name in enumerate(fields)
    ]
    message.point_step = 4 * channels
    message.row_step = message.point_step * message.width
    _fill(message, points)
    return message


def _fill(message: Image | PointCloud2, values: np.ndarray) -> None:
    size = values.nbytes
    if len(message.data) != size:
        message.data = array.array("B", bytes(size))
    np.frombuffer(message.data, values.dtype)[:] = values.ravel()


def points_from(points_m: np.ndarray) -> list[Point]:
    """geometry_msgs/Point of each row of (N, 3)."""
    return [Point(x=float(x), y=float(y), z=float(z)) for x, y, z in points_m]


def pixels_from(points: Sequence[Point]) -> np.ndarray:
    """float64 (N, 2): u = x and v = y of the points of a request."""
    return np.array([(point.x, point.y) for point in points], np.float64).reshape(-1, 2)


def regions_from(messages: Sequence[RegionOfInterest]) -> tuple[Region, ...]:
    """The regions of a request."""
    return tuple(Region(float(m.x_offset), float(m.y_offset), float(m.width), float(m.height)) for m in messages)


def region_message(region: Region, camera: Intrinsics) -> RegionOfInterest:
    """The smallest box of whole pixels around a region, cut to the image."""
    left, top = max(0, math.floor(region.x_px)), max(0, math.floor(region.y_px))
    right = min(camera.width_px, math.ceil(region.x_px + region.width_px))
    bottom = min(camera.height_px, math.ceil(region.y_px + region.height_px))
    return RegionOfInterest(x_offset=left, y_offset=top, width=max(0, right - left), height=max(0, bottom - top))
