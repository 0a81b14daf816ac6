"""What exists only while the node is active: subscriptions, inbox, worker and watchdog."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from depthlm_ros.model import Model
from depthlm_ros.ros import qos
from depthlm_ros.ros.frame_processing import Eye
from depthlm_ros.ros.image_subscription import Delivery
from depthlm_ros.ros.inference_thread import Worker
from depthlm_ros.ros.input_monitor import Watchdog
from depthlm_ros.ros.publishers import Outlet
from depthlm_ros.ros.request_queue import Inbox
from depthlm_ros.ros.statistics import Meter, Troubles

if TYPE_CHECKING:
    from depthlm_ros.ros.node import DepthNode

# How long a running look may take when the node is told to stop.
LAST_LOOK_S = 30.0
COMPRESSED_SUFFIX = "/compressed"
# image_rect, image_rect_color, rectified/image; not direct, not correct.
_RECTIFIED = re.compile(r"(?<![a-z])rect", re.IGNORECASE)


class Stream:
    """Begins to work when it is made; `stop` ends it. Raises SetupError, and leaves nothing behind then."""

    def __init__(self, node: DepthNode, model: Model, outlet: Outlet, meter: Meter, troubles: Troubles) -> None:
        self._node, self._outlet, self._troubles = node, outlet, troubles
        wanted = node.parameters
        compressed = wanted.image_transport == "compressed"
        self.image_topic, self.info_topic = image_topic(node, compressed), node.resolve_topic_name("camera_info")
        history_s = wanted.history_s if model.family.abilities & {"match", "pose"} else 0.0
        self.inbox = Inbox(troubles, wanted.max_waiting_questions, history_s)
        eye = Eye(model, compressed, wanted.rectified_input, troubles)
        self._worker = Worker(self.inbox, eye, self._publish, outlet.is_watched, meter, troubles)
        kind = CompressedImage if compressed else Image
        image_type = f"sensor_msgs/msg/{kind.__name__}"
        self._watchdog = Watchdog(node, self.inbox, troubles, self.image_topic, image_type, self.info_topic)
        adapt = wanted.adapt_reliability and not node.reliability_is_given
        self._infos = self._subscribe_to_infos()
        try:
            self._images = Delivery(
                node, kind, self.image_topic, self._take_image, MutuallyExclusiveCallbackGroup(), adapt, troubles.note
            )
        except Exception:
            node.destroy_subscription(self._infos)
            raise
        if _RECTIFIED.search(self.image_topic) and not wanted.rectified_input:
            troubles.note("rectified image", _rectified_twice(self.image_topic))
        self._worker.start()

    def stop(self) -> None:
        """Stop listening, let everybody go who waits, and wait for the look that runs."""
        self._images.destroy()
        self._node.destroy_subscription(self._infos)
        self.inbox.close()
        self._worker.join(LAST_LOOK_S)
        if self._worker.is_alive():
            self._node.get_logger().error(f"the model has not come back within {LAST_LOOK_S:g} s; going on without it")

    def check(self, patience_s: float) -> dict[str, Any]:
        """Look after the inputs, and return the facts that diagnostics tells about the stream."""
        missing = self._watchdog.missing(patience_s)
        self._watchdog.bark(missing)
        newest = self.inbox.newest
        return {
            "state": "active",
            "received": self.inbox.received,
            "dropped": self.inbox.dropped,
            "lost": self._images.lost,
            "newest_age_s": (time.monotonic_ns() - newest.arrived_ns) / 1e9 if newest else float("nan"),
            "missing": missing,
            "watched": self._outlet.is_watched(),
        }

    def _subscribe_to_infos(self) -> Subscription:
        with qos.named_overrides(self.info_topic, "subscription"):
            return self._node.create_subscription(
                CameraInfo,
                self.info_topic,
                self.inbox.put_info,
                qos.profile(qos.FEW),
                # Not the images' group: while one callback of a group runs, rclpy's executor hands out the other one
                # again and again, thousands of times a second, and its thread takes the interpreter from everybody.
                callback_group=MutuallyExclusiveCallbackGroup(),
                event_callbacks=qos.on_unheard_publisher(self.info_topic, self._troubles.note),
                qos_overriding_options=qos.overridable(),
            )

    def _take_image(self, message: Any) -> None:
        self.inbox.put_image(message, self._node.get_clock().now().nanoseconds)

    def _publish(self, seen: Any) -> None:
        self._outlet.publish(seen, self._node.parameters)


def image_topic(node: Node, compressed: bool) -> str:
    """The resolved topic; for compressed images the camera's base topic plus a suffix, as image_transport has it."""
    topic = node.resolve_topic_name("image")
    return topic + COMPRESSED_SUFFIX if compressed and not topic.endswith(COMPRESSED_SUFFIX) else topic


def _rectified_twice(topic: str) -> str:
    return (
        f"{topic} is named as rectified images are, but parameter rectified_input is false: if it is rectified, its "
        "depth is wrong towards the edges. Set rectified_input to true, or remap `image` to the raw topic."
    )
