"""What a family must say about the models it knows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from depthlm_ros.core import Region, RelativePose, Status
from depthlm_ros.errors import BadQuestion

# One of these makes it worth looking at two images at once.
PAIR_ABILITIES = frozenset({"match", "pose", "pairs"})


@dataclass(frozen=True)
class Prompt:
    """One question in the form the model was trained on.

    text: what follows the image. forced: the known beginning of the reply, fed instead of decoded.
    number_only: stop at the first token that cannot continue a number. marks_px: canvas pixels (u, v) that are to be
    marked in the image itself, each prompt on its own copy.
    """

    text: str
    forced: str = ""
    number_only: bool = False
    max_new_tokens: int = 64
    marks_px: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Reply:
    """A reply, read. Boxes are Regions in pixels of the image that the model saw.

    quantity: what the value is, as core.Measurement names it ("distance", "width", ...), "" where the words do not
    say: the depth map can check it.
    """

    text: str
    status: Status = Status.OK
    value: float = math.nan
    unit: str = ""
    boxes: tuple[Region, ...] = ()
    quantity: str = ""


class Family:
    """How models of one kind are asked, and how their replies are read. Pixels and boxes are those of the image that
    the model sees (the canvas, size_px = width, height).

    A family overrides what its models can do and names it in `abilities`; the rest is refused with BadQuestion.
    """

    name: ClassVar[str]
    # Of "points" (depth of a pixel in words), "questions", "boxes" (finds what a question is about), "match", "pose",
    # "pairs" (free questions about two images).
    abilities: ClassVar[frozenset[str]]

    def __init__(self, most_coordinate: int = 2000) -> None:
        """most_coordinate: the model's ModelSpec.most_coordinate."""
        self.most_coordinate = most_coordinate

    def point_prompt(self, u_px: float, v_px: float, size_px: tuple[int, int]) -> Prompt:
        """Asks for the depth at one pixel."""
        raise self._cannot("say the depth of a pixel", "depthvlm-4b, vlm3-depth or depthlm-12b")

    def read_point(self, reply: str) -> float:
        """Depth in metres from the reply to point_prompt (without the forced words); NaN if it holds none."""
        raise self._cannot("say the depth of a pixel", "depthvlm-4b, vlm3-depth or depthlm-12b")

    def question_prompt(
        self, question: str, uv_px: np.ndarray, regions: Sequence[Region], size_px: tuple[int, int]
    ) -> Prompt:
        """Asks a question about the image, some of its pixels (N, 2), some of its regions."""
        raise self._cannot("answer questions in words", "depthvlm-4b or vlm3-object")

    def read_reply(self, reply: str, size_px: tuple[int, int]) -> Reply:
        """Reads the reply to question_prompt."""
        raise self._cannot("answer questions in words", "depthvlm-4b or vlm3-object")

    def find_prompt(self, question: str) -> Prompt:
        """Asks for the boxes of the things that a question is about."""
        raise self._cannot("find things", "depthvlm-4b")

    def read_found(self, reply: str, size_px: tuple[int, int]) -> tuple[Region, ...]:
        """The labelled boxes in the reply to find_prompt; empty if it holds none."""
        raise self._cannot("find things", "depthvlm-4b")

    def match_prompt(self, u_px: float, v_px: float, size_px: tuple[int, int]) -> Prompt:
        """Asks, of two images, where a pixel of the first is in the second."""
        raise self._cannot("match pixels of two images", "vlm3-corr")

    def read_match(self, reply: str, size_px: tuple[int, int]) -> tuple[float, float]:
        """Pixel (u, v) of the second image (size_px its size) from the reply to match_prompt; NaN if it holds none."""
        raise self._cannot("match pixels of two images", "vlm3-corr")

    def pose_prompts(self) -> dict[str, Prompt]:
        """The questions about two images that give the pose of the second camera, by name."""
        raise self._cannot("tell the pose between two images", "vlm3-pose")

    def read_pose(self, replies: Mapping[str, str]) -> RelativePose:
        """The pose from the replies to pose_prompts; NaN where one could not be read."""
        raise self._cannot("tell the pose between two images", "vlm3-pose")

    def _cannot(self, task: str, models: str) -> BadQuestion:
        return BadQuestion(f"a model of family {self.name} cannot {task}: use {models}.")


def normalised(value_px: float, extent_px: int, scale: int) -> int:
    """round(scale * pixel / extent), clamped to [0, scale]: coordinates as VLM3 and Qwen3-VL write them."""
    return min(max(round(scale * value_px / extent_px), 0), scale)
