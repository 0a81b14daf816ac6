# SPDX-License-Identifier: Apache-2.0
"""The path of a service's request: to the queue, through the inference thread, and back as a response.

    check the request -> put the question into the queue and wait -> fill the response

services.py holds these steps for each service. `respond` runs them; it is the one place that turns errors into status
codes, so every request ends with a status and a message. A callback waits here in its own thread of the executor, while
images are still processed.

Public names: ServiceContext, RequestRefused, StatusCode, respond, wait_for_answer, age_remark.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from typing import Protocol, TypeVar

from depthlm_ros.errors import BadInput, BadQuestion, DepthLMError
from depthlm_ros.model import Model
from depthlm_ros.ros.answer_messages import ShownAnswer
from depthlm_ros.ros.body_mask import BodyMask
from depthlm_ros.ros.frame_processing import FrameResult
from depthlm_ros.ros.message_out import clear_numbers
from depthlm_ros.ros.parameters import MAX_TIMEOUT_S, Parameters
from depthlm_ros.ros.request_queue import AnswerT, PendingQuestion, QueueClosed, QueueFull, RequestQueue
from depthlm_ros.ros.tf import Transforms
from depthlm_ros.srv import SpatialQuery

# All services use the same numbers.
StatusCode = SpatialQuery.Response
DEACTIVATED = "the node was deactivated before the answer."
# How often a request that waits looks whether it must end.
CHECK_PERIOD_S = 0.05


class ServiceResponse(Protocol):
    """The fields that the responses of all services share."""

    success: bool
    status: int
    message: str
    model: str
    latency: float


RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT", bound=ServiceResponse)


@dataclass(frozen=True)
class ServiceContext:
    """What the services need of an active node.

    parameters: returns the node's parameters with their present values. mask: of the robot's body in the camera's
    images; None if it is not in sight. publish_answer: shows an answer in words to who listens. topics: returns the
    present topics of image and camera_info, for messages.
    """

    model: Model
    parameters: Callable[[], Parameters]
    queue: RequestQueue
    transforms: Transforms
    mask: BodyMask | None = None
    publish_answer: Callable[[ShownAnswer], None] = lambda shown: None
    topics: Callable[[], tuple[str, str]] = lambda: ("image", "camera_info")


class RequestRefused(BadInput):
    """The request ends without an answer. status: the code of the response."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def respond(
    current_context: Callable[[], ServiceContext | None],
    why_inactive: Callable[[], str],
    answer: Callable[[ServiceContext, RequestT, ResponseT], None],
    request: RequestT,
    response: ResponseT,
) -> ResponseT:
    """Returns the response that `answer` fills, or one with the status and message of the error that it raises.

    current_context: returns None while the node is not active. why_inactive: returns the message of the response then.
    """
    started_s = time.perf_counter()
    clear_numbers(response)
    try:
        context = current_context()
        if context is None:
            raise RequestRefused(StatusCode.NOT_ACTIVE, why_inactive())
        response.model = context.model.name
        with context.queue.reserve_place():
            answer(context, request, response)
    except Exception as error:  # the service must answer, whatever happened
        response.status, response.message = status_and_message(error)
        _forget_tracebacks(error)
    response.success = response.status == StatusCode.OK
    response.latency = time.perf_counter() - started_s
    return response


def status_and_message(error: Exception) -> tuple[int, str]:
    """Returns the status code and the message of a response that ends with an error."""
    if isinstance(error, RequestRefused):
        return int(error.status), str(error)
    if isinstance(error, QueueFull):
        return int(StatusCode.BUSY), str(error)
    if isinstance(error, BadInput):
        return int(StatusCode.BAD_REQUEST), str(error)
    if isinstance(error, DepthLMError):
        return int(StatusCode.INTERNAL), str(error)
    return int(StatusCode.INTERNAL), f"{type(error).__name__}: {error}; please report it."


