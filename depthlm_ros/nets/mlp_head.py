"""DepthVLM's ablation of its depth head: two linear layers per token, no fusion of scales.

Structure and names of the weights after DepthVLM's published code (qwen3_vl/mlp_depth_head.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

FEATURES = ("llm_last", "concat", "sum")


@dataclass(frozen=True)
class MlpConfig:
    """in_channels: the LLM's hidden size. features: which of the four sequences are read, one of FEATURES: the last
    one, all side by side, their sum."""

    in_channels: int
    hidden: int = 1024
    features: str = "llm_last"
    pixels_per_token: int = 32

    @property
    def read_channels(self) -> int:
        return 4 * self.in_channels if self.features == "concat" else self.in_channels


class MlpHead(nn.Module):
    """Four sequences (B, h*w, C) of token features -> depth_m (B, h*p, w*p), p = pixels_per_token."""

    def __init__(self, config: MlpConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(config.read_channels)
        self.mlp = nn.Sequential(
            nn.Linear(config.read_channels, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.pixels_per_token**2),
        )

    def forward(self, features: list[torch.Tensor], grid: tuple[int, int]) -> torch.Tensor:
        x = self.mlp(self.norm(self._read([tokens.to(self.norm.weight.dtype) for tokens in features])))
        side = self.config.pixels_per_token
        pixels = x.unflatten(2, (side, side)).unflatten(1, grid).transpose(2, 3)
        return functional.softplus(pixels.flatten(3, 4).flatten(1, 2))

    def _read(self, features: list[torch.Tensor]) -> torch.Tensor:
        if self.config.features == "concat":
            return torch.cat(features, dim=-1)
        return torch.stack(features).sum(0) if self.config.features == "sum" else features[-1]
