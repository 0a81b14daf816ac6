"""From bytes of an image to the numbers that a vision tower was trained on, by the checkpoint's own processor facts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from depthlm_ros.errors import BadBundle

# Newer checkpoints keep the image processor in the whole processor's file, which then counts; older in one of its own.
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class PixelRule:
    """A channel's value is (byte * scale - mean) / std. The default is Qwen3-VL's: -1 to 1."""

    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def values(self, image: torch.Tensor) -> torch.Tensor:
        """uint8 (B, H, W, 3) -> float32 (B, 3, H, W).

        Plain numbers, channel by channel: a tensor of constants would be copied to the device in every call.
        """
        # Cast first: TensorRT takes bytes as an input, but transposes none.
        pixels = image.float().permute(0, 3, 1, 2) * self.scale
        return torch.stack([(pixels[:, i] - self.mean[i]) / self.std[i] for i in range(3)], dim=1)


def read_pixel_rule(folder: Path) -> PixelRule:
    """The rule of a checkpoint. Switches count: DepthLM's Pixtral was trained with do_rescale off, so that bytes are
    not brought to 0..1. Raises BadBundle if the folder does not say, or says nonsense."""
    facts, name = _processor_facts(folder)
    try:
        scale = float(facts.get("rescale_factor", 1 / 255)) if facts.get("do_rescale", True) else 1.0
        normalised = facts.get("do_normalize", True)
        mean = _three(facts["image_mean"]) if normalised else (0.0, 0.0, 0.0)
        std = _three(facts["image_std"]) if normalised else (1.0, 1.0, 1.0)
    except (KeyError, TypeError, ValueError) as exc:
        raise BadBundle(
            f"{folder / name}: image_mean or image_std is missing or wrong ({exc!r}): get it again."
        ) from exc
    if min(std) <= 0:
        raise BadBundle(f"{folder / name}: image_std is {list(std)}, but must be positive: get it again.")
    return PixelRule(scale, mean, std)


def _processor_facts(folder: Path) -> tuple[dict[str, Any], str]:
    for name in PROCESSOR_FILES:
        path = folder / name
        if not path.is_file():
            continue
        try:
            facts = json.loads(path.read_text())
            facts = facts.get("image_processor", facts)
        except (OSError, ValueError, AttributeError) as exc:
            raise BadBundle(f"{path} cannot be read ({exc}): get it again.") from exc
        if isinstance(facts, dict) and "image_mean" in facts:
            return facts, name
    raise BadBundle(
        f"{folder} says nowhere how pixels are scaled (no image_mean in {' or '.join(PROCESSOR_FILES)}): "
        "get these files of the checkpoint too."
    )


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third
