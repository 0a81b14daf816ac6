# SPDX-License-Identifier: Apache-2.0
"""The losses of both phases: depth and the names of what tokens show; then replies and where the language model looks.

Attention supervision: one attention head in each of two layers learns to look, from every token of a reply, at the
image tokens that the question is about (as Liu et al. taught captions, https://arxiv.org/abs/1605.09553). From words
alone a model finds out late that a box belongs to a place in the picture. The first layer looks at the first thing that
a question names, the second at the last one. Where a question is about one thing, both look at it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch.nn import functional

from depthlm_ros.nets.depth_first import DepthFirstModel
from depthlm_ros.nets.depth_pyramid import FARTHEST_M, NEAREST_M
from depthlm_ros.nets.positions import PromptLayout
from depthlm_ros.nets.text_decoder import prefill, project_prefix
from depthlm_ros.training.embedded.dataset import TrainingBatch
from depthlm_ros.training.embedded.names import PRESENT, UNKNOWN
from depthlm_ros.training.embedded.prompts import SUPERVISED_LAYERS, PromptTokens
from depthlm_ros.training.embedded.recipe import DepthWeights, WordsWeights
from depthlm_ros.training.losses import depth_gradient_loss, next_token_loss
from depthlm_ros.training.packing import IGNORED, PREFIX, block_mask

# The true ln z counts as a normal distribution of this deviation over the bins (Imani and White,
# https://arxiv.org/abs/1806.04613): labels are not exact, and neighbouring bins are nearly right.
BIN_SMOOTHING = 0.12
# The supervised head of each supervised layer. Heads share keys; it has the first ones.
SUPERVISED_HEAD = 0


class DepthLosses(NamedTuple):
    """The losses of a step, scalars. total: their sum, weighted by config.DepthWeights.

    error: mean of |d|, d = ln predicted - ln true. shape: the same after each picture's mean of d is taken off.
    gradient: losses.depth_gradient_loss. bins: cross-entropy of the distribution. names: binary cross-entropy.
    """

    total: torch.Tensor
    error: torch.Tensor
    shape: torch.Tensor
    gradient: torch.Tensor
    bins: torch.Tensor
    names: torch.Tensor


class WordsLosses(NamedTuple):
    """The losses of a step, scalars. total: their sum, weighted by config.WordsWeights."""

    total: torch.Tensor
    text: torch.Tensor
    attention: torch.Tensor


def compute_depth_losses(model: DepthFirstModel, batch: TrainingBatch, weights: DepthWeights) -> DepthLosses:
    """Returns the losses of a batch."""
    pyramid, features = model.see(batch.image)
    true_m = batch.depth_m
    known = true_m > 0
    true_ln = torch.where(known, true_m, 1.0).log().clamp(math.log(NEAREST_M), math.log(FARTHEST_M))
    difference = torch.where(known, pyramid.ln_z - true_ln, 0.0)
    count = known.sum((1, 2)).clamp(min=1)
    mean = (difference.sum((1, 2)) / count)[:, None, None]
    error = mean_per_picture(difference.abs(), known)
    shape = mean_per_picture((difference - mean).abs(), known)
    gradient = depth_gradient_loss(pyramid.ln_z.exp(), true_m)
    bins = mean_per_picture(bin_loss(pyramid.logits, true_ln, model.decoder.bin_ln_z), known)
    names = names_loss(model.name_logits(features), batch.names)
    total = weights.error * error + weights.shape * shape + weights.gradient * gradient
    total = total + weights.bins * bins + weights.names * names
    return DepthLosses(total, error, shape, gradient, bins, names)


def mean_per_picture(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Returns the mean over pictures of the mean over their known pixels; both (B, h, w)."""
    per_picture = torch.where(known, values, 0.0).sum((1, 2)) / known.sum((1, 2)).clamp(min=1)
    labelled = known.flatten(1).any(1)
    return (per_picture * labelled).sum() / labelled.sum().clamp(min=1)


