"""Trains a Qwen3-VL with a depth head on rendered scenes: dense depth and replies together, from nothing.

Batches that are trained on again, for a GPU that is faster than the processors that render for it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from depthlm_ros.errors import SetupError
from depthlm_ros.families.base import Family
from depthlm_ros.nets.qwen3vl import Qwen3VLDepth
from depthlm_ros.training.muon import Muon
from depthlm_ros.training.synthetic.auxiliary_losses import Placing
from depthlm_ros.training.synthetic.config import DataConfig
from depthlm_ros.training.synthetic.cuda_graph import Graphed
from depthlm_ros.training.synthetic.dataset import Batch, RenderedBatches
from depthlm_ros.training.synthetic.step import Affixes, Losses, TrainConfig, forward


class Memory:
    """The last `room` batches, on the device that they came on; nothing is kept for room 0."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._kept: list[Batch] = []
        self._next = 0

    def keep(self, batch: Batch) -> None:
        """In the place of the oldest, when there is no more room."""
        if len(self._kept) < self.room:
            self._kept.append(batch)
        elif self.room:
            self._kept[self._next] = batch
            self._next = (self._next + 1) % self.room

    def draw(self, rng: np.random.Generator) -> Batch:
        """One of those kept, developed anew."""
        batch = self._kept[int(rng.integers(len(self._kept)))]
        second = developed(rng, batch.second) if len(batch.second) else batch.second
        return replace(batch, image=developed(rng, batch.image), second=second)


def developed(rng: np.random.Generator, images: torch.Tensor) -> torch.Tensor:
    """Pictures uint8 (B, H, W, 3) with other brightness, contrast and tint each, as scenes.photo.developed gives them
    one by one on the CPU."""
    count = len(images)
    power = np.exp(rng.normal(0, 0.25, (count, 1, 1, 1)))
    gain = np.exp(rng.normal(0.1, 0.2, (count, 1, 1, 1)) + rng.normal(0, 0.04, (count, 1, 1, 3)))
    power_there, gain_there = (torch.from_numpy(each.astype(np.float32)).to(images.device) for each in (power, gain))
    return (255 * (images.float() / 255) ** power_there * gain_there + 0.5).clamp(0, 255).to(torch.uint8)


def learning_rate(step: int, progress: float, config: TrainConfig) -> float:
    """Linear warm-up, then half a cosine down to 2 % over progress 0..1."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    return config.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def fast_bf16(device: str) -> bool:
    """Whether products in bfloat16 pay there: processors without instructions for it take a hundred times as long."""
    return torch.device(device).type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def usable(device: str) -> str:
    """The device, if torch can use it. Raises SetupError."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as exc:
        why = str(exc).splitlines()[0]
        raise SetupError(
            f"device {device!r} cannot be trained on ({why}): say --device cpu, or install a torch with CUDA "
            "(DEPTHLM_TORCH in scripts/setup.sh)."
        ) from exc
    return device


