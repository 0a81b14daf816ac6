"""The node's services. They live as long as the node, and say so while it is not active.

The services about one image: a question in words, and the depth at pixels.

The services about two images: where pixels of the one are in the other, and how the camera moved between them.

Either image comes with the request or from the camera: the second is the newest look, the first an earlier image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile

from depthlm_ros.core import Answer, Frame, PointDepths, Question
from depthlm_ros.errors import BadInput, BadQuestion
from depthlm_ros.geometry.pinhole import backproject
from depthlm_ros.ros.camera_info_sync import NS_PER_S, same_camera
from depthlm_ros.ros.frame_processing import Seen, frame_of
from depthlm_ros.ros.message_out import (
    fill_answer,
    fill_matches,
    fill_pose,
    measurement_message,
    pixels_from,
    points_from,
    regions_from,
)
from depthlm_ros.ros.parameters import Parameters
from depthlm_ros.ros.service_request import Codes, Refused, Site, age_remark, ask, check_count, finish, refuse
from depthlm_ros.srv import MatchPixels, QueryDepth, RelativePose, SpatialQuery
from depthlm_ros.view import PairView, check_question

# Reading a pixel off the map is cheap; asking the model for one is a question of its own.
MOST_PIXELS_READ = 100_000
MOST_PIXELS_TOLD = 1024
# Far more than a model reads; they are refused before they are written into a prompt, which takes the worker's time.
MOST_MARKS = 256


def answer_spatial(site: Site, request: SpatialQuery.Request, response: SpatialQuery.Response) -> Any:
    """Fill the response to a question in words."""

    def fill() -> None:
        check_question(request.question)
        marks = len(request.pixels) + len(request.regions)
        if marks > MOST_MARKS:
            raise BadQuestion(f"{marks} pixels and regions are marked: one question is about at most {MOST_MARKS}.")
        question = Question(request.question, pixels_from(request.pixels), regions_from(request.regions))

        def work(seen: Seen) -> tuple[Seen, Answer]:
            return seen, seen.view.ask_all([question])[0]

        seen, answer = ask(site, request, work, question)
        # All points at once: they are moved by one transform.
        sets_m = [answer.points_m, *(measurement.points_m for measurement in answer.measurements)]
        ends = np.cumsum([len(points_m) for points_m in sets_m])[:-1]
        response.header, moved_m = site.transforms.into(seen.header, np.concatenate(sets_m), request.target_frame)
        points_m, *measured_m = np.split(moved_m, ends)
        response.points = points_from(points_m)
        response.measurements = [
            measurement_message(measurement, at_m)
            for measurement, at_m in zip(answer.measurements, measured_m, strict=True)
        ]
        fill_answer(response, answer, seen.camera)
        response.message = response.message or age_remark(site, seen)

    return finish(site, response, fill)


def answer_depth(site: Site, request: QueryDepth.Request, response: QueryDepth.Response) -> Any:
    """Fill the response to a question for the depth at pixels."""
    told = site.current().mode == "sparse" or not site.model.spec.head

    def fill() -> None:
        check_count(len(request.pixels), MOST_PIXELS_TOLD if told else MOST_PIXELS_READ)
        uv_px = pixels_from(request.pixels)

        def work(seen: Seen) -> tuple[Seen, PointDepths]:
            return seen, (seen.view.tell_depth_at if told else seen.view.depth_at)(uv_px)

        seen, depths = ask(site, request, work)
        response.header = seen.header
        response.depth = depths.depth_m.tolist()
        response.std = depths.std_m.tolist()
        response.points = points_from(backproject(uv_px, depths.depth_m, seen.camera))
        response.status, response.success = int(Codes.OK), True
        response.message = age_remark(site, seen)

    return finish(site, response, fill)


MOST_PIXELS_MATCHED = 256
# An earlier image that is off by more than this share of the time asked for is told.
TIME_TOLERANCE = 0.25

Read = TypeVar("Read")


@dataclass(frozen=True)
class Shown:
    """An image and the header that came with it."""

    frame: Frame
    header: Any


@dataclass(frozen=True)
class Both:
    """The two images that an answer is about. remark: what is to be known of them, "" for nothing."""

    first: Shown
    second: Shown
    remark: str = ""


def answer_match(site: Site, request: MatchPixels.Request, response: MatchPixels.Response) -> Any:
    """Fill the response to a question where pixels of one image are in another."""

    def fill() -> None:
        site.model.family.match_prompt(0.0, 0.0, (1, 1))  # a model that cannot is not worth a wait for images
        check_count(len(request.pixels), MOST_PIXELS_MATCHED)
        uv_px = pixels_from(request.pixels)
        both, matches = _ask_about_both(site, request, lambda pair: pair.match(uv_px))
        response.first_header, response.second_header = both.first.header, both.second.header
        fill_matches(response, matches)
        response.message = response.message or both.remark

    return finish(site, response, fill)


def answer_pose(site: Site, request: RelativePose.Request, response: RelativePose.Response) -> Any:
    """Fill the response to a question for the pose of one camera in another's frame."""

    def fill() -> None:
        site.model.family.pose_prompts()
        both, pose = _ask_about_both(site, request, PairView.pose)
        response.first_header, response.second_header = both.first.header, both.second.header
        parent, child = both.first.header.frame_id, both.second.header.frame_id
        fill_pose(response, pose, child_frame(parent, child, request.child_frame_id))
        response.message = response.message or both.remark

    return finish(site, response, fill)


