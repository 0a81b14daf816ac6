# SPDX-License-Identifier: Apache-2.0
"""The language model's forward pass, over any stack of transformers' Qwen2, Qwen3 or Mistral decoder layers.

prefill: runs whole prompts at once
extend: runs the text of many rows behind prefixes that were run before. The rows of one prefix share its keys and
values, which are neither copied nor expanded. The result is that of attention over a copied prefix, with another order
of summation.
attend: scaled dot product attention, in the form that is fast on the device
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class KeyValueCache:
    """Keys and values of everything before a text: of G prefixes, and of N = G * R rows. The R rows of the first prefix
    come first.

    prefix_keys, prefix_values: per layer (G, heads_kv, P, D).
    own_keys, own_values: per layer (N, heads_kv, S, D), of the rows' earlier text.
    mask: (N, S), 0 where a slot of the own keys is valid, -inf elsewhere.
    """

    prefix_keys: Sequence[torch.Tensor]
    prefix_values: Sequence[torch.Tensor]
    own_keys: Sequence[torch.Tensor]
    own_values: Sequence[torch.Tensor]
    mask: torch.Tensor


@dataclass(frozen=True)
class DeepStackTokens:
    """Image tokens that are added to the states after the first layers (DeepStack).

    tokens: per layer (B, N, C), for all images together. spans: (start, count) of each image in the prompt.
    """

    tokens: Sequence[torch.Tensor]
    spans: tuple[tuple[int, int], ...]


# Final states, keys, values.
DecoderOutput = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def prefill(
    language: nn.Module,
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    mask: torch.Tensor | None,
    deep: DeepStackTokens | None = None,
    queries: list[torch.Tensor] | None = None,
    prefix: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> DecoderOutput:
    """Runs whole prompts: embeddings x (B, T, C) -> final normed states (B, T, C), keys and values (layers, B,
    heads_kv, T, D).

    language: a module with `layers` and `norm`. cos, sin: (B or 1, T, D). mask: additive, or boolean with True where
    attention is allowed; broadcastable to (B, heads, T, T); None where all tokens see each other.
    queries: a list to which the queries (B, heads, T, D) of each layer are appended. prefix: keys and values of what
    stands before (project_prefix); then the mask has its columns first, and keys and values are returned with it.
    """
    keys, values = [], []
    for index, layer in enumerate(language.layers):
        query, key, value = project_qkv(layer.self_attn, layer.input_layernorm(x), cos, sin)
        if queries is not None:
            queries.append(query)
        if prefix is not None:
            key, value = torch.cat([prefix[0][index], key], 2), torch.cat([prefix[1][index], value], 2)
        groups = layer.self_attn.num_key_value_groups
        y = attend(query, repeat_heads(key, groups), repeat_heads(value, groups), layer.self_attn.scaling, mask)
        x = x + layer.self_attn.o_proj(y.transpose(1, 2).flatten(2))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
        if deep is not None and index < len(deep.tokens):
            x = add_to_images(x, deep.tokens[index], deep.spans)
        keys.append(key)
        values.append(value)
    return language.norm(x), torch.stack(keys), torch.stack(values)


def project_prefix(
    language: nn.Module, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns keys and values (layers, B, heads_kv, T, D) of a prefix x (B, T, C) that no layer changes: every layer
    reads the same embeddings. cos, sin: (B or 1, T, D)."""
    pairs = [project_qkv(layer.self_attn, layer.input_layernorm(x), cos, sin)[1:] for layer in language.layers]
    keys, values = zip(*pairs, strict=True)
    return torch.stack(keys), torch.stack(values)


