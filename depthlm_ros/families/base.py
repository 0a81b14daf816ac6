# SPDX-License-Identifier: Apache-2.0
"""The interface of a family of models: how they are asked (Prompt), and how their replies are read (Reply)."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol, TypeVar

import numpy as np

from depthlm_ros.core import Region, RelativePose, Status
from depthlm_ros.errors import BadQuestion
from depthlm_ros.families.parsing import scale_lengths
from depthlm_ros.geometry.canonical_view import CANVAS

logger = logging.getLogger(__name__)

# A model with one of these abilities can use two images at once.
PAIR_ABILITIES = frozenset({"match", "pose", "pairs"})
# Ability -> what it is, and the models that have it.
ABILITIES = {
    "points": ("say the depth of a pixel", "depthvlm-4b, vlm3-depth or depthlm-12b"),
    "questions": ("answer questions in words", "depthvlm-4b or vlm3-object"),
    "boxes": ("find objects", "depthvlm-4b"),
    "match": ("match pixels of two images", "vlm3-corr"),
    "pose": ("tell the pose between two images", "vlm3-pose"),
    "pairs": ("answer questions about two images", "depthvlm-4b or qwen3-vl-4b"),
}
# Words about marked pixels, which a question without marks cannot be about.
MARKED_PIXELS = re.compile(r"\b(this|these)(?: 2| two)? (?:marked )?(?:point|pixel)s?\b", re.IGNORECASE)
# Matches a question for the distance of one thing from the camera. The other words of a longer question ("from the
# door", "in the forward direction") ask for something else.
_THING = r"(?:it|this|that|here|there|(?:this|that|the)(?: (?!(?:from|to|of|between|than|and|or|in)\b)[\w-]+){1,4})"
_ASKS_DEPTH = re.compile(
    r"(?:how (?:far|deep)(?: away)?(?: is| lies)?|(?:what(?: is|'s) )?(?:the )?(?:depth|distance)(?: of| to| at)?)"
    rf"(?: {_THING})?(?: away)?(?: from (?:me|us|here|the (?:camera|robot|viewer)))?\s*[?.!]*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Prompt:
    """One question in the form the model was trained on.

    text: follows the image. forced: the known beginning of the reply, which is fed instead of decoded. number_only:
    stop at the first token that cannot continue a number. markers_px: pixels (u, v) of the picture that must be
    marked in the image itself (a visual prompt); each prompt gets its own copy of the picture.
    complete_tokens: most tokens of the reply if its beginning is decoded too; 0 where it always is. forced_is_known:
    False if no source confirms that replies begin with `forced` (ForcedBeginnings checks it). on_words: see
    core.Question.
    """

    text: str
    forced: str = ""
    number_only: bool = False
    max_new_tokens: int = 64
    markers_px: tuple[tuple[float, float], ...] = ()
    complete_tokens: int = 0
    forced_is_known: bool = True
    on_words: Callable[[str], None] | None = field(default=None, compare=False)

    def heard_by(self, on_words: Callable[[str], None] | None, words: str | None = None) -> Prompt:
        """Returns the prompt with a listener, if there is one. words: what it hears at each step, not the reply."""
        if on_words is None:
            return self
        return replace(self, on_words=on_words if words is None else lambda _: on_words(words))

    def complete(self) -> Prompt:
        """Returns the prompt whose whole reply is decoded, as the released code does it."""
        if not self.complete_tokens:
            return self
        return replace(self, forced="", number_only=False, max_new_tokens=self.complete_tokens)


class HasText(Protocol):
    """A reply."""

    @property
    def text(self) -> str:
        """The words."""
        ...


R = TypeVar("R", bound=HasText)


class ForcedBeginnings:
    """Decides for a loaded model whether the beginnings of replies are given (Prompt.forced) or decoded.

    They are given, because that saves most of the tokens. If no source confirms a beginning, the first reply is decoded
    completely, and later beginnings are given only if that reply begins so. complete: whether all replies are decoded
    completely, as the released code does it.
    """

    def __init__(self, model: str, complete: bool = False) -> None:
        self._model, self._complete = model, complete
        self._confirmed: bool | None = None

    def ask(self, prompts: Sequence[Prompt], generate: Callable[[Sequence[Prompt]], list[R]]) -> list[R]:
        """Returns the reply to each prompt. generate: asks a model."""
        if self._complete:
            return generate([prompt.complete() for prompt in prompts])
        first = next((index for index, one in enumerate(prompts) if one.forced and not one.forced_is_known), None)
        if first is None:
            return generate(prompts)
        replies: list[R] = []
        if self._confirmed is None:
            replies = generate([prompts[first].complete()])
            self._confirmed = replies[0].text.startswith(prompts[first].forced)
            if not self._confirmed:
                logger.warning(
                    "%s begins its replies with %r, not with %r: whole replies are decoded, which takes longer",
                    self._model,
                    replies[0].text[: len(prompts[first].forced)],
                    prompts[first].forced,
                )
        others = [prompt for index, prompt in enumerate(prompts) if not replies or index != first]
        given = others if self._confirmed else [one if one.forced_is_known else one.complete() for one in others]
        rest = generate(given) if given else []
        return [*rest[:first], *replies, *rest[first:]] if replies else rest


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

    def scaled(self, factor: float) -> Reply:
        """Returns the reply with every length multiplied (Frame.depth_scale), in value and text."""
        if factor == 1.0:
            return self
        is_length = self.unit == "m"
        text = scale_lengths(self.text, factor, is_length)
        return replace(self, text=text, value=self.value * factor if is_length else self.value)


@dataclass(frozen=True)
class Family:
    """How models of one kind are asked, and how their replies are read.

    Pixels and boxes are those of an image of size_px (width, height): the canvas, which the model sees, or for single
    pixels the picture, which the checkpoint's image processor gets, if pixels_of says so. A family overrides the
    methods for what its models can do in words and lists it in `abilities`; the other methods raise BadQuestion.
    most_coordinate: largest normalised coordinate in a depth question (ModelSpec.most_coordinate).
    """

    name: ClassVar[str]
    # Some of "points" (depth of a pixel in words), "questions", "boxes" (finds the objects that a question is about),
    # "match", "pose", "pairs" (free questions about two images).
    abilities: ClassVar[frozenset[str]]
    # Those abilities that need no words: the features of the images and their depth tell matches and poses.
    measured: ClassVar[frozenset[str]] = frozenset()
    # The image in which pixels are counted.
    pixels_of: ClassVar[str] = CANVAS

    most_coordinate: int = 2000

    def check_ability(self, ability: str) -> None:
        """Raises BadQuestion, with the models that have it, if the models of this family lack an ability."""
        if ability not in self.abilities:
            raise self._cannot(ability)

    def point_prompt(self, u_px: float, v_px: float, size_px: tuple[int, int]) -> Prompt:
        """Returns the question for the depth at one pixel."""
        raise self._cannot("points")

    def read_point(self, reply: str) -> float:
        """Returns the depth in metres in the reply to point_prompt (without the forced words); NaN if there is none."""
        raise self._cannot("points")

    def question_prompt(
        self, question: str, uv_px: np.ndarray, regions: Sequence[Region], size_px: tuple[int, int]
    ) -> Prompt:
        """Returns a question about the image, some of its pixels (N, 2) and some of its regions."""
        raise self._cannot("questions")

    def read_reply(self, reply: str, size_px: tuple[int, int]) -> Reply:
        """Reads the reply to question_prompt."""
        raise self._cannot("questions")

    def find_prompt(self, question: str) -> Prompt:
        """Returns the question for the boxes of the objects that a question is about."""
        raise self._cannot("boxes")

    def read_boxes(self, reply: str, size_px: tuple[int, int]) -> tuple[Region, ...]:
        """Returns the labelled boxes in the reply to find_prompt; empty if there are none."""
        raise self._cannot("boxes")

    def match_prompt(self, u_px: float, v_px: float, size_px: tuple[int, int]) -> Prompt:
        """Returns the question where a pixel of the first of two images is in the second."""
        raise self._cannot("match")

    def read_match(self, reply: str, size_px: tuple[int, int]) -> tuple[float, float]:
        """Returns pixel (u, v) of the second image, of size_px, in the reply to match_prompt; NaN without one."""
        raise self._cannot("match")

    def pose_prompts(self) -> dict[str, Prompt]:
        """Returns the questions about two images whose answers give the pose of the second camera, by name."""
        raise self._cannot("pose")

    def read_pose(self, replies: Mapping[str, str]) -> RelativePose:
        """Returns the pose from the replies to pose_prompts; NaN where a reply could not be read."""
        raise self._cannot("pose")

    def _cannot(self, ability: str) -> BadQuestion:
        task, models = ABILITIES[ability]
        return BadQuestion(f"a model of family {self.name} cannot {task}: use {models}.")


def asks_depth(question: str) -> bool:
    """Returns whether a question about a marked pixel asks for its distance from the camera, and for nothing else."""
    return _ASKS_DEPTH.fullmatch(" ".join(question.split())) is not None


def check_marked(question: str, marks: int, words: re.Pattern[str] = MARKED_PIXELS) -> None:
    """Raises BadQuestion for a question about "this point" or "these points" with fewer marks than that.

    marks: number of pixels and regions of the question. words: matches the words; its first group is "this" or "these".
    """
    if (named := words.search(question)) and marks < (2 if named[1].lower() == "these" else 1):
        raise BadQuestion(
            f"the question says {named[0]!r}, but {marks} pixels or regions are marked: mark what it is about."
        )


def normalise_coordinate(value_px: float, extent_px: int, scale: int) -> int:
    """Returns round(scale * pixel / extent), clamped to [0, scale], as VLM3 and Qwen3-VL write coordinates."""
    return min(max(round(scale * value_px / extent_px), 0), scale)
