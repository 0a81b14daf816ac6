# SPDX-License-Identifier: Apache-2.0
"""The subscriptions to the camera's calibration: where it is, and so that one that was published once arrives too."""

from __future__ import annotations

import threading

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CameraInfo

from depthlm_ros.errors import SetupError
from depthlm_ros.ros import qos
from depthlm_ros.ros.input_topics import is_remapped, sibling_info_topic
from depthlm_ros.ros.request_queue import RequestQueue

CAMERA_INFO_TYPE = "sensor_msgs/msg/CameraInfo"


class CameraInfoSubscription:
    """Subscribes to the calibrations when it is made and puts them into the queue; `destroy` ends it.

    Every publisher serves the first subscription. Where a publisher keeps what it has published ("latched", transient
    local), a second one asks for that. Not elsewhere: the other publishers would warn that they cannot serve it.

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
        self._is_destroyed = False
        self._newest: CameraInfo | None = None
        self.topic = node.resolve_topic_name("camera_info")
        self._sibling = "" if is_remapped(node, "camera_info") else sibling_info_topic(image_topic)
        self._subscriptions = [self._subscribe(self.topic)]
        self.follow_publishers()

    def destroy(self) -> None:
        """Ends the subscriptions."""
        with self._lock:
            self._is_destroyed = True
            self._remove_all()

    def follow_publishers(self) -> None:
        """Fits the subscriptions to what is published now. Call it now and then: publishers come at any time."""
        with self._lock:
            if self._is_destroyed:
                return
            if self._sibling not in ("", self.topic) and self._offers(self._sibling):
                self._move_to(self._sibling)
            if len(self._subscriptions) == 1 and self._is_kept(self.topic):
                self._subscriptions.append(self._create(self.topic, qos.LATCHED))

    def _move_to(self, topic: str) -> None:
        self._sibling = ""  # either way this is done
        try:
            subscription = self._subscribe(topic)
        except SetupError as error:
            self._report("camera_info", str(error))
            return
        self._remove_all()
        self._subscriptions, self.topic, self._newest = [subscription], topic, None
        self._queue.forget_infos()
        self._node.get_logger().info(
            f"camera_info is taken from {topic}, beside the images; remap `camera_info` for another topic"
        )

    def _remove_all(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _offers(self, topic: str) -> list[TopicEndpointInfo]:
        offers = self._node.get_publishers_info_by_topic(topic)
        return [offer for offer in offers if offer.topic_type == CAMERA_INFO_TYPE]

    def _is_kept(self, topic: str) -> bool:
        """Whether a publisher keeps what was published, and the first subscription does not ask for that itself."""
        if self._subscriptions[0].qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL:
            return False
        offers = [offer.qos_profile for offer in self._offers(topic)]
        return any(
            offer.durability == DurabilityPolicy.TRANSIENT_LOCAL and offer.reliability == ReliabilityPolicy.RELIABLE
            for offer in offers
        )

    def _subscribe(self, topic: str) -> Subscription:
        with qos.explained_overrides(topic, "subscription"):
            events = qos.subscription_events(topic, self._report)
            return self._create(topic, self._policies, events, qos.overriding_options())

    def _create(
        self,
        topic: str,
        policies: qos.Policies,
        events: qos.SubscriptionEventCallbacks | None = None,
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
            event_callbacks=events or qos.SubscriptionEventCallbacks(use_default_callbacks=False),
            qos_overriding_options=overrides,
        )

    def _put(self, info: CameraInfo) -> None:
        if info != self._newest:  # else it came through both subscriptions
            self._newest = info
            self._queue.put_info(info)
