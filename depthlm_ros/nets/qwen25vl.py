# SPDX-License-Identifier: Apache-2.0
"""Qwen2.5-VL on fixed image sizes: windowed attention in the vision tower, sectioned M-RoPE in the language model.

The weights are transformers' own modules. The forward pass is written for a batch of images of equal size, and tests
compare it with transformers' forward.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from depthlm_ros.nets.backbone import Backbone, PixelRule
from depthlm_ros.nets.positions import ImageSpan, PromptLayout, prefix_positions
from depthlm_ros.nets.text_decoder import apply_rope, attend

# Rows and columns of tokens, then the rows and columns of each window in them.
WindowPart = tuple[slice, slice, int, int]


class Qwen25VLBackbone(Backbone):
    """A Qwen2.5-VL, which has no DeepStack and no depth head."""

    def __init__(self, config: Qwen2_5_VLConfig, pixels: PixelRule) -> None:
        super().__init__()
        self.vlm = Qwen2_5_VLForConditionalGeneration(config)
        self.depth_head = None
        self.pixels = pixels

    @property
    def pixels_per_token(self) -> int:
        vision = self.vlm.config.vision_config
        return vision.patch_size * vision.spatial_merge_size

    def image_span(self, size_px: tuple[int, int]) -> ImageSpan:
        """Returns what an image occupies. It advances positions by the tokens of its longer side."""
        columns, rows = (n // self.pixels_per_token for n in size_px)
        return ImageSpan((rows, columns), rows * columns, max(rows, columns))

    def encode_image(self, image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Runs the vision tower. image: uint8 (B, H, W, 3), with sides that are multiples of pixels_per_token -> tokens
        (B, N, C), and no DeepStack.

        Patches are kept in the order of the windows, so that a window is a slice. Full attention does not depend on the
        order.
        """
        tower = self.vlm.model.visual
        config, merge = tower.config, tower.config.spatial_merge_size
        # For the 3-D patch convolution a still image is two equal frames, so its weight is summed over time.
        weight = tower.patch_embed.proj.weight.sum(2)
        x = functional.conv2d(self.pixels.values(image).to(weight.dtype), weight, stride=config.patch_size)
        batch, _, rows, columns = x.shape
        grid, side = (rows // merge, columns // merge), config.window_size // merge // config.patch_size
        x = to_windows(merge_blocks(x.permute(0, 2, 3, 1), merge), side)
        cos, sin = (to_windows(table, side) for table in self._vision_rope((rows, columns)))
        whole, windows = [(1, x.shape[1])], window_groups(grid, side, merge**2)
        for index, block in enumerate(tower.blocks):
            groups = whole if index in config.fullatt_block_indexes else windows
            x = x + grouped_attention(block.attn, block.norm1(x), cos, sin, groups)
            x = x + block.mlp(block.norm2(x))
        merger = tower.merger
        tokens = merger.mlp(merger.ln_q(x).reshape(batch, -1, merger.hidden_size))
        return from_windows(tokens, grid, side), []

    def prefix_rope(self, layout: PromptLayout) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns cos and sin (1, P, head_dim) of the prefix."""
        rotary = self.language.rotary_emb
        positions = prefix_positions(layout).to(rotary.inv_freq.device)
        cos, sin = sectioned_rope(positions, rotary.inv_freq, tuple(rotary.mrope_section))
        weight = self.language.norm.weight
        return cos[None].to(weight), sin[None].to(weight)

    def _vision_rope(self, grid: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns cos and sin, float32 (1, R, C, m * m, head_dim), for the patches of a grid (rows, columns)."""
        rotary, merge = self.vlm.model.visual.rotary_pos_emb, self.vlm.config.vision_config.spatial_merge_size
        rows, columns = (torch.arange(n, device=rotary.inv_freq.device) for n in grid)
        places = torch.stack([rows[:, None].expand(grid), columns[None].expand(grid)], dim=-1)
        cos, sin = rotary(rotary.inv_freq, merge_blocks(places[None], merge).reshape(-1, 2))
        shape = (1, grid[0] // merge, grid[1] // merge, merge**2, -1)
        return cos.reshape(shape), sin.reshape(shape)


def merge_blocks(x: torch.Tensor, merge: int) -> torch.Tensor:
    """Groups the patches of each token: (B, rows, columns, D) -> (B, R, C, m * m, D)."""
    return x.unflatten(2, (-1, merge)).unflatten(1, (-1, merge)).transpose(2, 3).flatten(3, 4)


def window_parts(grid: tuple[int, int], side: int) -> list[list[WindowPart]]:
    """Cuts a grid of tokens into at most four parts whose windows have the same size: full windows, those at the right
    edge, at the bottom, and in the corner. Returns bands from top to bottom, and in each the parts from left to
    right."""

    def spans(length: int) -> list[tuple[slice, int]]:
        full = length // side * side
        cuts = [(slice(0, full), side), (slice(full, length), length - full)]
        return [(cut, size) for cut, size in cuts if cut.start < cut.stop]

    return [[(row, column, h, w) for column, w in spans(grid[1])] for row, h in spans(grid[0])]


def window_groups(grid: tuple[int, int], side: int, patches: int) -> list[tuple[int, int]]:
    """Returns (number of windows, patches in each) for every part, in the order of to_windows."""
    groups = []
    for row, column, h, w in (part for band in window_parts(grid, side) for part in band):
        tokens = (row.stop - row.start) * (column.stop - column.start)
        groups.append((tokens // (h * w), h * w * patches))
    return groups


def to_windows(x: torch.Tensor, side: int) -> torch.Tensor:
    """Reorders tokens, window after window: (B, R, C, K, D) -> (B, R * C * K, D)."""
    pieces = []
    for row, column, h, w in (part for band in window_parts((x.shape[1], x.shape[2]), side) for part in band):
        blocks = x[:, row, column].unflatten(2, (-1, w)).unflatten(1, (-1, h))
        pieces.append(blocks.transpose(2, 3).flatten(1, 5))
    return torch.cat(pieces, dim=1)


def from_windows(x: torch.Tensor, grid: tuple[int, int], side: int) -> torch.Tensor:
    """Reorders (B, R * C, D) from window after window to row after row: the inverse of to_windows, for one vector per
    token."""
    bands, at = [], 0
    for band in window_parts(grid, side):
        pieces = []
        for row, column, h, w in band:
            height, width = row.stop - row.start, column.stop - column.start
            blocks = x[:, at : at + height * width].unflatten(1, (height // h, width // w, h, w))
            pieces.append(blocks.transpose(2, 3).flatten(3, 4).flatten(1, 2))
            at += height * width
        bands.append(torch.cat(pieces, dim=2))
    return torch.cat(bands, dim=1).flatten(1, 2)


def grouped_attention(
    attention: nn.Module, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, groups: list[tuple[int, int]]
) -> torch.Tensor:
    """Attention within consecutive windows of x (B, N, D). groups: (number of windows, patches in each)."""
    query, key, value = attention.qkv(x).unflatten(2, (3, attention.num_heads, -1)).unbind(2)
    # The rotation is in float32, as in transformers: half precision would blur the positions.
    query, key = (apply_rope(t.float(), cos[:, :, None], sin[:, :, None]).to(value) for t in (query, key))
    outputs, at = [], 0
    for number, size in groups:
        q, k, v = (
            t[:, at : at + number * size].unflatten(1, (number, size)).flatten(0, 1).transpose(1, 2)
            for t in (query, key, value)
        )
        y = attend(q, k, v, attention.scaling)
        outputs.append(y.transpose(1, 2).flatten(2).unflatten(0, (-1, number)).flatten(1, 2))
        at += number * size
    return attention.proj(torch.cat(outputs, dim=1))


def sectioned_rope(
    positions: torch.Tensor, inverse_frequencies: torch.Tensor, sections: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns cos and sin (..., T, head_dim) of Qwen2.5-VL's M-RoPE for positions (3, ..., T). The first section of
    frequencies belongs to time, the second to the row, the third to the column."""
    angles = positions[..., None].float() * inverse_frequencies
    mixed = torch.cat([part[axis] for axis, part in enumerate(angles.split(sections, dim=-1))], dim=-1)
    mixed = torch.cat([mixed, mixed], dim=-1)
    return mixed.cos(), mixed.sin()
