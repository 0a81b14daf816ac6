"""Qwen3-VL and Qwen2.5-VL as they come, and DepthVLM, whose words are Qwen3-VL's: free questions, and boxes of things.

Both write boxes as JSON, {"bbox_2d": [x1, y1, x2, y2], "label": ...}: Qwen3-VL in 0 to 1000 of the image's own size,
Qwen2.5-VL in pixels of the image that it sees (QwenLM/Qwen3-VL, README and issues 676 and 1427). The sentences are this
project's; only "bbox coordinates in JSON format" and the names of the keys are theirs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from depthlm_ros.core import Region, Status
from depthlm_ros.families import vlm3
from depthlm_ros.families.base import Family, Prompt, Reply
from depthlm_ros.families.parsing import (
    BOX_SCALE,
    alone,
    positive_metres,
    quantity_of,
    region_of,
    stated,
    without_control,
    without_thinking,
)

FIND_QUESTION = (
    "Which things in this image is the question below about? Locate each of them, in the order in which the question "
    "names them, and report bbox coordinates in JSON format, as a list of "
    '{{"bbox_2d": [x1, y1, x2, y2], "label": "name"}}. Leave out what is not in the image; if nothing is, report [].\n'
    "Question: {question}"
)
REPLY_TOKENS = 512
LABEL_CHARS = 60
# A coordinate may be this share of the extent outside and is brought to the edge; a box further outside is wrong.
OUTSIDE_SHARE = 0.02

# Objects without objects inside; one that the end of the reply cuts off is none.
_OBJECT = re.compile(r"\{[^{}]*\}")
# The model says of a thing, in one plain sentence and no more, that it is not in the image.
_NO_THING = "information|indication|reference|scale|evidence|data|way|depth|distance|doubt|question|need|reason"
_ABSENT = re.compile(
    rf"(?:No, )?there (?:is|are) no (?!(?:\w+ )?(?:{_NO_THING}))(?:[\w'-]+ ){{1,8}}in (?:the|this) "
    r"(?:image|picture|photo|scene)\.?",
    re.IGNORECASE,
)


class Qwen3VL(Family):
    """Base Qwen3-VL. It does not know how VLM3 replies, so its replies about points are free."""

    name = "qwen3-vl"
    abilities = frozenset({"points", "questions", "boxes", "pairs"})

    def extent(self, size_px: tuple[int, int]) -> tuple[int, int]:
        """What coordinates of the right and bottom edge are called, for an image (width, height)."""
        return BOX_SCALE, BOX_SCALE

    def point_prompt(self, u_px: float, v_px: float, size_px: tuple[int, int]) -> Prompt:
        """VLM3's question, which states its own coordinates."""
        return Prompt(
            vlm3.point_text(u_px, v_px, size_px, self.most_coordinate), max_new_tokens=vlm3.POINT_REPLY_TOKENS
        )

    def read_point(self, reply: str) -> float:
        """The answer tag's number; without a tag the one length that the reply states, or the number that is all of it.

        Not the last number: a model that repeats the question would be read as its coordinates.
        """
        before, closed, _ = reply.rpartition("</answer>")
        if closed:
            return positive_metres(alone(before.rpartition("<answer>")[2]))
        text = reply.partition("<answer>")[0]
        length_m, _ = stated(text, ("m",))
        return length_m if length_m > 0 else positive_metres(alone(text))

    def question_prompt(
        self, question: str, uv_px: np.ndarray, regions: Sequence[Region], size_px: tuple[int, int]
    ) -> Prompt:
        """The question, followed by its pixels and regions in the model's own notation."""
        marks = [json.dumps({"point_2d": self._scaled((u, v), size_px)}) for u, v in uv_px]
        marks += [self._region(region, size_px) for region in regions]
        about = [f"This is about {', '.join(marks)}."] if marks else []
        return Prompt(" ".join([without_control(question).strip(), *about]), max_new_tokens=REPLY_TOKENS)

    def read_reply(self, reply: str, size_px: tuple[int, int]) -> Reply:
        """A value only if the reply states exactly one length, in metres; NOT_FOUND only if it says nothing else than
        that something is not in the image."""
        text = without_thinking(reply)
        if not text:
            return Reply(reply.strip(), Status.NOT_UNDERSTOOD)
        if _ABSENT.fullmatch(text):
            return Reply(text, Status.NOT_FOUND)
        value, unit = stated(text, ("m",))
        return Reply(text, Status.OK, value, unit, self.read_found(text, size_px), quantity_of(text) if unit else "")

    def find_prompt(self, question: str) -> Prompt:
        return Prompt(FIND_QUESTION.format(question=without_control(question).strip()), max_new_tokens=REPLY_TOKENS)

    def read_found(self, reply: str, size_px: tuple[int, int]) -> tuple[Region, ...]:
        """Every complete box of the reply, fenced as ```json or not, each once, in order. Corners in the wrong order
        are exchanged; boxes that are empty or far outside are left out."""
        found = (self._box(*item, size_px) for item in _labelled(without_thinking(reply)))
        return tuple(dict.fromkeys(region for region in found if region is not None))

    def _box(self, corners: list[float], label: str, size_px: tuple[int, int]) -> Region | None:
        wide, high = self.extent(size_px)
        if not all(
            -OUTSIDE_SHARE * limit <= value <= (1 + OUTSIDE_SHARE) * limit
            for value, limit in zip(corners, (wide, high, wide, high), strict=True)
        ):
            return None
        x1, x2 = sorted(min(max(value, 0), wide) for value in corners[::2])
        y1, y2 = sorted(min(max(value, 0), high) for value in corners[1::2])
        return region_of((x1, y1, x2, y2), (wide, high), size_px, label)

    def _scaled(self, uv: Sequence[float], size_px: tuple[int, int]) -> list[int]:
        """Whole coordinates of u, v, u, v, ... in the model's own extent."""
        limits = list(zip(self.extent(size_px), size_px, strict=True)) * (len(uv) // 2)
        return [
            min(max(round(float(value) / size * limit), 0), limit)
            for value, (limit, size) in zip(uv, limits, strict=True)
        ]

    def _region(self, region: Region, size_px: tuple[int, int]) -> str:
        corners = (region.x_px, region.y_px, region.x_px + region.width_px, region.y_px + region.height_px)
        box: dict[str, Any] = {"bbox_2d": self._scaled(corners, size_px)}
        label = without_control(region.label).strip()
        return json.dumps({**box, "label": label} if label else box, ensure_ascii=False)


class Qwen25VL(Qwen3VL):
    """Base Qwen2.5-VL: coordinates are pixels of the image that it sees."""

    name = "qwen2.5-vl"

    def extent(self, size_px: tuple[int, int]) -> tuple[int, int]:
        return size_px


class DepthVLM(Qwen3VL):
    """DepthVLM: its depth is a map, not words; its words are Qwen3-VL's. Trained on one data set only, it repeats its
    fixed reply to whatever it is asked (issue 10 of its repository): that is no answer."""

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


def _labelled(text: str) -> Iterator[tuple[list[float], str]]:
    """The four numbers and the label of each JSON object that has a "bbox_2d"."""
    for match in _OBJECT.finditer(text):
        try:
            thing = json.loads(match[0])
        except ValueError:
            continue
        corners, label = thing.get("bbox_2d"), thing.get("label", "")
        if isinstance(corners, list) and len(corners) == 4 and all(type(value) in (int, float) for value in corners):
            yield corners, " ".join(str(label).split())[:LABEL_CHARS]
