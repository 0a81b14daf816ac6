# SPDX-License-Identifier: Apache-2.0
"""Hugging Face's Trainer for the recipes: the number of steps, its arguments, and what it cannot do itself.

`plan_training` divides batches over processes, `trainer_arguments` makes the arguments. `CheckpointingTrainer` writes
checkpoints that can be loaded again exactly, `FinetuneTrainer` also logs the parts of the loss.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import ModelOutput

from depthlm_ros.errors import BadBundle, SetupError
from depthlm_ros.file_io import parse_json, write_atomically
from depthlm_ros.training.finetune.collator import FinetuneBatch
from depthlm_ros.training.finetune.dataset import SkippedRecords
from depthlm_ros.training.finetune.model import FinetuneModel
from depthlm_ros.training.finetune.recipe import FinetuneRecipe, FinetuneTrainSettings

WEIGHTS_FILE = "model.safetensors"
# Parts of the loss that are logged beside it.
LOSS_PARTS = ("text", "depth")
# What torch, safetensors and the system raise if a file cannot be written.
WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)


@dataclass(frozen=True)
class TrainingPlan:
    """steps of `batch` samples each, in `accumulate` parts of per_device samples on each of `processes`."""

    steps: int
    batch: int
    per_device: int
    accumulate: int
    processes: int

    @property
    def samples(self) -> int:
        return self.steps * self.batch


def plan_training(train: FinetuneTrainSettings, epoch_samples: int, steps: int | None) -> TrainingPlan:
    """Returns the plan of a training. steps: number of steps, None for the recipe's samples or epochs.

    Raises SetupError for less than one step, and for a batch that cannot be divided.
    """
    if steps is not None and steps < 1:
        raise SetupError(f"--steps is {steps}: it must be at least 1.")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    per_device = min(train.batch_per_device, max(1, train.batch // processes))
    if train.batch % (per_device * processes):
        raise SetupError(
            f"train.batch ({train.batch}) cannot be divided over {processes} process(es) of {per_device} samples: set "
            f"train.batch to a multiple of {per_device * processes}, or train.batch_per_device to a divisor."
        )
    samples = train.samples or train.epochs * epoch_samples
    count = max(1, math.ceil(samples / train.batch)) if steps is None else steps
    return TrainingPlan(count, train.batch, per_device, train.batch // (per_device * processes), processes)


def scaled_learning_rate(train: FinetuneTrainSettings) -> float:
    """Returns the learning rate for the recipe's batch."""
    if not train.learning_rate_batch:
        return train.learning_rate
    return train.learning_rate * math.sqrt(train.batch / train.learning_rate_batch)


def trainer_arguments(recipe: FinetuneRecipe, plan: TrainingPlan, folder: Path | str) -> dict[str, Any]:
    """Returns the arguments that TrainingArguments and trl's GRPOConfig have in common."""
    train, on_cpu = recipe.train, not torch.cuda.is_available()
    return {
        "output_dir": str(folder),
        "max_steps": plan.steps,
        "per_device_train_batch_size": plan.per_device,
        "gradient_accumulation_steps": plan.accumulate,
        "learning_rate": scaled_learning_rate(train),
        "lr_scheduler_type": train.schedule,
        "warmup_steps": math.ceil(train.warmup * plan.steps),
        "max_grad_norm": train.clip,
        "weight_decay": train.weight_decay,
        "optim": "adamw_torch",
        "bf16": train.bf16,
        "use_cpu": on_cpu,
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "save_strategy": "steps",
        "save_steps": train.save_every,
        "save_total_limit": train.keep,
        "logging_steps": train.log_every,
        "report_to": ["tensorboard"] if importlib.util.find_spec("tensorboard") else [],
        "dataloader_num_workers": train.workers,
        "dataloader_persistent_workers": train.workers > 0,
        "dataloader_pin_memory": not on_cpu,
        "ddp_find_unused_parameters": False,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        **_sharding_arguments(train, plan),
    }


def supervised_arguments(recipe: FinetuneRecipe, plan: TrainingPlan, folder: Path) -> TrainingArguments:
    """Returns the arguments of Hugging Face's Trainer. Samples come in their order, which is already shuffled."""
    arguments = trainer_arguments(recipe, plan, folder)
    return keep_weights_in_float32(TrainingArguments(**arguments, train_sampling_strategy="sequential"))


def keep_weights_in_float32(arguments: TrainingArguments) -> TrainingArguments:
    """Makes several processes gather sharded weights in float32; autocast then uses bfloat16 where one process does.

    accelerate would gather them in bfloat16, and round the loss. The depth head's depths would then come in steps of
    6 cm at 10 m.
    """
    if arguments.fsdp_plugin_args:
        arguments.fsdp_plugin_args["mixed_precision_policy"] = MixedPrecisionPolicy()
    return arguments


