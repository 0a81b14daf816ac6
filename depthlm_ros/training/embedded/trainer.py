# SPDX-License-Identifier: Apache-2.0
"""Trains the embedded model in two phases: depth, then words on fixed features.

`EmbeddedTrainer` holds a run in a folder: weights, their moving average (which is what is shipped), optimisers,
checkpoint and curves. A run that was killed goes on from its checkpoint with the same numbers to the last bit, on the
same machine with the same number of threads.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch.utils.data import DataLoader

from depthlm_ros.errors import BadInput, SetupError
from depthlm_ros.file_io import JsonObject, replacing
from depthlm_ros.nets.depth_first import DepthFirstModel, build_embedded_model
from depthlm_ros.nets.efficientnet_lite import read_imagenet_weights
from depthlm_ros.training.embedded.dataset import (
    DEPTH_PHASE,
    WORDS_PHASE,
    BatchPlan,
    TrainingBatch,
    TrainingBatches,
    use_one_opencv_thread,
)
from depthlm_ros.training.embedded.losses import DepthLosses, WordsLosses, compute_depth_losses, compute_words_losses
from depthlm_ros.training.embedded.names import NAMES
from depthlm_ros.training.embedded.optimisers import depth_optimiser, learning_rate, words_optimisers
from depthlm_ros.training.embedded.prompts import PromptTokens
from depthlm_ros.training.embedded.recipe import EmbeddedRecipe, PhaseSettings
from depthlm_ros.training.embedded.run_log import ProblemLog, RunCurves, SpeedMeter, Timer
from depthlm_ros.training.embedded.tokenizer import PAD, token_id
from depthlm_ros.training.packing import token_ids

CHECKPOINT, LOCK = "checkpoint.pt", "lock"
PHASE_NAMES = {DEPTH_PHASE: "depth", WORDS_PHASE: "words"}
LOG_EVERY_STEPS = 20
# Batches that each loading process makes ahead.
PREFETCH_BATCHES = 4
# A step whose losses or gradients are not finite changes nothing. So many in a row end the training.
MOST_BAD_STEPS = 20

# Called after each step with the name of the phase, the steps that are done, all steps, and speed and loss in words.
OnStep = Callable[[str, int, int, str], None]
# Returns development scores of the averaged model after a phase ("depth" or "words") has begun.
Validate = Callable[[DepthFirstModel, str], Mapping[str, float]]


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; none of these changes its result but device and threads, which round differently.

    photos, frames: folders of the sources. save_minutes, validate_minutes: time between checkpoints, and between
    validations.
    """

    photos: Path | None = None
    frames: Path | None = None
    workers: int = 1
    device: str = "cpu"
    save_minutes: float = 5.0
    validate_minutes: float = 30.0


@dataclass
class RunState:
    """What a checkpoint holds beside tensors.

    phase, step: the phase, and how many of its steps were made. seconds: of training so far. bad_steps: steps whose
    losses were not finite. left_out: numbers of pictures and boxes that could not be used, by reason. recipes: those
    that the run had so far.
    """

    phase: int = DEPTH_PHASE
    step: int = 0
    pictures: int = 0
    seconds: float = 0.0
    bad_steps: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    recipes: list[JsonObject] = field(default_factory=list)


