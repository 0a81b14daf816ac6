# SPDX-License-Identifier: Apache-2.0
"""One evaluation of what a model says: answers about objects, matches of pixels, or poses: `evaluate_language`.

`detect_task` finds out from the labels which of these they are for.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from depthlm_ros.core import Answer, Frame
from depthlm_ros.data.read import iter_numbered_lines, parse_json_object
from depthlm_ros.data.records import BadRecord, PairRecord, RecordProblem, count_by_reason
from depthlm_ros.errors import BadInput, BadQuestion
from depthlm_ros.eval.gallery import MAX_PICTURES, draw_matches, picture_name
from depthlm_ros.eval.image_pairs import (
    MatchResult,
    PoseResult,
    evaluate_matches,
    evaluate_pose,
    pair_key,
    read_pairs,
    score_matches,
    score_poses,
)
from depthlm_ros.eval.object_questions import (
    ObjectAnswer,
    ObjectQuestion,
    ask_object_question,
    read_object_questions,
    score_objects,
)
from depthlm_ros.eval.result_file import ProgressCallback, RecordT, ResultStore, ResultT, Shard, evaluate_records
from depthlm_ros.eval.tables import object_table, score_lines
from depthlm_ros.image_io import write_rgb

if TYPE_CHECKING:
    from depthlm_ros.eval.worker_model import Parallel
    from depthlm_ros.model import Model

# Task -> ability that the model's family needs.
ABILITIES = {"objects": "questions", "matches": "match", "pose": "pose"}


@dataclass(frozen=True)
class LanguageEvalOptions:
    """Options of an evaluation of objects, matches or poses.

    limit: number of records, None for all. seed: None takes the first records instead of random ones. root: folder that
    paths in the labels are relative to, None for the folder of the labels. pictures: folder for pictures of matches,
    None for no pictures. shard: the share of the records that is evaluated, None for all.
    """

    limit: int | None = None
    seed: int | None = None
    root: Path | None = None
    pictures: Path | None = None
    shard: Shard | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise BadInput(f"--limit is {self.limit}: it must be at least 1.")


@dataclass(frozen=True)
class LanguageReport:
    """scores: plain types, for JSON. table: the scores for people. left_out: problems of labels and refused records."""

    scores: dict[str, object]
    table: str
    left_out: tuple[RecordProblem, ...]


def detect_task(path: Path, model: Model | None) -> str:
    """Returns the task of labels from the keys of their first readable line: "depth", "objects", "matches" or "pose".

    Labels of pairs are for matches, or for poses if the model cannot match.
    """
    for _, line in iter_numbered_lines(path):
        try:
            fields = parse_json_object(line)
        except BadRecord:
            continue
        if "images" in fields:
            return "pose" if model is not None and "match" not in model.family.abilities else "matches"
        return "objects" if "question" in fields else "depth"
    return "depth"


def evaluate_language(
    task: str,
    path: Path,
    model: Model,
    store: ResultStore,
    options: LanguageEvalOptions | None = None,
    on_progress: ProgressCallback | None = None,
    parallel: Parallel | None = None,
) -> LanguageReport:
    """Scores a model on "objects", "matches" or "pose".

    parallel: workers that evaluate the records; `model` is then not loaded. Raises BadInput if the labels cannot be
    used, and BadQuestion if the model cannot do the task.
    """
    if ABILITIES[task] not in model.family.abilities:
        raise BadQuestion(f"{model.name} cannot do task {task}: use vlm3-object, vlm3-corr, vlm3-pose or tiny.")
    evaluate = {"objects": _evaluate_objects, "matches": _evaluate_matches, "pose": _evaluate_poses}[task]
    return evaluate(path, options or LanguageEvalOptions(), _Evaluator(model, store, on_progress, parallel))


@dataclass(frozen=True)
class _Evaluator:
    """Evaluates records with a model, here or by workers. Its fields are the parameters of evaluate_language."""

    model: Model
    store: ResultStore
    on_progress: ProgressCallback | None
    parallel: Parallel | None

    def results(
        self,
        records: Sequence[RecordT],
        key_of: Callable[[RecordT], str],
        evaluate: Callable[[Model, RecordT], ResultT],
    ) -> tuple[list[ResultT], list[RecordProblem]]:
        """Returns what evaluate_records does. evaluate: a function of a module, which can be pickled."""
        workers = self.parallel.workers if self.parallel else None
        bound = self.parallel.evaluator(evaluate) if self.parallel else partial(evaluate, self.model)
        return evaluate_records(records, key_of, bound, self.store, self.on_progress, workers)


def _answer_question(model: Model, question: ObjectQuestion) -> ObjectAnswer:
    def ask(frame: Frame, question: ObjectQuestion) -> Answer:
        return model.look(frame).ask(question.question, question.uv_px, question.regions)

    return ask_object_question(ask, question)


def _match_pair(model: Model, pair: PairRecord) -> MatchResult:
    return evaluate_matches(lambda first, second, uv_px: model.look_pair(first, second).match(uv_px), pair)


def _pose_of_pair(model: Model, pair: PairRecord) -> PoseResult:
    return evaluate_pose(lambda first, second: model.look_pair(first, second).pose(), pair)


def _evaluate_objects(path: Path, options: LanguageEvalOptions, evaluator: _Evaluator) -> LanguageReport:
    questions, problems = read_object_questions(path, options.root)
    questions = _select_records(path, questions, options)
    answers, left_out = evaluator.results(questions, lambda question: question.key, _answer_question)
    usable = _usable_records(path, questions, left_out)
    scores = score_objects(usable, answers)
    refused = _refused_records(usable, [answer["refused"] for answer in answers])
    return _report({"scores": scores}, object_table(scores), (*problems, *left_out), refused, len(usable))


def _evaluate_matches(path: Path, options: LanguageEvalOptions, evaluator: _Evaluator) -> LanguageReport:
    pairs, problems = read_pairs(path, points=True, root=options.root)
    pairs = _select_records(path, pairs, options)
    results, left_out = evaluator.results(pairs, pair_key, _match_pair)
    usable = _usable_records(path, pairs, left_out)
    if options.pictures:
        _draw_pairs(options.pictures, usable, results)
    scores = score_matches(usable, results)
    refused = _refused_records(usable, [result["refused"] for result in results])
    return _report(scores, score_lines(scores), (*problems, *left_out), refused, len(usable))


def _evaluate_poses(path: Path, options: LanguageEvalOptions, evaluator: _Evaluator) -> LanguageReport:
    pairs, problems = read_pairs(path, points=False, root=options.root)
    pairs = _select_records(path, pairs, options)
    results, left_out = evaluator.results(pairs, pair_key, _pose_of_pair)
    usable = _usable_records(path, pairs, left_out)
    scores = score_poses(usable, results)
    refused = _refused_records(usable, [result["refused"] for result in results])
    return _report(scores, score_lines(scores), (*problems, *left_out), refused, len(usable))


def _draw_pairs(folder: Path, pairs: Sequence[PairRecord], results: Sequence[MatchResult]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for pair, result in list(zip(pairs, results, strict=True))[:MAX_PICTURES]:
        picture = draw_matches(pair, result["matched_px"])
        write_rgb(folder / picture_name(pair.where, pair.images[0]), picture)


def _report(
    scores: Mapping[str, object],
    table: str,
    left_out: tuple[RecordProblem, ...],
    refused: Sequence[RecordProblem],
    records: int,
) -> LanguageReport:
    counts = {"records": records, "refused": len(refused), "left_out": count_by_reason(left_out)}
    return LanguageReport({**scores, **counts}, table, (*left_out, *refused))


def _refused_records(records: Sequence[RecordT], reasons: Sequence[str]) -> list[RecordProblem]:
    """Returns the problems of the records that the model refused. reasons: "" for a record that it did not refuse."""
    return [
        RecordProblem(record.where, "refused", reason)
        for record, reason in zip(records, reasons, strict=True)
        if reason
    ]


def _usable_records(path: Path, records: Sequence[RecordT], left_out: Sequence[RecordProblem]) -> list[RecordT]:
    """Returns the records that have a result. Raises BadInput if there is none."""
    lost = {problem.where for problem in left_out}
    usable = [record for record in records if record.where not in lost]
    if not usable:
        raise BadInput(f"{path}: none of its {len(records)} records is usable; the last problem is {left_out[-1]}")
    return usable


def _select_records(path: Path, records: list[RecordT], options: LanguageEvalOptions) -> list[RecordT]:
    chosen = _limit_records(records, options)
    if options.shard is None:
        return chosen
    taken = options.shard.take(chosen)
    if not taken:
        raise BadInput(f"--shard {options.shard}: {path} has fewer records than there are shards.")
    return list(taken)


def _limit_records(records: list[RecordT], options: LanguageEvalOptions) -> list[RecordT]:
    if options.limit is None or options.limit >= len(records):
        return records
    if options.seed is None:
        return records[: options.limit]
    chosen = sorted(random.Random(options.seed).sample(range(len(records)), options.limit))
    return [records[index] for index in chosen]
