# SPDX-License-Identifier: Apache-2.0
"""Moves points from the camera's frame into another one, with tf2_ros if it is installed."""

from __future__ import annotations

import copy
import math
import threading
import time
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time as TimeMessage
from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time
from std_msgs.msg import Header

from depthlm_ros.errors import BadQuestion
from depthlm_ros.ros.camera_info_sync import plain_frame_id

# How long a request waits for a transform: an image may arrive a little before the transform of its time.
TIMEOUT_S = 0.5
# For so long after the start a missing transform is said to be older than that.
NEW_S = 5.0


class Transforms:
    """Listens to tf from the first `listen` to `stop`. A request calls `listen` before it waits for its answer.

    Not earlier: on a robot the transforms of all joints can take most of a core, and many users never need one. If
    tf2_ros is not installed, only the requests that need it fail.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._is_stopped = False
        self._since_s = math.nan
        # A tf2_ros.Buffer and a tf2_ros.TransformListener; tf2_ros is optional.
        self._buffer: Any = None
        self._listener: Any = None
        self._why_none = "the node is not active"

    def listen(self) -> None:
        """Starts to listen, unless that was done before. Any thread may call it."""
        with self._lock:
            if self._listener or self._is_stopped:
                return
            try:
                import tf2_ros
            except ImportError as error:
                self._why_none = f"tf2_ros cannot be imported ({error}): install it (ros-$ROS_DISTRO-tf2-ros-py)"
                return
            # Without a node the buffer offers no service of its own.
            self._buffer = tf2_ros.Buffer()
            self._listener = tf2_ros.TransformListener(self._buffer, self._node)
            self._since_s = time.monotonic()

    def clear(self) -> None:
        """Forgets all transforms, because time went back: what moves was elsewhere then."""
        buffer = self._buffer
        if buffer:
            buffer.clear()

    def stop(self) -> None:
        """Ends the subscriptions."""
        with self._lock:
            listener, self._listener, self._buffer = self._listener, None, None
            self._is_stopped = True
            if listener:
                listener.unregister()

    def move_points(self, header: Header, points_m: np.ndarray, target_frame: str) -> tuple[Header, np.ndarray]:
        """Returns header and points (N, 3) in the target frame, at the image's stamp.

        Raises BadQuestion if there is no such transform; the message says what is missing.
        """
        target_frame = target_frame.lstrip("/")
        if target_frame == plain_frame_id(header):
            return header, points_m
        transform = self._look_up(header, target_frame).transform
        target_header = copy.deepcopy(header)
        target_header.frame_id = target_frame
        shift, rotation = transform.translation, transform.rotation
        quaternion = (rotation.x, rotation.y, rotation.z, rotation.w)
        return target_header, rotate_and_shift(points_m, quaternion, (shift.x, shift.y, shift.z))

    def _look_up(self, header: Header, target_frame: str) -> TransformStamped:
        buffer = self._buffer
        if buffer is None:
            raise BadQuestion(
                f"there are no transforms into target_frame {target_frame!r}: {self._why_none}; or leave target_frame "
                "empty for points in the camera's frame."
            )
        import tf2_ros

        stamp, timeout = Time.from_msg(header.stamp), Duration(seconds=TIMEOUT_S)
        try:
            return buffer.lookup_transform(target_frame, plain_frame_id(header), stamp, timeout=timeout)
        except tf2_ros.TransformException as error:
            raise BadQuestion(
                f"no transform from {header.frame_id!r} to target_frame {target_frame!r} at the image's stamp: "
                f"{error}. {self._advice()}, or leave target_frame empty."
            ) from error

    def _advice(self) -> str:
        listened_s = time.monotonic() - self._since_s
        if listened_s > NEW_S:
            return "Check that both frames are on /tf or /tf_static"
        return (
            f"The node began to listen to tf {listened_s:.1f} s ago, with the first request that needs it, and an "
            "older image cannot be placed: ask again, check that both frames are on /tf or /tf_static"
        )

    @property
    def why_none(self) -> str:
        """Why no transform at all can be known now; "" while the node listens to tf."""
        return "" if self._buffer is not None else self._why_none

    def rigid(self, source_frame: str, target_frame: str, stamp: TimeMessage) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns rotation (3, 3) and shift in metres (3,) that move points of one frame into another at a time.

        None if they are not known now, or are no rotation and shift. It listens from the first call on, and never
        waits.
        """
        source_frame, target_frame = source_frame.lstrip("/"), target_frame.lstrip("/")
        if source_frame == target_frame:
            return np.eye(3), np.zeros(3)
        self.listen()
        buffer = self._buffer
        if buffer is None:
            return None
        import tf2_ros

        try:
            found = buffer.lookup_transform(
                target_frame, source_frame, Time.from_msg(stamp), timeout=Duration()
            ).transform
        except tf2_ros.TransformException:
            return None
        quaternion = (found.rotation.x, found.rotation.y, found.rotation.z, found.rotation.w)
        shift_m = np.array([found.translation.x, found.translation.y, found.translation.z])
        if not (np.isfinite(shift_m).all() and abs(np.linalg.norm(quaternion) - 1.0) < 1e-3):
            return None
        return rotate_and_shift(np.eye(3), quaternion, (0.0, 0.0, 0.0)).T, shift_m


def rotate_and_shift(
    points_m: np.ndarray, quaternion_xyzw: tuple[float, float, float, float], shift_m: tuple[float, float, float]
) -> np.ndarray:
    """float64 (N, 3): points (N, 3), rotated by a unit quaternion and then shifted."""
    axis, w = np.array(quaternion_xyzw[:3]), quaternion_xyzw[3]
    twice = 2.0 * np.cross(axis, points_m)
    return points_m + w * twice + np.cross(axis, twice) + np.array(shift_m)
