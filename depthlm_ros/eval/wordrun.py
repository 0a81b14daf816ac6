"""One evaluation of what a model says: about objects, of matching pixels, of the pose between two images."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from depthlm_ros.data.problems import BadRecord, Problem, count_by_reason
from depthlm_ros.data.reading import json_object, numbered_lines
from depthlm_ros.errors import BadInput, BadQuestion
from depthlm_ros.eval import objectscores
from depthlm_ros.eval.gallery import MOST_PICTURES, match_picture
from depthlm_ros.eval.objects import ObjectQuestion, read_questions
from depthlm_ros.eval.pairs import find_matches, match_scores, pair_key, pose_scores, read_pairs, tell_pose
from depthlm_ros.eval.results import Evaluated, Found, Results, work_through
from depthlm_ros.eval.tables import object_table, score_lines
from depthlm_ros.imagefile import write_rgb

if TYPE_CHECKING:
    from depthlm_ros.model import Model

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
    chosen: tuple[int | None, int | None] = (None, None),
    pictures: Path | None = None,
    watch: Watch | None = None,
) -> Told:
    """Scores a model on "objects", "matches" or "pose". chosen: how many records, and the seed to draw them with.

    Raises BadInput for labels that are unusable, BadQuestion if the model cannot do the task.
    """
    if ABILITIES[task] not in model.family.abilities:
        raise BadQuestion(f"{model.name} is not made for task {task}: use vlm3-object, vlm3-corr, vlm3-pose or tiny.")
    if task == "objects":
        return _objects(path, model, results, chosen, watch)
    return _pairs(task, path, model, results, chosen, pictures, watch)


def _objects(
    path: Path, model: Model, results: Results, chosen: tuple[int | None, int | None], watch: Watch | None
) -> Told:
    questions, problems = read_questions(path)
    questions = _chosen(questions, *chosen)

    def asker(frame, question: ObjectQuestion):
        return model.look(frame).ask(question.question, question.uv_px, question.regions)

    def work(question: ObjectQuestion) -> Found:
        return objectscores.ask(asker, question)

    found, left_out = work_through(questions, lambda question: question.key, work, results, watch)
    kept = _usable(path, questions, left_out)
    scores = objectscores.scores(kept, found)
    return _told({"scores": scores}, object_table(scores), (*problems, *left_out), kept, found)


def _pairs(
    task: str,
    path: Path,
    model: Model,
    results: Results,
    chosen: tuple[int | None, int | None],
    pictures: Path | None,
    watch: Watch | None,
) -> Told:
    pairs, problems = read_pairs(path, points=task == "matches")
    pairs = _chosen(pairs, *chosen)

    def work(pair) -> Found:
        if task == "pose":
            return tell_pose(lambda one, two: model.look_pair(one, two).pose(), pair)
        return find_matches(lambda one, two, uv_px: model.look_pair(one, two).match(uv_px), pair)

    found, left_out = work_through(pairs, pair_key, work, results, watch)
    kept = _usable(path, pairs, left_out)
    scores = match_scores(kept, found) if task == "matches" else pose_scores(kept, found)
    if pictures and task == "matches":
        pictures.mkdir(parents=True, exist_ok=True)
        for pair, one in list(zip(kept, found, strict=True))[:MOST_PICTURES]:
            line = pair.where.rpartition(":")[2]
            write_rgb(pictures / f"{line.zfill(6)}_{pair.images[0].stem}.jpg", match_picture(pair, one["matched_px"]))
    return _told(scores, score_lines(scores), (*problems, *left_out), kept, found)


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


def _chosen(records: list[R], limit: int | None, seed: int | None) -> list[R]:
    if limit is None or limit >= len(records):
        return records
    if limit < 1:
        raise BadInput(f"--limit is {limit}: at least 1.")
    chosen = range(limit) if seed is None else sorted(random.Random(seed).sample(range(len(records)), limit))
    return [records[index] for index in chosen]
