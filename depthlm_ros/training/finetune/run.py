# SPDX-License-Identifier: Apache-2.0
"""One run of a recipe: puts data, model and plan together, trains, and writes the result.

`FinetuneRun` holds the parts. `train` runs it with the trainer that `make_trainer` (or grpo.make_grpo_trainer) makes.
`save_release` writes a trained model as the published checkpoints are laid out, so that `load_model` and transformers
run it.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, TypedDict, TypeVar

import torch
import transformers
import yaml
from accelerate.utils import gather_object
from torch.distributed.tensor import DTensor

from depthlm_ros.errors import BadInput, SetupError
from depthlm_ros.file_io import parse_json, write_atomically
from depthlm_ros.geometry.focal_estimation import FocalEstimator, make_estimator
from depthlm_ros.model_files.spec import ModelSpec
from depthlm_ros.model_files.spec_yaml import OWN_FILE
from depthlm_ros.nets.depth_heads import HEAD_PREFIX, MlpHead, released_parameter_name
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

CONFIG_FILE = "config.json"
HISTORY_FILE = "training.json"
MAX_SHARD_SIZE = "5GB"
# Files of a checkpoint beside its weights; those that the base has are copied.
COMPANION_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "generation_config.json",
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
        before = _flatten(parse_json(path.read_text()))
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


def save_release(
    model: FinetuneModel,
    state: Mapping[str, torch.Tensor],
    base: BaseCheckpoint,
    recipe: FinetuneRecipe,
    out: Path,
    history: Mapping[str, object],
) -> None:
    """Writes weights, configuration, tokenizer, processor, how the model is asked (depthlm.yaml) and how it was made
    (training.json). state: all weights of the model (`gather_state`)."""
    out.mkdir(parents=True, exist_ok=True)
    model.vlm.save_pretrained(out, state_dict=released_state(model, state, base.spec), max_shard_size=MAX_SHARD_SIZE)
    _correct_config(model, out / CONFIG_FILE, base.spec)
    for name in COMPANION_FILES:
        if (base.folder / name).is_file():
            shutil.copyfile(base.folder / name, out / name)
    write_atomically(out / OWN_FILE, yaml.safe_dump(_model_fields(base, recipe), sort_keys=False))
    write_atomically(out / HISTORY_FILE, json.dumps({"recipe": asdict(recipe), **history}, indent=1) + "\n")


def gather_state(model: FinetuneModel, keep: bool) -> dict[str, torch.Tensor]:
    """Returns all weights in memory, gathered from the processes that share them; nothing unless keep.

    Every process must call this.
    """
    state: dict[str, torch.Tensor] = {}
    gathered: dict[int, torch.Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            # Tied weights are one parameter: they stay one tensor.
            state[name] = gathered.setdefault(id(tensor), whole.detach().cpu())
    return state


def released_state(model: FinetuneModel, state: Mapping[str, torch.Tensor], spec: ModelSpec) -> dict[str, torch.Tensor]:
    """Returns the tensors by their released names: the backbone in the model's dtype, the head in float32.

    One tensor under two names (tied embeddings) is stored once.
    """
    dtype = getattr(torch, spec.dtype)
    names: dict[int, str] = {}
    for name, tensor in state.items():
        names.setdefault(id(tensor), name)
    return {
        released_name_in(model, name): state[name] if name.startswith(HEAD_PREFIX) else state[name].to(dtype)
        for name in names.values()
    }


def released_name_in(model: FinetuneModel, name: str) -> str:
    """Returns the released name of a parameter of the model."""
    if name.startswith(HEAD_PREFIX):
        assert model.depth_head is not None
        return released_parameter_name(model.depth_head, name.removeprefix(HEAD_PREFIX))
    return name.removeprefix("vlm.")


def _model_fields(base: BaseCheckpoint, recipe: FinetuneRecipe) -> dict[str, str]:
    """Returns how the model is asked, as the fields of a model file."""
    meaning = {} if recipe.data.depth_type == "label" else {"depth_type": recipe.data.depth_type}
    return {
        "like": recipe.model,
        "title": f"{recipe.model}, of one's own training",
        "licence": "those of the model it started from and of the data it was trained on",
        "hub": "",
        "system": base.spec.system,
        "head": base.spec.head,
        **meaning,
    }


def _correct_config(model: FinetuneModel, path: Path, spec: ModelSpec) -> None:
    """Writes the dtype of the file into config.json, and the head as DepthVLM describes it."""
    config, head = parse_json(path.read_text()), model.depth_head
    config["dtype"] = spec.dtype
    if head is not None:
        config["depth_head_type"] = spec.head
    if isinstance(head, MlpHead):
        config |= {"depth_head_mlp_hidden": head.config.hidden, "depth_head_feature_mode": head.config.features}
    write_atomically(path, json.dumps(config, indent=1, sort_keys=True) + "\n")