def _sharding_arguments(train: FinetuneTrainSettings, plan: TrainingPlan) -> dict[str, Any]:
    """Returns the arguments of fully sharded data parallel training, where several processes share the weights."""
    if plan.processes == 1 or train.fsdp == "none":
        return {}
    config = {
        "version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "reshard_after_forward": True,
        "state_dict_type": "SHARDED_STATE_DICT",
        "cpu_ram_efficient_loading": False,
    }
    if train.fsdp == "full":
        return {"fsdp": True, "fsdp_config": config}
    # Sharded within a machine, replicated over machines.
    from accelerate import ParallelismConfig

    local = int(os.environ.get("LOCAL_WORLD_SIZE", plan.processes))
    mesh = ParallelismConfig(dp_replicate_size=plan.processes // local, dp_shard_size=local)
    return {"fsdp": True, "fsdp_config": config, "parallelism_config": mesh}


class CheckpointingTrainer(Trainer):
    """A Trainer whose checkpoints hold the weights by the names of this process's modules.

    transformers saves models by their released names, which its Trainer does not know when it loads a checkpoint, so
    that parts of some models would not be loaded.

    skipped: what this process had to skip since the run began.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.skipped = SkippedRecords()

    def _save(self, output_dir: str | None = None, state_dict: object = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.accelerator.unwrap_model(self.model), str(folder / WEIGHTS_FILE))

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Raises SetupError if it cannot be written (a full disk): the last complete one stays."""
        try:
            super()._save_checkpoint(*args, **kwargs)
        except WRITE_ERRORS as exc:
            raise write_error(self.args.output_dir, exc) from exc

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: FinetuneModel | None = None) -> None:
        """Raises BadBundle unless the checkpoint holds all weights."""
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        path = Path(resume_from_checkpoint) / WEIGHTS_FILE
        try:
            load_model(model or self.model, path)
        except (OSError, SafetensorError, RuntimeError) as exc:
            raise BadBundle(f"{path} does not hold the weights of this run ({exc}): remove its folder.") from exc

    def _save_rng_state(self, output_dir: str) -> None:
        """Saves what each process keeps for itself."""
        super()._save_rng_state(output_dir)
        write_atomically(self._skipped_file(output_dir), json.dumps(self.skipped.to_json()))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is not None and self._skipped_file(checkpoint).is_file():
            self.skipped.restore(parse_json(self._skipped_file(checkpoint).read_text()))

    def _skipped_file(self, checkpoint: str) -> Path:
        return Path(checkpoint) / f"left_out_{self.args.process_index}.json"


class FinetuneTrainer(CheckpointingTrainer):
    """Trains a FinetuneModel on batches of a Collator."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._part_values: defaultdict[str, list[float]] = defaultdict(list)

    def compute_loss(
        self,
        model: FinetuneModel,
        inputs: FinetuneBatch,
        return_outputs: bool = False,
        num_items_in_batch: object = None,
    ) -> torch.Tensor | tuple[torch.Tensor, ModelOutput]:
        self.skipped.add(inputs.pop("left_out", ()))
        outputs = model(**inputs)
        for name in LOSS_PARTS:
            value = float(outputs[name])
            if math.isfinite(value):
                self._part_values[name].append(value)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            means = {name: fmean(values) for name, values in self._part_values.items()}
            skipped = {"left_out": float(self.skipped.total)} if self.skipped.total else {}
            logs = {**logs, **means, **skipped}
            self._part_values.clear()
        super().log(logs, start_time)


def write_error(folder: str | Path, exc: BaseException) -> SetupError:
    """Returns the error of a folder that weights could not be written to."""
    free_mb = shutil.disk_usage(folder).free >> 20
    return SetupError(
        f"{folder} cannot be written ({exc}); {free_mb} MB are free there. Make room and continue with --resume: the "
        "checkpoints that were complete are not lost."
    )


def last_complete_checkpoint(folder: Path) -> Path | None:
    """Returns the last checkpoint that was written completely, None if there is none.

    The state is written last: if a checkpoint was cut off, its state is missing or cannot be read.
    """
    complete = []
    for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        try:
            step = TrainerState.load_from_json(str(path / TRAINER_STATE_NAME)).global_step
        except (OSError, ValueError, TypeError):
            continue
        if path.name == f"{PREFIX_CHECKPOINT_DIR}-{step}":
            complete.append((step, path))
    return max(complete)[1] if complete else None


def use_deterministic_kernels(deterministic: bool) -> None:
    """Makes torch use kernels whose sums do not vary; where it has none, it warns and continues."""
    if deterministic and torch.cuda.is_available():
        torch.use_deterministic_algorithms(True, warn_only=True)
