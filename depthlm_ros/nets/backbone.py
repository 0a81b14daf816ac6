"""What the graphs need of an architecture, and what all architectures have in common.

A backbone holds transformers' own modules (`vlm`), so that released checkpoints load; the forward pass is written for
a batch of equal images, where masks and positions follow from the sizes alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from depthlm_ros.nets.pixels import PixelRule
from depthlm_ros.nets.positions import ImageSpan, PromptLayout, plain_rope


class Backbone(nn.Module):
    """A vision-language model. vlm: transformers' model for conditional generation; depth_head: None or a module
    (four sequences of tokens, grid) -> depth_m; pixels: how bytes become the vision tower's values."""

    vlm: Any
    depth_head: nn.Module | None
    pixels: PixelRule

    @property
    def pixels_per_token(self) -> int:
        """Side of the square of image pixels that one token stands for."""
        raise NotImplementedError

    def span(self, size_px: tuple[int, int]) -> ImageSpan:
        """What an image of this size (width, height) takes in a prompt."""
        raise NotImplementedError

    def see(self, image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Vision tower. image: uint8 (B, H, W, 3) -> tokens (B, N, C) of
        everything that stands for the image in the prompt, and DeepStack's tokens (may be none)."""
        raise NotImplementedError

    def prefix_rope(self, layout: PromptLayout) -> tuple[torch.Tensor, torch.Tensor]:
        """cos, sin (1, P, head_dim) of a prefix."""
        raise NotImplementedError

    @property
    def language(self) -> Any:
        """The decoder layers and their final norm."""
        return self.vlm.model.language_model

    def text_rope(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos, sin (B, T, head_dim) of text at positions (B, T)."""
        cos, sin = plain_rope(positions, self.language.rotary_emb.inv_freq)
        weight = self.language.norm.weight
        return cos.to(weight), sin.to(weight)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.language.embed_tokens(ids)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """(..., C) -> (..., V)."""
        return self.vlm.lm_head(states)

    def depth(self, states: torch.Tensor, deep: list[torch.Tensor], layout: PromptLayout) -> torch.Tensor | None:
        """Depth head on the first image. states: (B, P, C) of the prefix -> depth_m (B, H, W), None without a head."""
        if self.depth_head is None:
            return None
        (start, count), grid = layout.spans[0], layout.images[0].grid
        return self.depth_head([*(tokens[:, :count] for tokens in deep), states[:, start : start + count]], grid)
