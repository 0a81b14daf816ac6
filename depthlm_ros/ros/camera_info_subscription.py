"""The subscriptions to the camera's calibration: where it is, and so that one that was published once arrives too."""

from __future__ import annotations

import threading

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo

from depthlm_ros.errors import SetupError
from depthlm_ros.ros import qos
from depthlm_ros.ros.input_topics import is_remapped, sibling_info_topic
from depthlm_ros.ros.request_queue import RequestQueue

CAMERA_INFO_TYPE = "sensor_msgs/msg/CameraInfo"


class CameraInfoSubscription:
    """Subscribes to the calibrations when it is made and puts them into the queue; `destroy` ends it.

    There are two subscriptions: one that every publisher serves, and one that asks for what was published before
    ("latched", transient local), which only a publisher that offers this serves.

    topic: the present topic. It is `camera_info`; but if that is not remapped and somebody publishes `camera_info`
    beside the images, it is that one. policies: what the first subscription asks for.
    """

    def __init__(
        self,
        node: Node,
        queue: RequestQueue,
        image_topic: str,
        policies: qos.Policies,
        report: qos.Report,
    ) -> None:
        self._node, self._queue, self._policies, self._report = node, queue, policies, report
        self._lock = threading.Lock()
        self._newest: CameraInfo | None = None
        self.topic = node.resolve_topic_name("camera_info")
        self._sibling = "" if is_remapped(node, "camera_info") else sibling_info_topic(image_topic)
        self._subscriptions = self._subscribe(self.topic)

    def destroy(self) -> None:
        """Ends the subscriptions."""
        with self._lock:
            self._sibling = ""
            subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            self._node.destroy_subscription(subscription)

    def follow_sibling(self) -> None:
        """Takes the camera_info beside the images as soon as somebody publishes it. Call it now and then."""
        with self._lock:
            sibling = self._sibling
            if sibling == self.topic or not sibling or not self._is_published(sibling):
                return
            self._sibling = ""
            try:
                subscriptions = self._subscribe(sibling)
            except SetupError as error:
                self._report("camera_info", str(error))
                return
            previous, self._subscriptions, self.topic = self._subscriptions, subscriptions, sibling
            self._newest = None
            self._queue.forget_infos()
        for subscription in previous:
            self._node.destroy_subscription(subscription)
        self._node.get_logger().info(
            f"camera_info is taken from {sibling}, beside the images; remap `camera_info` for another topic"
        )

    def _is_published(self, topic: str) -> bool:
        return any(each.topic_type == CAMERA_INFO_TYPE for each in self._node.get_publishers_info_by_topic(topic))

    def _subscribe(self, topic: str) -> list[Subscription]:
        with qos.explained_overrides(topic, "subscription"):
            events = qos.subscription_events(topic, self._report)
            made = self._create(topic, self._policies, events, qos.overriding_options())
        if made.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL:  # the user has asked for it
            return [made]
        # Most publishers do not offer this, which is no problem: no events.
        return [made, self._create(topic, qos.LATCHED, qos.SubscriptionEventCallbacks(use_default_callbacks=False))]

    def _create(
        self,
        topic: str,
        policies: qos.Policies,
        events: qos.SubscriptionEventCallbacks,
        overrides: qos.QoSOverridingOptions | None = None,
    ) -> Subscription:
        return self._node.create_subscription(
            CameraInfo,
            topic,
            self._put,
            qos.profile(policies),
            # Not the group of the images, or of each other: while one callback of a group runs, rclpy's executor hands
            # out the other one again and again, thousands of times a second, and its thread takes the interpreter from
            # the rest.
            callback_group=MutuallyExclusiveCallbackGroup(),
            event_callbacks=events,
            qos_overriding_options=overrides,
        )

    def _put(self, info: CameraInfo) -> None:
        if info != self._newest:  # else it came through both subscriptions
            self._newest = info
            self._queue.put_info(info)