def extend(
    language: nn.Module, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, last: torch.Tensor, cache: KeyValueCache
) -> DecoderOutput:
    """Runs text behind a cache: embeddings x (N, T, C) -> final normed states (N, C) at each row's token `last` (N,),
    keys and values of this text (layers, N, heads_kv, T, D).

    Only the state of one token of each row is returned. Therefore the last layer computes keys and values for all
    tokens, but everything else for that token only.
    """
    keys, values = [], []
    rows, count, _ = x.shape
    each, final = torch.arange(rows, device=x.device), len(language.layers) - 1
    causal = causal_mask(count, x.device).expand(rows, 1, count, count)
    before = cache.mask[:, None, None, :].expand(rows, 1, count, cache.mask.shape[1])
    mask = torch.cat([before, causal], dim=-1)
    for index, layer in enumerate(language.layers):
        query, key, value = project_qkv(layer.self_attn, layer.input_layernorm(x), cos, sin)
        if index == final:
            query, mask, x = query[each, :, last][:, :, None], mask[each, :, last][:, :, None], x[each, last][:, None]
        y = shared_attention(
            query * layer.self_attn.scaling,
            (cache.prefix_keys[index], cache.prefix_values[index]),
            (torch.cat([cache.own_keys[index], key], dim=2), torch.cat([cache.own_values[index], value], dim=2)),
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
    """Attention of scaled queries (N, heads, T, D) to whole prefixes (G, heads_kv, P, D), and to the rows' own keys and
    values (N, heads_kv, S, D) under an additive mask (N, 1, T, S). Returns (N, heads, T, D).

    All queries of a prefix and of a key head form one matrix, so that each key of the prefix is read once for all rows.
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


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Returns softmax(scale * query key^T + mask) value (B, heads, T, D) for query (B, heads, T, D), key and value
    (B, heads, S, D).

    mask: additive, or boolean with True where attention is allowed; broadcastable to (B, heads, T, S).

    On a CPU, torch's fused attention takes two to five times as long as plain products for short training sequences in
    bfloat16 (torch 2.13, 200 tokens of 48 channels). Everywhere else fused attention is at least as fast.
    """
    if not (torch.is_grad_enabled() and query.requires_grad and query.device.type == "cpu"):
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    scores = (query * scale) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ value


def project_qkv(
    attention: nn.Module, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns rotated queries (B, heads, T, D), rotated keys and values (B, heads_kv, T, D). Qwen3 normalises queries
    and keys per head, the other models do not."""
    batch, count, _ = x.shape
    heads = (batch, count, -1, attention.head_dim)
    query, key = attention.q_proj(x).reshape(heads), attention.k_proj(x).reshape(heads)
    if hasattr(attention, "q_norm"):
        query, key = attention.q_norm(query), attention.k_norm(key)
    value = attention.v_proj(x).reshape(heads).transpose(1, 2)
    cos, sin = cos[:, None], sin[:, None]
    return apply_rope(query.transpose(1, 2), cos, sin), apply_rope(key.transpose(1, 2), cos, sin), value


def apply_rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Applies the rotary embedding, in the half-split layout."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin


def repeat_heads(x: torch.Tensor, groups: int) -> torch.Tensor:
    """(B, heads_kv, S, D) -> (B, heads_kv * groups, S, D): the copies of each head follow each other."""
    if groups == 1:
        return x
    batch, heads, length, size = x.shape
    return x[:, :, None].expand(batch, heads, groups, length, size).reshape(batch, heads * groups, length, size)


def causal_mask(length: int, device: torch.device | None = None) -> torch.Tensor:
    """Returns the additive causal mask (1, 1, T, T)."""
    return torch.full((length, length), float("-inf"), device=device).triu(1)[None, None]


def add_to_images(x: torch.Tensor, tokens: torch.Tensor, spans: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Adds tokens (B, N, C) to the states of the images.

    The result is concatenated from pieces because TensorRT 10.3 does not support a reducing ScatterND. Empty pieces are
    left out because no version of TensorRT accepts empty tensors.
    """
    pieces, at, taken = [], 0, 0
    for start, count in spans:
        pieces += [x[:, at:start], x[:, start : start + count] + tokens[:, taken : taken + count]]
        at, taken = start + count, taken + count
    pieces.append(x[:, at:])
    return torch.cat([piece for piece in pieces if piece.shape[1]], dim=1)
