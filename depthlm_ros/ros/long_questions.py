# SPDX-License-Identifier: Apache-2.0
"""The action ask_spatial: a question whose words are heard as they come, and that can be cancelled.

A goal is served in a thread of the executor. It takes the frame result from the inference thread, as the services do,
and then asks the model itself, so that images and other questions are served meanwhile. After every decoding step it
sends the words so far and looks whether it must end: the goal was cancelled, the node deactivated, or the time is over.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from depthlm_ros.action import AskSpatial
from depthlm_ros.ros.request_queue import PendingQuestion
from depthlm_ros.ros.service_request import (
    DEACTIVATED,
    RequestRefused,
    ServiceContext,
    StatusCode,
    respond,
    wait_for_answer,
)
from depthlm_ros.ros.spatial_answer import fill_response, question_from

ACTION = "ask_spatial"
# The words so far are sent at most so often; people read no faster.
FEEDBACK_PERIOD_S = 0.05
# A burst of goals waits in the queues of ROS, whose usual length of 10 would lose the rest without a word.
KEPT_REQUESTS = 200
# A client that asks for the result of a goal later than this gets none.
RESULT_KEPT_S = 60


def create_action(
    node: Node, current_context: Callable[[], ServiceContext | None], why_inactive: Callable[[], str]
) -> ActionServer:
    """Offers the action. current_context, why_inactive: see respond."""
    kept = QoSProfile(depth=KEPT_REQUESTS)
    return ActionServer(
        node,
        AskSpatial,
        ACTION,
        partial(serve_goal, current_context, why_inactive, node.get_logger().warning),
        callback_group=ReentrantCallbackGroup(),
        goal_service_qos_profile=kept,
        result_service_qos_profile=kept,
        cancel_service_qos_profile=kept,
        status_pub_qos_profile=QoSProfile(depth=KEPT_REQUESTS, durability=DurabilityPolicy.TRANSIENT_LOCAL),
        cancel_callback=lambda goal: CancelResponse.ACCEPT,
        result_timeout=RESULT_KEPT_S,
    )


def serve_goal(
    current_context: Callable[[], ServiceContext | None],
    why_inactive: Callable[[], str],
    report: Callable[[str], object],
    goal: ServerGoalHandle,
) -> AskSpatial.Result:
    """Returns the result of a goal, and sets its state: succeeded with an answer, canceled, else aborted.

    report: called if the state cannot be published, which must not cost the result.
    """
    result = respond(current_context, why_inactive, partial(answer_goal, goal), goal.request, AskSpatial.Result())
    is_cancelled = result.status == AskSpatial.Result.CANCELLED
    try:
        (goal.canceled if is_cancelled else goal.succeed if result.success else goal.abort)()
    except RuntimeError as error:  # of which rclpy's RCLError is one
        report(f"the state of a goal of {ACTION} cannot be published ({error}); its result is sent.")
    return result


def answer_goal(
    goal: ServerGoalHandle, context: ServiceContext, request: AskSpatial.Goal, result: AskSpatial.Result
) -> None:
    """Fills the result of a goal. If it fails or ends early, the answer holds the words so far."""
    listener = _Listener(goal, context, request.timeout_s)
    question = question_from(context, request, listener.hear)
    pending = PendingQuestion(lambda frame_result: frame_result, request.fresh)
    frame_result = wait_for_answer(context, pending, request.timeout_s, listener.check)
    try:
        answer = frame_result.view.ask_all([question])[0]
        listener.words = answer.text
        fill_response(context, request, result, question, (frame_result, answer))
    except Exception:
        if listener.words:
            result.header, result.answer = frame_result.image.message.header, listener.words
        raise


class _Listener:
    """Hears the words of one goal. words: those so far."""

    def __init__(self, goal: ServerGoalHandle, context: ServiceContext, timeout_s: float) -> None:
        self._goal, self._queue, self._timeout_s = goal, context.queue, timeout_s
        self._end_s = time.monotonic() + timeout_s if timeout_s > 0 else math.inf
        self._next_feedback_s = 0.0
        self.words = ""

    def hear(self, words: str) -> None:
        """Sends the words as feedback. Raises RequestRefused if the goal must end."""
        self.check()
        self.words, now_s = words, time.monotonic()
        if now_s >= self._next_feedback_s:
            self._goal.publish_feedback(AskSpatial.Feedback(text=words))
            self._next_feedback_s = now_s + FEEDBACK_PERIOD_S

    def check(self) -> None:
        """Raises RequestRefused if the goal must end."""
        if self._goal.is_cancel_requested:
            raise RequestRefused(AskSpatial.Result.CANCELLED, "the goal was cancelled.")
        if self._queue.is_closed:
            raise RequestRefused(StatusCode.NOT_ACTIVE, DEACTIVATED)
        if time.monotonic() > self._end_s:
            raise RequestRefused(
                StatusCode.TIMEOUT,
                f"no complete answer within {self._timeout_s:g} s: allow more time (timeout_s; 0: as long as the words "
                "take).",
            )
