"""Hugging Face's Trainer with what it does not know: the parts of the loss, what was left out, and
checkpoints that come back as they were written."""

from __future__ import annotations

import json
import math
import shutil
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from depthlm_ros.errors import BadBundle, SetupError
from depthlm_ros.finetune.leftout import LeftOut

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
