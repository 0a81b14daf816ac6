"""The embedded model: VLM3's questions about points and pairs, and its own questions about objects and regions.

Marked pixels follow the question as (x, y) in [0, 2000], regions as (x1, y1, x2, y2) in [0, 1000]. Boxes in replies are
(x1, y1, x2, y2) in [0, 1000]. These are the scales of VLM3 and of Qwen3-VL's grounding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from depthlm_ros.core import Region, RelativePose, Status
from depthlm_ros.families import vlm3
from depthlm_ros.families.base import Family, Prompt, Reply, normalise_coordinate
from depthlm_ros.families.parsing import BOX, escape_control_tokens, find_boxes, format_box
from depthlm_ros.families.vlm3 import Vlm3Corr, Vlm3Pose

# Longest reply about a match or a part of a pose.
REPLY_TOKENS = 48
NOT_UNDERSTOOD = "I do not understand the question."

# Matches every reply with a number, without its boxes. "The a is closer: 2.31 meters." gives the distance of the nearer
# object.
_MEASURE = re.compile(
    r"(?:Yes, the|The) [a-z ]+ (?:is|is closer:|are) ([0-9]{1,3}\.[0-9]{2}) meters(?: (away|wide|tall|apart))?\."
)
_QUANTITIES = {"away": "distance", "wide": "width", "tall": "height", "apart": "gap"}


class Tiny(Family):
    """The family of the embedded model."""

    name = "tiny"
    _corr, _pose = Vlm3Corr(), Vlm3Pose()
    abilities = frozenset({"points", "questions", "match", "pose"})

    def point_prompt(self, u_px: float, v_px: float, size_px: tuple[int, int]) -> Prompt:
        return vlm3.point_prompt(u_px, v_px, size_px)

    def read_point(self, reply: str) -> float:
        return vlm3.read_point(reply)

    def match_prompt(self, u_px: float, v_px: float, size_px: tuple[int, int]) -> Prompt:
        """Returns VLM3's question; the reply is only the pixel."""
        return replace(self._corr.match_prompt(u_px, v_px, size_px), max_new_tokens=REPLY_TOKENS)

    def read_match(self, reply: str, size_px: tuple[int, int]) -> tuple[float, float]:
        return self._corr.read_match(reply, size_px)

    def pose_prompts(self) -> dict[str, Prompt]:
        """Returns VLM3's questions; the replies are short."""
        prompts = self._pose.pose_prompts().items()
        return {name: replace(prompt, max_new_tokens=REPLY_TOKENS) for name, prompt in prompts}

    def read_pose(self, replies: Mapping[str, str]) -> RelativePose:
        return self._pose.read_pose(replies)

    def question_prompt(
        self, question: str, uv_px: np.ndarray, regions: Sequence[Region], size_px: tuple[int, int]
    ) -> Prompt:
        """Returns the question, followed by its pixels and regions."""
        marks = [point_mark(u, v, size_px) for u, v in uv_px]
        marks += [f"region {format_box(region, size_px)}" for region in regions]
        return Prompt(" ".join([escape_control_tokens(question).strip(), *marks]))

    def read_reply(self, reply: str, size_px: tuple[int, int]) -> Reply:
        """Reads the number before "meters", and the boxes whose corners are in order.

        A reply in other words than those of the training is not a measurement: its status is NOT_UNDERSTOOD.
        """
        text = reply.strip()
        if text == NOT_UNDERSTOOD:
            return Reply(text, Status.NOT_UNDERSTOOD)
        if text.startswith("There is no "):
            return Reply(text, Status.NOT_FOUND)
        plain = BOX.sub("", text).replace("  ", " ").replace(" at is", " is").replace(" at ", " ")
        measured = _MEASURE.fullmatch(plain)
        if measured is None:
            return Reply(text, Status.NOT_UNDERSTOOD)
        quantity = "distance" if " closer: " in plain else _QUANTITIES.get(measured[2], "")
        return Reply(plain, Status.OK, float(measured[1]), "m", find_boxes(text, size_px), quantity)


def point_mark(u_px: float, v_px: float, size_px: tuple[int, int]) -> str:
    """Returns a pixel in the form in which it follows a question."""
    scale = vlm3.COORDINATE_SCALE
    return f"({normalise_coordinate(u_px, size_px[0], scale)}, {normalise_coordinate(v_px, size_px[1], scale)})"
