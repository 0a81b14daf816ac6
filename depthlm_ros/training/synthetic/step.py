"""The losses of one training step: dense depth, replies, and the auxiliary losses, in one pass of the model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from depthlm_ros.nets.positions import PromptLayout
from depthlm_ros.nets.qwen3vl import Qwen3VLDepth
from depthlm_ros.nets.text_decoder import DeepStackTokens, prefill
from depthlm_ros.training.losses import depth_gradient_loss, next_token_loss, silog_loss
from depthlm_ros.training.packing import IGNORED, PREFIX, block_mask
from depthlm_ros.training.synthetic.auxiliary_losses import (
    GeometryProbe,
    attention_supervision_loss,
    geometry_probe_loss,
    word_alignment_loss,
)
from depthlm_ros.training.synthetic.config import SyntheticTrainSettings
from depthlm_ros.training.synthetic.dataset import SyntheticBatch


@dataclass(frozen=True)
class SyntheticLosses:
    """The losses of a step, scalars. total is their weighted sum (config.SyntheticTrainSettings)."""

    total: torch.Tensor
    silog: torch.Tensor
    gradient: torch.Tensor
    text: torch.Tensor
    attention: torch.Tensor
    words: torch.Tensor
    geometry: torch.Tensor


@dataclass(frozen=True)
class PromptTokens:
    """Token ids of the fixed text before, between and after the images; of auxiliary_losses.WORDS, and of no word."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    words: tuple[int, ...]
    no_word: int


@dataclass(frozen=True)
class _Pass:
    """One pass of the model. tokens: (B, N, C) of each image. deep: (B, M, C) of all images, for each level.

    states: (B, T, C). queries, keys, mask: see auxiliary_losses.attention_supervision_loss.
    """

    layout: PromptLayout
    tokens: list[torch.Tensor]
    deep: list[torch.Tensor]
    states: torch.Tensor
    queries: list[torch.Tensor]
    keys: torch.Tensor
    mask: torch.Tensor


def compute_losses(
    model: Qwen3VLDepth,
    probe: GeometryProbe,
    batch: SyntheticBatch,
    prompt_tokens: PromptTokens,
    settings: SyntheticTrainSettings,
) -> SyntheticLosses:
    """Returns the losses of a batch. On a GPU no step depends on values, so that a CUDA graph can record it."""
    done = _run_model(model, batch, prompt_tokens)
    layout, device = done.layout, batch.ids.device
    depth_m = model.depth(done.states, done.deep, layout)
    states, next_id = done.states[:, layout.length :], batch.next_id
    if not states.is_cuda:
        # Fewer products; a CUDA graph has to know their number beforehand.
        states, next_id = states[next_id != IGNORED], next_id[next_id != IGNORED]
    text = next_token_loss(model.logits(states).flatten(0, -2), next_id.flatten())
    scaling = model.language.layers[0].self_attn.scaling
    attention = attention_supervision_loss(done.queries, done.keys, scaling, done.mask, batch.attention, layout)
    silog, gradient = silog_loss(depth_m, batch.depth_m), depth_gradient_loss(depth_m, batch.depth_m)
    embeddings = model.embed(ids_on_device(prompt_tokens.words, device))
    no_word = model.embed(ids_on_device((prompt_tokens.no_word,), device))[0]
    words = word_alignment_loss(done.tokens[0], embeddings, no_word, batch.token_words)
    # What the first layers of the language model know about the tokens of the first image.
    first = layout.images[0].tokens
    features = done.tokens[0] + sum(level[:, :first] for level in done.deep)
    geometry = geometry_probe_loss(probe(features), batch.token_geometry)
    replies = settings.text_weight * text + settings.attention_weight * attention
    tokens = settings.word_weight * words + settings.geometry_weight * geometry
    total = silog + settings.gradient_weight * gradient + replies + tokens
    return SyntheticLosses(total, silog, gradient, text, attention, words, geometry)


def _run_model(model: Qwen3VLDepth, batch: SyntheticBatch, prompt_tokens: PromptTokens) -> _Pass:
    """Runs the prefix of one or two images and all packed questions as one sequence."""
    count, height, width = batch.image.shape[:3]
    images = [batch.image, batch.second] if len(batch.second) else [batch.image]
    texts = [prompt_tokens.before, *[prompt_tokens.between] * (len(images) - 1), prompt_tokens.after]
    layout = PromptLayout(tuple(map(len, texts)), (model.image_span((width, height)),) * len(images))
    encoded = [model.encode_image(image) for image in images]
    deep = [torch.cat(level, dim=1) for level in zip(*(deep for _, deep in encoded), strict=True)]
    pieces = [model.embed(ids_on_device(text, batch.ids.device)).expand(count, -1, -1) for text in texts]
    for index, (tokens, _) in enumerate(encoded):
        pieces.insert(2 * index + 1, tokens)
    x = torch.cat([*pieces, model.embed(batch.ids)], dim=1)
    prefix_cos, prefix_sin = (t.expand(count, -1, -1) for t in model.prefix_rope(layout))
    text_cos, text_sin = model.text_rope(batch.offset + layout.next_position)
    cos, sin = torch.cat([prefix_cos, text_cos], 1), torch.cat([prefix_sin, text_sin], 1)
    prefix = batch.segment.new_full((count, layout.length), PREFIX)
    mask = block_mask(torch.cat([prefix, batch.segment], dim=1))
    # An added mask costs nothing in the backward pass; zeros and infinities are exact in any precision.
    bias = torch.zeros(mask.shape, dtype=torch.bfloat16, device=mask.device).masked_fill(~mask, -torch.inf)
    queries: list[torch.Tensor] = []
    states, keys, _ = prefill(model.language, x, cos, sin, bias, DeepStackTokens(deep, layout.spans), queries)
    return _Pass(layout, [tokens for tokens, _ in encoded], deep, states, queries, keys, mask)


@lru_cache
def ids_on_device(ids: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Returns int64 (N,). Cached, because a CUDA graph cannot hold the copy to the device."""
    return torch.tensor(ids, device=device)
