"""Finds out which input of the node is missing, and says why in words that name the topic and what to do."""

from __future__ import annotations

import enum
import time

from rclpy.node import Node

from depthlm_ros.ros.request_queue import RequestQueue
from depthlm_ros.ros.statistics import ProblemLog


class MissingInput(enum.Enum):
    """An input that does not arrive. The value is the reason under which the problem is counted and shown."""

    NO_IMAGE = "no image"
    NO_CAMERA_INFO = "no camera_info"
    IMAGES_STOPPED = "images stopped"


class InputMonitor:
    """Watches the inputs of an active node. Call `check` about once a second.

    image_topic, image_type, info_topic: as they were subscribed to, fully resolved.
    """

    def __init__(
        self, node: Node, queue: RequestQueue, problems: ProblemLog, image_topic: str, image_type: str, info_topic: str
    ) -> None:
        self._node, self._queue, self._problems = node, queue, problems
        self._image_topic, self._image_type, self._info_topic = image_topic, image_type, info_topic
        self._started_s = time.monotonic()

    def check(self, timeout_s: float) -> MissingInput | None:
        """Returns the input that has been missing for longer than the timeout, and reports it; None if all arrive."""
        missing = self._find_missing(timeout_s)
        if missing is MissingInput.NO_IMAGE:
            self._problems.report(missing.value, f"no image on {self._image_topic}: {self._why_no_image()}")
        elif missing is MissingInput.NO_CAMERA_INFO:
            self._problems.report(missing.value, self._why_no_info())
        elif missing is MissingInput.IMAGES_STOPPED:
            self._problems.report(
                missing.value, f"no new image on {self._image_topic} any more: check the camera and its link."
            )
        return missing

    def _find_missing(self, timeout_s: float) -> MissingInput | None:
        newest = self._queue.newest
        if time.monotonic() - self._started_s < timeout_s:
            return None
        if newest is None:
            return MissingInput.NO_IMAGE
        if time.monotonic_ns() - newest.arrived_ns > timeout_s * 1e9:
            return MissingInput.IMAGES_STOPPED
        return None if self._queue.has_info else MissingInput.NO_CAMERA_INFO

    def _why_no_image(self) -> str:
        publishers = self._node.get_publishers_info_by_topic(self._image_topic)
        if not publishers:
            return (
                "nobody publishes it; remap `image` to the camera's topic (--ros-args -r image:=/camera/image_raw), "
                "see `ros2 topic list`."
            )
        wrong_types = {info.topic_type for info in publishers} - {self._image_type}
        if wrong_types:
            return (
                f"it carries {', '.join(sorted(wrong_types))}, not {self._image_type}: set parameter image_transport "
                "(raw or compressed) to fit the topic."
            )
        return f"{len(publishers)} publisher(s) are there but send nothing; check the camera, and its QoS."

    def _why_no_info(self) -> str:
        publishers = self._node.count_publishers(self._info_topic)
        cause = f"{publishers} publisher(s) send nothing" if publishers else "nobody publishes it"
        return (
            f"images arrive on {self._image_topic} but no camera_info on {self._info_topic} ({cause}): depth needs the "
            "camera's calibration; remap `camera_info` to the one of this camera "
            "(--ros-args -r camera_info:=/camera/camera_info)."
        )
