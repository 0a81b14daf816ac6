"""One evaluation of what a model says: about objects, of matching pixels, of the pose between two images.

Questions about things in an image, scored as SpatialRGPT-Bench scores its questions about regions.

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

What a model said to questions about things, and how much of it is right: see objects.py for the rules.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from depthlm_ros.core import Answer, Frame, Intrinsics, Region, Status
from depthlm_ros.data.read import json_object, numbered_lines, require
from depthlm_ros.data.records import (
    BadRecord,
    PairRecord,
    Problem,
    camera,
    count_by_reason,
    image,
    inside_image,
    nothing_usable,
    numbers,
    rows,
    text,
)
from depthlm_ros.errors import BadImage, BadInput, BadQuestion
from depthlm_ros.eval.gallery import MOST_PICTURES, match_picture
from depthlm_ros.eval.image_pairs import find_matches, match_scores, pair_key, pose_scores, read_pairs, tell_pose
from depthlm_ros.eval.result_file import Evaluated, Found, Results, key_of, work_through
from depthlm_ros.eval.tables import object_table, score_lines
from depthlm_ros.families.parsing import boxes_in
from depthlm_ros.families.vlm3 import named_regions, polarity
from depthlm_ros.image_io import read_rgb, write_rgb

if TYPE_CHECKING:
    from depthlm_ros.model import Model

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
        return _index_of_region(boxes_in(answer.text, frame.intrinsics.size_px), question.regions)
    return answer.value if answer.unit == {LENGTH: "m", DIRECTION: "deg"}[question.kind] else math.nan


def _index_of_region(named: Sequence[Region], regions: Sequence[Region]) -> float:
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


def object_scores(questions: Sequence[ObjectQuestion], found: Sequence[Found]) -> dict[str, Any]:
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


@dataclass(frozen=True)
class Wanted:
    """limit: how many records, None for all; seed: to draw them with, None for the first. root: what paths in the
    labels are relative to, None for the labels themselves. pictures: where to draw matches, None for nowhere."""

    limit: int | None = None
    seed: int | None = None
    root: Path | None = None
    pictures: Path | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise BadInput(f"--limit is {self.limit}: at least 1.")


ABILITIES = {"objects": "questions", "matches": "match", "pose": "pose"}
Watch = Callable[[int, int], None]
R = TypeVar("R", bound=Evaluated)


@dataclass(frozen=True)
class Told:
    """scores: in plain types. table: the same for people. left_out: labels that could not be used."""

    scores: dict[str, Any]
    table: str
    left_out: tuple[Problem, ...]


def task_of(path: Path, model: Model | None) -> str:
    """What labels are about, by the keys of their first line; of pairs, what the model can do, matches first."""
    for _, line in numbered_lines(path):
        try:
            fields = json_object(line)
        except BadRecord:
            continue
        if "images" in fields:
            return "pose" if model is not None and "match" not in model.family.abilities else "matches"
        return "objects" if "question" in fields else "depth"
    return "depth"


def score_words(
    task: str,
    path: Path,
    model: Model,
    results: Results,
    wanted: Wanted | None = None,
    watch: Watch | None = None,
) -> Told:
    """Scores a model on "objects", "matches" or "pose".

    Raises BadInput for labels that are unusable, BadQuestion if the model cannot do the task.
    """
    if ABILITIES[task] not in model.family.abilities:
        raise BadQuestion(f"{model.name} is not made for task {task}: use vlm3-object, vlm3-corr, vlm3-pose or tiny.")
    if task == "objects":
        return _objects(path, model, results, wanted or Wanted(), watch)
    return _pairs(task, path, model, results, wanted or Wanted(), watch)


def _objects(path: Path, model: Model, results: Results, wanted: Wanted, watch: Watch | None) -> Told:
    questions, problems = read_questions(path, wanted.root)
    questions = _chosen(questions, wanted)

    def asker(frame, question: ObjectQuestion):
        return model.look(frame).ask(question.question, question.uv_px, question.regions)

    def work(question: ObjectQuestion) -> Found:
        return ask(asker, question)

    found, left_out = work_through(questions, lambda question: question.key, work, results, watch)
    kept = _usable(path, questions, left_out)
    scores = object_scores(kept, found)
    return _told({"scores": scores}, object_table(scores), (*problems, *left_out), kept, found)


def _pairs(task: str, path: Path, model: Model, results: Results, wanted: Wanted, watch: Watch | None) -> Told:
    pairs, problems = read_pairs(path, task == "matches", wanted.root)
    pairs = _chosen(pairs, wanted)

    def work(pair) -> Found:
        if task == "pose":
            return tell_pose(lambda one, two: model.look_pair(one, two).pose(), pair)
        return find_matches(lambda one, two, uv_px: model.look_pair(one, two).match(uv_px), pair)

    found, left_out = work_through(pairs, pair_key, work, results, watch)
    kept = _usable(path, pairs, left_out)
    scores = match_scores(kept, found) if task == "matches" else pose_scores(kept, found)
    if wanted.pictures and task == "matches":
        _draw(wanted.pictures, kept, found)
    return _told(scores, score_lines(scores), (*problems, *left_out), kept, found)


def _draw(folder: Path, pairs: Sequence[PairRecord], found: Sequence[Found]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for pair, one in list(zip(pairs, found, strict=True))[:MOST_PICTURES]:
        line = pair.where.rpartition(":")[2]
        write_rgb(folder / f"{line.zfill(6)}_{pair.images[0].stem}.jpg", match_picture(pair, one["matched_px"]))


def _told(
    scores: dict[str, Any], table: str, left_out: tuple[Problem, ...], kept: Sequence[Evaluated], found: Sequence[Found]
) -> Told:
    refused = [
        Problem(record.where, "refused", one["refused"])
        for record, one in zip(kept, found, strict=True)
        if one["refused"]
    ]
    counted = {"records": len(kept), "refused": len(refused), "left_out": count_by_reason(left_out)}
    return Told(scores | counted, table, (*left_out, *refused))


def _usable(path: Path, records: Sequence[R], left_out: Sequence[Problem]) -> list[R]:
    """Those that could be scored. Raises BadInput if there is none."""
    lost = {problem.where for problem in left_out}
    kept = [record for record in records if record.where not in lost]
    if not kept:
        raise BadInput(f"{path}: none of its {len(records)} records is usable; the last: {left_out[-1]}")
    return kept


def _chosen(records: list[R], wanted: Wanted) -> list[R]:
    if wanted.limit is None or wanted.limit >= len(records):
        return records
    chosen = sorted(random.Random(wanted.seed).sample(range(len(records)), wanted.limit))
    return records[: wanted.limit] if wanted.seed is None else [records[index] for index in chosen]
