"""The subscription to the images, which notices when they get lost on the way and does what can be done about it.

It asks for best effort, which any camera offers. But where an image is larger than the transport's buffer (Fast DDS:
512 kB of shared memory by default), best effort loses most images without a word. If that happens and the camera offers
reliable delivery, it is asked for instead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy
from rclpy.subscription import Subscription

from depthlm_ros.ros import qos

# A wireless link loses an image now and then; that is what best effort is for.
LOST_IN_EARNEST = 5
# No camera sends so many images between two events.
MOST_LOST_AT_ONCE = 1_000_000
LOST_SHARE = 0.2

Tell = Callable[[str, str], None]


class Delivery:
    """Subscribes when it is made; `destroy` ends it. lost: images that did not arrive, as far as ROS can tell.

    Losses are told in the executor's threads, while `destroy` is called in another: a lock guards the subscription.

    adapt: whether to ask for reliable delivery where best effort fails. tell: reason and message of a trouble.
    """

    def __init__(
        self, node: Node, kind: type, topic: str, callback: Callable, group: CallbackGroup, adapt: bool, tell: Tell
    ) -> None:
        self._node, self._kind, self._topic, self._group = node, kind, topic, group
        self._callback, self._adapt, self._tell = callback, adapt, tell
        self._lock = threading.Lock()
        self._received = self._lost_now = 0  # since the subscription was made
        self.lost = 0
        self._subscription: Subscription | None = self._subscribe(qos.NEWEST_ONLY, qos.overridable())

    def destroy(self) -> None:
        """End the subscription."""
        with self._lock:
            subscription, self._subscription = self._subscription, None
            if subscription:
                self._node.destroy_subscription(subscription)

    def _subscribe(self, policies: dict[str, Any], overrides: Any) -> Subscription:
        def subscribe(events: Any) -> Subscription:
            with qos.named_overrides(self._topic, "subscription"):
                return self._node.create_subscription(
                    self._kind,
                    self._topic,
                    self._take,
                    qos.profile(policies),
                    callback_group=self._group,
                    event_callbacks=events,
                    qos_overriding_options=overrides,
                )

        try:
            return subscribe(qos.on_unheard_publisher(self._topic, self._tell, self._count_lost))
        except qos.UnsupportedEventTypeError:  # some middleware does not tell of losses
            return subscribe(qos.on_unheard_publisher(self._topic, self._tell))

    def _take(self, message: Any) -> None:
        self._received += 1
        self._callback(message)

    def _count_lost(self, event: Any) -> None:
        if event.total_count_change > MOST_LOST_AT_ONCE:
            return  # the middleware's counter wrapped round when the size of the images changed
        self.lost += event.total_count_change
        self._lost_now += event.total_count_change
        sent = self._lost_now + self._received
        if self._lost_now < LOST_IN_EARNEST or self._lost_now < LOST_SHARE * sent:
            return
        what = f"{self._lost_now} of {sent} images on {self._topic} got lost on the way"
        if self._adapt and self._is_offered_reliably():
            self._adapt = False
            self._tell("images lost", f"{what}; the camera offers reliable delivery, which is asked for from now on.")
            self._ask_for_reliable()
        else:
            self._tell(
                "images lost",
                f"{what}: they are probably larger than the transport's buffer. Let the camera publish reliably, give "
                "Fast DDS more shared memory (segment_size, see depthlm_ros/ros/fastdds.xml), or use a smaller image.",
            )

    def _is_offered_reliably(self) -> bool:
        offers = self._node.get_publishers_info_by_topic(self._topic)
        return bool(offers) and all(offer.qos_profile.reliability == ReliabilityPolicy.RELIABLE for offer in offers)

    def _ask_for_reliable(self) -> None:
        reliable = {**qos.NEWEST_ONLY, "reliability": ReliabilityPolicy.RELIABLE}
        with self._lock:
            best_effort = self._subscription
            if best_effort is None:  # destroyed in the meantime
                return
            self._received = self._lost_now = 0
            self._subscription = self._subscribe(reliable, qos.overridable(reliability=False))
            self._node.destroy_subscription(best_effort)
