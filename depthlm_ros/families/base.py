"""What a family must say about the models it knows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from depthlm_ros.core import Region, Status


@dataclass(frozen=True)
class Prompt:
    """One question in the form the model was trained on.

    text: what follows the image. forced: the known beginning of the reply, fed instead of decoded.
    number_only: stop at the first token that cannot continue a number.
    """

    text: str
    forced: str = ""
    number_only: bool = False
    max_new_tokens: int = 64


@dataclass(frozen=True)
class Reply:
    """A reply, read. Boxes are Regions in pixels of the image that the model saw. is_distance: the value is how far
    one thing is from the camera, which the depth map can check."""

    text: str
    status: Status = Status.OK
    value: float = math.nan
    unit: str = ""
    boxes: tuple[Region, ...] = ()
    is_distance: bool = False


class Family(Protocol):
    """How models of one kind are asked. uv_px and boxes are in pixels of the image that the model sees (the canvas).

    before, after: the text around the image. header: the text between question and reply. end: the text that ends
    a reply. All are fixed, so that one look serves every question.
    """

    name: str
    before: str
    after: str
    header: str
    end: str

    def point_prompt(self, u_px: float, v_px: float, size_px: tuple[int, int]) -> Prompt:
        """Asks for the depth at one pixel."""
        ...

    def read_point(self, reply: str) -> float:
        """Depth in metres from the reply to point_prompt (without the forced words); NaN if it holds none."""
        ...

    def question_prompt(
        self, question: str, uv_px: np.ndarray, regions: Sequence[Region], size_px: tuple[int, int]
    ) -> Prompt:
        """Asks a question about the image, some of its pixels (N, 2), some of its regions."""
        ...

    def read_reply(self, reply: str, size_px: tuple[int, int]) -> Reply:
        """Reads the reply to question_prompt."""
        ...


def normalised(value_px: float, extent_px: int, scale: int) -> int:
    """round(scale * pixel / extent), clamped to [0, scale]: coordinates as VLM3 and Qwen3-VL write them."""
    return min(max(round(scale * value_px / extent_px), 0), scale)
