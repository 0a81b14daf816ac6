"""The services about two images: where pixels of the one are in the other, and how the camera moved between them.

Either image comes with the request or from the camera: the second is the newest look, the first an earlier image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from depthlm_ros.core import Frame
from depthlm_ros.errors import BadInput, BadQuestion
from depthlm_ros.ros.asking import Codes, Refused, Site, age_remark, ask, check_count, finish
from depthlm_ros.ros.messages import pixels_from
from depthlm_ros.ros.pairing import NS_PER_S, same_camera
from depthlm_ros.ros.parameters import Parameters
from depthlm_ros.ros.pipeline import Seen, frame_of
from depthlm_ros.ros.responses import fill_matches, fill_pose
from depthlm_ros.srv import MatchPixels, RelativePose
from depthlm_ros.view import PairView

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
