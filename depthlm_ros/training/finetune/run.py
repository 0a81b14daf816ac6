"""One run of a recipe: puts data, model and plan together, trains, and writes the result.

`FinetuneRun` holds the parts. `train` runs it with the trainer that `make_trainer` (or grpo.make_grpo_trainer) makes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, TypedDict, TypeVar

import torch
import transformers
from accelerate.utils import gather_object

from depthlm_ros.errors import BadInput, SetupError
from depthlm_ros.file_io import write_atomically
from depthlm_ros.geometry.focal_estimation import FocalEstimator, make_estimator
from depthlm_ros.training.finetune.dataset import FinetuneDataset, SkippedCounts, SkippedRecords
from depthlm_ros.training.finetune.model import (
    BaseCheckpoint,
    FinetuneModel,
    load_finetune_model,
    make_chat_encoder,
    make_collator,
    make_image_token_rule,
)
from depthlm_ros.training.finetune.recipe import FinetuneDataSettings, FinetuneRecipe
from depthlm_ros.training.finetune.record_files import (
    RecordFile,
    RecordParser,
    SampleOrder,
    object_parser,
    open_record_files,
    pair_parser,
    point_parser,
    weights_of_files,
)
from depthlm_ros.training.finetune.samples import (
    SampleContext,
    SampleMaker,
    make_depthlm_sample,
    make_depthvlm_sample,
    make_match_sample,
    make_object_sample,
    make_point_sample,
    make_pose_sample,
)
from depthlm_ros.training.finetune.save_release import gather_state, save_release
from depthlm_ros.training.finetune.trainer import (
    WRITE_ERRORS,
    CheckpointingTrainer,
    FinetuneTrainer,
    TrainingPlan,
    last_complete_checkpoint,
    plan_training,
    supervised_arguments,
    use_deterministic_kernels,
    write_error,
)

R = TypeVar("R")
CHECKPOINTS_FOLDER = "checkpoints"
SETTINGS_FILE = "run.json"
# Settings that a resumed run may change: they do not change what is learnt.
CHANGEABLE_SETTINGS = {"train.save_every", "train.keep", "train.log_every", "train.workers"}


@dataclass(frozen=True)
class FinetuneTask(Generic[R]):
    """make_parser: makes the parser of the lines of a file. make_sample: makes a sample of a record."""

    make_parser: Callable[[FinetuneDataSettings, FocalEstimator], RecordParser[R]]
    make_sample: SampleMaker[R]


TASKS: dict[str, FinetuneTask] = {
    "depthlm": FinetuneTask(point_parser, make_depthlm_sample),
    "depthvlm": FinetuneTask(point_parser, make_depthvlm_sample),
    "vlm3-depth": FinetuneTask(point_parser, make_point_sample),
    "vlm3-object": FinetuneTask(object_parser, make_object_sample),
    "vlm3-corr": FinetuneTask(pair_parser, make_match_sample),
    "vlm3-pose": FinetuneTask(pair_parser, make_pose_sample),
}


@dataclass(frozen=True)
class FinetuneRun:
    """A recipe with its data and its base, in the folder `out`.

    data: FILE or FILE=WEIGHT each. steps: number of steps, None for the recipe's samples or epochs.
    """

    recipe: FinetuneRecipe
    base: BaseCheckpoint
    data: tuple[str, ...]
    out: Path
    steps: int | None = None

    @property
    def checkpoints(self) -> Path:
        return self.out / CHECKPOINTS_FOLDER

    def plan(self) -> TrainingPlan:
        return plan_training(self.recipe.train, self.order.epoch_samples, self.steps)

    def dataset(self, length: int) -> FinetuneDataset:
        """Returns the first `length` samples."""
        return FinetuneDataset(
            self.files,
            self.order,
            TASKS[self.recipe.task].make_sample,
            SampleContext(self.base.spec, self.recipe.data),
            make_chat_encoder(self.base),
            make_image_token_rule(self.base),
            self.recipe.text,
            length,
        )

    @cached_property
    def files(self) -> tuple[RecordFile, ...]:
        recipe = self.recipe
        parse = TASKS[recipe.task].make_parser(recipe.data, make_estimator(recipe.focal))
        return open_record_files(self.data, parse, recipe.data)

    @cached_property
    def order(self) -> SampleOrder:
        data = self.recipe.data
        weights = weights_of_files(self.files) if data.mixture == "weights" else None
        return SampleOrder(tuple(map(len, self.files)), weights, self.recipe.seed, data.nominal)


class TrainingHistory(TypedDict):
    """How a model was made, as training.json holds it beside the recipe.

    plan: the fields of TrainingPlan. started_from: a checkpoint of the run, or the base. left_out: SkippedRecords.
    repeated_lines: by file, the number of lines that are equal to an earlier one. log: the Trainer's log.
    """

    data: list[str]
    plan: dict[str, int]
    started_from: str
    left_out: SkippedCounts
    repeated_lines: dict[str, int]
    seconds: int
    torch: str
    transformers: str
    log: list[Mapping[str, float]]


# Makes the trainer of a run by its plan, and the model that it trains.
TrainerMaker = Callable[[FinetuneRun, TrainingPlan], tuple[CheckpointingTrainer, FinetuneModel]]


def train(run: FinetuneRun, resume: bool, make: TrainerMaker) -> TrainingHistory:
    """Trains to the end of the plan, writes the released layout into run.out, and returns how the model was made.

    make: make_trainer, or grpo.make_grpo_trainer. resume: continue from the last complete checkpoint, or begin if there
    is none. Raises SetupError for a folder that holds another run, for one that holds a run if resume is False, and if
    a file cannot be written.
    """
    plan = run.plan()
    start = prepare_folder(run, plan, resume)
    use_deterministic_kernels(run.recipe.train.deterministic)
    began_s = time.monotonic()
    trainer, model = make(run, plan)
    trainer.train(resume_from_checkpoint=None if start is None else str(start))
    log, seconds = trainer.state.log_history, time.monotonic() - began_s
    history = make_history(run, plan, start, trainer.skipped, seconds, log)
    write_result(trainer, model, run, history)
    return history


def make_trainer(run: FinetuneRun, plan: TrainingPlan) -> tuple[FinetuneTrainer, FinetuneModel]:
    """Returns Hugging Face's Trainer for the run, and the model that it trains."""
    dataset, model = run.dataset(plan.samples), load_finetune_model(run.base, run.recipe)
    trainer = FinetuneTrainer(
        model=model,
        args=supervised_arguments(run.recipe, plan, run.checkpoints),
        train_dataset=dataset,
        data_collator=make_collator(run.base, dataset.encoder),
    )
    return trainer, model


