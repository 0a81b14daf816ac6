# SPDX-License-Identifier: Apache-2.0
"""The node's services. They exist as long as the node, and say so while it is not active.

spatial_query and query_depth are about one image, and so is the action ask_spatial (long_questions.py). match_pixels
and relative_pose are about two: either comes with the request or from the camera; the camera's are the newest processed
frame (second) and an earlier image (first).

Each function `answer_...` checks the request, waits for the answer and fills the response; see service_request.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

from geometry_msgs.msg import Point
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image

from depthlm_ros.core import Answer, Frame, PointDepths
from depthlm_ros.errors import BadInput, BadQuestion
from depthlm_ros.geometry.pinhole import backproject
from depthlm_ros.ros.camera_info_sync import NS_PER_S, is_same_camera
from depthlm_ros.ros.frame_processing import FrameResult, rectified_frame
from depthlm_ros.ros.long_questions import create_action
from depthlm_ros.ros.message_out import fill_matches, fill_pose, header_of, pixels_from, points_from
from depthlm_ros.ros.parameters import SPARSE, Parameters
from depthlm_ros.ros.request_queue import PendingQuestion
from depthlm_ros.ros.service_request import (
    RequestRefused,
    ServiceContext,
    StatusCode,
    add_scale_remark,
    age_remark,
    respond,
    wait_for_answer,
)
from depthlm_ros.ros.spatial_answer import fill_response, question_from
from depthlm_ros.srv import MatchPixels, QueryDepth, RelativePose, SpatialQuery
from depthlm_ros.view import PairView

# Reading a pixel off the depth map is cheap; asking the model for one takes as long as a question.
MAX_PIXELS_FROM_MAP = 100_000
MAX_PIXELS_IN_WORDS = 1024
MAX_PIXELS_MATCHED = 256
# The response remarks on an earlier image whose time differs by more than this share of the time asked for.
TIME_TOLERANCE = 0.25
# A request that does not fit into the middleware's queue is never answered, not even BUSY: keep many.
REQUEST_QUEUE_DEPTH = 100

ReadT = TypeVar("ReadT")


class PairRequest(Protocol):
    """The fields that the requests about two images share."""

    first: Image
    first_info: CameraInfo
    second: Image
    second_info: CameraInfo
    seconds_back: float
    fresh: bool
    timeout_s: float


def create_services(
    node: Node, current_context: Callable[[], ServiceContext | None], why_inactive: Callable[[], str]
) -> None:
    """Offers the services and the action.

    current_context: returns None while the node is not active. why_inactive: returns why, and what to do.
    """
    about_one_image, about_two_images = ReentrantCallbackGroup(), ReentrantCallbackGroup()
    for service_type, service, answer, group in (
        (SpatialQuery, "spatial_query", answer_spatial, about_one_image),
        (QueryDepth, "query_depth", answer_depth, about_one_image),
        (MatchPixels, "match_pixels", answer_match, about_two_images),
        (RelativePose, "relative_pose", answer_pose, about_two_images),
    ):
        callback = partial(respond, current_context, why_inactive, answer)
        qos_profile = QoSProfile(depth=REQUEST_QUEUE_DEPTH)
        node.create_service(service_type, service, callback, qos_profile=qos_profile, callback_group=group)
    create_action(node, current_context, why_inactive)


def answer_spatial(context: ServiceContext, request: SpatialQuery.Request, response: SpatialQuery.Response) -> None:
    """Fills the response to a question in words."""
    question = question_from(context, request)
    pending: PendingQuestion[tuple[FrameResult, Answer]] = PendingQuestion(
        lambda result: (result, result.view.ask_all([question])[0]), request.fresh, question
    )
    fill_response(context, request, response, question, wait_for_answer(context, pending, request.timeout_s))


def answer_depth(context: ServiceContext, request: QueryDepth.Request, response: QueryDepth.Response) -> None:
    """Fills the response to a question for the depth at pixels."""
    in_words = context.parameters().mode == SPARSE or not context.model.spec.head
    _check_count(request.pixels, MAX_PIXELS_IN_WORDS if in_words else MAX_PIXELS_FROM_MAP)
    uv_px = pixels_from(request.pixels)

    pending: PendingQuestion[tuple[FrameResult, PointDepths]] = PendingQuestion(
        lambda result: (result, (result.view.tell_depth_at if in_words else result.view.depth_at)(uv_px)), request.fresh
    )
    result, depths = wait_for_answer(context, pending, request.timeout_s)

    response.header = result.image.message.header
    response.depth = depths.depth_m.tolist()
    response.std = depths.std_m.tolist()
    response.points = points_from(backproject(uv_px, depths.depth_m, result.view.frame.intrinsics))
    response.status = int(StatusCode.OK)
    response.message = add_scale_remark(age_remark(context, result), result.view.frame.depth_scale)


def answer_match(context: ServiceContext, request: MatchPixels.Request, response: MatchPixels.Response) -> None:
    """Fills the response to a question where pixels of one image are in another."""
    context.model.family.check_ability("match")  # a model that cannot match must not wait for images
    _check_count(request.pixels, MAX_PIXELS_MATCHED)
    uv_px = pixels_from(request.pixels)

    first, second, remark, matches = _ask_about_pair(context, request, lambda pair: pair.match(uv_px))

    response.first_header, response.second_header = header_of(first), header_of(second)
    fill_matches(response, matches)
    response.message = response.message or remark


def answer_pose(context: ServiceContext, request: RelativePose.Request, response: RelativePose.Response) -> None:
    """Fills the response to a question for the pose of one camera in another's frame."""
    context.model.family.check_ability("pose")  # a model that tells no pose must not wait for images

    first, second, remark, pose = _ask_about_pair(context, request, PairView.pose)

    response.first_header, response.second_header = header_of(first), header_of(second)
    fill_pose(response, pose, child_frame(first.frame_id, second.frame_id, request.child_frame_id))
    response.message = add_scale_remark(response.message or remark, first.depth_scale)


