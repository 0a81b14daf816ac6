"""Says why nothing comes, in words that name the topic and what to do."""

from __future__ import annotations

import time

from rclpy.node import Node

from depthlm_ros.ros.request_queue import Inbox
from depthlm_ros.ros.statistics import Troubles

NO_IMAGE, NO_INFO, STOPPED = "no image", "no camera_info", "images stopped"


class Watchdog:
    """Looks at the inputs of an active node, about once a second.

    image_topic, image_type, info_topic: as they were subscribed to, fully resolved.
    """

    def __init__(
        self, node: Node, inbox: Inbox, troubles: Troubles, image_topic: str, image_type: str, info_topic: str
    ) -> None:
        self._node, self._inbox, self._troubles = node, inbox, troubles
        self._image_topic, self._image_type, self._info_topic = image_topic, image_type, info_topic
        self._started_s = time.monotonic()

    def missing(self, patience_s: float) -> str:
        """Which input has been missing for longer than this: NO_IMAGE, NO_INFO, STOPPED, or nothing ("")."""
        newest = self._inbox.newest
        if time.monotonic() - self._started_s < patience_s:
            return ""
        if newest is None:
            return NO_IMAGE
        if time.monotonic_ns() - newest.arrived_ns > patience_s * 1e9:
            return STOPPED
        return "" if self._inbox.has_info else NO_INFO

    def bark(self, missing: str) -> None:
        """Count and log what is missing, and why."""
        if missing == NO_IMAGE:
            self._troubles.note(missing, f"no image on {self._image_topic}: {self._why_no_image()}")
        elif missing == NO_INFO:
            self._troubles.note(missing, self._no_info())
        elif missing == STOPPED:
            self._troubles.note(
                missing, f"no new image on {self._image_topic} any more: check the camera and its link."
            )

    def _why_no_image(self) -> str:
        publishers = self._node.get_publishers_info_by_topic(self._image_topic)
        if not publishers:
            return (
                "nobody publishes it; remap `image` to the camera's topic (--ros-args -r image:=/camera/image_raw), "
                "see `ros2 topic list`."
            )
        wrong = {info.topic_type for info in publishers} - {self._image_type}
        if wrong:
            return (
                f"it carries {', '.join(sorted(wrong))}, not {self._image_type}: set parameter image_transport (raw or "
                "compressed) to fit the topic."
            )
        return f"{len(publishers)} publisher(s) are there but send nothing; check the camera, and its QoS."

    def _no_info(self) -> str:
        publishers = self._node.count_publishers(self._info_topic)
        who = f"{publishers} publisher(s) send nothing" if publishers else "nobody publishes it"
        return (
            f"images arrive on {self._image_topic} but no camera_info on {self._info_topic} ({who}): no depth without "
            "the camera's calibration; remap `camera_info` to the one of this camera "
            "(--ros-args -r camera_info:=/camera/camera_info)."
        )
