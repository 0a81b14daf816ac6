# SPDX-License-Identifier: Apache-2.0
"""Questions about things in an image, scored as SpatialRGPT-Bench scores its questions about regions.

`read_object_questions` reads them, `ask_object_question` asks one, and `score_objects` summarises the answers.

JSON Lines, one question per line:
{"image": path relative to the file, "intrinsics": [fx, fy, cx, cy, W, H], "question": text, "category": text,
 "answer": ..., "unit": ...} and optionally "boxes": [[x1, y1, x2, y2], ...], edges in pixels of the image, which
stand for <mask> and "Region [i]" in the question, and "pixel_coords": [[u, v], ...]. The answer is
    true or false                        yes or no; scored by whether the words of the reply agree or deny
    a number with unit "m"               a length; correct within 25 % of the truth, both ends included
    a number with unit "o'clock", "deg"  a direction (deg to the right of straight ahead); correct within one hour
    a number with unit "region"          the number of a box (from 0); the reply names a box
    null                                 the thing is not in the image; correct if the model says so
Lengths also have AbsRel = |p - g| / (g + 1e-4), and directions a mean error in degrees, both over the replies that
contain a value. A reply that cannot be read is wrong.

Source of the rules: SpatialRGPT's scripts/srgpt/eval/evaluate_spatial_with_gpt4.py, where GPT-4 reads the replies (here
the family of the model reads them), and for agreement the released notebook of VLM3-object.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from depthlm_ros.core import Answer, Frame, Intrinsics, Region, Status
from depthlm_ros.data.read import iter_numbered_lines, parse_json_object, require_keys
from depthlm_ros.data.records import (
    BadRecord,
    RecordProblem,
    first_text,
    parse_array,
    parse_file_path,
    parse_intrinsics,
    parse_rows,
    unusable_file_error,
)
from depthlm_ros.errors import BadImage, BadInput
from depthlm_ros.eval.result_file import make_key
from depthlm_ros.families.parsing import find_boxes
from depthlm_ros.families.vlm3 import placeholder_regions, polarity
from depthlm_ros.geometry.pinhole import pixels_inside
from depthlm_ros.image_io import read_rgb

KEYS = ("image", "intrinsics", "question", "answer")
YES_NO, LENGTH, DIRECTION, CHOICE, ABSENT = "yes or no", "length", "direction", "choice", "not there"
UNIT_KINDS = {"m": LENGTH, "o'clock": DIRECTION, "deg": DIRECTION, "region": CHOICE}
UNIT_LIMITS = {"m": (0.0, 1e6), "o'clock": (0.0, 12.0), "deg": (-360.0, 360.0), "region": (0.0, 1e6)}
HOUR_DEG = 30.0
# A length is correct within this share of the truth. The small length avoids a division by 0 in AbsRel.
LENGTH_TOLERANCE, TINY_M = 0.25, 1e-4
# The benchmark summarises the two halves of its questions under these names.
HALVES = {YES_NO: "qualitative", CHOICE: "qualitative", LENGTH: "quantitative", DIRECTION: "quantitative"}
# Words in the name of a category -> SpatialRGPT-Bench's category. The order is that of its script.
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
_CATEGORY_WORDS = {YES_NO: _COMPARISONS, CHOICE: _COMPARISONS, LENGTH: _LENGTHS}

# (frame, question) -> the model's answer. Raises BadInput if it refuses the question.
Asker = Callable[[Frame, "ObjectQuestion"], Answer]


@dataclass(frozen=True)
class ObjectQuestion:
    """One question.

    truth: 0 or 1 for yes or no, metres, degrees, the number of a box, or NaN for a thing that is not in the image.
    """

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
        """The key of the question's result. It changes with the labels."""
        return make_key(
            self.where, self.image.name, self.intrinsics, self.question, self.kind, self.truth, self.regions, self.uv_px
        )


class ObjectAnswer(TypedDict):
    """text: the reply. said: its value in the terms of the truth, None for unknown. refused: why, or ""."""

    text: str
    said: float | None
    refused: str


class CategoryScores(TypedDict):
    """right: share of correct answers. n: number of questions. unread: number of replies without a value.

    absrel, error_deg: mean errors of lengths and of directions, NaN if there are none.
    """

    right: float
    n: int
    unread: int
    absrel: float
    error_deg: float


