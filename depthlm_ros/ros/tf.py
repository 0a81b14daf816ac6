"""Points from the camera's frame into another, through tf2_ros where it is installed."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time

from depthlm_ros.errors import BadQuestion

# An image may come a little before the transform of its time.
PATIENCE_S = 0.5


class Transforms:
    """Listens to tf between `start` and `stop`, so that the transform of an image's time is there when it is asked for.

    Where tf2_ros is not installed, only requests that need it fail.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._buffer: Any = None
        self._listener: Any = None
        self._why_not = "the node is not active"

    def start(self) -> None:
        """Begin to listen."""
        try:
            import tf2_ros
        except ImportError as error:
            self._why_not = (
                f"tf2_ros cannot be imported ({error}): install it (ros-$ROS_DISTRO-tf2-ros-py), or leave target_frame "
                "empty for points in the camera's frame"
            )
            return
        # Without a node the buffer offers no service of its own.
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, self._node)

    def forget(self) -> None:
        """Time has jumped back: what moves was elsewhere."""
        buffer = self._buffer
        if buffer:
            buffer.clear()

    def stop(self) -> None:
        """End the subscriptions."""
        listener, self._listener, self._buffer = self._listener, None, None
        if listener:
            listener.unregister()

    def into(self, header: Any, points_m: np.ndarray, target_frame: str) -> tuple[Any, np.ndarray]:
        """Header and points (N, 3) in the target frame, at the image's stamp; empty = the camera's own.

        Raises BadQuestion, saying what is missing, if there is no such transform.
        """
        if not target_frame or target_frame == header.frame_id:
            return header, points_m
        transform = self._look_up(header, target_frame).transform
        moved = copy.deepcopy(header)
        moved.frame_id = target_frame
        shift, turn = transform.translation, transform.rotation
        return moved, move(points_m, (shift.x, shift.y, shift.z), (turn.x, turn.y, turn.z, turn.w))

    def _look_up(self, header: Any, target_frame: str) -> Any:
        buffer = self._buffer
        if buffer is None:
            raise BadQuestion(f"there are no transforms into target_frame {target_frame!r}: {self._why_not}.")
        import tf2_ros

        stamp, patience = Time.from_msg(header.stamp), Duration(seconds=PATIENCE_S)
        try:
            return buffer.lookup_transform(target_frame, header.frame_id, stamp, timeout=patience)
        except tf2_ros.TransformException as error:
            raise BadQuestion(
                f"no transform from {header.frame_id!r} to target_frame {target_frame!r} at the image's stamp: "
                f"{error}. Check that both frames are on /tf or /tf_static, or leave target_frame empty."
            ) from error


def move(
    points_m: np.ndarray, shift_m: tuple[float, float, float], turn: tuple[float, float, float, float]
) -> np.ndarray:
    """float64 (N, 3): points (N, 3) turned by the unit quaternion (x, y, z, w), then shifted."""
    axis, w = np.array(turn[:3]), turn[3]
    twice = 2.0 * np.cross(axis, points_m)
    return points_m + w * twice + np.cross(axis, twice) + np.array(shift_m)
