"""How many steps there are, how a step's batch is divided, and what Hugging Face's Trainer is told of it."""

from __future__ import annotations

import importlib.util
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import TrainingArguments

from depthlm_ros.errors import SetupError
from depthlm_ros.finetune.settings import Recipe, TrainSettings


@dataclass(frozen=True)
class Plan:
    """steps of `batch` samples each, in `accumulate` parts of per_device samples on each of `processes`."""

    steps: int
    batch: int
    per_device: int
    accumulate: int
    processes: int

    @property
    def samples(self) -> int:
        return self.steps * self.batch


def make_plan(train: TrainSettings, epoch: int, steps: int | None) -> Plan:
    """epoch: samples in one. steps: where not None, instead of the recipe's. Raises SetupError for less than
    one, and for a batch that cannot be divided."""
    if steps is not None and steps < 1:
        raise SetupError(f"--steps is {steps}: at least 1.")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    at_once = min(train.batch_per_device, max(1, train.batch // processes))
    if train.batch % (at_once * processes):
        raise SetupError(
            f"train.batch ({train.batch}) cannot be divided over {processes} process(es) of {at_once} samples: set "
            f"train.batch to a multiple of {at_once * processes}, or train.batch_per_device to a divisor."
        )
    wanted = train.samples or train.epochs * epoch
    count = max(1, math.ceil(wanted / train.batch)) if steps is None else steps
    return Plan(count, train.batch, at_once, train.batch // (at_once * processes), processes)


def rate(train: TrainSettings) -> float:
    """The learning rate for this batch."""
    if not train.learning_rate_batch:
        return train.learning_rate
    return train.learning_rate * math.sqrt(train.batch / train.learning_rate_batch)


def arguments(recipe: Recipe, plan: Plan, folder: Path | str) -> dict[str, Any]:
    """What TrainingArguments (and trl's, which are more of them) are made of."""
    train, on_cpu = recipe.train, not torch.cuda.is_available()
    return {
        "output_dir": str(folder),
        "max_steps": plan.steps,
        "per_device_train_batch_size": plan.per_device,
        "gradient_accumulation_steps": plan.accumulate,
        "learning_rate": rate(train),
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
        **_sharding(train, plan),
    }


def supervised(recipe: Recipe, plan: Plan, folder: Path) -> TrainingArguments:
    """For Hugging Face's Trainer. Positions are shown in their order: it was shuffled when it was made."""
    return in_own_precision(TrainingArguments(**arguments(recipe, plan, folder), train_sampling_strategy="sequential"))


def in_own_precision(given: TrainingArguments) -> TrainingArguments:
    """Sharded weights are gathered as they are, in float32, and autocast makes bfloat16 of them where it does in one
    process. accelerate would gather them in bfloat16, the depth head's too, whose depths would then come in steps of
    6 cm at 10 m, and would round the loss."""
    if given.fsdp_plugin_args:
        given.fsdp_plugin_args["mixed_precision_policy"] = MixedPrecisionPolicy()
    return given


def _sharding(train: TrainSettings, plan: Plan) -> dict[str, Any]:
    """Fully sharded data parallel, where there are processes to share the weights."""
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
    # Sharded within a machine, repeated over machines.
    from accelerate import ParallelismConfig

    local = int(os.environ.get("LOCAL_WORLD_SIZE", plan.processes))
    mesh = ParallelismConfig(dp_replicate_size=plan.processes // local, dp_shard_size=local)
    return {"fsdp": True, "fsdp_config": config, "parallelism_config": mesh}