def read_object_questions(path: Path, root: Path | None = None) -> tuple[list[ObjectQuestion], list[RecordProblem]]:
    """Returns the usable questions of a file, and the problems of the others. Raises BadInput if none is usable.

    root: folder that image paths are relative to (default: the folder of the file).
    """
    questions: list[ObjectQuestion] = []
    problems: list[RecordProblem] = []
    for where, line in iter_numbered_lines(path):
        try:
            questions.append(parse_object_question(line, where, root or path.parent))
        except BadRecord as exc:
            problems.append(RecordProblem(where, exc.reason, str(exc)))
    if not questions:
        raise unusable_file_error(path, problems, "question")
    return questions, problems


def parse_object_question(line: str, where: str, folder: Path) -> ObjectQuestion:
    """Returns the question of one line. Raises BadRecord if the line is not usable."""
    fields = parse_json_object(line)
    require_keys(fields, KEYS)
    path, intrinsics = parse_file_path(fields["image"], folder), parse_intrinsics(fields["intrinsics"])
    kind, truth = _parse_answer(fields["answer"], first_text(fields, "unit"))
    regions = _parse_regions(fields.get("boxes", []), intrinsics)
    uv_px = _parse_pixels(fields.get("pixel_coords", []), intrinsics)
    if kind == CHOICE and not (float(truth).is_integer() and 0 <= truth < len(regions)):
        raise BadRecord("answer malformed", f"answer is region {truth:g}, but there are {len(regions)} boxes.")
    question = _parse_question_text(fields["question"], len(regions))
    if not isinstance(fields.get("category", ""), str):
        raise BadRecord("category malformed", f"category is {fields['category']!r}: expected a text.")
    category = benchmark_category(kind, first_text(fields, "category"))
    return ObjectQuestion(where, path, intrinsics, question, kind, truth, category, regions, uv_px)


def _parse_question_text(text: object, regions: int) -> str:
    """Checks that every region that the question names has a box."""
    if not isinstance(text, str) or not text.strip():
        raise BadRecord("question malformed", f"question is {text!r}: expected a text.")
    named = placeholder_regions(text)
    if named and max(named) >= regions:
        message = f"the question names region {max(named)}, counted from 0, but there are {regions} boxes."
        raise BadRecord("region without a box", message)
    return text


