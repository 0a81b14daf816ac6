# SPDX-License-Identifier: Apache-2.0
"""What the service spatial_query and the action ask_spatial share: the question of a request, and the filled response.

Their request and goal have the same fields, and so have their response and result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from geometry_msgs.msg import Point
from sensor_msgs.msg import RegionOfInterest

from depthlm_ros.core import Answer, Question
from depthlm_ros.errors import BadQuestion
from depthlm_ros.ros.answer_messages import ShownAnswer
from depthlm_ros.ros.frame_processing import FrameResult
from depthlm_ros.ros.message_out import SpatialResponse, fill_answer, pixels_from, regions_from
from depthlm_ros.ros.service_request import ServiceContext, add_scale_remark, age_remark
from depthlm_ros.view import check_question

# Far more than a model reads. More are refused before they are written into a prompt.
MAX_MARKS = 256


class SpatialRequest(Protocol):
    """The fields of a question in words."""

    question: str
    pixels: Sequence[Point]
    regions: Sequence[RegionOfInterest]
    target_frame: str
    fresh: bool
    timeout_s: float


def question_from(
    context: ServiceContext, request: SpatialRequest, on_words: Callable[[str], None] | None = None
) -> Question:
    """Returns the question of a request, and listens to tf if it names a frame. on_words: see Question.

    Raises BadQuestion.
    """
    check_question(request.question)
    marks = len(request.pixels) + len(request.regions)
    if marks > MAX_MARKS:
        raise BadQuestion(f"{marks} pixels and regions are marked: one question is about at most {MAX_MARKS}.")
    if request.target_frame:
        context.transforms.listen()
    return Question(request.question, pixels_from(request.pixels), regions_from(request.regions), on_words)


def fill_response(
    context: ServiceContext,
    request: SpatialRequest,
    response: SpatialResponse,
    question: Question,
    found: tuple[FrameResult, Answer],
) -> None:
    """Fills in the answer from a frame result, in the frame that the request names, and publishes it.

    Raises BadQuestion if there is no transform into that frame.
    """
    result, answer = found
    # All points at once: one transform moves them.
    sets_m = [answer.points_m, *(measurement.points_m for measurement in answer.measurements)]
    response.header, points_m = result.image.message.header, np.concatenate(sets_m)
    if request.target_frame:
        response.header, points_m = context.transforms.move_points(response.header, points_m, request.target_frame)
    moved_m = np.split(points_m, np.cumsum([len(set_m) for set_m in sets_m])[:-1])
    fill_answer(response, answer, moved_m, result.view.frame.intrinsics)
    response.message = response.message or age_remark(context, result)
    response.message = add_scale_remark(response.message, result.view.frame.depth_scale)
    camera_header, frame = result.image.message.header, result.view.frame
    context.publish_answer(ShownAnswer(question, answer, frame, camera_header, response.header, tuple(moved_m[1:])))
