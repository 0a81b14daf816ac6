# SPDX-License-Identifier: Apache-2.0
"""Everything that exists only while the node is active: subscriptions, queue, inference thread, monitor and tf."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from depthlm_ros.model import Model
from depthlm_ros.ros import qos
from depthlm_ros.ros.body_mask import read_body_mask
from depthlm_ros.ros.camera_info_subscription import CameraInfoSubscription
from depthlm_ros.ros.diagnostics import InputMonitor, InputStatus
from depthlm_ros.ros.frame_processing import FrameProcessor, FrameResult
from depthlm_ros.ros.image_subscription import ImageSubscription
from depthlm_ros.ros.inference_thread import InferenceThread
from depthlm_ros.ros.input_topics import image_topic
from depthlm_ros.ros.model_loading import runs_on_gpu
from depthlm_ros.ros.parameters import BEST_EFFORT, Parameters
from depthlm_ros.ros.publishers import Publishers
from depthlm_ros.ros.rate_limit import RateLimit
from depthlm_ros.ros.request_queue import RequestQueue
from depthlm_ros.ros.scale_monitor import ScaleMonitor, scale_values
from depthlm_ros.ros.service_request import ServiceContext
from depthlm_ros.ros.statistics import FrameStatistics, ProblemLog
from depthlm_ros.ros.tf import Transforms

# How long the last run of the model may take when the node stops.
STOP_TIMEOUT_S = 30.0
# How long the requests that were refused because of that may take to return.
LEAVE_TIMEOUT_S = 2.0
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
        current_parameters, parameters = context.parameters, context.parameters()
        is_compressed = parameters.image_transport == "compressed"
        self.image_topic = image = image_topic(node, is_compressed)
        self._node, self._problems, self._is_watched = node, problems, publishers.is_watched
        history_s = parameters.history_s if model.family.abilities & {"match", "pose"} else 0.0
        mask = read_body_mask(parameters.mask_file)
        self._parameters = context.parameters
        self._transforms = Transforms(node)
        self._scale = scale = ScaleMonitor(node, context.parameters, self._transforms, problems)

        def publish(result: FrameResult) -> None:
            publishers.publish(result)
            publishers.publish_scale(result, scale.observe(result))  # afterwards: it must not delay the depth

        def info_topic() -> str:
            return infos.topic  # made below

        # Nothing that ROS may hold refers to this session, nor to what does: it would keep the model in memory.
        self.queue = RequestQueue(
            node.get_clock(),
            problems,
            parameters.max_waiting_questions,
            history_s,
            lambda: not parameters.strict_frame_ids and node.count_publishers(info_topic()) == 1,
            RateLimit(lambda: current_parameters().max_rate_hz),
            image,
        )
        is_rectified, bit_depth = parameters.rectified_input, parameters.image_bit_depth
        self._processor = FrameProcessor(
            model, is_compressed, is_rectified, problems, bit_depth, mask, scale.depth_scale
        )
        self._thread = InferenceThread(
            self.queue,
            self._processor,
            publish,
            publishers.is_watched,
            context.statistics,
            problems,
            prepares_ahead=runs_on_gpu(model),
        )
        message_type = CompressedImage if is_compressed else Image
        type_name = f"sensor_msgs/msg/{message_type.__name__}"
        self._monitor = InputMonitor(node, self.queue, problems, self.image_topic, type_name, info_topic)
        self.service_context = ServiceContext(
            model,
            current_parameters,
            self.queue,
            self._transforms,
            mask,
            publishers.answers.publish,
            lambda: (image, info_topic()),
        )
        self._info_subscription = infos = CameraInfoSubscription(
            node, self.queue, self.image_topic, _asked_for(qos.CAMERA_INFO, parameters), problems.report
        )
        self._image_subscription = self._subscribe_to_images(context, parameters, message_type)
        if _RECTIFIED.search(self.image_topic) and not parameters.rectified_input:
            problems.report("rectified image", _rectified_twice(self.image_topic))

    def _subscribe_to_images(
        self, context: SessionContext, parameters: Parameters, message_type: type
    ) -> ImageSubscription:
        """Subscribes. If that fails, the calibrations' subscription ends too."""
        adapt = parameters.adapt_reliability and not context.is_reliability_set
        try:
            return ImageSubscription(
                context.node,
                message_type,
                self.image_topic,
                self.queue,
                adapt and parameters.qos_reliability == BEST_EFFORT,
                context.problems.report,
                _asked_for(qos.NEWEST_ONLY, parameters),
            )
        except Exception:
            self._info_subscription.destroy()
            raise

    @property
    def info_topic(self) -> str:
        """The topic that the calibrations come from at present."""
        return self._info_subscription.topic

    def start(self) -> None:
        """Starts to process images and questions."""
        self._scale.start()
        self._thread.start()

    def stop(self) -> None:
        """Ends the subscriptions, releases all who wait, and waits for the model's last run."""
        self._transforms.stop()
        self._scale.destroy()
        self._image_subscription.destroy()
        self._info_subscription.destroy()
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
        self._scale.restart()
        self.queue.restart(why)

    def scale_values(self) -> dict[str, str]:
        """Returns what is known of the scale, for diagnostics."""
        return scale_values(self._parameters().scale_mode, self._scale.report)

    def check_inputs(self, timeout_s: float) -> InputStatus:
        """Reports an input that has been missing for longer than the timeout; returns the state for diagnostics."""
        self._info_subscription.follow_publishers()
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


def _asked_for(policies: qos.Policies, parameters: Parameters) -> qos.Policies:
    return qos.asked_for(policies, parameters.qos_reliability, parameters.qos_durability)


def _rectified_twice(topic: str) -> str:
    return (
        f"{topic} is named as rectified images are, but parameter rectified_input is false: if the images are "
        "rectified, depth is wrong towards the edges. Set rectified_input to true, or remap `image` to the raw topic."
    )
