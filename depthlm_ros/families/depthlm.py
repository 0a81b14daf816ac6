# SPDX-License-Identifier: Apache-2.0
"""DepthLM: depth at a pixel that a red arrow marks in the image itself (geometry/visual_prompt.py), and other tasks.

The other tasks (speed, time, ...) are questions in words. Their wording is that of a figure in the paper; the strings
of the training, and which released checkpoint knows these tasks, are unpublished. A reply states the distance first
and then, for speed and time, the quotient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from depthlm_ros.core import Region, Status
from depthlm_ros.errors import BadQuestion
from depthlm_ros.families.base import Family, Prompt, Reply, asks_depth, check_marked
from depthlm_ros.families.parsing import (
    Number,
    escape_control_tokens,
    find_numbers,
    last_number,
    only_number,
    parse_answer_m,
    quantity_in,
)
from depthlm_ros.families.vlm3 import POINT_REPLY_START  # Both were trained on the same reply.
from depthlm_ros.geometry.canonical_view import PICTURE

UNITS = ("m", "m/s", "s")


@dataclass(frozen=True)
class DepthLMTask:
    """One of the other tasks.

    question: its text. unit: of the answer. points: number of pixels to mark. images: number of images it is about.
    """

    question: str
    unit: str
    points: int
    images: int = 1

    def read(self, reply: str) -> Reply:
        """Reads the reply to this question.

        A number without unit is in the unit of the task. Without a number, or with one in another unit, the status is
        NOT_UNDERSTOOD.
        """
        parsed = read_task(reply)
        if not math.isfinite(parsed.value) or parsed.unit not in ("", self.unit):
            return Reply(parsed.text, Status.NOT_UNDERSTOOD)
        return replace(parsed, unit=self.unit)


def forward_distance() -> DepthLMTask:
    """Returns the task for the distance along the optical axis, which is the depth z."""
    return DepthLMTask("How far is this point from the camera in the forward backward direction?", "m", points=1)


def speed(seconds: float) -> DepthLMTask:
    """Returns the task for the speed at which the point is reached in this time."""
    number = _format_number(seconds, "seconds")
    return DepthLMTask(
        f"How many meters per second should we move in order to reach this point in exactly {number} seconds?",
        "m/s",
        points=1,
    )


def travel_time(speed_mps: float) -> DepthLMTask:
    """Returns the task for the time to the point at this speed."""
    number = _format_number(speed_mps, "metres per second")
    return DepthLMTask(
        f"How many seconds do we need to reach this point if we move towards it with the speed of {number}m/s?",
        "s",
        points=1,
    )


def two_point_distance() -> DepthLMTask:
    """Returns the task for the distance between two marked pixels."""
    return DepthLMTask("How far are these 2 points from each other?", "m", points=2)


def camera_motion() -> DepthLMTask:
    """Returns the task for the distance that the camera has moved from the first to the second image."""
    return DepthLMTask("How many meters has the camera moved between these 2 images?", "m", points=0, images=2)


def read_task(reply: str) -> Reply:
    """Reads the number in the answer tag of a reply, else its last number, with its unit: metres, m/s or s.

    A number in the tag has no unit there. It gets the unit of the same number before the tag, else "" (unknown). The
    value is NaN if there is no plain number.
    """
    text = reply.strip()
    if not text:
        return Reply(text, Status.NOT_UNDERSTOOD)
    number = _final_number(text)
    if number is None or not number.exact or not 0 <= number.value < math.inf or number.unit not in ("", *UNITS):
        return Reply(text)
    quantity = quantity_in(text) if number.unit == "m" else ""
    return Reply(text, Status.OK, number.value, number.unit, quantity=quantity)


def _final_number(text: str) -> Number | None:
    """Returns the number that a text concludes with, with its unit if that is written anywhere; None without one."""
    before, closed, _ = text.rpartition("</answer>")
    if not closed:
        thought = text.partition("<answer>")[0]
        with_unit = [number for number in find_numbers(thought) if number.unit in UNITS]
        return with_unit[-1] if with_unit else last_number(thought)
    thought, _, inside = before.rpartition("<answer>")
    number = only_number(inside)
    if number is None or number.unit:
        return number
    same = [other for other in find_numbers(thought) if other.unit in UNITS and other.value == number.value]
    return same[-1] if same else number


def _format_number(value: float, what: str) -> str:
    """Returns 4 as "4.0", as in the trained questions, with at most two decimals. Raises BadQuestion out of range."""
    if not 0.01 <= value <= 1000.0:
        raise BadQuestion(f"{value:g} {what}: ask for 0.01 to 1000.")
    return str(round(float(value), 2))


POINT_QUESTION = (
    "Given this image, how far is the point pointed by the red arrow from the camera? Output the thinking process in "
    "<think> </think> and final answer (the meter number only, without the unit) in <answer> </answer> tags."
)
# The released code allows 4096; replies in the trained form take about 30.
REPLY_TOKENS = 256


class DepthLM(Family):
    """facebook/DepthLM and the checkpoints of 3B and 7B.

    Whether its metres are along the ray or the axis differs between the data sets of its training; the model's spec
    says which is assumed.
    """

    name = "depthlm"
    abilities = frozenset({"points", "questions", "pairs"})
    pixels_of = PICTURE

    def point_prompt(self, u_px: float, v_px: float, size_px: tuple[int, int]) -> Prompt:
        """Returns the same question for every pixel, marked by an arrow. Only the number is decoded."""
        mark = ((u_px, v_px),)
        return Prompt(POINT_QUESTION, POINT_REPLY_START, True, 8, markers_px=mark, complete_tokens=REPLY_TOKENS)

    def read_point(self, reply: str) -> float:
        """Returns metres from a reply with or without POINT_REPLY_START: the answer tag's number, else the last one."""
        return parse_answer_m(reply)

    def question_prompt(
        self, question: str, uv_px: np.ndarray, regions: Sequence[Region], size_px: tuple[int, int]
    ) -> Prompt:
        """Returns the question with an arrow at every pixel.

        A question for the depth of one pixel becomes the one that the model was trained on; all others stay unchanged.
        Raises BadQuestion for regions, and for a question about a point that is not marked.
        """
        if regions:
            raise BadQuestion(
                f"a model of family {self.name} is shown pixels, not regions: give a pixel of the object, or use "
                "vlm3-object."
            )
        check_marked(question, len(uv_px))
        marks = tuple((float(u), float(v)) for u, v in uv_px)
        is_trained = len(marks) == 1 and asks_depth(question)
        text = POINT_QUESTION if is_trained else escape_control_tokens(question).strip()
        return Prompt(text, max_new_tokens=REPLY_TOKENS, markers_px=marks)

    def read_reply(self, reply: str, size_px: tuple[int, int]) -> Reply:
        return read_task(reply)
