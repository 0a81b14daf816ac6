"""Trains a Qwen3-VL with a depth head on rendered scenes: dense depth and replies together, from random weights.

`SyntheticTrainer` holds a run: its optimisers, its checkpoint and its log. `ReplayBuffer` lets a GPU train on earlier
batches again where it is faster than the processors that render for it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from depthlm_ros.errors import SetupError
from depthlm_ros.families.base import Family
from depthlm_ros.file_io import JsonLinesFile, replacing
from depthlm_ros.nets.qwen3vl import Qwen3VLDepth
from depthlm_ros.training.cuda_graph import GraphedBackward
from depthlm_ros.training.muon import Muon
from depthlm_ros.training.synthetic.auxiliary_losses import GeometryProbe
from depthlm_ros.training.synthetic.config import SyntheticDataSettings, SyntheticTrainSettings, rename_settings
from depthlm_ros.training.synthetic.dataset import RenderedBatches, SyntheticBatch
from depthlm_ros.training.synthetic.step import PromptTokens, SyntheticLosses, compute_losses

CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"
# Key of the geometry probe's weights in a checkpoint.
PROBE_KEY = "placing"
LOG_EVERY_STEPS = 20
# Batches that each rendering process makes ahead.
PREFETCH_BATCHES = 4
# The learning rate at the end, as a share of the recipe's.
FINAL_RATE = 0.02


class ReplayBuffer:
    """The last `size` batches, on the device where they were put; a buffer of size 0 stays empty."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._batches: list[SyntheticBatch] = []
        self._oldest = 0

    def add(self, batch: SyntheticBatch) -> None:
        """Stores a batch, in place of the oldest one if the buffer is full."""
        if len(self._batches) < self.size:
            self._batches.append(batch)
        elif self.size:
            self._batches[self._oldest] = batch
            self._oldest = (self._oldest + 1) % self.size

    def sample(self, rng: np.random.Generator) -> SyntheticBatch:
        """Returns a random batch with new brightness, contrast and tint of its images."""
        batch = self._batches[int(rng.integers(len(self._batches)))]
        second = jitter_colours(rng, batch.second) if len(batch.second) else batch.second
        return replace(batch, image=jitter_colours(rng, batch.image), second=second)


def jitter_colours(rng: np.random.Generator, images: torch.Tensor) -> torch.Tensor:
    """Returns images uint8 (B, H, W, 3) with other brightness, contrast and tint each.

    It does what scenes.camera.photo.jitter_tones does to one image on the CPU.
    """
    count = len(images)
    power = np.exp(rng.normal(0, 0.25, (count, 1, 1, 1)))
    gain = np.exp(rng.normal(0.1, 0.2, (count, 1, 1, 1)) + rng.normal(0, 0.04, (count, 1, 1, 3)))
    powers, gains = (torch.from_numpy(each.astype(np.float32)).to(images.device) for each in (power, gain))
    return (255 * (images.float() / 255) ** powers * gains + 0.5).clamp(0, 255).to(torch.uint8)


def learning_rate(step: int, progress: float, settings: SyntheticTrainSettings) -> float:
    """Returns the rate of a step: linear warm-up, then half a cosine down to 2 % over progress 0..1."""
    warm_up = min(1.0, (step + 1) / settings.warmup_steps)
    decay = FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return settings.learning_rate * warm_up * decay


def has_fast_bf16(device: str) -> bool:
    """Returns whether bfloat16 is fast on the device: a processor without instructions for it is 100 times slower."""
    return torch.device(device).type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


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


def make_optimisers(
    model: Qwen3VLDepth, probe: GeometryProbe, settings: SyntheticTrainSettings
) -> list[torch.optim.Optimizer]:
    """Returns Muon for the matrices between the layers, and AdamW for embeddings, convolutions, norms and biases."""
    matrices: list[torch.nn.Parameter] = []
    decayed: list[torch.nn.Parameter] = []
    plain: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "embed" not in name and "lm_head" not in name:
            matrices.append(parameter)
        else:
            (decayed if parameter.ndim > 1 else plain).append(parameter)
    plain += probe.parameters()
    decay, rate = settings.weight_decay, settings.learning_rate
    groups = [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
    return [
        Muon(matrices, rate, decay, torch.bfloat16 if has_fast_bf16(str(matrices[0].device)) else torch.float32),
        torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98)),
    ]


