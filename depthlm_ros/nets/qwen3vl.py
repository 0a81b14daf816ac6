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
    ImageSpan,
    PromptLayout,
    learned_position_weights,
    merge_order,
    plain_rope,
    prefix_positions,
    text_rope,
    vision_rope,
)
from depthlm_ros.nets.text import rotate


class Qwen3VLDepth(nn.Module):
    """A Qwen3-VL and its depth head. `vlm` holds transformers' modules, `depth_head` DepthVLM's."""

    def __init__(self, config: Qwen3VLConfig, head: DptConfig | None) -> None:
        super().__init__()
        self.vlm = Qwen3VLForConditionalGeneration(config)
        self.depth_head = None if head is None else DptHead(head)

    @property
    def pixels_per_token(self) -> int:
        vision = self.vlm.config.vision_config
        return vision.patch_size * vision.spatial_merge_size

    @property
    def language(self) -> nn.Module:
        """The decoder layers and their final norm."""
        return self.vlm.model.language_model

    def span(self, size_px: tuple[int, int]) -> ImageSpan:
        """What an image of this size (width, height) takes in a prompt: it advances positions by its longer side."""
        columns, rows = (n // self.pixels_per_token for n in size_px)
        return ImageSpan((rows, columns), rows * columns, max(rows, columns))

    def see(self, image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Vision tower. image: uint8 (B, H, W, 3) -> tokens (B, N, C) and the DeepStack tokens, same shape each."""
        tower = self.vlm.model.visual
        config = tower.config
        pixels = image.permute(0, 3, 1, 2).float() / 127.5 - 1.0
        # A still image is two equal frames to the 3-D patch convolution: sum its weight over time.
        weight = tower.patch_embed.proj.weight.sum(2)
        x = functional.conv2d(pixels.to(weight.dtype), weight, tower.patch_embed.proj.bias, stride=config.patch_size)
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

    def depth(self, states: torch.Tensor, deep: list[torch.Tensor], layout: PromptLayout) -> torch.Tensor | None:
        """Depth head on the first image. states: (B, P, C) of the prefix -> depth_m (B, H, W), None without a head."""
        if self.depth_head is None:
            return None
        (start, count), grid = layout.spans[0], layout.images[0].grid
        features = [*(tokens[:, :count] for tokens in deep), states[:, start : start + count]]
        # A bfloat16 depth has steps of 6 cm at 8 m: the head may be kept finer than the backbone.
        return self.depth_head([tokens.to(self.depth_head.norm.weight.dtype) for tokens in features], grid)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.language.embed_tokens(ids)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """(..., C) -> (..., V)."""
        return self.vlm.lm_head(states)

    def prefix_rope(self, layout: PromptLayout) -> tuple[torch.Tensor, torch.Tensor]:
        """cos, sin (1, P, head_dim) of the prefix."""
        rotary = self.language.rotary_emb
        positions = prefix_positions(layout).to(rotary.inv_freq.device)
        cos, sin = text_rope(positions, rotary.inv_freq, tuple(rotary.mrope_section))
        weight = self.language.norm.weight
        return cos[None].to(weight), sin[None].to(weight)

    def text_rope(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos, sin (B, T, head_dim) of text at positions (B, T)."""
        cos, sin = plain_rope(positions, self.language.rotary_emb.inv_freq)
        weight = self.language.norm.weight
        return cos.to(weight), sin.to(weight)

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


def vision_attention(attention: nn.Module, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    batch, count, channels = x.shape
    qkv = attention.qkv(x).reshape(batch, count, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = rotate(qkv[0], cos, sin), rotate(qkv[1], cos, sin), qkv[2]
    y = functional.scaled_dot_product_attention(query, key, value, scale=attention.scaling)
    return attention.proj(y.transpose(1, 2).reshape(batch, count, channels))


def merge_patches(merger: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Patch merger over a batch: (B, N * m^2, D) -> (B, N, C)."""
    batch = x.shape[0]
    if not merger.use_postshuffle_norm:
        x = merger.norm(x)
    x = x.reshape(batch, -1, merger.hidden_size)
    if merger.use_postshuffle_norm:
        x = merger.norm(x)
    return merger.linear_fc2(merger.act_fn(merger.linear_fc1(x)))
