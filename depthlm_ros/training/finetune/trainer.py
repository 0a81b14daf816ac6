"""Hugging Face's Trainer with what it does not know: the parts of the loss, what was left out, and
checkpoints that come back as they were written.

How many steps there are, how a step's batch is divided, and what Hugging Face's Trainer is told of it.
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

from depthlm_ros.errors import BadBundle, SetupError
from depthlm_ros.training.finetune.dataset import LeftOut
from depthlm_ros.training.finetune.recipe import Recipe, TrainSettings

WEIGHTS = "model.safetensors"
# Parts of the loss that are logged beside it.
PARTS = ("text", "depth")


# What torch, safetensors and the system raise if a file cannot be written.
UNWRITTEN = (OSError, RuntimeError, SafetensorError)


def unwritten(folder: str | Path, exc: BaseException) -> SetupError:
    """The error of a folder that weights could not be written to."""
    free = shutil.disk_usage(folder).free >> 20
    return SetupError(
        f"{folder}: cannot be written ({exc}); {free} MB are free there. Make room and go on with --resume: the "
        "checkpoints that were written whole are not lost."
    )


class OwnCheckpoints(Trainer):
    """Keeps weights by the names of this process's modules: transformers saves models by their released names, which
    its Trainer does not know when it loads a checkpoint, so that parts of some models would stay as they began.

    left_out: what could not be shown to this process since the run began.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.left_out = LeftOut()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.accelerator.unwrap_model(self.model), str(folder / WEIGHTS))

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Raises SetupError if it cannot be written (a full disk): a run goes on from the last whole one."""
        try:
            super()._save_checkpoint(*args, **kwargs)
        except UNWRITTEN as exc:
            raise unwritten(self.args.output_dir, exc) from exc

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Raises BadBundle unless the checkpoint holds all weights."""
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        path = Path(resume_from_checkpoint) / WEIGHTS
        try:
            load_model(model or self.model, path)
        except (OSError, SafetensorError, RuntimeError) as exc:
            raise BadBundle(f"{path} does not hold the weights of this run ({exc}): remove its folder.") from exc

    def _save_rng_state(self, output_dir: str) -> None:
        """What each process keeps for itself."""
        super()._save_rng_state(output_dir)
        self._own_file(output_dir).write_text(json.dumps(vars(self.left_out)))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is not None and self._own_file(checkpoint).is_file():
            self.left_out.set(json.loads(self._own_file(checkpoint).read_text()))

    def _own_file(self, checkpoint: str) -> Path:
        return Path(checkpoint) / f"left_out_{self.args.process_index}.json"


class Teacher(OwnCheckpoints):
    """Teaches a Student from batches of a Collator."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._told: defaultdict[str, list[float]] = defaultdict(list)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        self.left_out.add(inputs.pop("left_out", ()))
        outputs = model(**inputs)
        for name in PARTS:
            value = float(outputs[name])
            if math.isfinite(value):
                self._told[name].append(value)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            means = {name: fmean(values) for name, values in self._told.items()}
            counted = {"left_out": float(self.left_out.total)} if self.left_out.total else {}
            logs = {**logs, **means, **counted}
            self._told.clear()
        super().log(logs, start_time)


def whole_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that was written to its end, None if there is none: its state is written last, so one that a
    kill has cut off has none, or one that cannot be read."""
    found = []
    for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        try:
            step = TrainerState.load_from_json(str(path / TRAINER_STATE_NAME)).global_step
        except (OSError, ValueError, TypeError):
            continue
        if path.name == f"{PREFIX_CHECKPOINT_DIR}-{step}":
            found.append((step, path))
    return max(found)[1] if found else None


def repeat_exactly(deterministic: bool) -> None:
    """Asks torch for kernels whose sums do not depend on chance; where there is none it warns and goes on."""
    if deterministic and torch.cuda.is_available():
        torch.use_deterministic_algorithms(True, warn_only=True)


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