def child_frame(parent: str, child: str, wanted: str) -> str:
    """What the second camera's frame is called: as wanted, else as its image says, but never as the first's."""
    if wanted and wanted == parent:
        raise BadQuestion(f"child_frame_id is {wanted!r}, which is the first image's own frame: give another name.")
    return wanted or (child if child != parent else f"{parent}_second")


def _ask_about_both(site: Site, request: Any, read: Callable[[PairView], Read]) -> tuple[Both, Read]:
    parameters = site.current()
    first = _given("first", request.first, request.first_info, parameters)
    second = _given("second", request.second, request.second_info, parameters)
    if second and not first:
        raise BadQuestion("`second` is given without `first`: give both images, `first` alone, or none.")
    back_s = 0.0 if first else _back_s(request.seconds_back, parameters)

    def work(seen: Seen | None) -> tuple[Both, Read]:
        both = Both(first, second) if first and second else _with_camera(site, first, seen, back_s)
        return both, read(site.model.look_pair(both.first.frame, both.second.frame))

    return ask(site, request, work, needs_look=second is None)


def _with_camera(site: Site, first: Shown | None, seen: Seen | None, back_s: float) -> Both:
    """The newest look, against the given image or an earlier one of the camera."""
    assert seen is not None, "such a ticket waits for a look"
    second, remark = Shown(seen.view.frame, seen.header), age_remark(site, seen)
    if first:
        return Both(first, second, remark)
    pair = site.inbox.before(seen.image, round(back_s * NS_PER_S))
    if pair is None:
        raise Refused(Codes.NO_IMAGE, "there is no earlier image yet: ask again when the camera has sent more.")
    earlier = frame_of(pair.image.message, pair.info, site.current().rectified_input)
    found_s = (seen.image.stamp_ns - pair.image.stamp_ns) / NS_PER_S
    if abs(found_s - back_s) > TIME_TOLERANCE * back_s:
        remark = f"the nearest earlier image is {found_s:.2f} s before the newest, not {back_s:.2f} s."
    return Both(Shown(earlier, pair.image.message.header), second, remark)


def _given(name: str, message: Any, info: Any, parameters: Parameters) -> Shown | None:
    """An image of the request; None if it is empty. Raises BadQuestion naming the field."""
    if not (message.encoding or message.width or message.height or len(message.data)):
        return None
    if not same_camera(message, info):
        raise BadQuestion(
            f"{name}_info is of camera frame {info.header.frame_id!r}, but {name} of {message.header.frame_id!r}: give "
            "the calibration of the camera that took the image."
        )
    try:
        return Shown(frame_of(message, info, parameters.rectified_input), message.header)
    except BadInput as error:
        raise BadQuestion(f"{name}: {error}") from error


def _back_s(asked_s: float, parameters: Parameters) -> float:
    most_s = parameters.history_s
    if most_s == 0:
        raise BadQuestion("parameter history_s is 0, so that no earlier image is kept: set it, or give `first`.")
    if not (math.isfinite(asked_s) and 0 <= asked_s <= most_s):
        raise BadQuestion(
            f"seconds_back is {asked_s:g}: give 0 (as far as images are kept) to {most_s:g}; the node's parameter "
            "history_s says how long they are kept."
        )
    return float(asked_s) or most_s


# A request that does not fit into the queue is never answered, not even BUSY: keep many.
REQUESTS_KEPT = 100


def serve(node: Node, site: Callable[[], Site | None]) -> None:
    """Offer the services. site: None while the node is not active."""
    one, two = ReentrantCallbackGroup(), ReentrantCallbackGroup()
    for kind, name, answer, group in (
        (SpatialQuery, "spatial_query", answer_spatial, one),
        (QueryDepth, "query_depth", answer_depth, one),
        (MatchPixels, "match_pixels", answer_match, two),
        (RelativePose, "relative_pose", answer_pose, two),
    ):
        callback = partial(_answer, node, site, answer)
        node.create_service(kind, name, callback, qos_profile=QoSProfile(depth=REQUESTS_KEPT), callback_group=group)


def _answer(node: Node, site: Callable[[], Site | None], answer: Callable, request: Any, response: Any) -> Any:
    active = site()
    if active:
        return answer(active, request, response)
    name = node.get_fully_qualified_name()
    # With autostart it is so for a moment only.
    wait_or = f"wait if it has just been started, else `ros2 lifecycle set {name} activate`"
    return refuse(response, f"the node is not active: {wait_or}.")
