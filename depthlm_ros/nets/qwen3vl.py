"""Qwen3-VL with a depth head, run on fixed image sizes.

The weights are transformers' own modules (so released checkpoints load and what is trained here loads there); the
forward pass is written for a batch of equal images, where masks and positions are constants. That is what makes
it exportable as one static graph, and it serves training too. Equality with transformers' forward is tested.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from depthlm_ros.nets.dpt import DptConfig, DptHead
from depthlm_ros.nets.positions import (
    PromptLayout,
    learned_position_weights,
    merge_order,
    plain_rope,
    prefix_positions,
    text_rope,
    vision_rope,
)

KeyValues = tuple[list[torch.Tensor], list[torch.Tensor]]


class Qwen3VLDepth(nn.Module):
    """A Qwen3-VL and its depth head. `vlm` holds transformers' modules, `depth_head` DepthVLM's."""

    def __init__(self, config: Qwen3VLConfig, head: DptConfig) -> None:
        super().__init__()
        self.vlm = Qwen3VLForConditionalGeneration(config)
        self.depth_head = DptHead(head)

    @property
    def pixels_per_token(self) -> int:
        vision = self.vlm.config.vision_config
        return vision.patch_size * vision.spatial_merge_size

    def grid(self, height_px: int, width_px: int) -> tuple[int, int]:
        """Rows and columns of image tokens."""
        return height_px // self.pixels_per_token, width_px // self.pixels_per_token

    def see(self, image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Vision tower. image: uint8 (B, H, W, 3) -> tokens (B, N, C) and the DeepStack tokens, same shape each."""
        tower = self.vlm.model.visual
        config = tower.config
        pixels = image.permute(0, 3, 1, 2).float() / 127.5 - 1.0
        # A still image is two equal frames to the 3-D patch convolution: sum its weight over time.
        weight = tower.patch_embed.proj.weight.sum(2)
        x = functional.conv2d(pixels, weight, tower.patch_embed.proj.bias, stride=config.patch_size)
        grid = (x.shape[2], x.shape[3])
        rows, columns = merge_order(grid, config.spatial_merge_size)
        x = x.flatten(2).transpose(1, 2)[:, rows * grid[1] + columns]
        x = x + self._learned_positions(grid)
        cos, sin = self._vision_rope(grid)
        deep = []
        for index, block in enumerate(tower.blocks):
            x = x + vision_attention(block.attn, block.norm1(x), cos, sin)
            x = x + block.mlp(block.norm2(x))
            if index in config.deepstack_visual_indexes:
                merger = tower.deepstack_merger_list[list(config.deepstack_visual_indexes).index(index)]
                deep.append(merge_patches(merger, x))
        return merge_patches(tower.merger, x), deep

    def decode(
        self,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        mask: torch.Tensor,
        past: KeyValues | None = None,
        deep: list[torch.Tensor] | None = None,
        before: int = 0,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Language model over embeddings x (B, T, C).

        mask: additive, or boolean with True where attention is allowed; broadcastable to (B, heads, T, S + T), S =
        past length. past: keys and values per layer, (B, heads_kv, S, D). deep: DeepStack tokens added to the
        image's positions, which begin at `before`.
        Returns final normed states (B, T, C) and the new keys and values (layers, B, heads_kv, T, D).
        """
        keys, values = [], []
        language = self.vlm.model.language_model
        for index, layer in enumerate(language.layers):
            past_layer = None if past is None else (past[0][index], past[1][index])
            y, key, value = text_attention(layer.self_attn, layer.input_layernorm(x), cos, sin, mask, past_layer)
            x = x + y
            x = x + layer.mlp(layer.post_attention_layernorm(x))
            if deep is not None and index < len(deep):
                x = add_to_image(x, deep[index], before)
            keys.append(key)
            values.append(value)
        return language.norm(x), torch.stack(keys), torch.stack(values)

    def depth(self, states: torch.Tensor, deep: list[torch.Tensor], layout: PromptLayout) -> torch.Tensor:
        """Depth head. states: (B, T, C) from decode -> depth_m (B, H, W)."""
        image = states[:, layout.before : layout.before + layout.image_tokens]
        return self.depth_head([*deep, image], layout.grid)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.vlm.model.language_model.embed_tokens(ids)

    def prefix_rope(self, layout: PromptLayout) -> tuple[torch.Tensor, torch.Tensor]:
        """cos, sin (1, P, head_dim) of the prefix."""
        rotary = self.vlm.model.language_model.rotary_emb
        positions = prefix_positions(layout).to(rotary.inv_freq.device)
        cos, sin = text_rope(positions, rotary.inv_freq, tuple(rotary.mrope_section))
        return cos[None], sin[None]

    def text_rope(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos, sin (B, T, head_dim) of text at positions (B, T)."""
        return plain_rope(positions, self.vlm.model.language_model.rotary_emb.inv_freq)

    def _learned_positions(self, grid: tuple[int, int]) -> torch.Tensor:
        tower = self.vlm.model.visual
        table = tower.pos_embed.weight
        side = round(table.shape[0] ** 0.5)
        indices, weights = learned_position_weights(grid, tower.config.spatial_merge_size, side)
        return (table[indices.to(table.device)] * weights.to(table)[..., None]).sum(1)

    def _vision_rope(self, grid: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        config = self.vlm.model.visual.config
        theta = config.rope_parameters["rope_theta"]
        cos, sin = vision_rope(grid, config.spatial_merge_size, config.hidden_size // config.num_heads, theta)
        weight = self.vlm.model.visual.pos_embed.weight
        return cos.to(weight), sin.to(weight)


def causal_mask(length: int, device: torch.device | None = None) -> torch.Tensor:
    """(1, 1, T, T) additive causal mask."""
    return torch.full((length, length), float("-inf"), device=device).triu(1)[None, None]


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding, half-split layout."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin


def vision_attention(attention: nn.Module, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    batch, count, channels = x.shape
    qkv = attention.qkv(x).reshape(batch, count, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = rotate(qkv[0], cos, sin), rotate(qkv[1], cos, sin), qkv[2]
    y = functional.scaled_dot_product_attention(query, key, value, scale=attention.scaling)
    return attention.proj(y.transpose(1, 2).reshape(batch, count, channels))


def text_attention(
    attention: nn.Module,
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    mask: torch.Tensor,
    past: tuple[torch.Tensor, torch.Tensor] | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Grouped-query attention; returns the output and this call's new keys and values (B, heads_kv, T, D)."""
    batch, count, _ = x.shape
    heads = (batch, count, -1, attention.head_dim)
    query = rotate(attention.q_norm(attention.q_proj(x).reshape(heads)).transpose(1, 2), cos[:, None], sin[:, None])
    key = rotate(attention.k_norm(attention.k_proj(x).reshape(heads)).transpose(1, 2), cos[:, None], sin[:, None])
    value = attention.v_proj(x).reshape(heads).transpose(1, 2)
    all_keys = key if past is None else torch.cat([past[0], key], dim=2)
    all_values = value if past is None else torch.cat([past[1], value], dim=2)
    groups = attention.num_key_value_groups
    y = functional.scaled_dot_product_attention(
        query, repeat(all_keys, groups), repeat(all_values, groups), attn_mask=mask, scale=attention.scaling
    )
    return attention.o_proj(y.transpose(1, 2).reshape(batch, count, -1)), key, value


def repeat(x: torch.Tensor, groups: int) -> torch.Tensor:
    """(B, heads_kv, S, D) -> (B, heads_kv * groups, S, D), each head repeated in place."""
    if groups == 1:
        return x
    batch, heads, length, size = x.shape
    return x[:, :, None].expand(batch, heads, groups, length, size).reshape(batch, heads * groups, length, size)


def merge_patches(merger: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Patch merger over a batch: (B, N * m^2, D) -> (B, N, C)."""
    batch = x.shape[0]
    if not merger.use_postshuffle_norm:
        x = merger.norm(x)
    x = x.reshape(batch, -1, merger.hidden_size)
    if merger.use_postshuffle_norm:
        x = merger.norm(x)
    return merger.linear_fc2(merger.act_fn(merger.linear_fc1(x)))


def add_to_image(x: torch.Tensor, tokens: torch.Tensor, before: int) -> torch.Tensor:
    """Adds (B, N, C) to the image's positions; by concatenation, since TensorRT 10.3 takes no reducing ScatterND."""
    end = before + tokens.shape[1]
    return torch.cat([x[:, :before], x[:, before:end] + tokens, x[:, end:]], dim=1)
