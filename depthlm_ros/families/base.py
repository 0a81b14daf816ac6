"""The interface of a family of models: how they are asked (Prompt), and how their replies are read (Reply)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from depthlm_ros.core import Region, RelativePose, Status
from depthlm_ros.errors import BadQuestion

# A model with one of these abilities can use two images at once.
PAIR_ABILITIES = frozenset({"match", "pose", "pairs"})


@dataclass(frozen=True)
class Prompt:
    """One question in the form the model was trained on.

    text: follows the image. forced: the known beginning of the reply, which is fed instead of decoded. number_only:
    stop at the first token that cannot continue a number. markers_px: canvas pixels (u, v) that must be marked in the
    image itself (a visual prompt); each prompt gets its own copy of the image.
    """

    text: str
    forced: str = ""
    number_only: bool = False
    max_new_tokens: int = 64
    markers_px: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Reply:
    """What was read from the model's words. Boxes are Regions in pixels of the image that the model saw.

    quantity: what the value is, with the names of core.Measurement ("distance", "width", ...), so that the depth map
    can check it; "" where the words do not say.
    """

    text: str
    status: Status = Status.OK
    value: float = math.nan
    unit: str = ""
    boxes: tuple[Region, ...] = ()
    quantity: str = ""


@dataclass(frozen=True)
class Family:
    """How models of one kind are asked, and how their replies are read.

    Pixels and boxes are those of the image that the model sees: the canvas, of size_px (width, height). A family
    overrides the methods for what its models can do and lists it in `abilities`; the other methods raise BadQuestion.
    most_coordinate: largest normalised coordinate in a depth question (ModelSpec.most_coordinate).
    """

    name: ClassVar[str]
    # Some of "points" (depth of a pixel in words), "questions", "boxes" (finds the objects that a question is about),
    # "match", "pose", "pairs" (free questions about two images).
    abilities: ClassVar[frozenset[str]]

    most_coordinate: int = 2000

    def point_prompt(self, u_px: float, v_px: float, size_px: tuple[int, int]) -> Prompt:
        """Returns the question for the depth at one pixel."""
        raise self._cannot("say the depth of a pixel", "depthvlm-4b, vlm3-depth or depthlm-12b")

    def read_point(self, reply: str) -> float:
        """Returns the depth in metres in the reply to point_prompt (without the forced words); NaN if there is none."""
        raise self._cannot("say the depth of a pixel", "depthvlm-4b, vlm3-depth or depthlm-12b")

    def question_prompt(
        self, question: str, uv_px: np.ndarray, regions: Sequence[Region], size_px: tuple[int, int]
    ) -> Prompt:
        """Returns a question about the image, some of its pixels (N, 2) and some of its regions."""
        raise self._cannot("answer questions in words", "depthvlm-4b or vlm3-object")

    def read_reply(self, reply: str, size_px: tuple[int, int]) -> Reply:
        """Reads the reply to question_prompt."""
        raise self._cannot("answer questions in words", "depthvlm-4b or vlm3-object")

    def find_prompt(self, question: str) -> Prompt:
        """Returns the question for the boxes of the objects that a question is about."""
        raise self._cannot("find objects", "depthvlm-4b")

    def read_boxes(self, reply: str, size_px: tuple[int, int]) -> tuple[Region, ...]:
        """Returns the labelled boxes in the reply to find_prompt; empty if there are none."""
        raise self._cannot("find objects", "depthvlm-4b")

    def match_prompt(self, u_px: float, v_px: float, size_px: tuple[int, int]) -> Prompt:
        """Returns the question where a pixel of the first of two images is in the second."""
        raise self._cannot("match pixels of two images", "vlm3-corr")

    def read_match(self, reply: str, size_px: tuple[int, int]) -> tuple[float, float]:
        """Returns pixel (u, v) of the second image, of size_px, in the reply to match_prompt; NaN without one."""
        raise self._cannot("match pixels of two images", "vlm3-corr")

    def pose_prompts(self) -> dict[str, Prompt]:
        """Returns the questions about two images whose answers give the pose of the second camera, by name."""
        raise self._cannot("tell the pose between two images", "vlm3-pose")

    def read_pose(self, replies: Mapping[str, str]) -> RelativePose:
        """Returns the pose from the replies to pose_prompts; NaN where a reply could not be read."""
        raise self._cannot("tell the pose between two images", "vlm3-pose")

    def _cannot(self, task: str, models: str) -> BadQuestion:
        return BadQuestion(f"a model of family {self.name} cannot {task}: use {models}.")


def normalise_coordinate(value_px: float, extent_px: int, scale: int) -> int:
    """Returns round(scale * pixel / extent), clamped to [0, scale], as VLM3 and Qwen3-VL write coordinates."""
    return min(max(round(scale * value_px / extent_px), 0), scale)
