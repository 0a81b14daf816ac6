"""The interface between an architecture and the graphs, and what all architectures have in common.

A backbone holds transformers' own modules (`vlm`), so that released checkpoints load. The forward pass is written for
a batch of images of equal size, where masks and positions follow from the sizes alone.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from depthlm_ros.nets.pixels import PixelRule
from depthlm_ros.nets.positions import ImageSpan, PromptLayout, plain_rope


class Backbone(nn.Module):
    """A vision-language model.

    vlm: transformers' model for conditional generation.
    depth_head: None, or a module (four sequences of tokens, grid) -> depth_m.
    pixels: how bytes become the vision tower's values.
    """

    vlm: PreTrainedModel
    depth_head: nn.Module | None
    pixels: PixelRule

    @property
    def pixels_per_token(self) -> int:
        """Side of the square of image pixels that one token stands for."""
        raise NotImplementedError

    def image_span(self, size_px: tuple[int, int]) -> ImageSpan:
        """Returns the tokens and positions that an image of this size (width, height) occupies in a prompt."""
        raise NotImplementedError

    def encode_image(self, image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Runs the vision tower on image, uint8 (B, H, W, 3).

        Returns the tokens (B, N, C) that stand for the image in the prompt, and DeepStack's tokens (B, N, C) by level
        (an empty list in architectures without DeepStack).
        """
        raise NotImplementedError

    def prefix_rope(self, layout: PromptLayout) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns cos and sin (1, P, head_dim) of the rotary embedding for a prefix of P tokens."""
        raise NotImplementedError

    @property
    def language(self) -> nn.Module:
        """The decoder layers and their final norm."""
        return self.vlm.model.language_model

    def text_rope(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns cos and sin (B, T, head_dim) of the rotary embedding for text at positions (B, T)."""
        cos, sin = plain_rope(positions, self.language.rotary_emb.inv_freq)
        weight = self.language.norm.weight
        return cos.to(weight), sin.to(weight)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids (..., T) -> embeddings (..., T, C)."""
        return self.language.embed_tokens(ids)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Final states (..., C) -> logits (..., V)."""
        return self.vlm.lm_head(states)

    def depth(self, states: torch.Tensor, deep: list[torch.Tensor], layout: PromptLayout) -> torch.Tensor | None:
        """Runs the depth head on the first image.

        states: (B, P, C), final states of the prefix. deep: DeepStack's tokens by level. Returns depth_m (B, H, W),
        None if the model has no depth head.
        """
        if self.depth_head is None:
            return None
        (start, count), grid = layout.spans[0], layout.images[0].grid
        return self.depth_head([*(tokens[:, :count] for tokens in deep), states[:, start : start + count]], grid)
