"""What a model said to questions about things, and how much of it is right: see objects.py for the rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from depthlm_ros.core import Answer, Frame, Region, Status
from depthlm_ros.data.records import BadRecord
from depthlm_ros.errors import BadImage, BadInput
from depthlm_ros.eval.objects import ABSENT, CHOICE, DIRECTION, HOUR_DEG, LENGTH, YES_NO, ObjectQuestion
from depthlm_ros.eval.results import Found
from depthlm_ros.families.parsing import boxes_in
from depthlm_ros.families.vlm3 import polarity
from depthlm_ros.image_io import read_rgb

WITHIN, TINY_M = 0.25, 1e-4
# The benchmark sums up the two halves of its questions by these names.
HALVES = {YES_NO: "qualitative", CHOICE: "qualitative", LENGTH: "quantitative", DIRECTION: "quantitative"}

# (frame, question) -> the model's answer. Raises BadInput for one that it refuses.
Asker = Callable[[Frame, ObjectQuestion], Answer]


def ask(asker: Asker, question: ObjectQuestion) -> Found:
    """What the model said, read. Raises BadRecord if the image is unusable."""
    try:
        frame = Frame(read_rgb(question.image), question.intrinsics)
    except BadImage as exc:
        raise BadRecord("image unusable", str(exc)) from exc
    try:
        answer = asker(frame, question)
    except BadInput as exc:
        return {"text": "", "said": math.nan, "refused": str(exc)}
    return {"text": answer.text, "said": _said(answer, question, frame), "refused": ""}


def _said(answer: Answer, question: ObjectQuestion, frame: Frame) -> float:
    """The reply in the terms of the truth, NaN if it holds none; of a thing that is not there 1 if it says so."""
    if question.kind == ABSENT:
        return float(answer.status is Status.NOT_FOUND)
    if answer.status is not Status.OK:
        return math.nan
    if question.kind == YES_NO:
        said = polarity(answer.text)
        return math.nan if said is None else float(said)
    if question.kind == CHOICE:
        return _chosen(boxes_in(answer.text, frame.intrinsics.size_px), question.regions)
    return answer.value if answer.unit == {LENGTH: "m", DIRECTION: "deg"}[question.kind] else math.nan


def _chosen(named: Sequence[Region], regions: Sequence[Region]) -> float:
    """Number of the region that the first named box covers best, NaN if it covers none."""
    shares = [_overlap(named[0], region) for region in regions] if named else []
    return float(np.argmax(shares)) if shares and max(shares) > 0 else math.nan


def _overlap(one: Region, two: Region) -> float:
    """Intersection over union."""
    wide = min(one.x_px + one.width_px, two.x_px + two.width_px) - max(one.x_px, two.x_px)
    high = min(one.y_px + one.height_px, two.y_px + two.height_px) - max(one.y_px, two.y_px)
    both = max(wide, 0.0) * max(high, 0.0)
    union = one.width_px * one.height_px + two.width_px * two.height_px - both
    return both / union if union > 0 else 0.0


def is_right(kind: str, said: float, truth: float) -> bool:
    """Whether a reply counts as right."""
    if kind == ABSENT:
        return said == 1.0
    if kind == LENGTH:
        return (1 - WITHIN) * truth <= said <= (1 + WITHIN) * truth
    if kind == DIRECTION:
        return hours_apart(said, truth) <= 1
    return said == truth


def hours_apart(one_deg: float, two_deg: float) -> float:
    """Whole hours between two directions on the face of a clock, 0 to 6; NaN if one is unknown."""
    if not (math.isfinite(one_deg) and math.isfinite(two_deg)):
        return math.nan
    apart = abs(round(one_deg / HOUR_DEG) - round(two_deg / HOUR_DEG)) % 12
    return min(apart, 12 - apart)


def scores(questions: Sequence[ObjectQuestion], found: Sequence[Found]) -> dict[str, Any]:
    """In plain types: per category the share right, how many were asked and not read, and the errors."""
    said = [math.nan if one["said"] is None else one["said"] for one in found]
    groups: dict[str, list[tuple[ObjectQuestion, float]]] = {}
    for question, value in zip(questions, said, strict=True):
        for name in filter(None, (question.category, HALVES.get(question.kind), "all")):
            groups.setdefault(name, []).append((question, value))
    return {name: _group(members) for name, members in groups.items()}


def _group(members: Sequence[tuple[ObjectQuestion, float]]) -> dict[str, Any]:
    right = [is_right(question.kind, value, question.truth) for question, value in members]
    lengths = [(value, q.truth) for q, value in members if q.kind == LENGTH and math.isfinite(value)]
    hours = [hours_apart(value, q.truth) for q, value in members if q.kind == DIRECTION and math.isfinite(value)]
    return {
        "right": sum(right) / len(right),
        "n": len(right),
        "unread": sum(not math.isfinite(value) for _, value in members),
        "absrel": float(np.mean([abs(p - g) / (g + TINY_M) for p, g in lengths])) if lengths else math.nan,
        "error_deg": HOUR_DEG * float(np.mean(hours)) if hours else math.nan,
    }
