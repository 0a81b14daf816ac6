# SPDX-License-Identifier: Apache-2.0
"""Pixtral (LLaVA with Pixtral's vision tower and a Mistral text model) on fixed image sizes.

The weights are transformers' own modules. The forward pass is written for a batch of images of equal size, and tests
compare it with transformers' forward. In the prompt, an image is its rows of tokens. [IMG_BREAK] follows every row but
the last, and [IMG_END] follows the last.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from transformers import LlavaConfig, LlavaForConditionalGeneration

from depthlm_ros.nets.backbone import Backbone, PixelRule
from depthlm_ros.nets.positions import ImageSpan, PromptLayout
from depthlm_ros.nets.text_decoder import apply_rope, attend


class Pixtral(Backbone):
    """A Pixtral, which has no depth head. break_id, end_id: token ids of [IMG_BREAK] and [IMG_END]."""

    def __init__(self, config: LlavaConfig, pixels: PixelRule, break_id: int, end_id: int) -> None:
        super().__init__()
        self.vlm = LlavaForConditionalGeneration(config)
        self.depth_head = None
        self.pixels = pixels
        self.break_id = break_id
        self.end_id = end_id
        # Without the field sliding_window, transformers' MistralConfig has one of 4096 tokens. In texts that are not
        # longer, every token sees all earlier ones, as it does here.
        self.window_tokens = getattr(config.text_config, "sliding_window", None)

    @property
    def pixels_per_token(self) -> int:
        return self.vlm.config.vision_config.patch_size

    def image_span(self, size_px: tuple[int, int]) -> ImageSpan:
        """Returns what an image occupies. Positions count its tokens and the breaks."""
        columns, rows = (n // self.pixels_per_token for n in size_px)
        return ImageSpan((rows, columns), rows * (columns + 1), rows * (columns + 1))

    def encode_image(self, image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Runs the vision tower and projector. image: uint8 (B, H, W, 3) -> tokens (B, rows * (columns + 1), C) with
        the breaks, and no DeepStack. Pixels beyond the last whole patch are not seen, as the patch convolution has no
        padding."""
        tower = self.vlm.model.vision_tower
        values = self.pixels.values(image).to(tower.patch_conv.weight.dtype)
        x = functional.conv2d(values, tower.patch_conv.weight, stride=tower.patch_size)
        grid = (x.shape[2], x.shape[3])
        x = tower.ln_pre(x.flatten(2).transpose(1, 2))
        cos, sin = self._vision_rope(grid, x)
        for layer in tower.transformer.layers:
            x = x + full_attention(layer.attention, layer.attention_norm(x), cos, sin)
            x = x + layer.feed_forward(layer.ffn_norm(x))
        return self._with_breaks(self.vlm.model.multi_modal_projector(x), grid), []

    def prefix_rope(self, layout: PromptLayout) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns cos and sin (1, P, head_dim) of the prefix."""
        device = self.language.rotary_emb.inv_freq.device
        return self.text_rope(torch.arange(layout.length, device=device)[None])

    def _vision_rope(self, grid: tuple[int, int], x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns cos and sin (1, N, head_dim), in the dtype of x, for the patches of a grid, row after row."""
        rows, columns = (torch.arange(n, device=x.device) for n in grid)
        places = torch.stack([rows[:, None].expand(grid), columns[None].expand(grid)], dim=-1)
        cos, sin = self.vlm.model.vision_tower.patch_positional_embedding(x, places.reshape(-1, 2))
        return cos[None], sin[None]

    def _with_breaks(self, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Adds the embeddings of the breaks: (B, rows * columns, C) -> (B, rows * (columns + 1), C)."""
        table = self.language.embed_tokens.weight
        breaks, end = table[self.break_id].expand(grid[0] - 1, -1), table[self.end_id][None]
        ends = torch.cat([breaks, end])[None, :, None].expand(tokens.shape[0], -1, -1, -1)
        return torch.cat([tokens.unflatten(1, grid), ends], dim=2).flatten(1, 2)


def full_attention(attention: nn.Module, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Attention among all patches of x (B, N, D)."""

    def heads(t: torch.Tensor) -> torch.Tensor:
        return t.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)

    query, key, value = heads(attention.q_proj(x)), heads(attention.k_proj(x)), heads(attention.v_proj(x))
    query, key = apply_rope(query, cos[:, None], sin[:, None]), apply_rope(key, cos[:, None], sin[:, None])
    y = attend(query, key, value, attention.scaling)
    return attention.o_proj(y.transpose(1, 2).flatten(2))
