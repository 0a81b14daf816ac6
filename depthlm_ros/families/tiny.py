"""The embedded model: VLM3's point question, and its own questions about objects, marked points and regions.

Marked pixels follow the question as (x, y) in [0, 2000]; regions as (x1, y1, x2, y2) in [0, 1000]; boxes in replies
are (x1, y1, x2, y2) in [0, 1000], the scales of VLM3 and of Qwen3-VL's grounding.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from depthlm_ros.core import Region, Status
from depthlm_ros.families import vlm3
from depthlm_ros.families.base import Prompt, Reply, normalised

BOX_SCALE = 1000
NOT_UNDERSTOOD = "I do not understand the question."

_BOX = re.compile(r"\((\d{1,4}), (\d{1,4}), (\d{1,4}), (\d{1,4})\)")
# Every reply with a number, its boxes taken out.
_MEASURE = re.compile(
    r"(?:Yes, the|The) [a-z ]+ (?:is|is closer:|are) (\d{1,3}\.\d\d) meters(?: away| wide| tall| apart)?\."
)


class Tiny:
    """Family of the embedded model."""

    name = "tiny"
    before = "<|im_start|>user\n<|vision_start|>"
    after = "<|vision_end|>"
    header = "<|im_end|>\n<|im_start|>assistant\n"
    end = "<|im_end|>"

    point_prompt = staticmethod(vlm3.point_prompt)
    read_point = staticmethod(vlm3.read_point)

    def question_prompt(
        self, question: str, uv_px: np.ndarray, regions: Sequence[Region], size_px: tuple[int, int]
    ) -> Prompt:
        marks = [point_mark(u, v, size_px) for u, v in uv_px]
        marks += [f"region {box_mark(region, size_px)}" for region in regions]
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
        plain = _BOX.sub("", text).replace("  ", " ").replace(" at is", " is").replace(" at ", " ")
        measured = _MEASURE.fullmatch(plain)
        if measured is None:
            return Reply(text, Status.NOT_UNDERSTOOD)
        boxes = (read_box(match, size_px) for match in _BOX.finditer(text))
        value, is_distance = float(measured.group(1)), " away." in plain or " closer: " in plain
        return Reply(plain, Status.OK, value, "m", tuple(box for box in boxes if box is not None), is_distance)


def without_control(question: str) -> str:
    """The question with "<|" taken apart, so that a user's text never becomes one of the model's control tokens."""
    return question.replace("<|", "< |")


def point_mark(u_px: float, v_px: float, size_px: tuple[int, int]) -> str:
    """A marked pixel as it follows a question."""
    scale = vlm3.COORDINATE_SCALE
    return f"({normalised(u_px, size_px[0], scale)}, {normalised(v_px, size_px[1], scale)})"


def box_mark(region: Region, size_px: tuple[int, int]) -> str:
    """A region as it stands in questions and replies."""
    right, bottom = region.x_px + region.width_px, region.y_px + region.height_px
    corners = ((region.x_px, 0), (region.y_px, 1), (right, 0), (bottom, 1))
    return "(" + ", ".join(str(normalised(value, size_px[axis], BOX_SCALE)) for value, axis in corners) + ")"


def read_box(match: re.Match[str], size_px: tuple[int, int]) -> Region | None:
    """A Region in pixels from a matched (x1, y1, x2, y2); None if it lies outside or is empty."""
    x1, y1, x2, y2 = (int(group) / BOX_SCALE for group in match.groups())
    if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
        return None
    width, height = size_px
    return Region(x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height)
