"""Converts the bytes of an image to the values on which a vision tower was trained.

PixelRule: the formula. read_pixel_rule: reads it from the files of a checkpoint's image processor.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from depthlm_ros.errors import BadBundle
from depthlm_ros.file_io import JsonValue
from depthlm_ros.model_files.image_processor import read_image_processor


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
