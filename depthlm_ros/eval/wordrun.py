"""One evaluation of what a model says: about objects, of matching pixels, of the pose between two images."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from depthlm_ros.data.read import json_object, numbered_lines
from depthlm_ros.data.records import BadRecord, PairRecord, Problem, count_by_reason
from depthlm_ros.errors import BadInput, BadQuestion
from depthlm_ros.eval import objectscores
from depthlm_ros.eval.gallery import MOST_PICTURES, match_picture
from depthlm_ros.eval.objects import ObjectQuestion, read_questions
from depthlm_ros.eval.pairs import find_matches, match_scores, pair_key, pose_scores, read_pairs, tell_pose
from depthlm_ros.eval.results import Evaluated, Found, Results, work_through
from depthlm_ros.eval.tables import object_table, score_lines
from depthlm_ros.image_io import write_rgb

if TYPE_CHECKING:
    from depthlm_ros.model import Model


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
        return objectscores.ask(asker, question)

    found, left_out = work_through(questions, lambda question: question.key, work, results, watch)
    kept = _usable(path, questions, left_out)
    scores = objectscores.scores(kept, found)
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