def _forget_tracebacks(error: BaseException | None) -> None:
    """Drops the tracebacks of an error and of those that led to it.

    They hold the question, whose future holds the error: this circle would keep the model in memory.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def wait_for_answer(
    context: ServiceContext,
    question: PendingQuestion[AnswerT],
    timeout_s: float,
    check: Callable[[], None] | None = None,
) -> AnswerT:
    """Puts a question into the queue and returns the answer from the inference thread.

    timeout_s: as requested; 0 means the node's parameter query_timeout_s. Raises RequestRefused if no answer comes,
    BadQuestion for an unusable timeout, and whatever the question's work raised. check: called now and then meanwhile;
    what it raises ends the waiting.
    """
    if not (math.isfinite(timeout_s) and 0 <= timeout_s <= MAX_TIMEOUT_S):
        raise BadQuestion(
            f"timeout_s is {timeout_s:g}: give 0 (as long as the node allows) to {MAX_TIMEOUT_S:g} seconds."
        )
    timeout_s = timeout_s or context.parameters().query_timeout_s
    if context.queue.is_closed:
        raise RequestRefused(StatusCode.NOT_ACTIVE, DEACTIVATED)
    if question.needs_frame and not question.is_fresh and not context.queue.can_answer:
        raise RequestRefused(StatusCode.NO_IMAGE, _why_no_frame(context))
    try:
        context.queue.put_question(question)
        if check is None:
            return question.future.result(timeout_s)
        return _result_unless(check, question.future, timeout_s)
    except QueueClosed:
        raise RequestRefused(StatusCode.NOT_ACTIVE, DEACTIVATED) from None
    except futures.TimeoutError:
        question.future.cancel()
        raise _timeout_refusal(context, question, timeout_s) from None


def _result_unless(check: Callable[[], None], future: futures.Future[AnswerT], timeout_s: float) -> AnswerT:
    """Returns the result of a future, unless `check` raises before. Raises TimeoutError."""
    end_s = time.monotonic() + timeout_s
    while not future.done() and (left_s := end_s - time.monotonic()) > 0:
        futures.wait([future], min(left_s, CHECK_PERIOD_S))
        try:
            check()
        except Exception:
            future.cancel()
            raise
    return future.result(0)


def age_remark(context: ServiceContext, result: FrameResult) -> str:
    """Returns a remark about an answer from an old image; empty for a new one."""
    age_s = (time.monotonic_ns() - result.image.arrived_ns) / 1e9
    if age_s <= context.parameters().stale_after_s:
        return ""
    return f"answered from an image that arrived {age_s:.1f} s ago: no newer one could be used."


def add_scale_remark(message: str, scale: float) -> str:
    """Returns the message of an answer with lengths, and that they are multiplied, if they are (Frame.depth_scale)."""
    if scale == 1.0:
        return message
    return f"{message} Depths and lengths are multiplied by {scale:.3g}, the scale that the robot knows.".strip()


def _timeout_refusal(context: ServiceContext, question: PendingQuestion, timeout_s: float) -> RequestRefused:
    queue = context.queue
    if question.needs_frame and not queue.can_answer:
        return RequestRefused(StatusCode.NO_IMAGE, f"no answer within {timeout_s:g} s: {_why_no_frame(context)}")
    newest = queue.newest
    age_s = (time.monotonic_ns() - newest.arrived_ns) / 1e9 if newest else math.inf
    if question.is_fresh and age_s >= timeout_s:
        why = f"the last image arrived {age_s:.1f} s ago and a fresh one was asked for; check the camera."
    else:
        why = "the model is slower than that; allow more time (timeout_s, or parameter query_timeout_s)."
    return RequestRefused(StatusCode.TIMEOUT, f"no answer within {timeout_s:g} s: {why}")


def _why_no_frame(context: ServiceContext) -> str:
    image_topic, info_topic = context.topics()
    if context.queue.newest is None:
        return f"no image has arrived yet on {image_topic}; check the topic and the camera."
    if not context.queue.has_info:
        return (
            f"images arrive on {image_topic} but no camera_info on {info_topic}; remap camera_info to the camera's "
            "calibration."
        )
    return f"no image of {image_topic} could be used yet; the node's log and /diagnostics say why."
