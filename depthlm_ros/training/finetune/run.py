"""One run of a recipe: data, model and plan put together, trained, and written down."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils import gather_object

from depthlm_ros.errors import BadInput, SetupError
from depthlm_ros.geometry.focal_estimation import FocalEstimator, make_estimator
from depthlm_ros.training.finetune import record_files
from depthlm_ros.training.finetune.dataset import LeftOut, Lesson
from depthlm_ros.training.finetune.model import Base, Student, collator_of, load_student, speech_of, tokens_of
from depthlm_ros.training.finetune.recipe import DataSettings, Recipe
from depthlm_ros.training.finetune.record_files import Order
from depthlm_ros.training.finetune.samples import (
    MakeSample,
    Showing,
    depthlm_sample,
    depthvlm_sample,
    match_sample,
    object_sample,
    point_sample,
    pose_sample,
)
from depthlm_ros.training.finetune.save_release import release, whole_state
from depthlm_ros.training.finetune.trainer import (
    UNWRITTEN,
    Plan,
    Teacher,
    make_plan,
    repeat_exactly,
    supervised,
    unwritten,
    whole_checkpoint,
)

CHECKPOINTS = "checkpoints"
SETTINGS = "run.json"
# Settings that may differ in a resumed run: they change nothing that is learnt.
FREE = {"train.save_every", "train.keep", "train.log_every", "train.workers"}


@dataclass(frozen=True)
class Task:
    """records: what a line of a file is; make: what is made of it."""

    records: Callable[[DataSettings, FocalEstimator], record_files.Parse]
    make: MakeSample


TASKS = {
    "depthlm": Task(record_files.point_records, depthlm_sample),
    "depthvlm": Task(record_files.point_records, depthvlm_sample),
    "vlm3-depth": Task(record_files.point_records, point_sample),
    "vlm3-object": Task(record_files.object_records, object_sample),
    "vlm3-corr": Task(record_files.pair_records, match_sample),
    "vlm3-pose": Task(record_files.pair_records, pose_sample),
}


@dataclass(frozen=True)
class Run:
    """A recipe with its data and its start, in a folder `out`. data: FILE or FILE=WEIGHT each. steps: where not None,
    instead of the recipe's."""

    recipe: Recipe
    base: Base
    data: tuple[str, ...]
    out: Path
    steps: int | None = None

    @property
    def checkpoints(self) -> Path:
        return self.out / CHECKPOINTS

    def plan(self) -> Plan:
        return make_plan(self.recipe.train, self.order.epoch, self.steps)

    def lesson(self, length: int) -> Lesson:
        """What is shown."""
        return Lesson(
            self.files,
            self.order,
            TASKS[self.recipe.task].make,
            Showing(self.base.spec, self.recipe.data),
            speech_of(self.base),
            tokens_of(self.base),
            self.recipe.text,
            length,
        )

    @cached_property
    def files(self) -> tuple[record_files.Source, ...]:
        recipe = self.recipe
        parse = TASKS[recipe.task].records(recipe.data, make_estimator(recipe.focal))
        return record_files.open_sources(self.data, parse, recipe.data)

    @cached_property
    def order(self) -> Order:
        data = self.recipe.data
        weights = record_files.weights_of(self.files) if data.mixture == "weights" else None
        return Order(tuple(map(len, self.files)), weights, self.recipe.seed, data.nominal)


# What trains a run by its plan, and the student that it teaches.
MakeTeacher = Callable[[Run, Plan], tuple[Any, Student]]


def train(run: Run, resume: bool, make: MakeTeacher) -> dict[str, Any]:
    """Trains to the end of the plan and writes the released layout into run.out. Returns what training.json holds.

    make: make_teacher, or grpo.make_grpo. resume: go on from the last whole checkpoint, or begin where there is none.
    Raises SetupError for a folder that holds another run, for one that is not to be resumed, and where a checkpoint
    cannot be written.
    """
    plan = run.plan()
    start = prepare(run, plan, resume)
    repeat_exactly(run.recipe.train.deterministic)
    began_s = time.monotonic()
    teacher, student = make(run, plan)
    teacher.train(resume_from_checkpoint=None if start is None else str(start))
    log, seconds = teacher.state.log_history, time.monotonic() - began_s
    history = history_of(run, plan, start, teacher.left_out, seconds, log)
    finish(teacher, student, run, history)
    return history


