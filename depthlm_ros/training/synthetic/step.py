"""One training step's losses: dense depth and replies, and where a reply looks, in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from depthlm_ros.nets.positions import PromptLayout
from depthlm_ros.nets.qwen3vl import Qwen3VLDepth
from depthlm_ros.nets.text_decoder import Deep, read
from depthlm_ros.training.losses import gradient, next_token, silog
from depthlm_ros.training.synthetic.auxiliary_losses import Placing, gaze_loss, naming_loss, placing_loss
from depthlm_ros.training.synthetic.config import check_limits
from depthlm_ros.training.synthetic.dataset import Batch

MOST_STEPS = 10**9
LIMITS = {
    **dict.fromkeys(("steps", "warmup_steps", "save_every", "memory"), (1, MOST_STEPS)),
    "again": (0, 1000),
    "learning_rate": (1e-9, 10.0),
    "clip": (1e-9, 1e9),
    **dict.fromkeys(("weight_decay", "hours"), (0.0, 1e6)),
    **{f"{part}_weight": (0.0, 1e6) for part in ("gradient", "text", "gaze", "naming", "placing")},
}


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast. Loss = silog + gradient_weight * gradient + text_weight * next_token + gaze_weight *
    gaze_loss + naming_weight * naming_loss + placing_weight * placing_loss.

    again: how often, after each new batch, one of the last `memory` is trained on once more (again.py); the memory is
    the GPU's, and a run that is resumed starts with an empty one.
    """

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
    again: int = 0
    memory: int = 512

    def __post_init__(self) -> None:
        check_limits(self, LIMITS)


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
    pieces = [model.embed(ids_on(text, batch.ids.device)).expand(count, -1, -1) for text in texts]
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
    told, label = states[:, layout.length :], batch.label
    if not told.is_cuda:
        # Fewer products; a CUDA graph has to know their number beforehand.
        told, label = told[label >= 0], label[label >= 0]
    text = next_token(model.logits(told).flatten(0, -2), label.flatten())
    scaling = model.language.layers[0].self_attn.scaling
    looked = gaze_loss(queries, keys, scaling, mask, batch.gaze, layout)
    dense, edges = silog(depth_m, batch.depth_m), gradient(depth_m, batch.depth_m)
    named = naming_loss(
        seen[0][0],
        model.embed(ids_on(affixes.words, batch.ids.device)),
        model.embed(ids_on((affixes.nothing,), batch.ids.device))[0],
        batch.shown,
    )
    # What the language model's first layers know of the first picture's tokens.
    first = layout.images[0].tokens
    placed = placing_loss(placing(seen[0][0] + sum(level[:, :first] for level in deep)), batch.numbers)
    words = config.text_weight * text + config.gaze_weight * looked
    tokens = config.naming_weight * named + config.placing_weight * placed
    total = dense + config.gradient_weight * edges + words + tokens
    return Losses(total, dense, edges, text, looked, named, placed)


@lru_cache
def ids_on(ids: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """int64 (N,), copied to the device once: a CUDA graph cannot hold the copy."""
    return torch.tensor(ids, device=device)


def block_mask(segment: torch.Tensor, prefix: int) -> torch.Tensor:
    """(B, 1, P + Q, P + Q), True where attention is allowed: causally, within the prefix, from each segment to the
    prefix, and within each segment."""
    row = torch.cat([segment.new_full((len(segment), prefix), -2), segment], dim=1)
    causal = torch.ones(row.shape[1], row.shape[1], dtype=torch.bool, device=row.device).tril()
    same = (row[:, :, None] == row[:, None, :]) | (row[:, None, :] == -2)
    return (same & causal)[:, None]
