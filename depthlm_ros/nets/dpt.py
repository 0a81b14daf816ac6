"""The DPT depth head of DepthVLM: four token maps in, metric depth out.

Structure after DepthVLM's published code (qwen3_vl/dpt_depth_head.py, which follows VGGT's head): one shared LayerNorm,
1x1 projections, ConvTranspose upsampling by 8/4/2/1, 3x3 convolutions to one width, four fusion blocks, two
convolutions and Softplus. heads.py has the released names of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class DptConfig:
    """Widths of the head. DepthVLM's released ones are the defaults; in_channels is the LLM's hidden size; narrow, that
    of the last 3x3 convolution, is an eighth of features, but at least 16, where it is None.
    """

    in_channels: int
    projected: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    features: int = 256
    pixels_per_token: int = 32
    narrow: int | None = None


class ResidualConvUnit(nn.Module):
    """Two 3x3 convolutions whose residual is ReLU(x), as the released in-place ReLU makes it, not x."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(x)
        return self.conv2(functional.relu(self.conv1(x))) + x


class FusionBlock(nn.Module):
    """Adds a skip (where there is one), refines, resizes to `size`, mixes channels."""

    def __init__(self, channels: int, with_skip: bool) -> None:
        super().__init__()
        self.skip_unit = ResidualConvUnit(channels) if with_skip else None
        self.unit = ResidualConvUnit(channels)
        self.out_conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None, size: tuple[int, int]) -> torch.Tensor:
        if self.skip_unit is not None and skip is not None:
            x = x + self.skip_unit(skip)
        # A 1x1 convolution commutes with resizing (its weights sum over channels only, and bilinear weights
        # sum to one, so the bias survives): doing it first costs a quarter of the multiplications.
        return resize(self.out_conv(self.unit(x)), size)


class DptHead(nn.Module):
    """Four sequences (B, h*w, C) of token features -> depth_m (B, h*p, w*p), p = pixels_per_token.

    It computes in the precision of its own convolutions, whatever that of the features (bfloat16 would leave steps of
    6 cm in the depth at 10 m); the norm has one of its own, since a VLM's features may exceed what float16 holds. The
    depth is float32.
    """

    def __init__(self, config: DptConfig) -> None:
        super().__init__()
        self.config = config
        width = config.features
        self.norm = nn.LayerNorm(config.in_channels)
        self.projects = nn.ModuleList(nn.Conv2d(config.in_channels, n, 1) for n in config.projected)
        first, second, third, _ = config.projected
        self.upsamples = nn.ModuleList(
            [
                nn.ConvTranspose2d(first, first, 8, stride=8),
                nn.ConvTranspose2d(second, second, 4, stride=4),
                nn.ConvTranspose2d(third, third, 2, stride=2),
                nn.Identity(),
            ]
        )
        self.adapters = nn.ModuleList(nn.Conv2d(n, width, 3, padding=1, bias=False) for n in config.projected)
        self.fusions = nn.ModuleList(FusionBlock(width, with_skip=level < 3) for level in range(4))
        self.out_conv1 = nn.Conv2d(width, width // 2, 3, padding=1)
        narrow = config.narrow or max(width // 8, 16)
        self.out_conv2 = nn.Conv2d(width // 2, narrow, 3, padding=1)
        self.out_conv3 = nn.Conv2d(narrow, 1, 1)

    def forward(self, features: list[torch.Tensor], grid: tuple[int, int]) -> torch.Tensor:
        maps = [self._token_map(level, tokens, grid) for level, tokens in enumerate(features)]
        x = self.fusions[3](maps[3], None, maps[2].shape[-2:])
        x = self.fusions[2](x, maps[2], maps[1].shape[-2:])
        x = self.fusions[1](x, maps[1], maps[0].shape[-2:])
        x = self.fusions[0](x, maps[0], (16 * grid[0], 16 * grid[1]))
        pixels = self.config.pixels_per_token
        x = resize(self.out_conv1(x), (pixels * grid[0], pixels * grid[1]))
        x = self.out_conv3(functional.relu(self.out_conv2(x)))
        return functional.softplus(x.float()).squeeze(1)

    def _token_map(self, level: int, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        batch, _, channels = tokens.shape
        x = self.norm(tokens.to(self.norm.weight.dtype)).to(self.out_conv1.weight.dtype)
        x = x.transpose(1, 2).reshape(batch, channels, *grid)
        return self.adapters[level](self.upsamples[level](self.projects[level](x)))


def resize(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear with aligned corners, the released head's rule; nothing to do at equal size."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)
