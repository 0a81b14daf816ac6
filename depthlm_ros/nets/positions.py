# SPDX-License-Identifier: Apache-2.0
"""Position tables for prompts with still images of fixed sizes, which are computed once instead of in every call.

The formulas are those of Qwen3-VL: axial 2-D RoPE and resampled learned positions in the vision tower, interleaved
M-RoPE in the language model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ImageSpan:
    """What one image occupies in a prompt.

    grid: tokens (rows, columns). tokens: their number, with row breaks in architectures that have them. advance: by how
    much the image advances the position of the text behind it.
    """

    grid: tuple[int, int]
    tokens: int
    advance: int


@dataclass(frozen=True)
class PromptLayout:
    """The order of texts and images in a prefix. texts: numbers of text tokens before, between and after the images."""

    texts: tuple[int, ...]
    images: tuple[ImageSpan, ...]

    @property
    def length(self) -> int:
        """Number of tokens."""
        return sum(self.texts) + sum(image.tokens for image in self.images)

    @property
    def next_position(self) -> int:
        """Position id of the first token after the prefix."""
        return sum(self.texts) + sum(image.advance for image in self.images)

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """(start, count) of each image's tokens."""
        starts, at = [], 0
        for text, image in zip(self.texts[:-1], self.images, strict=True):
            starts.append((at + text, image.tokens))
            at += text + image.tokens
        return tuple(starts)


def merge_order(grid: tuple[int, int], merge: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns row and column, each (N,), of every patch, in an order where the merge x merge patches of a token follow
    each other. grid: patches (rows, columns).
    """
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")

    def reorder(x: torch.Tensor) -> torch.Tensor:
        blocks = x.reshape(grid[0] // merge, merge, grid[1] // merge, merge)
        return blocks.permute(0, 2, 1, 3).reshape(-1)

    return reorder(rows), reorder(columns)


def vision_rope(grid: tuple[int, int], merge: int, head_dim: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns cos and sin (N, head_dim) of the vision tower's axial rotary embedding."""
    rows, columns = merge_order(grid, merge)
    half = head_dim // 2
    inverse = 1.0 / theta ** (torch.arange(0, half, 2, dtype=torch.float32) / half)
    angles = torch.cat([rows[:, None] * inverse, columns[:, None] * inverse], dim=-1)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def learned_position_weights(grid: tuple[int, int], merge: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns indices (N, 4) and weights (N, 4) that resample the learned grid, side x side, to the patches of an image
    (bilinear, aligned corners)."""
    rows, columns = merge_order(grid, merge)
    y = rows * ((side - 1) / max(grid[0] - 1, 1))
    x = columns * ((side - 1) / max(grid[1] - 1, 1))
    y0, x0 = y.floor().long().clamp(max=side - 1), x.floor().long().clamp(max=side - 1)
    y1, x1 = (y0 + 1).clamp(max=side - 1), (x0 + 1).clamp(max=side - 1)
    dy, dx = y - y0, x - x0
    indices = torch.stack([y0 * side + x0, y0 * side + x1, y1 * side + x0, y1 * side + x1], dim=1)
    weights = torch.stack([(1 - dy) * (1 - dx), (1 - dy) * dx, dy * (1 - dx), dy * dx], dim=1)
    return indices, weights


def prefix_positions(layout: PromptLayout) -> torch.Tensor:
    """Returns the position ids (3, P) of a Qwen prefix: time, row and column. In text all three count on; in an image
    they are those of its grid."""
    pieces, at = [], 0
    for text, image in zip(layout.texts, (*layout.images, None), strict=True):
        pieces.append(torch.arange(at, at + text).expand(3, -1))
        at += text
        if image is not None:
            rows, columns = torch.meshgrid(*(torch.arange(n) for n in image.grid), indexing="ij")
            pieces.append(torch.stack([torch.zeros_like(rows), rows, columns]).reshape(3, -1) + at)
            at += image.advance
    return torch.cat(pieces, dim=1)


def interleaved_rope(
    positions: torch.Tensor, inverse_frequencies: torch.Tensor, sections: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns cos and sin (..., T, head_dim) of the interleaved M-RoPE for positions (3, ..., T)."""
    angles = positions[..., None].float() * inverse_frequencies
    mixed = angles[0].clone()
    for axis in (1, 2):
        mixed[..., axis : sections[axis] * 3 : 3] = angles[axis][..., axis : sections[axis] * 3 : 3]
    mixed = torch.cat([mixed, mixed], dim=-1)
    return mixed.cos(), mixed.sin()


def plain_rope(positions: torch.Tensor, inverse_frequencies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns cos and sin (..., T, head_dim) for positions (..., T) of text, whose three M-RoPE positions are equal."""
    angles = positions[..., None].float() * inverse_frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()