def optimisers(model: Qwen3VLDepth, placing: Placing, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between the layers; AdamW for embeddings, convolutions, norms and biases."""
    within: list[torch.nn.Parameter] = []
    around: list[torch.nn.Parameter] = []
    plain: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "embed" not in name and "lm_head" not in name:
            within.append(parameter)
        else:
            (around if parameter.ndim > 1 else plain).append(parameter)
    plain += placing.parameters()
    decay, rate = config.weight_decay, config.learning_rate
    groups = [{"params": around, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
    return [
        Muon(within, rate, decay, torch.bfloat16 if fast_bf16(str(within[0].device)) else torch.float32),
        torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98)),
    ]


class Trainer:
    """Optimiser, checkpoints and log of one run in `folder`. Resumes from its checkpoint if there is one."""

    def __init__(
        self,
        model: Qwen3VLDepth,
        family: Family,
        tokenizer_json: str,
        affixes: Affixes,
        data: DataConfig,
        config: TrainConfig,
        folder: Path,
        seed: int,
        device: str = "cpu",
    ) -> None:
        if data.token_px != model.pixels_per_token:
            raise SetupError(
                f"data.token_px is {data.token_px} but an image token of this model is {model.pixels_per_token} pixels "
                f"wide: set data.token_px: {model.pixels_per_token} in the recipe."
            )
        self.model, self.affixes, self.config, self.folder = model.to(usable(device)), affixes, config, folder
        self.device, self.seed, self.step, self.spent_s = device, seed, 0, 0.0
        self.data, self.family, self.tokenizer_json = data, family, tokenizer_json
        self.placing = Placing(model.language.norm.weight.shape[0]).to(device)
        self.parameters = [*self.model.parameters(), *self.placing.parameters()]
        self.optimisers = optimisers(model, self.placing, config)
        self.graphed = Graphed(self._losses, self.parameters) if torch.device(device).type == "cuda" else None
        folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint = folder / "checkpoint.pt"
        self.phases: list[dict[str, Any]] = []
        if self.checkpoint.exists():
            self._resume()

    def run(self, workers: int = 1, report: Callable[[str], None] = print) -> None:
        """Trains until config.steps, or config.hours of training where that is not 0."""
        self._note_phase()
        done = self.step // (1 + self.config.again)
        batches = RenderedBatches(self.data, self.family, self.tokenizer_json, self.seed, done)
        # A process forked from one that has used a GPU cannot use it.
        start = "spawn" if workers and self.data.render_device != "cpu" else None
        ahead = 4 if workers else None
        loader = DataLoader(
            batches, batch_size=None, num_workers=workers, prefetch_factor=ahead, multiprocessing_context=start
        )
        started, spent_before = time.monotonic(), self.spent_s
        for batch in self._with_earlier(loader):
            if self._progress() >= 1.0:
                break
            losses = self.train_step(batch)
            self.spent_s = spent_before + time.monotonic() - started
            if self.step % 20 == 0:
                self._log(losses, report)
            if self.step % self.config.save_every == 0:
                self.save()
        self.save()

    def _with_earlier(self, fresh: Iterable[Batch]) -> Iterator[Batch]:
        """Each new batch, on the device, and after it `again` earlier ones."""
        memory = Memory(self.config.memory if self.config.again else 0)
        for batch in fresh:
            there = batch.to(self.device)
            memory.keep(there)
            yield there
            for _ in range(self.config.again):
                yield memory.draw(np.random.default_rng([self.seed, self.step]))

    def train_step(self, batch: Batch) -> Losses:
        """One optimiser step."""
        rate = learning_rate(self.step, self._progress(), self.config)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
        there = batch.to(self.device)
        if self.graphed is None:
            for parameter in self.parameters:
                parameter.grad = None
            losses = self._losses(there)
            losses.total.backward()
        else:
            losses = self.graphed(there)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        for optimiser in self.optimisers:
            optimiser.step()
        self.step += 1
        return losses

    def _losses(self, batch: Batch) -> Losses:
        kind = torch.device(self.device).type
        mixed = self.config.bf16 and fast_bf16(self.device)
        # Weights cast for one CUDA graph are no use to the next.
        with torch.autocast(kind, torch.bfloat16, enabled=mixed, cache_enabled=kind == "cpu"):
            return forward(self.model, self.placing, batch, self.affixes, self.config)

    def save(self) -> None:
        """Writes the checkpoint; a kill while writing leaves the last one whole."""
        partial = self.checkpoint.with_suffix(".partial")
        state = {"model": self.model.state_dict(), "optimisers": [each.state_dict() for each in self.optimisers]}
        run = {"placing": self.placing.state_dict(), "step": self.step, "spent_s": self.spent_s, "phases": self.phases}
        torch.save({**state, **run}, partial)
        partial.replace(self.checkpoint)

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.placing.load_state_dict(state["placing"])
        for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        self.step, self.spent_s, self.phases = state["step"], state["spent_s"], state["phases"]

    def _note_phase(self) -> None:
        """A run resumed with other settings is not one run: what was done is kept, and goes into the manifest."""
        settings = {"seed": self.seed, "data": asdict(self.data), "train": asdict(self.config)}
        if not self.phases or {**self.phases[-1], "from_step": 0} != {"from_step": 0, **settings}:
            self.phases.append({"from_step": self.step, **settings})

    def _progress(self) -> float:
        by_steps = self.step / self.config.steps
        return max(by_steps, self.spent_s / 3600 / self.config.hours) if self.config.hours else by_steps

    def _log(self, losses: Losses, report: Callable[[str], None]) -> None:
        values = {name: round(getattr(losses, name).item(), 4) for name in losses.__dataclass_fields__}
        line = {"step": self.step, "seconds": round(self.spent_s, 1), **values}
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        report(json.dumps(line))
