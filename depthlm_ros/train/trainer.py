"""Trains a Qwen3-VL with a depth head on rendered scenes: dense depth and replies together, from nothing."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from depthlm_ros.errors import SetupError
from depthlm_ros.families.base import Family
from depthlm_ros.nets.positions import PromptLayout
from depthlm_ros.nets.qwen3vl import Qwen3VLDepth
from depthlm_ros.nets.text import Deep, read
from depthlm_ros.train.dataconfig import DataConfig
from depthlm_ros.train.dataset import Batch, RenderedBatches
from depthlm_ros.train.gaze import gaze_loss
from depthlm_ros.train.losses import gradient, next_token, silog
from depthlm_ros.train.naming import naming_loss
from depthlm_ros.train.placing import Placing, placing_loss


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast. Loss = silog + gradient_weight * gradient + text_weight * next_token + gaze_weight *
    gaze_loss + naming_weight * naming_loss + placing_weight * placing_loss."""

    steps: int = 4000
    warmup_steps: int = 200
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    clip: float = 1.0
    gradient_weight: float = 0.5
    text_weight: float = 0.5
    gaze_weight: float = 0.5
    naming_weight: float = 0.3
    placing_weight: float = 0.3
    bf16: bool = True
    save_every: int = 200
    hours: float = 0.0


@dataclass(frozen=True)
class Losses:
    total: torch.Tensor
    silog: torch.Tensor
    gradient: torch.Tensor
    text: torch.Tensor
    gaze: torch.Tensor
    naming: torch.Tensor
    placing: torch.Tensor


