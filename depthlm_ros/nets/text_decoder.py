"""The language model behind the images, over any stack of Qwen2, Qwen3 or Mistral decoder layers of transformers.

`read` runs a whole prompt at once. `follow` runs text of many rows behind prefixes that were read before: rows of one
prefix share its keys and values, which are neither copied nor expanded (what an attention over a copied prefix would
compute, in another order of summation).

Scaled dot product attention, by the way that is fast where it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """softmax(scale * query key^T + mask) value of tensors (B, heads, T, D), (B, heads, S, D), (B, heads, S, D).

    mask: additive, or boolean with True where attention is allowed; broadcastable to (B, heads, T, S).

    torch's fused attention on a CPU takes two to five times as long as plain products for short training sequences in
    bfloat16 (torch 2.13, 200 tokens of 48 channels); everywhere else the fused one is at least as good.
    """
    if not (torch.is_grad_enabled() and query.requires_grad and query.device.type == "cpu"):
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    scores = (query * scale) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ value


@dataclass(frozen=True)
class Past:
    """What text can look back on. G prefixes and N = G * R rows, the R rows of the first prefix first.

    prefix_keys, prefix_values: per layer (G, heads_kv, P, D). own_keys, own_values: per layer (N, heads_kv, S, D), the
    text that a row has seen. mask: (N, S), 0 where a slot is valid, -inf elsewhere.
    """

    prefix_keys: Sequence[torch.Tensor]
    prefix_values: Sequence[torch.Tensor]
    own_keys: Sequence[torch.Tensor]
    own_values: Sequence[torch.Tensor]
    mask: torch.Tensor


@dataclass(frozen=True)
class Deep:
    """Image tokens that are added to the states after the first layers (DeepStack): per layer (B, N, C) for all images
    together, and (start, count) of each image in the prompt."""

    tokens: Sequence[torch.Tensor]
    spans: tuple[tuple[int, int], ...]


Read = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def read(
    language: Any,
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    mask: torch.Tensor,
    deep: Deep | None = None,
    queries: list[torch.Tensor] | None = None,
) -> Read:
    """Embeddings x (B, T, C) of whole prompts -> final normed states (B, T, C), keys and values (layers, B, heads_kv,
    T, D). language: a module with `layers` and `norm`.

    cos, sin: (B or 1, T, D). mask: additive, or boolean with True where attention is allowed; broadcastable to
    (B, heads, T, T). queries: is given each layer's, (B, heads, T, D).
    """
    keys, values = [], []
    for index, layer in enumerate(language.layers):
        query, key, value = project(layer.self_attn, layer.input_layernorm(x), cos, sin)
        if queries is not None:
            queries.append(query)
        groups = layer.self_attn.num_key_value_groups
        y = attend(query, repeat(key, groups), repeat(value, groups), layer.self_attn.scaling, mask)
        x = x + layer.self_attn.o_proj(y.transpose(1, 2).flatten(2))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
        if deep is not None and index < len(deep.tokens):
            x = add_to_images(x, deep.tokens[index], deep.spans)
        keys.append(key)
        values.append(value)
    return language.norm(x), torch.stack(keys), torch.stack(values)


def follow(
    language: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, last: torch.Tensor, past: Past
) -> Read:
    """Embeddings x (N, T, C) of text behind `past` -> final normed states (N, C) at each row's token `last` (N,), keys
    and values of this text (layers, N, heads_kv, T, D).

    Only one token of a row is wanted in the end: the last layer computes keys and values of all, the rest of that one.
    """
    keys, values = [], []
    rows, count, _ = x.shape
    each, final = torch.arange(rows, device=x.device), len(language.layers) - 1
    causal = causal_mask(count, x.device).expand(rows, 1, count, count)
    before = past.mask[:, None, None, :].expand(rows, 1, count, past.mask.shape[1])
    mask = torch.cat([before, causal], dim=-1)
    for index, layer in enumerate(language.layers):
        query, key, value = project(layer.self_attn, layer.input_layernorm(x), cos, sin)
        if index == final:
            query, mask, x = query[each, :, last][:, :, None], mask[each, :, last][:, :, None], x[each, last][:, None]
        y = shared_attention(
            query * layer.self_attn.scaling,
            (past.prefix_keys[index], past.prefix_values[index]),
            (torch.cat([past.own_keys[index], key], dim=2), torch.cat([past.own_values[index], value], dim=2)),
            mask,
        )
        x = x + layer.self_attn.o_proj(y.transpose(1, 2).flatten(2))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
        keys.append(key)
        values.append(value)
    return language.norm(x)[:, 0], torch.stack(keys), torch.stack(values)


def shared_attention(
    query: torch.Tensor,
    prefix: tuple[torch.Tensor, torch.Tensor],
    own: tuple[torch.Tensor, torch.Tensor],
    mask: torch.Tensor,
) -> torch.Tensor:
    """Attention of scaled queries (N, heads, T, D) to prefixes (G, heads_kv, P, D) in full and to the rows' own keys
    and values (N, heads_kv, S, D) under an additive mask (N, 1, T, S) -> (N, heads, T, D).

    All queries of a prefix and of a key head form one matrix: each key of the prefix is read once for all rows.
    """
    rows, heads, count, size = query.shape
    prefixes, heads_kv, length, _ = prefix[0].shape
    per_prefix, groups = rows // prefixes, heads // heads_kv
    block = (prefixes, per_prefix, heads_kv, groups * count)

    def by_prefix(t: torch.Tensor) -> torch.Tensor:
        return t.reshape(*block, -1).transpose(1, 2).reshape(prefixes, heads_kv, per_prefix * groups * count, -1)

    def by_row(t: torch.Tensor) -> torch.Tensor:
        split = t.reshape(prefixes, heads_kv, per_prefix, groups * count, -1)
        return split.transpose(1, 2).reshape(rows, heads_kv, groups * count, -1)

    grouped = query.reshape(rows, heads_kv, groups * count, size)
    to_own = (grouped @ own[0].transpose(-1, -2)).reshape(rows, heads_kv, groups, count, -1) + mask[:, :, None]
    to_prefix = by_prefix(grouped) @ prefix[0].transpose(-1, -2)
    weights = torch.cat([to_prefix, by_prefix(to_own)], dim=-1).softmax(-1, dtype=torch.float32).to(query.dtype)
    y = by_row(weights[..., :length] @ prefix[1]) + by_row(weights[..., length:]) @ own[1]
    return y.reshape(rows, heads, count, size)


def project(
    attention: nn.Module, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rotated queries (B, heads, T, D), rotated keys and values (B, heads_kv, T, D). Qwen3 norms queries and keys per
    head, the others do not."""
    batch, count, _ = x.shape
    heads = (batch, count, -1, attention.head_dim)
    query, key = attention.q_proj(x).reshape(heads), attention.k_proj(x).reshape(heads)
    if hasattr(attention, "q_norm"):
        query, key = attention.q_norm(query), attention.k_norm(key)
    value = attention.v_proj(x).reshape(heads).transpose(1, 2)
    cos, sin = cos[:, None], sin[:, None]
    return rotate(query.transpose(1, 2), cos, sin), rotate(key.transpose(1, 2), cos, sin), value


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding, half-split layout."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin


def repeat(x: torch.Tensor, groups: int) -> torch.Tensor:
    """(B, heads_kv, S, D) -> (B, heads_kv * groups, S, D), each head repeated in place."""
    if groups == 1:
        return x
    batch, heads, length, size = x.shape
    return x[:, :, None].expand(batch, heads, groups, length, size).reshape(batch, heads * groups, length, size)


def causal_mask(length: int, device: torch.device | None = None) -> torch.Tensor:
    """(1, 1, T, T) additive causal mask."""
    return torch.full((length, length), float("-inf"), device=device).triu(1)[None, None]


def add_to_images(x: torch.Tensor, tokens: torch.Tensor, spans: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Adds (B, N, C) to the images' positions; by concatenation, since TensorRT 10.3 takes no reducing ScatterND, and
    none takes empty tensors."""
    pieces, at, taken = [], 0, 0
    for start, count in spans:
        pieces += [x[:, at:start], x[:, start : start + count] + tokens[:, taken : taken + count]]
        at, taken = start + count, taken + count
    pieces.append(x[:, at:])
    return torch.cat([piece for piece in pieces if piece.shape[1]], dim=1)
