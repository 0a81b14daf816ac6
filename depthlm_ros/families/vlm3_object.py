"""VLM3-object: questions about regions, whose boxes stand in the text.

Questions and answers follow SpatialRGPT, with every mask replaced by a box. How the checkpoint writes quantitative
answers is unpublished: numbers are read if they have a unit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from depthlm_ros.core import Region, Status
from depthlm_ros.errors import BadQuestion
from depthlm_ros.families.base import Family, Prompt, Reply
from depthlm_ros.families.boxes import box_text, boxes_in
from depthlm_ros.families.numbers import quantity_of, stated
from depthlm_ros.families.text import without_control, without_thinking

REGION = "bounding box region {box}"
REPLY_TOKENS = 512

_PLACEHOLDER = re.compile(r"<mask>|\bRegion \[([0-9]{1,3})\]", re.IGNORECASE)
_POLARITY = re.compile(
    r"\b(?:(yes|correct|affirmative|true|right|indeed)|(?:no|incorrect|wrong|false|not))\b", re.IGNORECASE
)


class Vlm3Object(Family):
    """facebook/VLM3-object."""

    name = "vlm3-object"
    abilities = frozenset({"questions"})

    def question_prompt(
        self, question: str, uv_px: np.ndarray, regions: Sequence[Region], size_px: tuple[int, int]
    ) -> Prompt:
        """Each <mask> of the question becomes the next region, each "Region [i]" region i; a question without either
        is followed by the regions. Raises BadQuestion for pixels, and if placeholders and regions do not match."""
        if len(uv_px):
            raise BadQuestion(
                f"a model of family {self.name} is asked about regions, not pixels: give a box around it."
            )
        boxes = [REGION.format(box=box_text(region, size_px)) for region in regions]
        return Prompt(placed(without_control(question).strip(), boxes), max_new_tokens=REPLY_TOKENS)

    def read_reply(self, reply: str, size_px: tuple[int, int]) -> Reply:
        """A clock direction becomes degrees to the right of straight ahead: 3 o'clock is 90 deg."""
        text = without_thinking(reply)
        if not text:
            return Reply(reply.strip(), Status.NOT_UNDERSTOOD)
        boxes = boxes_in(text, size_px)
        hour, _ = stated(text, ("o'clock",))
        if 1 <= hour <= 12:
            return Reply(text, Status.OK, hour % 12 * 30.0, "deg", boxes, "direction")
        value, unit = stated(text, ("m", "deg"))
        return Reply(text, Status.OK, value, unit, boxes, quantity_of(text) if unit == "m" else "")


def placed(question: str, boxes: Sequence[str]) -> str:
    """The question with boxes for its placeholders, or behind it if it has none."""
    indices = named_regions(question)
    if not indices:
        return " ".join([question, *([" and ".join(boxes)] if boxes else [])])
    if set(indices) != set(range(len(boxes))):
        raise BadQuestion(
            f"the question names region {', '.join(map(str, sorted(set(indices))))} and {len(boxes)} were given: "
            "name each once or more, counted from 0."
        )
    named = iter(indices)
    return _PLACEHOLDER.sub(lambda _: boxes[next(named)], question)


def named_regions(question: str) -> list[int]:
    """The regions, counted from 0, that a question's placeholders stand for, in their order."""
    indices, masks = [], 0
    for match in _PLACEHOLDER.finditer(question):
        indices.append(int(match[1]) if match[1] else masks)
        masks += match[1] is None
    return indices


def polarity(reply: str) -> bool | None:
    """Whether a reply says yes or no, by its earliest such word, as the released notebook scores; None: it says
    neither, which never counts as a match.

    "right" counts as yes even where it is a direction ("on the right of"), and "no" is a word in "no doubt": use this
    for scoring yes/no questions only.
    """
    found = _POLARITY.search(without_thinking(reply))
    return None if found is None else found[1] is not None
