"""Everything that exists only while the node is active: subscriptions, queue, inference thread, monitor and tf."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from depthlm_ros.model import Model
from depthlm_ros.ros import qos
from depthlm_ros.ros.body_mask import read_body_mask
from depthlm_ros.ros.diagnostics import InputMonitor, InputStatus
from depthlm_ros.ros.frame_processing import FrameProcessor
from depthlm_ros.ros.image_subscription import ImageSubscription
from depthlm_ros.ros.inference_thread import InferenceThread
from depthlm_ros.ros.parameters import Parameters
from depthlm_ros.ros.publishers import Publishers
from depthlm_ros.ros.rate_limit import RateLimit
from depthlm_ros.ros.request_queue import RequestQueue
from depthlm_ros.ros.service_request import ServiceContext
from depthlm_ros.ros.statistics import FrameStatistics, ProblemLog
from depthlm_ros.ros.tf import Transforms

# How long the last run of the model may take when the node stops.
STOP_TIMEOUT_S = 30.0
# How long the requests that were refused because of that may take to return.
LEAVE_TIMEOUT_S = 2.0
COMPRESSED_SUFFIX = "/compressed"
# Matches image_rect, image_rect_color and rectified/image, but not direct or correct.
_RECTIFIED = re.compile(r"(?<![a-z])rect", re.IGNORECASE)


@dataclass(frozen=True)
class SessionContext:
    """What a session takes from its node.

    node: makes the subscriptions. parameters: returns the node's parameters with their present values.
    is_reliability_set: whether the user has set the reliability of the image subscription.
    """

    node: Node
    parameters: Callable[[], Parameters]
    is_reliability_set: bool
    model: Model
    publishers: Publishers
    statistics: FrameStatistics
    problems: ProblemLog


class ActiveSession:
    """Subscribes when it is made. `start` begins the work, `stop` ends it.

    Raises SetupError if it cannot subscribe; no subscription remains then.
    """

    def __init__(self, context: SessionContext) -> None:
        node, model, publishers, problems = context.node, context.model, context.publishers, context.problems
        parameters = context.parameters()
        is_compressed = parameters.image_transport == "compressed"
        self.image_topic, self.info_topic = image_topic(node, is_compressed), node.resolve_topic_name("camera_info")
        self._node, self._problems, self._is_watched = node, problems, publishers.is_watched
        history_s = parameters.history_s if model.family.abilities & {"match", "pose"} else 0.0
        mask = read_body_mask(parameters.mask_file)
        self.queue = RequestQueue(
            node.get_clock(),
            problems,
            parameters.max_waiting_questions,
            history_s,
            lambda: not parameters.strict_frame_ids and node.count_publishers(self.info_topic) == 1,
            RateLimit(lambda: context.parameters().max_rate_hz),
        )
        self._processor = FrameProcessor(
            model, is_compressed, parameters.rectified_input, problems, parameters.image_bit_depth, mask
        )
        self._thread = InferenceThread(
            self.queue, self._processor, publishers.publish, publishers.is_watched, context.statistics, problems
        )
        message_type = CompressedImage if is_compressed else Image
        self._monitor = InputMonitor(
            node,
            self.queue,
            problems,
            self.image_topic,
            f"sensor_msgs/msg/{message_type.__name__}",
            self.info_topic,
        )
        self._transforms = Transforms(node)
        self.service_context = ServiceContext(model, context.parameters, self.queue, self._transforms, mask)
        self._info_subscription = self._subscribe_to_infos()
        adapt = parameters.adapt_reliability and not context.is_reliability_set
        try:
            self._image_subscription = ImageSubscription(
                node, message_type, self.image_topic, self.queue, adapt, problems.report
            )
        except Exception:
            node.destroy_subscription(self._info_subscription)
            raise
        if _RECTIFIED.search(self.image_topic) and not parameters.rectified_input:
            problems.report("rectified image", _rectified_twice(self.image_topic))

    def start(self) -> None:
        """Starts to process images and questions."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the subscriptions, releases all who wait, and waits for the model's last run."""
        self._transforms.stop()
        self._image_subscription.destroy()
        self._node.destroy_subscription(self._info_subscription)
        self.queue.close()
        if self._thread.is_alive():  # it may never have started
            self._thread.join(STOP_TIMEOUT_S)
        if self._thread.is_alive():
            self._node.get_logger().error(
                f"the model has not returned within {STOP_TIMEOUT_S:g} s; the node goes on without it"
            )
        self.queue.wait_until_left(LEAVE_TIMEOUT_S)
        self.queue.forget()

    def restart(self, why: str) -> None:
        """Forgets images, frames and transforms because time went back. why: what has jumped, for the log."""
        self._transforms.clear()
        self.queue.restart(why)

    def check_inputs(self, timeout_s: float) -> InputStatus:
        """Reports an input that has been missing for longer than the timeout; returns the state for diagnostics."""
        missing = self._monitor.check(timeout_s)
        newest = self.queue.newest
        return InputStatus(
            received=self.queue.received,
            dropped=self.queue.dropped,
            lost=self._image_subscription.lost,
            newest_age_s=(time.monotonic_ns() - newest.arrived_ns) / 1e9 if newest else float("nan"),
            missing=missing,
            is_watched=self._is_watched(),
            canvas_size_px=self._processor.canvas_size_px,
        )

    def _subscribe_to_infos(self) -> Subscription:
        with qos.explained_overrides(self.info_topic, "subscription"):
            return self._node.create_subscription(
                CameraInfo,
                self.info_topic,
                self.queue.put_info,
                qos.profile(qos.CAMERA_INFO),
                # Not the group of the images: while one callback of a group runs, rclpy's executor hands out the other
                # one again and again, thousands of times a second, and its thread takes the interpreter from the rest.
                callback_group=MutuallyExclusiveCallbackGroup(),
                event_callbacks=qos.subscription_events(self.info_topic, self._problems.report),
                qos_overriding_options=qos.overriding_options(),
            )


def image_topic(node: Node, is_compressed: bool) -> str:
    """Returns the resolved topic. For compressed images it ends with a suffix, as image_transport defines it."""
    topic = node.resolve_topic_name("image")
    return topic + COMPRESSED_SUFFIX if is_compressed and not topic.endswith(COMPRESSED_SUFFIX) else topic


def _rectified_twice(topic: str) -> str:
    return (
        f"{topic} is named as rectified images are, but parameter rectified_input is false: if the images are "
        "rectified, depth is wrong towards the edges. Set rectified_input to true, or remap `image` to the raw topic."
    )