@dataclass(frozen=True)
class Affixes:
    """Token ids of the fixed text before, between and after the images; of naming.WORDS, and of no word."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    words: tuple[int, ...]
    nothing: int


def forward(model: Qwen3VLDepth, placing: Placing, batch: Batch, affixes: Affixes, config: TrainConfig) -> Losses:
    """One pass: the prefix of one or two images and all packed questions in one sequence."""
    count, height, width = batch.image.shape[:3]
    images = [batch.image, batch.second] if len(batch.second) else [batch.image]
    texts = [affixes.before, *[affixes.between] * (len(images) - 1), affixes.after]
    layout = PromptLayout(tuple(map(len, texts)), (model.span((width, height)),) * len(images))
    seen = [model.see(image) for image in images]
    deep = [torch.cat(level, dim=1) for level in zip(*(deep for _, deep in seen), strict=True)]
    pieces = [model.embed(torch.tensor(text, device=batch.ids.device)).expand(count, -1, -1) for text in texts]
    for index, (tokens, _) in enumerate(seen):
        pieces.insert(2 * index + 1, tokens)
    x = torch.cat([*pieces, model.embed(batch.ids)], dim=1)
    prefix_cos, prefix_sin = (t.expand(count, -1, -1) for t in model.prefix_rope(layout))
    text_cos, text_sin = model.text_rope(batch.offset + layout.next_position)
    cos, sin = torch.cat([prefix_cos, text_cos], 1), torch.cat([prefix_sin, text_sin], 1)
    mask = block_mask(batch.segment, layout.length)
    queries: list[torch.Tensor] = []
    # Added, it costs nothing backwards; zeros and infinities are exact in any precision.
    hidden = torch.zeros(mask.shape, dtype=torch.bfloat16, device=mask.device).masked_fill(~mask, -torch.inf)
    states, keys, _ = read(model.language, x, cos, sin, hidden, Deep(deep, layout.spans), queries)
    depth_m = model.depth(states, deep, layout)
    asked = batch.label >= 0
    logits = model.logits(states[:, layout.length :][asked])
    text = next_token(logits, batch.label[asked]) if asked.any() else states.new_zeros(())
    scaling = model.language.layers[0].self_attn.scaling
    looked = gaze_loss(queries, keys, scaling, mask, batch.gaze, layout)
    dense, edges = silog(depth_m, batch.depth_m), gradient(depth_m, batch.depth_m)
    named = naming_loss(
        seen[0][0],
        model.embed(torch.tensor(affixes.words, device=batch.ids.device)),
        model.embed(torch.tensor(affixes.nothing, device=batch.ids.device)),
        batch.shown,
    )
    # What the language model's first layers know of the first picture's tokens.
    first = layout.images[0].tokens
    placed = placing_loss(placing(seen[0][0] + sum(level[:, :first] for level in deep)), batch.numbers)
    words = config.text_weight * text + config.gaze_weight * looked
    tokens = config.naming_weight * named + config.placing_weight * placed
    total = dense + config.gradient_weight * edges + words + tokens
    return Losses(total, dense, edges, text, looked, named, placed)


def block_mask(segment: torch.Tensor, prefix: int) -> torch.Tensor:
    """(B, 1, P + Q, P + Q), True where attention is allowed: causally, within the prefix, from each segment to the
    prefix, and within each segment."""
    row = torch.cat([segment.new_full((len(segment), prefix), -2), segment], dim=1)
    causal = torch.ones(row.shape[1], row.shape[1], dtype=torch.bool, device=row.device).tril()
    same = (row[:, :, None] == row[:, None, :]) | (row[:, None, :] == -2)
    return (same & causal)[:, None]


def learning_rate(step: int, progress: float, config: TrainConfig) -> float:
    """Linear warm-up, then half a cosine down to 2 % over progress 0..1."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    return config.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def optimisers(model: Qwen3VLDepth, placing: Placing, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon (https://kellerjordan.github.io/posts/muon/) for the matrices between the layers, its steps scaled to those
    of AdamW (https://arxiv.org/abs/2502.16982); AdamW for embeddings, convolutions, norms and biases."""
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
        torch.optim.Muon(within, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
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
        self.model, self.affixes, self.config, self.folder = model.to(device), affixes, config, folder
        self.device, self.seed, self.step, self.spent_s = device, seed, 0, 0.0
        self.data, self.family, self.tokenizer_json = data, family, tokenizer_json
        self.placing = Placing(model.language.norm.weight.shape[0]).to(device)
        self.optimisers = optimisers(model, self.placing, config)
        folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint = folder / "checkpoint.pt"
        self.phases: list[dict[str, Any]] = []
        if self.checkpoint.exists():
            self._resume()

    def run(self, workers: int = 1, report: Callable[[str], None] = print) -> None:
        """Trains until config.steps, or config.hours of training where that is not 0."""
        self._note_phase()
        batches = RenderedBatches(self.data, self.family, self.tokenizer_json, self.seed, self.step)
        # A process forked from one that has used a GPU cannot use it.
        start = "spawn" if workers and self.data.render_device != "cpu" else None
        ahead = 4 if workers else None
        loader = DataLoader(
            batches, batch_size=None, num_workers=workers, prefetch_factor=ahead, multiprocessing_context=start
        )
        started, spent_before = time.monotonic(), self.spent_s
        for batch in loader:
            if self._progress() >= 1.0:
                break
            losses = self.train_step(batch)
            self.spent_s = spent_before + time.monotonic() - started
            if self.step % 20 == 0:
                self._log(losses, report)
            if self.step % self.config.save_every == 0:
                self.save()
        self.save()

    def train_step(self, batch: Batch) -> Losses:
        """One optimiser step."""
        rate = learning_rate(self.step, self._progress(), self.config)
        for optimiser in self.optimisers:
            optimiser.zero_grad()
            for group in optimiser.param_groups:
                group["lr"] = rate
        on_device = Batch(*(getattr(batch, name).to(self.device) for name in batch.__dataclass_fields__))
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.config.bf16):
            losses = forward(self.model, self.placing, on_device, self.affixes, self.config)
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_([*self.model.parameters(), *self.placing.parameters()], self.config.clip)
        for optimiser in self.optimisers:
            optimiser.step()
        self.step += 1
        return losses

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
