"""DepthLM: depth at a pixel that a red arrow marks in the image itself.

Its other tasks (speed, time, ...) are questions too: see depthlm_tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from depthlm_ros.core import Region
from depthlm_ros.errors import BadQuestion
from depthlm_ros.families.base import Family, Prompt, Reply
from depthlm_ros.families.depthlm_tasks import read_task
from depthlm_ros.families.numbers import answered_metres
from depthlm_ros.families.text import without_control
from depthlm_ros.families.vlm3 import POINT_REPLY_START  # both were trained on the same reply

POINT_QUESTION = (
    "Given this image, how far is the point pointed by the red arrow from the camera? Output the thinking process in "
    "<think> </think> and final answer (the meter number only, without the unit) in <answer> </answer> tags."
)
# The released code allows 4096; replies in the trained form take about 30.
REPLY_TOKENS = 256


class DepthLM(Family):
    """facebook/DepthLM and the checkpoints of 3B and 7B. What its metres mean (along the ray or the axis) differs by
    the data set it learned from; the model's spec says which is taken."""

    name = "depthlm"
    abilities = frozenset({"points", "questions", "pairs"})

    def point_prompt(self, u_px: float, v_px: float, size_px: tuple[int, int]) -> Prompt:
        """The question is the same for every pixel: the arrow tells them apart. Only the number is decoded."""
        return Prompt(POINT_QUESTION, POINT_REPLY_START, number_only=True, max_new_tokens=8, marks_px=((u_px, v_px),))

    def read_point(self, reply: str) -> float:
        """Metres from a whole reply or what follows POINT_REPLY_START: the answer tag's number, else the last one."""
        return answered_metres(reply)

    def question_prompt(
        self, question: str, uv_px: np.ndarray, regions: Sequence[Region], size_px: tuple[int, int]
    ) -> Prompt:
        """The question as it is, with an arrow at every pixel. Raises BadQuestion for regions."""
        if regions:
            raise BadQuestion(
                f"a model of family {self.name} is shown pixels, not regions: give a pixel of the thing, or use "
                "vlm3-object."
            )
        marks = tuple((float(u), float(v)) for u, v in uv_px)
        return Prompt(without_control(question).strip(), max_new_tokens=REPLY_TOKENS, marks_px=marks)

    def read_reply(self, reply: str, size_px: tuple[int, int]) -> Reply:
        return read_task(reply)
