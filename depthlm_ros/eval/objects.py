"""Questions about things in an image, scored as SpatialRGPT-Bench scores its questions about regions.

JSONL, one question per line:
{"image": path relative to the file, "intrinsics": [fx, fy, cx, cy, W, H], "question": text, "category": text,
 "answer": ..., "unit": ...} and optionally "boxes": [[x1, y1, x2, y2], ...], edges in pixels of the image, which
stand for <mask> and "Region [i]" in the question, and "pixel_coords": [[u, v], ...]. The answer is
    true or false                        yes or no; scored by the polarity of the reply's words
    a number with unit "m"               a length; right within 25 % of the truth, both ends included
    a number with unit "o'clock", "deg"  a direction (deg to the right of straight ahead); right within one hour
    a number with unit "region"          which of the boxes (from 0); the reply names a box
    null                                 the thing is not there; right if the model says so
Lengths also have AbsRel = |p - g| / (g + 1e-4), directions a mean error in degrees, both over the replies that hold
one; a reply that cannot be read is wrong.

Source of the rules: SpatialRGPT's scripts/srgpt/eval/evaluate_spatial_with_gpt4.py, where GPT-4 reads the replies (here
the family does), and for polarity the released notebook of VLM3-object.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from depthlm_ros.core import Intrinsics, Region
from depthlm_ros.data.read import json_object, numbered_lines, require
from depthlm_ros.data.records import (
    BadRecord,
    Problem,
    camera,
    image,
    inside_image,
    nothing_usable,
    numbers,
    rows,
    text,
)
from depthlm_ros.eval.results import key_of
from depthlm_ros.families.vlm3 import named_regions

KEYS = ("image", "intrinsics", "question", "answer")
YES_NO, LENGTH, DIRECTION, CHOICE, ABSENT = "yes or no", "length", "direction", "choice", "not there"
KINDS = {"m": LENGTH, "o'clock": DIRECTION, "deg": DIRECTION, "region": CHOICE}
LIMITS = {"m": (0.0, 1e6), "o'clock": (0.0, 12.0), "deg": (-360.0, 360.0), "region": (0.0, 1e6)}
HOUR_DEG = 30.0
# SpatialRGPT-Bench's categories by a word in their names, in this order, as its script sorts them.
_COMPARISONS: dict[tuple[str, ...], str] = {
    ("tall", "short"): "tall-short",
    ("left", "right"): "left-right",
    ("below", "above"): "below-above",
    ("behind", "front"): "behind-front",
    ("big", "small"): "big-small",
    ("wide", "thin"): "wide-thin",
}
_LENGTHS: dict[tuple[str, ...], str] = {
    ("vertical",): "vertical",
    ("horizontal",): "horizontal",
    ("width",): "width",
    ("height",): "height",
    ("distance",): "direct",
}
_NAMES = {YES_NO: _COMPARISONS, CHOICE: _COMPARISONS, LENGTH: _LENGTHS}


@dataclass(frozen=True)
class ObjectQuestion:
    """One question. truth: a bool as 0 or 1, metres, degrees, a number of a box, NaN for a thing that is not there."""

    where: str
    image: Path
    intrinsics: Intrinsics
    question: str
    kind: str
    truth: float
    category: str
    regions: tuple[Region, ...]
    uv_px: np.ndarray

    @property
    def key(self) -> str:
        """See results.key_of."""
        return key_of(
            self.where, self.image.name, self.intrinsics, self.question, self.kind, self.truth, self.regions, self.uv_px
        )


def read_questions(path: Path, root: Path | None = None) -> tuple[list[ObjectQuestion], list[Problem]]:
    """The usable questions of a file, and what was wrong with the others. Raises BadInput if there is none.

    root: what the image paths are relative to (default: the file).
    """
    questions: list[ObjectQuestion] = []
    problems: list[Problem] = []
    for where, line in numbered_lines(path):
        try:
            questions.append(parse_question(line, where, root or path.parent))
        except BadRecord as exc:
            problems.append(Problem(where, exc.reason, str(exc)))
    if not questions:
        raise nothing_usable(path, problems, "question")
    return questions, problems


def parse_question(line: str, where: str, folder: Path) -> ObjectQuestion:
    """Raises BadRecord if the line is no usable question."""
    fields = json_object(line)
    require(fields, KEYS)
    path, lens = image(fields["image"], folder), camera(fields["intrinsics"])
    kind, truth = _truth(fields["answer"], text(fields, "unit"))
    regions, uv_px = _regions(fields.get("boxes", []), lens), _pixels(fields.get("pixel_coords", []), lens)
    if kind == CHOICE and not (float(truth).is_integer() and 0 <= truth < len(regions)):
        raise BadRecord("answer malformed", f"answer is region {truth:g} of {len(regions)}.")
    question = _question(fields["question"], len(regions))
    if not isinstance(fields.get("category", ""), str):
        raise BadRecord("category malformed", f"category is {fields['category']!r}: expected a text.")
    category = category_of(kind, text(fields, "category"))
    return ObjectQuestion(where, path, lens, question, kind, truth, category, regions, uv_px)


def _question(said: object, regions: int) -> str:
    """The question, whose placeholders are those of its boxes."""
    if not isinstance(said, str) or not said.strip():
        raise BadRecord("question malformed", f"question is {said!r}: expected a text.")
    named = named_regions(said)
    if named and max(named) >= regions:
        raise BadRecord(
            "region without a box", f"the question names region {max(named)}, counted from 0, of {regions} boxes."
        )
    return said


def _regions(values: object, lens: Intrinsics) -> tuple[Region, ...]:
    boxes = rows("boxes", values, 4)
    limits = np.tile(lens.size_px, 2)
    usable = np.all((boxes >= 0) & (boxes <= limits), axis=1) & np.all(boxes[:, :2] < boxes[:, 2:], axis=1)
    if not usable.all():
        bad = [round(edge, 3) for edge in boxes[int(np.argmin(usable))].tolist()]
        size = f"{lens.width_px} x {lens.height_px}"
        raise BadRecord("box unusable", f"box {bad}: expected x1 < x2 and y1 < y2 within the image of {size}.")
    return tuple(Region(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes.tolist())


def _pixels(values: object, lens: Intrinsics) -> np.ndarray:
    uv_px = rows("pixel_coords", values, 2)
    inside = inside_image(uv_px, lens)
    if not inside.all():
        bad, size = uv_px[int(np.argmin(inside))].tolist(), f"{lens.width_px} x {lens.height_px}"
        raise BadRecord("point outside the image", f"pixel {bad} is outside the image of {size}.")
    return uv_px


def _truth(answer: object, unit: str) -> tuple[str, float]:
    if answer is None:
        return ABSENT, math.nan
    if isinstance(answer, bool):
        return YES_NO, float(answer)
    value = float(numbers("answer", answer, ()))
    low, high = LIMITS.get(unit, (math.inf, -math.inf))
    if not low <= value <= high or (unit == "m" and value == 0):
        raise BadRecord(
            "answer malformed",
            f"answer is {answer!r} with unit {unit!r}: expected true, false, null, or a number with unit "
            f"m (more than 0), o'clock (0 to 12), deg (-360 to 360) or region.",
        )
    return KINDS[unit], value * HOUR_DEG if unit == "o'clock" else value


def category_of(kind: str, name: str) -> str:
    """The benchmark's own name of a category, whatever the file calls it; the file's name if it is none of them."""
    names = _NAMES.get(kind, {}).items()
    return next((known for words, known in names if any(word in name for word in words)), name or kind)
