# SPDX-License-Identifier: Apache-2.0
"""Base Qwen3-VL and Qwen2.5-VL, and DepthVLM, whose words are Qwen3-VL's: free questions, and boxes of objects.

Both write boxes as JSON, {"bbox_2d": [x1, y1, x2, y2], "label": ...}: Qwen3-VL in 0 to 1000 of the image's own size,
Qwen2.5-VL in pixels of the image that it sees (QwenLM/Qwen3-VL, README and issues 676 and 1427). The wording of the
prompts is this project's own; only "bbox coordinates in JSON format" and the names of the keys are from Qwen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

import numpy as np

from depthlm_ros.core import Region, Status
from depthlm_ros.families import vlm3
from depthlm_ros.families.base import Family, Prompt, Reply, check_marked
from depthlm_ros.families.parsing import (
    BOX_SCALE,
    escape_control_tokens,
    only_number,
    positive_metres,
    quantity_in,
    region_from_corners,
    stated_value,
    strip_thinking,
)

FIND_QUESTION = (
    "Which things in this image is the question below about? Locate each of them, in the order in which the question "
    "names them, and report bbox coordinates in JSON format, as a list of "
    '{{"bbox_2d": [x1, y1, x2, y2], "label": "name"}}. Leave out what is not in the image; if nothing is, report [].\n'
    "Question: {question}"
)
REPLY_TOKENS = 512
LABEL_CHARS = 60
# A coordinate that is at most this share of the extent outside is moved to the edge; a box further outside is invalid.
OUTSIDE_SHARE = 0.02

# Matches JSON objects without nested ones; an object that is cut off by the end of the reply does not match.
_OBJECT = re.compile(r"\{[^{}]*\}")
# Matches a reply that only says, in one plain sentence, that an object is not in the image.
_NO_THING = "information|indication|reference|scale|evidence|data|way|depth|distance|doubt|question|need|reason"
_ABSENT = re.compile(
    rf"(?:No, )?there (?:is|are) no (?!(?:\w+ )?(?:{_NO_THING}))(?:[\w'-]+ ){{1,8}}in (?:the|this) "
    r"(?:image|picture|photo|scene)\.?",
    re.IGNORECASE,
)


class Qwen3VL(Family):
    """Base Qwen3-VL. It was not trained on VLM3's replies, so its replies about points have no fixed form."""

    name = "qwen3-vl"
    abilities = frozenset({"points", "questions", "boxes", "pairs"})

    def extent(self, size_px: tuple[int, int]) -> tuple[int, int]:
        """Returns the coordinates of the right and bottom edge of an image (width, height) in the model's notation."""
        return BOX_SCALE, BOX_SCALE

    def point_prompt(self, u_px: float, v_px: float, size_px: tuple[int, int]) -> Prompt:
        """Returns VLM3's question, which explains its own coordinates."""
        return Prompt(
            vlm3.point_question(u_px, v_px, size_px, self.most_coordinate), max_new_tokens=vlm3.POINT_REPLY_TOKENS
        )

    def read_point(self, reply: str) -> float:
        """Reads the number in the answer tag; without a tag the only length, or the number that is the whole reply.

        It does not read the last number: if a model repeats the question, that would be a coordinate.
        """
        before, closed, _ = reply.rpartition("</answer>")
        if closed:
            return positive_metres(only_number(before.rpartition("<answer>")[2]))
        text = reply.partition("<answer>")[0]
        length_m, _ = stated_value(text, ("m",))
        return length_m if length_m > 0 else positive_metres(only_number(text))

    def question_prompt(
        self, question: str, uv_px: np.ndarray, regions: Sequence[Region], size_px: tuple[int, int]
    ) -> Prompt:
        """Returns the question, followed by its pixels and regions in the model's own notation.

        Raises BadQuestion for a question about a point that is not marked.
        """
        marks = [json.dumps({"point_2d": self._scaled((u, v), size_px)}) for u, v in uv_px]
        marks += [self._region(region, size_px) for region in regions]
        check_marked(question, len(marks))
        about = [f"This is about {', '.join(marks)}."] if marks else []
        return Prompt(" ".join([escape_control_tokens(question).strip(), *about]), max_new_tokens=REPLY_TOKENS)

    def read_reply(self, reply: str, size_px: tuple[int, int]) -> Reply:
        """Reads a value only if the reply states exactly one length, in metres.

        The status is NOT_FOUND only if the reply says nothing except that something is not in the image.
        """
        text = strip_thinking(reply)
        if not text:
            return Reply(reply.strip(), Status.NOT_UNDERSTOOD)
        if _ABSENT.fullmatch(text):
            return Reply(text, Status.NOT_FOUND)
        value, unit = stated_value(text, ("m",))
        return Reply(text, Status.OK, value, unit, self.read_boxes(text, size_px), quantity_in(text) if unit else "")

    def find_prompt(self, question: str) -> Prompt:
        return Prompt(
            FIND_QUESTION.format(question=escape_control_tokens(question).strip()), max_new_tokens=REPLY_TOKENS
        )

    def read_boxes(self, reply: str, size_px: tuple[int, int]) -> tuple[Region, ...]:
        """Returns every complete box of the reply, with or without a ```json fence, each once, in order.

        Corners in the wrong order are exchanged; boxes that are empty or far outside are left out.
        """
        regions = (self._box(*item, size_px) for item in _labelled_boxes(strip_thinking(reply)))
        return tuple(dict.fromkeys(region for region in regions if region is not None))

    def _box(self, corners: list[float], label: str, size_px: tuple[int, int]) -> Region | None:
        """Returns the region with these corners in the model's notation; None if it is invalid."""
        wide, high = self.extent(size_px)
        if not all(
            -OUTSIDE_SHARE * limit <= value <= (1 + OUTSIDE_SHARE) * limit
            for value, limit in zip(corners, (wide, high, wide, high), strict=True)
        ):
            return None
        x1, x2 = sorted(min(max(value, 0), wide) for value in corners[::2])
        y1, y2 = sorted(min(max(value, 0), high) for value in corners[1::2])
        return region_from_corners((x1, y1, x2, y2), (wide, high), size_px, label)

    def _scaled(self, uv: Sequence[float], size_px: tuple[int, int]) -> list[int]:
        """Returns u, v, u, v, ... as whole coordinates in the model's notation."""
        limits = list(zip(self.extent(size_px), size_px, strict=True)) * (len(uv) // 2)
        return [
            min(max(round(float(value) / size * limit), 0), limit)
            for value, (limit, size) in zip(uv, limits, strict=True)
        ]

    def _region(self, region: Region, size_px: tuple[int, int]) -> str:
        """Returns a region as JSON in the model's notation."""
        corners = (region.x_px, region.y_px, region.x_px + region.width_px, region.y_px + region.height_px)
        box: dict[str, object] = {"bbox_2d": self._scaled(corners, size_px)}
        label = escape_control_tokens(region.label).strip()
        return json.dumps({**box, "label": label} if label else box, ensure_ascii=False)


class Qwen25VL(Qwen3VL):
    """Base Qwen2.5-VL: coordinates are pixels of the image that it sees."""

    name = "qwen2.5-vl"

    def extent(self, size_px: tuple[int, int]) -> tuple[int, int]:
        return size_px


class DepthVLM(Qwen3VL):
    """DepthVLM: its depth is a map, not words; its words are Qwen3-VL's.

    A model that was trained on one data set only repeats its fixed reply to any question (issue 10 of its repository).
    That reply counts as not understood.
    """

    name = "depthvlm"
    DEPTH_QUESTION = (
        "Given this image, estimate the metric depth (in meters, rounded to two decimal places) for every pixel of the "
        "image."
    )
    DEPTH_REPLY = "OK, I will estimate the depth map of this image."

    def read_reply(self, reply: str, size_px: tuple[int, int]) -> Reply:
        if reply.strip() == self.DEPTH_REPLY:
            return Reply(reply.strip(), Status.NOT_UNDERSTOOD)
        return super().read_reply(reply, size_px)


def _labelled_boxes(text: str) -> Iterator[tuple[list[float], str]]:
    """Yields the four numbers and the label of each JSON object with a "bbox_2d"."""
    for match in _OBJECT.finditer(text):
        try:
            fields = json.loads(match[0])
        except ValueError:
            continue
        corners, label = fields.get("bbox_2d"), fields.get("label", "")
        if isinstance(corners, list) and len(corners) == 4 and all(type(value) in (int, float) for value in corners):
            yield corners, " ".join(str(label).split())[:LABEL_CHARS]
