# SPDX-License-Identifier: Apache-2.0
"""Fills in messages that carry arrays: depth images, calibrations and clouds.

The functions set the fields of any object that has the names of the message, except the array `data`, which every
library holds in its own type. message_out.py uses them for the node's messages, bags/ for those of the library rosbags.
No ROS module is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from depthlm_ros.core import Intrinsics

# sensor_msgs/PointField.FLOAT32.
FLOAT32 = 7
_MAX_MM = 65535.0


def set_depth_image(message: Any, header: Any, depth_m: np.ndarray, encoding: str) -> np.ndarray:
    """Sets a sensor_msgs/Image (REP 118) from float32 (H, W) metres, and returns the pixels that are its data.

    32FC1: metres, with NaN and infinities unchanged. 16UC1: millimetres, 0 = unknown. What 16 bits cannot hold (65.535
    m and more, and infinities) is unknown too, because a saturated value would be an invented one.
    """
    pixels = depth_m if encoding == "32FC1" else millimetres(depth_m)
    message.header, message.encoding = header, encoding
    message.is_bigendian = int(sys.byteorder == "big")
    message.height, message.width = depth_m.shape
    message.step = pixels.itemsize * message.width
    return pixels


def mark_out_of_range(depth_m: np.ndarray, min_m: float, max_m: float) -> np.ndarray:
    """Returns the depth with -Inf for values that are too near and +Inf for values that are too far (REP 117)."""
    # fmin and fmax ignore NaN. Nothing is copied in the usual case, in which all depths are in range.
    is_any_near, is_any_far = np.fmin.reduce(depth_m, axis=None) < min_m, np.fmax.reduce(depth_m, axis=None) > max_m
    if not (is_any_near or is_any_far):
        return depth_m
    marked_m = depth_m.copy()
    marked_m[depth_m < min_m], marked_m[depth_m > max_m] = -np.inf, np.inf
    return marked_m


def millimetres(depth_m: np.ndarray) -> np.ndarray:
    """uint16 (H, W) millimetres, rounded; 0 where the depth is NaN, infinite, not positive or above 65.535 m."""
    rounded = np.rint(depth_m * np.float32(1000.0))
    is_known = (rounded > 0) & (rounded <= _MAX_MM)
    rounded[~is_known] = 0
    return rounded.astype(np.uint16)


def set_rectified_camera(message: Any, header: Any, camera: Intrinsics) -> None:
    """Sets a sensor_msgs/CameraInfo of a rectified image, but for `d`: R is the identity, K and P agree, no binning."""
    message.header, message.width, message.height = header, camera.width_px, camera.height_px
    message.distortion_model = "plumb_bob"
    message.k = camera.matrix.ravel()
    message.r = np.eye(3).ravel()
    message.p = np.hstack([camera.matrix, np.zeros((3, 1))]).ravel()


def set_cloud(message: Any, header: Any, points: np.ndarray, fields: Sequence[str], field: Callable[..., Any]) -> None:
    """Sets a sensor_msgs/PointCloud2 from float32 (H, W, len(fields)), whose bytes are its data.

    A cloud of one row is unorganised: all of its points must be known. field: the class sensor_msgs/PointField.
    """
    message.height, message.width, channels = points.shape
    message.header, message.is_dense = header, message.height == 1
    message.is_bigendian = sys.byteorder == "big"
    # A message that is filled again has them already.
    if [each.name for each in getattr(message, "fields", ())] != list(fields):
        message.fields = [
            field(name=name, offset=4 * index, datatype=FLOAT32, count=1) for index, name in enumerate(fields)
        ]
    message.point_step = 4 * channels
    message.row_step = message.point_step * message.width
