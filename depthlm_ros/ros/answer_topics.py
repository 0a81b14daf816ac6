# SPDX-License-Identifier: Apache-2.0
"""The topics that show answers: answers/markers, answers/image and, where vision_msgs is installed, answers/detections.

A message is made and published only while somebody receives it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from sensor_msgs.msg import Image
from visualization_msgs.msg import MarkerArray

from depthlm_ros.ros import qos
from depthlm_ros.ros.answer_messages import ShownAnswer, detections, markers, picture

MARKERS, DETECTIONS, PICTURE = "answers/markers", "answers/detections", "answers/image"


class AnswerPublishers:
    """The publishers of answers. create: makes the publisher of a message type and a topic.

    report: takes reason and message of a problem. No publisher remains if one of them cannot be made.
    """

    def __init__(
        self, node: LifecycleNode, create: Callable[[type, str], LifecyclePublisher], report: qos.Report
    ) -> None:
        self._publishers: dict[str, LifecyclePublisher] = {}
        self._make: dict[str, Callable[[ShownAnswer], Any]] = {}
        self._report = report
        try:
            for name, message_type, make in _topics():
                self._publishers[name], self._make[name] = create(message_type, name), make
        except Exception:
            self.destroy(node)
            raise

    def destroy(self, node: LifecycleNode) -> None:
        """Removes the topics."""
        publishers, self._publishers = self._publishers, {}
        for publisher in publishers.values():
            node.destroy_lifecycle_publisher(publisher)

    def publish(self, shown: ShownAnswer) -> None:
        """Publishes an answer on the topics that somebody receives. Several threads may call it."""
        for name, publisher in list(self._publishers.items()):
            try:
                if publisher.get_subscription_count() > 0:
                    publisher.publish(self._make[name](shown))
            except Exception as error:  # the answer itself is right, and whoever asked must get it
                self._report("answer not shown", f"{name}: {type(error).__name__}: {error}; please report it.")


def _topics() -> list[tuple[str, type, Callable[[ShownAnswer], Any]]]:
    """Returns name, message type and maker of each topic that can be published here."""
    topics: list[tuple[str, type, Callable[[ShownAnswer], Any]]] = [
        (MARKERS, MarkerArray, markers),
        (PICTURE, Image, picture),
    ]
    try:
        from vision_msgs.msg import Detection3DArray
    except ImportError:
        return topics
    return [*topics, (DETECTIONS, Detection3DArray, detections)]
