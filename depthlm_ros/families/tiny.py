"""The embedded model: VLM3's point question, and its own questions about objects, marked points and regions.

Marked pixels follow the question as (x, y) in [0, 2000]; regions as (x1, y1, x2, y2) in [0, 1000]; boxes in replies
are (x1, y1, x2, y2) in [0, 1000], the scales of VLM3 and of Qwen3-VL's grounding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from depthlm_ros.core import Region, RelativePose, Status
from depthlm_ros.families import vlm3
from depthlm_ros.families.base import Family, Prompt, Reply, normalised
from depthlm_ros.families.parsing import BOX, box_text, boxes_in, without_control
from depthlm_ros.families.vlm3 import Vlm3Corr, Vlm3Pose

# Of a match or a part of a pose.
REPLY_TOKENS = 48
NOT_UNDERSTOOD = "I do not understand the question."

# Every reply with a number, its boxes taken out. "The a is closer: 2.31 meters." is the distance of the nearer.
_MEASURE = re.compile(
    r"(?:Yes, the|The) [a-z ]+ (?:is|is closer:|are) ([0-9]{1,3}\.[0-9]{2}) meters(?: (away|wide|tall|apart))?\."
)
_QUANTITIES = {"away": "distance", "wide": "width", "tall": "height", "apart": "gap"}


class Tiny(Family):
    """Family of the embedded model."""

    name = "tiny"
    _corr, _pose = Vlm3Corr(), Vlm3Pose()
    abilities = frozenset({"points", "questions", "match", "pose"})

    def point_prompt(self, u_px: float, v_px: float, size_px: tuple[int, int]) -> Prompt:
        return vlm3.point_prompt(u_px, v_px, size_px)

    def read_point(self, reply: str) -> float:
        return vlm3.read_point(reply)

    def match_prompt(self, u_px: float, v_px: float, size_px: tuple[int, int]) -> Prompt:
        """VLM3's question; the reply is the pixel and nothing else."""
        return replace(self._corr.match_prompt(u_px, v_px, size_px), max_new_tokens=REPLY_TOKENS)

    def read_match(self, reply: str, size_px: tuple[int, int]) -> tuple[float, float]:
        return self._corr.read_match(reply, size_px)

    def pose_prompts(self) -> dict[str, Prompt]:
        """VLM3's questions."""
        prompts = self._pose.pose_prompts().items()
        return {name: replace(prompt, max_new_tokens=REPLY_TOKENS) for name, prompt in prompts}

    def read_pose(self, replies: Mapping[str, str]) -> RelativePose:
        return self._pose.read_pose(replies)

    def question_prompt(
        self, question: str, uv_px: np.ndarray, regions: Sequence[Region], size_px: tuple[int, int]
    ) -> Prompt:
        marks = [point_mark(u, v, size_px) for u, v in uv_px]
        marks += [f"region {box_text(region, size_px)}" for region in regions]
        return Prompt(" ".join([without_control(question).strip(), *marks]))

    def read_reply(self, reply: str, size_px: tuple[int, int]) -> Reply:
        """The value is the number before "meters"; a box is taken only if its corners are in order.

        A reply that is not in the words the model was taught is no measurement: NOT_UNDERSTOOD.
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
        return Reply(plain, Status.OK, float(measured[1]), "m", boxes_in(text, size_px), quantity)


def point_mark(u_px: float, v_px: float, size_px: tuple[int, int]) -> str:
    """A marked pixel as it follows a question."""
    scale = vlm3.COORDINATE_SCALE
    return f"({normalised(u_px, size_px[0], scale)}, {normalised(v_px, size_px[1], scale)})"
