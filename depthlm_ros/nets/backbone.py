# SPDX-License-Identifier: Apache-2.0
"""The interface between an architecture and the graphs, and what all architectures have in common.

A backbone holds transformers' own modules (`vlm`), so that released checkpoints load. The forward pass is written for
a batch of images of equal size, where masks and positions follow from the sizes alone.

PixelRule says how bytes become the values on which a vision tower was trained; read_pixel_rule reads it from the files
of a checkpoint's image processor.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from depthlm_ros.errors import BackendFailed, BadBundle
from depthlm_ros.file_io import JsonValue
from depthlm_ros.model_files.image_processor import read_image_processor
from depthlm_ros.nets.positions import ImageSpan, PromptLayout, plain_rope


@dataclass(frozen=True)
class PixelRule:
    """The value of a channel is (byte * scale - mean) / std. The default is Qwen3-VL's: values from -1 to 1."""

    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def values(self, image: torch.Tensor) -> torch.Tensor:
        """uint8 (B, H, W, 3) -> float32 (B, 3, H, W).

        The constants are plain numbers, because a tensor of constants would be copied to the device in every call.
        """
        # The cast comes first because TensorRT accepts bytes as an input, but does not transpose them.
        pixels = image.float().permute(0, 3, 1, 2) * self.scale
        return torch.stack([(pixels[:, i] - self.mean[i]) / self.std[i] for i in range(3)], dim=1)


def read_pixel_rule(folder: Path) -> PixelRule:
    """Reads the rule of a checkpoint.

    The processor's switches count: DepthLM's Pixtral was trained with do_rescale off, so that bytes are not scaled to
    0..1. Raises BadBundle if the files do not say how pixels are scaled, or if they hold impossible values.
    """
    path, fields = read_image_processor(folder)
    try:
        scale = _number(fields.get("rescale_factor", 1 / 255)) if fields.get("do_rescale", True) else 1.0
        normalised = fields.get("do_normalize", True)
        mean = _three_numbers(fields["image_mean"]) if normalised else (0.0, 0.0, 0.0)
        std = _three_numbers(fields["image_std"]) if normalised else (1.0, 1.0, 1.0)
    except (KeyError, TypeError, ValueError) as exc:
        raise BadBundle(
            f"{path} does not say how pixels are scaled: image_mean or image_std is missing or wrong ({exc!r}): "
            "download the checkpoint again."
        ) from exc
    if min(std) <= 0:
        raise BadBundle(f"{path}: image_std is {list(std)}, but must be positive: download the checkpoint again.")
    return PixelRule(scale, mean, std)


def _three_numbers(values: JsonValue) -> tuple[float, float, float]:
    if not isinstance(values, list):
        raise TypeError(values)
    first, second, third = map(_number, values)
    return first, second, third


def _number(value: JsonValue) -> float:
    if not isinstance(value, (int, float, str)):
        raise TypeError(value)
    return float(value)


class Backbone(nn.Module):
    """A vision-language model.

    vlm: transformers' model for conditional generation.
    depth_head: None, or a module (four sequences of tokens, grid) -> depth_m.
    pixels: how bytes become the vision tower's values.
    depth_first: whether depth comes without the language model (graphs.DepthLookGraph and ReadGraph, not LookGraph).
    window_tokens: longest prompt and reply that the attention of the language model covers at once; None for no limit.
    """

    vlm: PreTrainedModel
    depth_head: nn.Module | None
    pixels: PixelRule
    depth_first: bool = False
    window_tokens: int | None = None

    @property
    def pixels_per_token(self) -> int:
        """Side of the square of image pixels that one token stands for."""
        raise NotImplementedError

    @property
    def canvas_multiple_px(self) -> int:
        """Number of which both sides of an image, in pixels, must be multiples."""
        return self.pixels_per_token

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

    def check_window(self, tokens: int) -> None:
        """Raises BackendFailed if so many tokens exceed the sliding window of attention, which is not computed here."""
        if self.window_tokens is not None and tokens > self.window_tokens:
            raise BackendFailed(
                f"image and text are {tokens} tokens, but config.json gives attention a sliding window of "
                f"{self.window_tokens} (transformers' default without text_config.sliding_window): use a smaller image."
            )

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