class EmbeddedTrainer:
    """One run in `folder`, which continues from the folder's checkpoint if there is one.

    Raises BadInput for a folder in which another process trains, and for a checkpoint that cannot be read.
    """

    def __init__(
        self,
        recipe: EmbeddedRecipe,
        model: DepthFirstModel,
        tokenizer_json: str,
        prompt_tokens: PromptTokens,
        folder: Path,
        options: RunOptions,
    ) -> None:
        self.recipe, self.options, self.folder = recipe, options, folder
        self.tokenizer_json, self.prompt_tokens = tokenizer_json, prompt_tokens
        self.model = model.to(check_device(options.device), memory_format=torch.channels_last)
        self.average = deepcopy(self.model).requires_grad_(False)
        self.state = RunState()
        self._bad_in_a_row = 0
        self._on_step: OnStep = lambda phase, done, total, note: None
        folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint = folder / CHECKPOINT
        self.optimisers = self._make_optimisers()
        if self.checkpoint.exists():
            self._load()

    def run(
        self,
        validate: Validate | None = None,
        report: Callable[[str], None] = print,
        on_step: OnStep | None = None,
    ) -> None:
        """Trains both phases to their end. Raises BadInput if the last checkpoint cannot be written."""
        self._on_step = on_step or self._on_step
        use_one_opencv_thread()
        with self._locked():
            self._note_recipe()
            curves = RunCurves(self.folder, self._steps_done(), report)
            problems = ProblemLog(self.state.left_out, report)
            while not self.finished:
                self._run_phase(curves, problems, validate, report)
                self._next_phase()
                if self.finished:
                    self.save()
                else:
                    self.save_or_report(report)
            curves.draw()

    @property
    def finished(self) -> bool:
        """Whether both phases have ended."""
        return self.state.phase not in PHASE_NAMES

    def _run_phase(
        self, curves: RunCurves, problems: ProblemLog, validate: Validate | None, report: Callable[[str], None]
    ) -> None:
        settings, meter = self._phase_settings(), SpeedMeter(self.state.pictures, self.state.seconds)
        save, score = Timer(self.options.save_minutes), Timer(self.options.validate_minutes)
        note = ""
        for batch in self._batches():
            losses = self.train_step(batch)
            problems.add(batch.problems)
            self.state.seconds = meter.seconds()
            is_last = self.state.step >= settings.steps
            if self.state.step % LOG_EVERY_STEPS == 0 or is_last:
                speed = meter.pictures_per_s(self.state.pictures)
                note = f"{speed:.1f} pictures/s, loss {losses['total']:.3f}"
                curves.add_losses(self._loss_row(losses, speed))
            self._on_step(PHASE_NAMES[self.state.phase], self.state.step, settings.steps, note)
            if save.is_due():
                self.save_or_report(report)
                save.restart()
            if validate is not None and (is_last or score.is_due()):
                self._validate(validate, curves, report)
                score.restart()

    def _loss_row(self, losses: Mapping[str, float], pictures_per_s: float) -> dict[str, float]:
        """Returns a row of losses.csv."""
        name, rate = PHASE_NAMES[self.state.phase], learning_rate(self.state.step, self._phase_settings())
        row = {"step": self._steps_done(), "phase": self.state.phase, "pictures_per_s": pictures_per_s, "rate": rate}
        return row | {f"{name}_{key}": round(value, 5) for key, value in losses.items()}

    def _validate(self, validate: Validate, curves: RunCurves, report: Callable[[str], None]) -> None:
        name, hours = PHASE_NAMES[self.state.phase], self.state.seconds / 3600
        values = dict(validate(self.average.eval(), name))
        shown = ", ".join(f"{key} {value:.3f}" for key, value in values.items())
        report(f"{name} step {self.state.step}, {self.state.pictures} pictures, {hours:.2f} h: {shown}")
        curves.add_scores({"step": self._steps_done(), "hours": hours, **values})

    def _batches(self) -> Iterator[TrainingBatch]:
        """Yields the batches of the phase that are still to be trained on."""
        missing = self._phase_settings().steps - self.state.step
        if missing <= 0:
            return
        try:
            yield from islice(self._loader(), missing)
        except BadInput as exc:
            # The error of another process has that process's traceback before its message.
            raise BadInput(re.sub(r"(?s).*\n[\w.]+: ", "", str(exc).strip())) from exc

    def _loader(self) -> DataLoader:
        """Returns the batches from the one where the run stopped."""
        plan = BatchPlan(
            self.recipe.pictures,
            self._phase_settings(),
            self.state.phase,
            self.tokenizer_json,
            self.recipe.seed,
            self.options.photos,
            self.options.frames,
        )
        workers = self.options.workers
        return DataLoader(
            TrainingBatches(plan, self.state.step),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=PREFETCH_BATCHES if workers else None,
            worker_init_fn=use_one_opencv_thread,
        )

    def train_step(self, batch: TrainingBatch) -> dict[str, float]:
        """Makes one step of the optimisers and returns the losses before it, by name."""
        settings, on_device = self._phase_settings(), batch.to(self.options.device)
        self._set_rate(learning_rate(self.state.step, settings))
        parameters = [one for group in self._parameter_groups() for one in group["params"]]
        for parameter in parameters:
            parameter.grad = None
        losses = self._losses(on_device)
        losses.total.backward()
        norm = torch.nn.utils.clip_grad_norm_([one for one in parameters if one.grad is not None], settings.clip)
        if torch.isfinite(norm) and torch.isfinite(losses.total):
            for optimiser in self.optimisers:
                optimiser.step()
            self._update_average(settings.ema)
            self._bad_in_a_row = 0
        else:
            self._count_bad_step()
        self.state.step += 1
        self.state.pictures += len(batch.image)
        return {name: value.detach().item() for name, value in losses._asdict().items()}

    def _losses(self, batch: TrainingBatch) -> DepthLosses | WordsLosses:
        if self.state.phase == DEPTH_PHASE:
            return compute_depth_losses(self.model, batch, self.recipe.depth_weights)
        return compute_words_losses(self.model, batch, self.prompt_tokens, self.recipe.words_weights)

    def _parameter_groups(self) -> list[dict[str, Any]]:
        return [group for optimiser in self.optimisers for group in optimiser.param_groups]

    def _count_bad_step(self) -> None:
        self.state.bad_steps += 1
        self._bad_in_a_row += 1
        if self._bad_in_a_row >= MOST_BAD_STEPS:
            raise BadInput(
                f"the losses of {MOST_BAD_STEPS} steps in a row are not finite (step {self.state.step} of phase "
                f"{PHASE_NAMES[self.state.phase]}): look for wrong depths in the pictures, or lower learning_rate. "
                f"{self.checkpoint} holds the weights from before."
            )

    def _update_average(self, decay: float) -> None:
        # At first the average follows quickly, so that it forgets the random weights.
        decay = min(decay, (self.state.step + 1) / (self.state.step + 20))
        with torch.no_grad():
            for averaged, current in zip(self.average.parameters(), self.model.parameters(), strict=True):
                if current.requires_grad:
                    averaged.lerp_(current, 1 - decay)

    def _set_rate(self, rate: float) -> None:
        for group in self._parameter_groups():
            group["lr"] = rate * group.get("factor", 1.0)

    def _phase_settings(self) -> PhaseSettings:
        return self.recipe.words if self.state.phase == WORDS_PHASE else self.recipe.depth

    def _steps_done(self) -> int:
        """Returns the number of steps of all phases so far."""
        before = (0, self.recipe.depth.steps, self.recipe.depth.steps + self.recipe.words.steps)
        return before[self.state.phase] + self.state.step

    def _next_phase(self) -> None:
        """Begins the next phase from the averaged weights."""
        self.model.load_state_dict(self.average.state_dict())
        self.state.phase, self.state.step = self.state.phase + 1, 0
        self.optimisers = self._make_optimisers()

    def _make_optimisers(self) -> list[torch.optim.Optimizer]:
        """Returns the optimisers of the phase, and lets only the parts that it trains have gradients."""
        is_words = self.state.phase == WORDS_PHASE
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name.startswith(("vlm.", "token_builder.")) == is_words)
        settings = self._phase_settings()
        if is_words:
            return words_optimisers(self.model, settings)
        return [depth_optimiser(self.model, settings)]

    def save_or_report(self, report: Callable[[str], None]) -> None:
        """Saves; if that fails, says why and leaves the last checkpoint: the training goes on and tries again later."""
        try:
            self.save()
        except BadInput as exc:
            report(f"{exc} The training goes on from memory; the checkpoint of before stays.")

    def save(self) -> None:
        """Replaces the checkpoint in one step: a crash while writing does not damage the last one. Raises BadInput."""
        tensors = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [each.state_dict() for each in self.optimisers],
        }
        try:
            with replacing(self.checkpoint) as partial:
                torch.save({**tensors, "state": asdict(self.state)}, partial)
        except (OSError, RuntimeError) as exc:  # torch raises RuntimeError for a full disk
            raise BadInput(f"{self.checkpoint} could not be written ({str(exc).splitlines()[0]}): make room.") from exc

    def _load(self) -> None:
        try:
            saved = torch.load(self.checkpoint, map_location=self.options.device, weights_only=True)
            self.state = RunState(**saved["state"])
            self.model.load_state_dict(saved["model"])
            self.average.load_state_dict(saved["average"])
            self.optimisers = self._make_optimisers()
            for optimiser, values in zip(self.optimisers, saved["optimisers"], strict=True):
                optimiser.load_state_dict(values)
        except (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError) as exc:
            raise BadInput(
                f"{self.checkpoint} is not a checkpoint of this recipe ({str(exc).splitlines()[0]}): use the recipe "
                "that the run was begun with, or another --run folder."
            ) from exc

    def _note_recipe(self) -> None:
        """Remembers the recipe if it differs from that of the run so far; the manifest lists all of them."""
        recipe = {**asdict(self.recipe), "from_phase": self.state.phase, "from_step": self.state.step}
        last = self.state.recipes[-1] if self.state.recipes else {}
        where = {"from_phase": 0, "from_step": 0}
        if {**last, **where} != {**recipe, **where}:
            self.state.recipes.append(recipe)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keeps other processes from training in the same folder. Raises BadInput if one does."""
        with (self.folder / LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                raise BadInput(f"another process trains in {self.folder}: wait for it, or name another --run.") from exc
            yield


def make_model(recipe: EmbeddedRecipe, tokenizer: Tokenizer, encoder_weights: Path | None) -> DepthFirstModel:
    """Returns a new model: the encoder with the weights of a file, the rest initialised from the recipe's seed.

    Raises SetupError for weights of another encoder, and for sizes that do not fit the names.
    """
    if recipe.model.names != len(NAMES):
        raise SetupError(f"model.names is {recipe.model.names}: there are {len(NAMES)} names, set it to that.")
    torch.manual_seed(recipe.seed)
    model = build_embedded_model(recipe.model, token_id(tokenizer, PAD))
    # Words as they stand in a question, behind a space; of a word of several tokens the first one.
    model.begin_with_words([token_ids(tokenizer, f" {name}")[0] for name in NAMES])
    if encoder_weights is not None:
        read_imagenet_weights(model.encoder, encoder_weights)
    return model


def check_device(device: str) -> str:
    """Returns the device. Raises SetupError if torch cannot use it."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as exc:
        reason = str(exc).splitlines()[0]
        raise SetupError(
            f"device {device!r} cannot be used for training ({reason}): use --device cpu, or install a torch with CUDA "
            "(DEPTHLM_TORCH in scripts/setup.sh)."
        ) from exc
    return device