def bin_loss(logits: torch.Tensor, true_ln: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Returns (B, h, w): cross-entropy of the bins' distribution against the smoothed true ln z (B, h, w)."""
    half = (centres[1] - centres[0]) / 2
    edges = torch.cat([centres - half, centres[-1:] + half])
    below = torch.special.ndtr((edges - true_ln[..., None]) / BIN_SMOOTHING)
    target = below[..., 1:] - below[..., :-1]
    target = target / target.sum(-1, keepdim=True).clamp(min=1e-6)
    return -(target * logits.float().log_softmax(1).permute(0, 2, 3, 1)).sum(-1)


def names_loss(logits: torch.Tensor, names: torch.Tensor) -> torch.Tensor:
    """Returns the binary cross-entropy of known labels: that of present names and that of absent ones count alike.

    logits: (B, N, names). names: int8, the same shape, PRESENT, ABSENT or UNKNOWN.
    """
    present, known = names == PRESENT, names != UNKNOWN
    entropy = functional.binary_cross_entropy_with_logits(logits.float(), present.float(), reduction="none")
    found = (entropy * present).sum() / present.sum().clamp(min=1)
    absent = known & ~present
    # Most absent names are easy: a tenth of a per cent of them would count as much as all of them.
    return found + 10 * (entropy * absent).sum() / absent.sum().clamp(min=1)


def compute_words_losses(
    model: DepthFirstModel, batch: TrainingBatch, prompt_tokens: PromptTokens, weights: WordsWeights
) -> WordsLosses:
    """Returns the losses of a batch. The gradient ends at the features and the depth."""
    count, height, width = batch.image.shape[:3]
    texts = (prompt_tokens.before, prompt_tokens.after)
    layout = PromptLayout(tuple(map(len, texts)), (model.image_span((width, height)),))
    before, after = (model.embed(ids_on_device(text, batch.ids.device)).expand(count, -1, -1) for text in texts)
    with torch.no_grad():
        seen = model.look(batch.image)
    tokens = model.build_tokens(seen.features, seen.depth_m, seen.relative_std)
    prefix = project_prefix(model.language, torch.cat([before, tokens, after], dim=1), *model.prefix_rope(layout))
    cos, sin = model.text_rope(batch.offset + layout.next_position)
    mask = read_mask(batch.segment, layout.length)
    # An added mask costs nothing in the backward pass; zeros and infinities are exact in any precision.
    bias = torch.zeros(mask.shape, dtype=cos.dtype, device=mask.device).masked_fill(~mask, -torch.inf)
    queries: list[torch.Tensor] = []
    states, keys, _ = prefill(model.language, model.embed(batch.ids), cos, sin, bias, None, queries, prefix)
    next_id = batch.next_id
    states, next_id = states[next_id != IGNORED], next_id[next_id != IGNORED]
    text = next_token_loss(model.logits(states), next_id)
    scaling = model.language.layers[0].self_attn.scaling
    attention = attention_supervision_loss(queries, keys, scaling, mask, batch.attention, layout)
    return WordsLosses(weights.text * text + weights.attention * attention, text, attention)


def attention_supervision_loss(
    queries: Sequence[torch.Tensor],
    keys: torch.Tensor,
    scaling: float,
    mask: torch.Tensor,
    target: torch.Tensor,
    layout: PromptLayout,
) -> torch.Tensor:
    """Returns the mean of -log of the share of attention that goes to the target, 0 if there are no targets.

    queries: (B, heads, Q, D) for each layer. keys: (layers, B, heads_kv, P + Q, D). mask: bool (B, 1, Q, P + Q), True
    where attention is allowed. target: bool (B, SUPERVISED_LAYERS, Q, N) for the N tokens of an image.
    """
    # The last layer decides the next token and is not supervised.
    layers = [max(len(queries) - 1 - back, 0) for back in range(SUPERVISED_LAYERS, 0, -1)]
    device = target.device
    columns = torch.cat([torch.arange(start, start + count, device=device) for start, count in layout.spans])
    losses, counts = [], []
    for index, layer in enumerate(layers):
        supervised = target[:, index].any(-1)
        query, key = queries[layer][:, SUPERVISED_HEAD], keys[layer][:, 0]
        scores = (scaling * query @ key.transpose(-1, -2)).float()
        scores = scores.masked_fill(~mask[:, 0], -torch.inf)
        # No step depends on the number of supervised tokens, so that a CUDA graph can record this.
        elsewhere = ~target[:, index] & supervised[..., None]
        ln_share = scores.log_softmax(-1)[..., columns].masked_fill(elsewhere, -torch.inf).logsumexp(-1)
        losses.append((-ln_share * supervised).sum() / supervised.sum().clamp(min=1))
        counts.append(supervised.any())
    return torch.stack(losses).sum() / torch.stack(counts).sum().clamp(min=1)


def read_mask(segment: torch.Tensor, prefix: int) -> torch.Tensor:
    """Returns bool (B, 1, Q, prefix + Q): questions see the whole prefix and themselves.

    segment: int64 (B, Q) of the packed questions behind a prefix of `prefix` tokens.
    """
    whole = torch.cat([segment.new_full((len(segment), prefix), PREFIX), segment], dim=1)
    return block_mask(whole)[:, :, prefix:]


@lru_cache
def ids_on_device(ids: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Returns int64 (N,)."""
    return torch.tensor(ids, device=device)