class SyntheticTrainer:
    """One run in `folder`, which continues from the folder's checkpoint if there is one.

    phases: the settings that the run was trained with, in order, each with its first step.
    """

    def __init__(
        self,
        model: Qwen3VLDepth,
        family: Family,
        tokenizer_json: str,
        prompt_tokens: PromptTokens,
        data: SyntheticDataSettings,
        settings: SyntheticTrainSettings,
        folder: Path,
        seed: int,
        device: str = "cpu",
    ) -> None:
        if data.token_px != model.pixels_per_token:
            raise SetupError(
                f"data.token_px is {data.token_px} but an image token of this model is {model.pixels_per_token} pixels "
                f"wide: set data.token_px: {model.pixels_per_token} in the recipe."
            )
        self.model, self.prompt_tokens, self.settings = model.to(check_device(device)), prompt_tokens, settings
        self.device, self.seed, self.step, self.spent_s = device, seed, 0, 0.0
        self.data, self.family, self.tokenizer_json, self.folder = data, family, tokenizer_json, folder
        self.probe = GeometryProbe(model.language.norm.weight.shape[0]).to(device)
        self.parameters = [*self.model.parameters(), *self.probe.parameters()]
        self.optimisers = make_optimisers(model, self.probe, settings)
        on_gpu = torch.device(device).type == "cuda"
        self.graphed = GraphedBackward(self._losses, self.parameters) if on_gpu else None
        folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint = folder / CHECKPOINT
        self.phases: list[dict[str, object]] = []
        if self.checkpoint.exists():
            self._load()

    def run(self, workers: int = 1, report: Callable[[str], None] = print) -> None:
        """Trains until settings.steps, or for settings.hours where that is not 0."""
        self._note_phase()
        started, spent_before = time.monotonic(), self.spent_s
        with closing(JsonLinesFile(self.folder / LOG)) as log:
            for batch in self._with_replays(self._loader(workers)):
                if self._progress() >= 1.0:
                    break
                losses = self.train_step(batch)
                self.spent_s = spent_before + time.monotonic() - started
                if self.step % LOG_EVERY_STEPS == 0:
                    entry = self._log_entry(losses)
                    log.append(entry)
                    report(json.dumps(entry))
                if self.step % self.settings.save_every == 0:
                    self.save()
        self.save()

    def _loader(self, workers: int) -> DataLoader:
        """Returns the new batches from the one where the run stopped."""
        done = self.step // (1 + self.settings.replays)
        return DataLoader(
            RenderedBatches(self.data, self.family, self.tokenizer_json, self.seed, done),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=PREFETCH_BATCHES if workers else None,
            # A process forked from one that has used a GPU cannot use it.
            multiprocessing_context="spawn" if workers and self.data.render_device != "cpu" else None,
        )

    def _with_replays(self, batches: Iterable[SyntheticBatch]) -> Iterator[SyntheticBatch]:
        """Yields each new batch, on the device, and after it `replays` batches of the replay buffer."""
        buffer = ReplayBuffer(self.settings.replay_buffer_size if self.settings.replays else 0)
        for batch in batches:
            on_device = batch.to(self.device)
            buffer.add(on_device)
            yield on_device
            for _ in range(self.settings.replays):
                yield buffer.sample(np.random.default_rng([self.seed, self.step]))

    def train_step(self, batch: SyntheticBatch) -> SyntheticLosses:
        """Makes one step of the optimisers and returns the losses before it."""
        rate = learning_rate(self.step, self._progress(), self.settings)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
        on_device = batch.to(self.device)
        if self.graphed is None:
            for parameter in self.parameters:
                parameter.grad = None
            losses = self._losses(on_device)
            losses.total.backward()
        else:
            losses = self.graphed(on_device)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        for optimiser in self.optimisers:
            optimiser.step()
        self.step += 1
        return losses

    def _losses(self, batch: SyntheticBatch) -> SyntheticLosses:
        kind = torch.device(self.device).type
        mixed = self.settings.bf16 and has_fast_bf16(self.device)
        # Weights that are cast for one CUDA graph are of no use to the next one.
        with torch.autocast(kind, torch.bfloat16, enabled=mixed, cache_enabled=kind == "cpu"):
            return compute_losses(self.model, self.probe, batch, self.prompt_tokens, self.settings)

    def save(self) -> None:
        """Replaces the checkpoint in one step: a crash while writing does not damage the last one."""
        state = {
            "model": self.model.state_dict(),
            "optimisers": [each.state_dict() for each in self.optimisers],
            PROBE_KEY: self.probe.state_dict(),
            "step": self.step,
            "spent_s": self.spent_s,
            "phases": self.phases,
        }
        with replacing(self.checkpoint) as partial:
            torch.save(state, partial)

    def _load(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.probe.load_state_dict(state[PROBE_KEY])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step, self.spent_s = state["step"], state["spent_s"]
        renamed = {"data", "train"}
        self.phases = [
            {name: rename_settings(value) if name in renamed else value for name, value in phase.items()}
            for phase in state["phases"]
        ]

    def _note_phase(self) -> None:
        """Starts a new phase if the settings differ from those of the last phase; the manifest lists all phases."""
        settings = {"seed": self.seed, "data": asdict(self.data), "train": asdict(self.settings)}
        if not self.phases or {**self.phases[-1], "from_step": 0} != {"from_step": 0, **settings}:
            self.phases.append({"from_step": self.step, **settings})

    def _progress(self) -> float:
        by_steps, hours = self.step / self.settings.steps, self.settings.hours
        return max(by_steps, self.spent_s / 3600 / hours) if hours else by_steps

    def _log_entry(self, losses: SyntheticLosses) -> dict[str, float]:
        values = {name: round(getattr(losses, name).item(), 4) for name in losses.__dataclass_fields__}
        return {"step": self.step, "seconds": round(self.spent_s, 1), **values}