def child_frame(first_frame: str, second_frame: str, requested: str) -> str:
    """Returns the name of the second camera's frame: as requested, else its own, but never the first camera's.

    Raises BadQuestion if the first camera's frame is requested.
    """
    if requested and requested == first_frame:
        raise BadQuestion(f"child_frame_id is {requested!r}, which is the first image's own frame: give another name.")
    return requested or (second_frame if second_frame != first_frame else f"{first_frame}_second")


def _check_count(pixels: list[Point], maximum: int) -> None:
    """Raises BadQuestion for no pixels, and for more than can be asked about at once."""
    if not 1 <= len(pixels) <= maximum:
        raise BadQuestion(f"{len(pixels)} pixels are asked for: give 1 to {maximum} of them.")


def _ask_about_pair(
    context: ServiceContext, request: PairRequest, read: Callable[[PairView], ReadT]
) -> tuple[Frame, Frame, str, ReadT]:
    """Returns the two frames, a remark about them (may be empty), and what `read` returns for the view of both."""
    parameters = context.parameters()
    first = _given_frame("first", request.first, request.first_info, parameters)
    second = _given_frame("second", request.second, request.second_info, parameters)
    if second and not first:
        raise BadQuestion("`second` is given without `first`: give both images, `first` alone, or none.")
    if not first:
        _check_seconds_back(request.seconds_back, parameters.history_s)

    def work(result: FrameResult) -> tuple[Frame, Frame, str, ReadT]:
        if first and second:
            pair, remark = (first, second), ""
        elif first:
            pair, remark = (first, result.view.frame), age_remark(context, result)
        else:
            earlier, remark = _earlier_frame(context, result, request.seconds_back)
            earlier = replace(earlier, depth_scale=result.view.frame.depth_scale)
            pair = (earlier, result.view.frame)
        return *pair, remark, read(context.model.look_pair(*pair))

    needs_frame = second is None
    pending = PendingQuestion(work, request.fresh and needs_frame, needs_frame=needs_frame)
    return wait_for_answer(context, pending, request.timeout_s)


def _earlier_frame(context: ServiceContext, result: FrameResult, requested_s: float) -> tuple[Frame, str]:
    """Returns the kept image nearest to the time before a result's, and a remark about its time or age.

    requested_s: how long before; 0: as far as images are kept. Raises RequestRefused if none is kept, or if the images
    do not reach back so far yet, as after the start or after a bag has begun again: waiting helps then.
    """
    back_s = requested_s or context.parameters().history_s
    image = context.queue.find_earlier(result.image, round(back_s * NS_PER_S))
    if image is None or image.info is None:
        raise RequestRefused(
            StatusCode.NO_IMAGE, "there is no earlier image yet: ask again when the camera has sent more."
        )
    least_ns = round((1.0 - TIME_TOLERANCE) * requested_s * NS_PER_S)
    if requested_s and not context.queue.reaches_back(result.image, least_ns):
        raise RequestRefused(
            StatusCode.NO_IMAGE,
            f"images reach back only {(result.image.stamp_ns - image.stamp_ns) / NS_PER_S:.2f} s, not "
            f"{requested_s:.2f} s: ask again when the camera has sent more, or for less (seconds_back).",
        )
    parameters = context.parameters()
    settings = parameters.rectified_input, parameters.image_bit_depth
    frame = rectified_frame(image.message, image.info, *settings, context.mask)
    found_s = (result.image.stamp_ns - image.stamp_ns) / NS_PER_S
    if abs(found_s - back_s) > TIME_TOLERANCE * back_s:
        return frame, f"the nearest earlier image is {found_s:.2f} s before the newest, not {back_s:.2f} s."
    return frame, age_remark(context, result)


def _given_frame(name: str, message: Image, info: CameraInfo, parameters: Parameters) -> Frame | None:
    """Returns an image of the request; None if it is empty. Raises BadQuestion that names the field."""
    if not (message.encoding or message.width or message.height or len(message.data)):
        return None
    if not is_same_camera(message, info):
        raise BadQuestion(
            f"{name}_info is of camera frame {info.header.frame_id!r}, but {name} of {message.header.frame_id!r}: give "
            "the calibration of the camera that took the image."
        )
    try:
        return rectified_frame(message, info, parameters.rectified_input, parameters.image_bit_depth)
    except BadInput as error:
        raise BadQuestion(f"{name}: {error}") from error


def _check_seconds_back(requested_s: float, history_s: float) -> None:
    """Raises BadQuestion if no image so far back is ever kept."""
    if history_s == 0:
        raise BadQuestion("parameter history_s is 0, so that no earlier image is kept: set it, or give `first`.")
    if not (math.isfinite(requested_s) and 0 <= requested_s <= history_s):
        raise BadQuestion(
            f"seconds_back is {requested_s:g}: give 0 (as far as images are kept) to {history_s:g}; the node's "
            "parameter history_s says how long they are kept."
        )
