# SPDX-License-Identifier: Apache-2.0
"""The subscription to the images. It notices when images get lost on the way and does what it can about it.

It asks for best effort, which every camera offers. But if an image is larger than the transport's buffer (Fast DDS:
512 kB of shared memory by default), best effort loses most images without a message. If that happens and the camera
offers reliable delivery, the subscription is made again and asks for that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

from depthlm_ros.ros import qos
from depthlm_ros.ros.request_queue import RequestQueue

# A wireless link loses an image now and then; best effort is made for that. So many losses, and such a share of the
# images that were sent, are a problem.
MIN_LOST, MIN_LOST_SHARE = 5, 0.2
# No camera sends so many images between two events: a larger count means that the middleware's counter wrapped round.
MAX_LOST_AT_ONCE = 1_000_000


class ImageSubscription:
    """Subscribes to the images when it is made and puts them into the queue; `destroy` ends it.

    lost: images that did not arrive, as far as ROS can tell. Losses are reported in the executor's threads, while
    `destroy` is called in another one: a lock guards the subscription.

    adapt: whether to ask for reliable delivery if best effort fails. report: takes reason and message of a problem.
    policies: what the subscription asks for.
    """

    def __init__(
        self,
        node: Node,
        message_type: type,
        topic: str,
        queue: RequestQueue,
        adapt: bool,
        report: qos.Report,
        policies: qos.Policies = qos.NEWEST_ONLY,
    ) -> None:
        self._node, self._message_type, self._topic, self._queue = node, message_type, topic, queue
        self._adapt, self._report, self._policies = adapt, report, policies
        self._callback_group = MutuallyExclusiveCallbackGroup()
        self._lock = threading.Lock()
        self.lost = 0
        self._subscription: Subscription | None = self._subscribe(policies, qos.overriding_options())

    def destroy(self) -> None:
        """Ends the subscription."""
        with self._lock:
            subscription, self._subscription = self._subscription, None
            if subscription:
                self._node.destroy_subscription(subscription)

    def _subscribe(self, policies: qos.Policies, overrides: QoSOverridingOptions) -> Subscription:
        self._arrived_before, self._lost_now = self._queue.arrived, 0
        try:
            return self._create(policies, overrides, self._count_lost)
        except qos.UnsupportedEventTypeError:  # some middleware does not report losses
            return self._create(policies, overrides, None)

    def _create(
        self, policies: qos.Policies, overrides: QoSOverridingOptions, on_lost: Callable[[qos.LostEvent], None] | None
    ) -> Subscription:
        with qos.explained_overrides(self._topic, "subscription"):
            return self._node.create_subscription(
                self._message_type,
                self._topic,
                self._queue.put_image,
                qos.profile(policies),
                callback_group=self._callback_group,
                event_callbacks=qos.subscription_events(self._topic, self._report, on_lost),
                qos_overriding_options=overrides,
            )

    def _count_lost(self, event: qos.LostEvent) -> None:
        if event.total_count_change > MAX_LOST_AT_ONCE:
            return  # the counter wrapped round because the size of the images changed
        self.lost += event.total_count_change
        self._lost_now += event.total_count_change
        sent = self._lost_now + self._queue.arrived - self._arrived_before
        if self._lost_now < MIN_LOST or self._lost_now < MIN_LOST_SHARE * sent:
            return
        losses = f"{self._lost_now} of {sent} images on {self._topic} got lost on the way"
        if self._adapt and self._is_offered_reliably():
            self._adapt = False
            self._report(
                "images lost", f"{losses}; the camera offers reliable delivery, so the node asks for it from now on."
            )
            self._ask_for_reliable()
        else:
            self._report(
                "images lost",
                f"{losses}: they are probably larger than the transport's buffer. Let the camera publish reliably, "
                "give Fast DDS more shared memory (segment_size, see depthlm_ros/ros/fastdds.xml), or use a smaller "
                "image.",
            )

    def _is_offered_reliably(self) -> bool:
        offers = self._node.get_publishers_info_by_topic(self._topic)
        return bool(offers) and all(offer.qos_profile.reliability == ReliabilityPolicy.RELIABLE for offer in offers)

    def _ask_for_reliable(self) -> None:
        reliable = {**self._policies, "reliability": ReliabilityPolicy.RELIABLE}
        with self._lock:
            best_effort = self._subscription
            if best_effort is None:  # destroyed in the meantime
                return
            self._subscription = self._subscribe(reliable, qos.overriding_options(reliability=False))
            self._node.destroy_subscription(best_effort)
