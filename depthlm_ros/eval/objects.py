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
from depthlm_ros.data.fields import camera, image, numbers, text
from depthlm_ros.data.problems import BadRecord, Problem, nothing_usable
from depthlm_ros.data.reading import json_object, numbered_lines, require
from depthlm_ros.eval.results import key_of

KEYS = ("image", "intrinsics", "question", "answer")
YES_NO, LENGTH, DIRECTION, CHOICE, ABSENT = "yes or no", "length", "direction", "choice", "not there"
KINDS = {"m": LENGTH, "o'clock": DIRECTION, "deg": DIRECTION, "region": CHOICE}
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
    kind, truth = _truth(fields["answer"], text(fields, "unit"))
    boxes = numbers("boxes", fields.get("boxes", [])).reshape(-1, 4)
    regions = tuple(Region(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes.tolist())
    if kind == CHOICE and not (float(truth).is_integer() and 0 <= truth < len(regions)):
        raise BadRecord("answer malformed", f"answer is region {truth:g} of {len(regions)}.")
    question = text(fields, "question")
    uv_px = numbers("pixel_coords", fields.get("pixel_coords", [])).reshape(-1, 2)
    category = category_of(kind, text(fields, "category"))
    path, lens = image(fields["image"], folder), camera(fields["intrinsics"])
    return ObjectQuestion(where, path, lens, question, kind, truth, category, regions, uv_px)


def _truth(answer: object, unit: str) -> tuple[str, float]:
    if answer is None:
        return ABSENT, math.nan
    if isinstance(answer, bool):
        return YES_NO, float(answer)
    value = float(numbers("answer", answer, ()))
    if unit not in KINDS or not math.isfinite(value) or (unit == "m" and value <= 0):
        raise BadRecord(
            "answer malformed",
            f"answer is {answer!r} with unit {unit!r}: expected true, false, null, or a number with unit "
            f"{', '.join(KINDS)}.",
        )
    return KINDS[unit], value * HOUR_DEG if unit == "o'clock" else value


def category_of(kind: str, name: str) -> str:
    """The benchmark's own name of a category, whatever the file calls it; the file's name if it is none of them."""
    names = _NAMES.get(kind, {}).items()
    return next((known for words, known in names if any(word in name for word in words)), name or kind)
