# SPDX-License-Identifier: Apache-2.0
"""Qwen3-VL with a depth head, run on fixed image sizes.

The weights are transformers' own modules, so that released checkpoints load here and models that were trained here load
there. The forward pass is written for a batch of images of equal size, where masks and positions are constants.
Therefore it can be exported as one static graph; training uses it too. Tests compare it with transformers' forward.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from depthlm_ros.nets.backbone import Backbone, PixelRule
from depthlm_ros.nets.depth_heads import DptConfig, DptHead
from depthlm_ros.nets.positions import (
    ImageSpan,
    PromptLayout,
    interleaved_rope,
    learned_position_weights,
    prefix_positions,
    vision_rope,
)
from depthlm_ros.nets.text_decoder import apply_rope, attend

PositionTables = tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]


class Qwen3VLDepth(Backbone):
    """A Qwen3-VL, usually with DepthVLM's depth head."""

    def __init__(self, config: Qwen3VLConfig, head: DptConfig | None, pixels: PixelRule | None = None) -> None:
        super().__init__()
        self.vlm = Qwen3VLForConditionalGeneration(config)
        self.depth_head = None if head is None else DptHead(head)
        self.pixels = pixels or PixelRule()
        # Position tables by grid and device: to make one needs a copy to the device, which a CUDA graph cannot contain.
        self._tables: dict[tuple[tuple[int, int], torch.device], PositionTables] = {}
        self._prefixes: dict[tuple[PromptLayout, torch.device], torch.Tensor] = {}

    @property
    def pixels_per_token(self) -> int:
        vision = self.vlm.config.vision_config
        return vision.patch_size * vision.spatial_merge_size

    def image_span(self, size_px: tuple[int, int]) -> ImageSpan:
        """Returns what an image occupies. It advances positions by the tokens of its longer side."""
        columns, rows = (n // self.pixels_per_token for n in size_px)
        return ImageSpan((rows, columns), rows * columns, max(rows, columns))

    def encode_image(self, image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Runs the vision tower. image: uint8 (B, H, W, 3) -> tokens (B, N, C), and DeepStack tokens of the same shape
        for each level."""
        tower = self.vlm.model.visual
        config, merge = tower.config, tower.config.spatial_merge_size
        # For the 3-D patch convolution a still image is two equal frames, so its weight is summed over time.
        weight = tower.patch_embed.proj.weight.sum(2)
        pixels = self.pixels.values(image).to(weight.dtype)
        x = functional.conv2d(pixels, weight, tower.patch_embed.proj.bias, stride=config.patch_size)
        grid = (x.shape[2], x.shape[3])
        # The patches of a token follow each other, because they are merged later.
        blocks = x.reshape(*x.shape[:2], grid[0] // merge, merge, grid[1] // merge, merge)
        x = blocks.permute(0, 2, 4, 3, 5, 1).reshape(x.shape[0], grid[0] * grid[1], x.shape[1])
        (indices, weights), (cos, sin) = self._positions(grid, x.device)
        x = x + (tower.pos_embed.weight[indices] * weights.to(x.dtype)[..., None]).sum(1)
        deep = []
        for index, block in enumerate(tower.blocks):
            x = x + vision_attention(block.attn, block.norm1(x), cos, sin)
            x = x + block.mlp(block.norm2(x))
            if index in config.deepstack_visual_indexes:
                merger = tower.deepstack_merger_list[list(config.deepstack_visual_indexes).index(index)]
                deep.append(merge_patches(merger, x))
        return merge_patches(tower.merger, x), deep

    def prefix_rope(self, layout: PromptLayout) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns cos and sin (1, P, head_dim) of the prefix."""
        rotary = self.language.rotary_emb
        device = rotary.inv_freq.device
        positions = self._prefixes.get((layout, device))
        if positions is None:
            positions = prefix_positions(layout).to(device)
            if not torch.compiler.is_compiling():
                self._prefixes[layout, device] = positions
        cos, sin = interleaved_rope(positions, rotary.inv_freq, tuple(rotary.mrope_section))
        weight = self.language.norm.weight
        return cos[None].to(weight), sin[None].to(weight)

    def _positions(self, grid: tuple[int, int], device: torch.device) -> PositionTables:
        if torch.compiler.is_compiling():
            return self._make_positions(grid, device)
        if (grid, device) not in self._tables:
            self._tables[grid, device] = self._make_positions(grid, device)
        return self._tables[grid, device]

    def _make_positions(self, grid: tuple[int, int], device: torch.device) -> PositionTables:
        """Computes, for a grid of patches, the resampling of the learned positions, and cos and sin of the rotary
        embedding."""
        config = self.vlm.config.vision_config
        side = round(config.num_position_embeddings**0.5)
        theta = config.rope_parameters["rope_theta"]
        head_dim = config.hidden_size // config.num_heads
        learned = learned_position_weights(grid, config.spatial_merge_size, side)
        rope = vision_rope(grid, config.spatial_merge_size, head_dim, theta)
        return tuple(t.to(device) for t in learned), tuple(t.to(device) for t in rope)


def vision_attention(attention: nn.Module, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Attention among all patches of x (B, N, D)."""
    batch, count, channels = x.shape
    qkv = attention.qkv(x).reshape(batch, count, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    # The rotation is in single precision for weights of any type, as in transformers.
    query, key = apply_rope(qkv[:2].float(), cos, sin).to(x.dtype).unbind()
    value = qkv[2]
    y = attend(query, key, value, attention.scaling)
    return attention.proj(y.transpose(1, 2).reshape(batch, count, channels))


def merge_patches(merger: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Merges the m x m patches of each token: (B, N * m^2, D) -> (B, N, C)."""
    batch = x.shape[0]
    if not merger.use_postshuffle_norm:
        x = merger.norm(x)
    x = x.reshape(batch, -1, merger.hidden_size)
    if merger.use_postshuffle_norm:
        x = merger.norm(x)
    return merger.linear_fc2(merger.act_fn(merger.linear_fc1(x)))
