# SPDX-License-Identifier: Apache-2.0
"""DepthVLM's depth heads: four maps of token features in, metric depth out.

DptHead follows DepthVLM's published code (qwen3_vl/dpt_depth_head.py, which follows VGGT's head): one shared LayerNorm,
1x1 projections, ConvTranspose upsampling by 8/4/2/1, 3x3 convolutions to one width, four fusion blocks, two
convolutions and Softplus. MlpHead is the head of DepthVLM's ablation (qwen3_vl/mlp_depth_head.py): two linear layers
for each token, without a fusion of scales.

build_released_head, released_parameter_name: the heads of published checkpoints, their sizes and their weights' names
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from depthlm_ros.errors import BadBundle
from depthlm_ros.file_io import JsonObject, JsonValue
from depthlm_ros.model_files.safetensors_files import HEAD_PREFIX, depth_head_kind

# Which of the four sequences an MlpHead reads.
FEATURES = ("llm_last", "concat", "sum")
# Names in released checkpoints -> names in DptHead, as prefixes.
DPT_NAMES = {
    "norm.": "norm.",
    **{f"projects.{i}.": f"projects.{i}." for i in range(4)},
    **{f"resize_layers.{i}.": f"upsamples.{i}." for i in range(3)},
    **{f"scratch.layer{i + 1}_rn.": f"adapters.{i}." for i in range(4)},
    **{f"scratch.refinenet{i + 1}.resConfUnit1.": f"fusions.{i}.skip_unit." for i in range(3)},
    **{f"scratch.refinenet{i + 1}.resConfUnit2.": f"fusions.{i}.unit." for i in range(4)},
    **{f"scratch.refinenet{i + 1}.out_conv.": f"fusions.{i}.out_conv." for i in range(4)},
    "scratch.output_conv1.": "out_conv1.",
    "scratch.output_conv2.0.": "out_conv2.",
    "scratch.output_conv2.2.": "out_conv3.",
}

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class DptConfig:
    """Widths of a DptHead. The defaults are those of DepthVLM's released head.

    in_channels: hidden size of the language model. projected: channels of the four projections. features: channels of
    the fusion. narrow: channels of the last 3x3 convolution; None for an eighth of features, but at least 16.
    """

    in_channels: int
    projected: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    features: int = 256
    pixels_per_token: int = 32
    narrow: int | None = None


class ResidualConvUnit(nn.Module):
    """Two 3x3 convolutions. The residual is ReLU(x), not x: that is the effect of the released in-place ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(x)
        return self.conv2(functional.relu(self.conv1(x))) + x


class FusionBlock(nn.Module):
    """Adds the skip connection if there is one, refines, resizes to `size` and mixes channels."""

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

    The head computes in the precision of its own convolutions, not in that of the features: bfloat16 would leave steps
    of 6 cm in the depth at 10 m. The norm may have another precision, because a VLM's features can be too large for
    float16. The depth is float32.
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
    """Resizes (B, C, h, w) to size (height, width): bilinear with aligned corners, as in the released head."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


@dataclass(frozen=True)
class MlpConfig:
    """Sizes of an MlpHead.

    in_channels: hidden size of the language model. features: which of the four sequences are read: "llm_last", the last
    one; "concat", all, concatenated; "sum", their sum.
    """

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


def build_released_head(
    kind: str, shapes: Shapes, config: JsonObject, in_channels: int, pixels_per_token: int
) -> nn.Module | None:
    """Builds the head `kind` ("dpt", "mlp", "" for none) with the widths of the stored tensors.

    shapes: of all tensors of the checkpoint, by released name. config: the fields of config.json. Raises BadBundle if
    the checkpoint does not have exactly this head, or if one of its tensors is missing.
    """
    found = {name.removeprefix(HEAD_PREFIX): shape for name, shape in shapes.items() if name.startswith(HEAD_PREFIX)}
    has = depth_head_kind(shapes)
    if has != kind:
        words = {"": "no depth head", "dpt": "a DPT depth head", "mlp": "an MLP depth head"}
        raise BadBundle(
            f"the checkpoint has {words[has]}, but its YAML says {words.get(kind, repr(kind))} (head: {kind!r}): "
            f"use the checkpoint that the YAML names, or set head: {has!r}."
        )
    if kind == "":
        return None
    try:
        if kind == "dpt":
            return _dpt(found, in_channels, pixels_per_token)
        return _mlp(found, config, in_channels, pixels_per_token)
    except KeyError as exc:
        raise BadBundle(
            f"the depth head lacks tensor {HEAD_PREFIX}{exc.args[0]}: download the checkpoint again."
        ) from exc


def released_parameter_name(head: nn.Module, name: str) -> str:
    """Returns the name of a head's parameter in released checkpoints. An MlpHead has the released names itself."""
    if not isinstance(head, DptHead):
        return HEAD_PREFIX + name
    for released, ours in DPT_NAMES.items():
        if name.startswith(ours):
            return HEAD_PREFIX + released + name.removeprefix(ours)
    raise KeyError(name)


def _dpt(shapes: Shapes, in_channels: int, pixels_per_token: int) -> DptHead:
    first, second, third, fourth = (shapes[f"projects.{i}.weight"][0] for i in range(4))
    return DptHead(
        DptConfig(
            in_channels,
            projected=(first, second, third, fourth),
            features=shapes["scratch.layer1_rn.weight"][0],
            pixels_per_token=pixels_per_token,
            narrow=shapes["scratch.output_conv2.0.weight"][0],
        )
    )


def _mlp(shapes: Shapes, config: JsonObject, in_channels: int, pixels_per_token: int) -> MlpHead:
    features = config.get("depth_head_feature_mode", "llm_last")
    if not isinstance(features, str) or features not in FEATURES:
        raise BadBundle(f"config.json: depth_head_feature_mode is {features!r}, not one of {', '.join(FEATURES)}.")
    hidden: JsonValue = config.get("depth_head_mlp_hidden", shapes["mlp.0.weight"][0])
    if not isinstance(hidden, int):
        raise BadBundle(f"config.json: depth_head_mlp_hidden is {hidden!r}, not a whole number.")
    return MlpHead(MlpConfig(in_channels, hidden, features, pixels_per_token))
