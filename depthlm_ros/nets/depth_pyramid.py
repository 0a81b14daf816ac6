# SPDX-License-Identifier: Apache-2.0
"""The depth decoder of the embedded model: an encoder's maps in, a distribution of the depth of every pixel out.

The decoder goes from stride 32 to stride 4. Attention at stride 32 compares all parts of the picture, from which scale
follows; every level knows the rays of its pixels. The last layer gives, at stride 4, the probabilities of bins of
ln z (as AdaBins does with metres, Bhat et al., https://arxiv.org/abs/2011.14141): their mean is the depth, their spread
its standard deviation. A distribution does not draw near and far places towards the middle as one number does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

# Range of the bins. Nothing that a robot's camera sees is nearer; the farthest is a street.
NEAREST_M, FARTHEST_M = 0.15, 100.0
MOST_LOGIT = 10.0


@dataclass(frozen=True)
class DepthPyramidConfig:
    """Sizes of the decoder.

    channels, blocks: at strides 4, 8, 16 and 32. context_layers, heads: attention layers at stride 32 and their heads.
    bins: number of bins between NEAREST_M and FARTHEST_M. focal_px: canonical focal length, from which the rays follow.
    """

    channels: tuple[int, int, int, int] = (48, 80, 112, 160)
    blocks: tuple[int, int, int, int] = (1, 1, 2, 1)
    context_layers: int = 2
    heads: int = 4
    bins: int = 48
    focal_px: float = 192.0


class DepthPyramid(NamedTuple):
    """What the decoder gives.

    ln_z, ln_std: float32 (B, H/4, W/4), mean and standard deviation of ln z. logits: (B, bins, H/4, W/4).
    tokens: (B, C, H/16, W/16), the features from which words are read.
    """

    ln_z: torch.Tensor
    ln_std: torch.Tensor
    logits: torch.Tensor
    tokens: torch.Tensor


def ray_map(height: int, width: int, stride: int, focal_px: float) -> torch.Tensor:
    """Returns float32 (1, 2, height, width): x/z and y/z of the rays of a map's cells.

    The principal point is the centre of the canvas.
    """
    x, y = (((torch.arange(count) + 0.5) * stride - count * stride / 2) / focal_px for count in (width, height))
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])[None]


class SeparableBlock(nn.Module):
    """A depthwise 5x5 convolution and two 1x1 convolutions, with a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.project = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.project(functional.relu(self.expand(self.depthwise(x))))


class ContextLayer(nn.Module):
    """A transformer layer over all cells of a map (B, C, h, w)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.up, self.down = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        qkv = self.qkv(self.norm1(tokens)).reshape(batch, -1, 3, self.heads, channels // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (query * (channels // self.heads) ** -0.5) @ key.transpose(-1, -2)
        attended = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, -1, channels)
        tokens = tokens + self.out(attended)
        tokens = tokens + self.down(functional.relu(self.up(self.norm2(tokens))))
        return tokens.transpose(1, 2).reshape(batch, channels, height, width)


class DepthDecoder(nn.Module):
    """Maps of the encoder at strides 4, 8, 16 and 32 -> DepthPyramid."""

    def __init__(self, encoder_channels: Sequence[int], config: DepthPyramidConfig) -> None:
        super().__init__()
        self.config = config
        # Two more inputs each: the ray.
        self.laterals = nn.ModuleList(
            nn.Conv2d(inputs + 2, outputs, 1) for inputs, outputs in zip(encoder_channels, config.channels, strict=True)
        )
        self.context = nn.ModuleList(
            ContextLayer(config.channels[3], config.heads) for _ in range(config.context_layers)
        )
        self.downs = nn.ModuleList(
            nn.Conv2d(config.channels[level + 1], config.channels[level], 1) for level in range(3)
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(*(SeparableBlock(channels) for _ in range(count)))
            for channels, count in zip(config.channels, config.blocks, strict=True)
        )
        self.mix = nn.Conv2d(config.channels[0], config.channels[0], 3, padding=1)
        self.to_bins = nn.Conv2d(config.channels[0], config.bins, 1)
        self.register_buffer("bin_ln_z", bin_centres(config.bins), persistent=False)

    def forward(self, maps: Sequence[torch.Tensor]) -> DepthPyramid:
        x = self._lateral(3, maps[3])
        for layer in self.context:
            x = layer(x)
        x = self.blocks[3](x)
        tokens = x
        for level in (2, 1, 0):
            # A 1x1 convolution before the upsampling costs a quarter of one after it, and gives the same.
            up = functional.interpolate(self.downs[level](x), scale_factor=2.0, mode="bilinear", align_corners=False)
            x = self.blocks[level](self._lateral(level, maps[level]) + up)
            if level == 2:
                tokens = x
        # In half precision, these weights stay in single precision.
        mixed = functional.relu(self.mix(x)).to(self.to_bins.weight.dtype)
        logits = self.to_bins(mixed).float().clamp(-MOST_LOGIT, MOST_LOGIT)
        ln_z, ln_std = read_bins(logits, self.bin_ln_z)
        return DepthPyramid(ln_z, ln_std, logits, tokens)

    def _lateral(self, level: int, features: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = features.shape
        rays = ray_map(height, width, 4 << level, self.config.focal_px).to(features)
        return self.laterals[level](torch.cat([features, rays.expand(batch, -1, -1, -1)], dim=1))


def bin_centres(bins: int) -> torch.Tensor:
    """Returns float32 (bins,): ln of the depths in metres that the bins stand for, evenly spaced."""
    return torch.linspace(math.log(NEAREST_M), math.log(FARTHEST_M), bins)


def read_bins(logits: torch.Tensor, bin_ln_z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns mean and standard deviation of ln z, float32 (B, h, w), of the distributions that logits (B, bins, h, w)
    give.

    The logits are bounded, so that no maximum has to be subtracted. Sums over bins are 1x1 convolutions, which are
    several times as fast as reductions.
    """
    weight = logits.float().exp()
    ones = torch.ones_like(bin_ln_z)
    middle = bin_ln_z.mean()
    moments = torch.stack([ones, bin_ln_z - middle, (bin_ln_z - middle).square()])
    total, first, second = functional.conv2d(weight, moments[:, :, None, None]).unbind(1)
    mean = first / total
    return mean + middle, (second / total - mean.square()).clamp(min=1e-6).sqrt()