def _parse_regions(values: object, intrinsics: Intrinsics) -> tuple[Region, ...]:
    boxes = parse_rows("boxes", values, 4)
    limits = np.tile(intrinsics.size_px, 2)
    usable = np.all((boxes >= 0) & (boxes <= limits), axis=1) & np.all(boxes[:, :2] < boxes[:, 2:], axis=1)
    if not usable.all():
        bad = [round(edge, 3) for edge in boxes[int(np.argmin(usable))].tolist()]
        size = f"{intrinsics.width_px} x {intrinsics.height_px}"
        raise BadRecord("box unusable", f"box {bad}: expected x1 < x2 and y1 < y2 within the image of {size}.")
    return tuple(Region(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes.tolist())


def _parse_pixels(values: object, intrinsics: Intrinsics) -> np.ndarray:
    uv_px = parse_rows("pixel_coords", values, 2)
    inside = pixels_inside(uv_px, intrinsics.size_px)
    if not inside.all():
        bad, size = uv_px[int(np.argmin(inside))].tolist(), f"{intrinsics.width_px} x {intrinsics.height_px}"
        raise BadRecord("point outside the image", f"pixel {bad} is outside the image of {size}.")
    return uv_px


def _parse_answer(answer: object, unit: str) -> tuple[str, float]:
    """Returns (kind of question, truth)."""
    if answer is None:
        return ABSENT, math.nan
    if isinstance(answer, bool):
        return YES_NO, float(answer)
    value = float(parse_array("answer", answer, ()))
    low, high = UNIT_LIMITS.get(unit, (math.inf, -math.inf))
    if not low <= value <= high or (unit == "m" and value == 0):
        raise BadRecord(
            "answer malformed",
            f"answer is {answer!r} with unit {unit!r}: expected true, false, null, or a number with unit "
            f"m (more than 0), o'clock (0 to 12), deg (-360 to 360) or region.",
        )
    return UNIT_KINDS[unit], value * HOUR_DEG if unit == "o'clock" else value


def benchmark_category(kind: str, name: str) -> str:
    """Returns the benchmark's name of a category that a file calls `name`; that name itself if it is none of them."""
    words_of = _CATEGORY_WORDS.get(kind, {}).items()
    return next((category for words, category in words_of if any(word in name for word in words)), name or kind)


def ask_object_question(asker: Asker, question: ObjectQuestion) -> ObjectAnswer:
    """Asks the model and reads its reply. Raises BadRecord if the image cannot be used."""
    try:
        frame = Frame(read_rgb(question.image), question.intrinsics)
    except BadImage as exc:
        raise BadRecord("image unusable", str(exc)) from exc
    try:
        answer = asker(frame, question)
    except BadInput as exc:
        return {"text": "", "said": math.nan, "refused": str(exc)}
    return {"text": answer.text, "said": _answer_value(answer, question, frame), "refused": ""}


def _answer_value(answer: Answer, question: ObjectQuestion, frame: Frame) -> float:
    """Returns the reply in the terms of the truth, NaN if it has no value.

    For a thing that is not in the image it is 1 if the model says so, else 0.
    """
    if question.kind == ABSENT:
        return float(answer.status is Status.NOT_FOUND)
    if answer.status not in (Status.OK, Status.INCONSISTENT):
        return math.nan
    if question.kind == YES_NO:
        agrees = polarity(answer.text)
        return math.nan if agrees is None else float(agrees)
    if question.kind == CHOICE:
        return _best_region(find_boxes(answer.text, frame.intrinsics.size_px), question.regions)
    # The benchmarks score the model's words alone.
    return answer.words_value if answer.unit == {LENGTH: "m", DIRECTION: "deg"}[question.kind] else math.nan


def _best_region(named: Sequence[Region], regions: Sequence[Region]) -> float:
    """Returns the number of the region that the first named box overlaps most, NaN if it overlaps none."""
    shares = [_overlap(named[0], region) for region in regions] if named else []
    return float(np.argmax(shares)) if shares and max(shares) > 0 else math.nan


def _overlap(one: Region, two: Region) -> float:
    """Returns intersection over union."""
    wide = min(one.x_px + one.width_px, two.x_px + two.width_px) - max(one.x_px, two.x_px)
    high = min(one.y_px + one.height_px, two.y_px + two.height_px) - max(one.y_px, two.y_px)
    both = max(wide, 0.0) * max(high, 0.0)
    union = one.width_px * one.height_px + two.width_px * two.height_px - both
    return both / union if union > 0 else 0.0


def is_correct(kind: str, value: float, truth: float) -> bool:
    """Returns whether a reply with this value counts as correct."""
    if kind == ABSENT:
        return value == 1.0
    if kind == LENGTH:
        return (1 - LENGTH_TOLERANCE) * truth <= value <= (1 + LENGTH_TOLERANCE) * truth
    if kind == DIRECTION:
        return clock_hours_between(value, truth) <= 1
    return value == truth


def clock_hours_between(one_deg: float, two_deg: float) -> float:
    """Returns the whole hours between two directions on a clock face, 0 to 6; NaN if one is unknown."""
    if not (math.isfinite(one_deg) and math.isfinite(two_deg)):
        return math.nan
    hours = abs(round(one_deg / HOUR_DEG) - round(two_deg / HOUR_DEG)) % 12
    return min(hours, 12 - hours)


def score_objects(questions: Sequence[ObjectQuestion], answers: Sequence[ObjectAnswer]) -> dict[str, CategoryScores]:
    """Returns the scores of each category, of both halves of the benchmark, and of all questions."""
    groups: dict[str, list[tuple[ObjectQuestion, float]]] = {}
    for question, answer in zip(questions, answers, strict=True):
        value = math.nan if answer["said"] is None else answer["said"]
        for name in filter(None, (question.category, HALVES.get(question.kind), "all")):
            groups.setdefault(name, []).append((question, value))
    return {name: _score_category(members) for name, members in groups.items()}


def _score_category(members: Sequence[tuple[ObjectQuestion, float]]) -> CategoryScores:
    correct = [is_correct(question.kind, value, question.truth) for question, value in members]
    lengths = [(value, q.truth) for q, value in members if q.kind == LENGTH and math.isfinite(value)]
    hours = [
        clock_hours_between(value, q.truth) for q, value in members if q.kind == DIRECTION and math.isfinite(value)
    ]
    return {
        "right": sum(correct) / len(correct),
        "n": len(correct),
        "unread": sum(not math.isfinite(value) for _, value in members),
        "absrel": float(np.mean([abs(p - g) / (g + TINY_M) for p, g in lengths])) if lengths else math.nan,
        "error_deg": HOUR_DEG * float(np.mean(hours)) if hours else math.nan,
    }