def make_history(
    run: FinetuneRun,
    plan: TrainingPlan,
    start: Path | None,
    skipped: SkippedRecords,
    seconds: float,
    log: Sequence[Mapping[str, float]],
) -> TrainingHistory:
    """Returns how the model was made. Every process must call this, because each has skipped records of its own."""
    total = SkippedRecords()
    for of_process in gather_object([skipped]):
        total.merge(of_process)
    return {
        "data": list(run.data),
        "plan": asdict(plan),
        "started_from": str(start or run.base.folder),
        "left_out": total.to_json(),
        "repeated_lines": {str(file.path): file.lines.repeated for file in run.files if file.lines.repeated},
        "seconds": round(seconds),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "log": list(log),
    }


def write_result(
    trainer: CheckpointingTrainer, model: FinetuneModel, run: FinetuneRun, history: TrainingHistory
) -> None:
    """Gathers the weights of all processes; the first process writes them. Raises SetupError if it cannot."""
    state = gather_state(model, keep=trainer.is_world_process_zero())
    if trainer.is_world_process_zero():
        try:
            save_release(model, state, run.base, run.recipe, run.out, history)
        except WRITE_ERRORS as exc:
            raise write_error(run.out, exc) from exc
    trainer.accelerator.wait_for_everyone()


def prepare_folder(run: FinetuneRun, plan: TrainingPlan, resume: bool) -> Path | None:
    """Returns the checkpoint to continue from, None for a new run, whose settings are written down.

    A folder holds one run. Raises SetupError if it holds one with other settings, or one that must not be resumed.
    """
    start = last_complete_checkpoint(run.checkpoints)
    if start is not None and not resume:
        raise SetupError(f"{run.out} holds a run that has begun: continue it (--resume), or name another --out.")
    settings, path = collect_settings(run, plan), run.out / SETTINGS_FILE
    if start is not None:
        _check_same_settings(_flatten(settings), path)
        return start
    if is_first_process():
        write_atomically(path, json.dumps(settings, indent=1) + "\n")
    return None


def _check_same_settings(settings: Mapping[str, object], path: Path) -> None:
    """Raises SetupError if a run began with other settings, which its file holds."""
    try:
        before = _flatten(json.loads(path.read_text()))
    except (OSError, ValueError) as exc:
        raise SetupError(f"{path} cannot be read ({exc}): the settings that the run began with are not known.") from exc
    keys = {*before, *settings} - CHANGEABLE_SETTINGS
    changed = sorted(key for key in keys if before.get(key) != settings.get(key))
    if changed:
        listed = ", ".join(f"{key} was {before.get(key)!r}, is {settings.get(key)!r}" for key in changed[:5])
        raise SetupError(f"{path.parent} was begun with other settings ({listed}): use them, or another --out.")


def collect_settings(run: FinetuneRun, plan: TrainingPlan) -> dict[str, object]:
    """Returns everything that decides what is learnt, as JSON holds it.

    The division of a batch is part of it: it changes the last digits of sums.
    """
    sizes = {str(file.path): len(file) for file in run.files}
    settings = {**asdict(run.recipe), "data_files": list(run.data), "records": sizes, "plan": asdict(plan)}
    return dict(json.loads(json.dumps(settings)))


def _flatten(fields: Mapping[str, object], group: str = "") -> dict[str, object]:
    """Returns {"group.field": value}."""
    flat: dict[str, object] = {}
    for key, value in fields.items():
        flat |= _flatten(value, f"{group}{key}.") if isinstance(value, dict) else {f"{group}{key}": value}
    return flat


def is_first_process() -> bool:
    """Returns whether this is the first of the processes that torchrun or accelerate has started together."""
    return int(os.environ.get("RANK", "0")) == 0


def check_data(run: FinetuneRun) -> None:
    """Makes the first sample, so that unusable data are found before a model is loaded. Raises BadInput."""
    if run.recipe.text.answers is False and run.recipe.task != "depthvlm":
        raise BadInput(f"text.answers is false: without answers the task {run.recipe.task} has nothing to learn.")
    run.dataset(1)[0]