def make_teacher(run: Run, plan: Plan) -> tuple[Teacher, Student]:
    """Hugging Face's Trainer for the run, and what it teaches."""
    lesson, student = run.lesson(plan.samples), load_student(run.base, run.recipe)
    teacher = Teacher(
        model=student,
        args=supervised(run.recipe, plan, run.checkpoints),
        train_dataset=lesson,
        data_collator=collator_of(run.base, lesson.speech),
    )
    return teacher, student


def history_of(
    run: Run,
    plan: Plan,
    start: Path | None,
    left_out: LeftOut,
    seconds: float,
    log: Sequence[Mapping[str, float]],
) -> dict[str, Any]:
    """How the model was made. Every process must call this: each has left out things of its own."""
    everywhere = LeftOut()
    for of_process in gather_object([left_out]):
        everywhere.merge(of_process)
    return {
        "data": list(run.data),
        "plan": asdict(plan),
        "started_from": str(start or run.base.folder),
        "left_out": vars(everywhere),
        "repeated_lines": {str(source.path): source.lines.repeated for source in run.files if source.lines.repeated},
        "seconds": round(seconds),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "log": list(log),
    }


def finish(teacher: Any, student: Student, run: Run, history: Mapping[str, Any]) -> None:
    """Gathers the weights of all processes; the first one writes them."""
    state = whole_state(student, keep=teacher.is_world_process_zero())
    if teacher.is_world_process_zero():
        try:
            release(student, state, run.base, run.recipe, run.out, history)
        except UNWRITTEN as exc:
            raise unwritten(run.out, exc) from exc
    teacher.accelerator.wait_for_everyone()


def prepare(run: Run, plan: Plan, resume: bool) -> Path | None:
    """The checkpoint to go on from. A folder holds one run: its settings are written down, and others are refused."""
    start = whole_checkpoint(run.checkpoints)
    if start is not None and not resume:
        raise SetupError(f"{run.out} holds a run that was begun: go on with it (--resume), or name another --out.")
    now, path = _flat(settings_of(run, plan)), run.out / SETTINGS
    if start is not None:
        try:
            before = _flat(json.loads(path.read_text()))
        except (OSError, ValueError) as exc:
            raise SetupError(f"{path} cannot be read ({exc}): what the run was begun with is not known.") from exc
        changed = sorted(key for key in {*before, *now} - FREE if before.get(key) != now.get(key))
        if changed:
            listed = ", ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in changed[:5])
            raise SetupError(f"{run.out} was begun with other settings ({listed}): use them, or another --out.")
        return start
    if is_first_process():
        run.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings_of(run, plan), indent=1) + "\n", encoding="utf-8")
    return None


def settings_of(run: Run, plan: Plan) -> dict[str, Any]:
    """All that decides what is learnt, as JSON holds it. How a batch is divided changes sums in their last digits only,
    but that is a change too."""
    sizes = {str(source.path): len(source) for source in run.files}
    made = {**asdict(run.recipe), "data_files": list(run.data), "records": sizes, "plan": asdict(plan)}
    return dict(json.loads(json.dumps(made)))


def _flat(fields: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """{"group.field": value}."""
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return flat


def is_first_process() -> bool:
    """Of those that torchrun or accelerate has started together."""
    return int(os.environ.get("RANK", "0")) == 0


def check_data(run: Run) -> None:
    """Shows the first sample, so that data of another kind end here, before a model is loaded. Raises BadInput."""
    if run.recipe.text.answers is False and run.recipe.task != "depthvlm":
        raise BadInput(f"text.answers: false leaves nothing to learn of the task {run.recipe.task}.")
    run.lesson(1)[0]
