"""Weights of a checkpoint folder: what its safetensors files hold, and how they come into a module without a second
copy of everything.

Only headers are read until it is known that everything fits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from depthlm_ros.errors import BadBundle

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
AGAIN = "get the checkpoint again."

# Checkpoints of older transformers (and save_pretrained of today's) have no common "model." before the towers.
RENAMED = {
    "language_model.lm_head.": "lm_head.",
    "language_model.model.": "model.language_model.",
    "visual.": "model.visual.",
    "vision_tower.": "model.vision_tower.",
    "multi_modal_projector.": "model.multi_modal_projector.",
    "model.embed_tokens.": "model.language_model.embed_tokens.",
    "model.layers.": "model.language_model.layers.",
    "model.norm.": "model.language_model.norm.",
}


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, not yet read. dtype: safetensors' name for it."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """All tensors of a checkpoint by the names of today's transformers. Raises BadBundle if a file is missing or
    damaged."""
    found: dict[str, Stored] = {}
    for path in _shards(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (a safetensors file is no dictionary)
                    part = file.get_slice(name)
                    found[_today(name)] = Stored(path, name, tuple(part.get_shape()), part.get_dtype())
        except (OSError, SafetensorError) as exc:
            raise BadBundle(f"{path} cannot be read ({exc}): {AGAIN}") from exc
    return found


def check_fit(folder: Path, stored: Mapping[str, Stored], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises BadBundle unless the tensors are those expected, in name, shape and kind of number.

    Old checkpoints also store rotary frequencies, which are computed here.
    """
    missing = [name for name in expected if name not in stored]
    if missing:
        raise BadBundle(
            f"{folder} lacks {_some(missing)} of the {len(expected)} tensors that config.json implies: {AGAIN}"
        )
    odd = [name for name in stored if name not in expected and not name.endswith("inv_freq")]
    if odd:
        raise BadBundle(f"{folder} holds {_some(odd)} that config.json does not imply: it is another model's weights.")
    for name, shape in expected.items():
        if stored[name].shape != shape:
            raise BadBundle(
                f"{stored[name].path}: {stored[name].name} is {_size(stored[name].shape)}, but config.json implies "
                f"{_size(shape)}: weights and configuration (or YAML) are of different models."
            )
        if stored[name].dtype not in ("F64", "F32", "F16", "BF16"):
            raise BadBundle(
                f"{stored[name].path}: {name} is {stored[name].dtype}: only unquantised weights can be used."
            )


def fill(
    module: nn.Module, stored: Mapping[str, Stored], names: Mapping[str, str], dtype: torch.dtype, device: torch.device
) -> None:
    """Puts tensors into a module on the meta device. names: parameter -> name in `stored`.

    They become the module's own, read straight to device and dtype: there is never a second copy of the weights.
    """
    order = sorted(names, key=lambda name: (str(stored[names[name]].path), stored[names[name]].name))
    for path, group in groupby(order, key=lambda name: stored[names[name]].path):
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                tensors = {name: file.get_tensor(stored[names[name]].name).to(dtype) for name in group}
        except (OSError, SafetensorError) as exc:
            raise BadBundle(f"{path} cannot be read ({exc}): {AGAIN}") from exc
        module.load_state_dict(tensors, strict=False, assign=True)


def _shards(folder: Path) -> list[Path]:
    index = folder / INDEX
    if not index.is_file():
        if (folder / SINGLE).is_file():
            return [folder / SINGLE]
        raise BadBundle(f"{folder} holds neither {SINGLE} nor {INDEX}: weights are read from safetensors files only.")
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise BadBundle(f"{index} cannot be read ({exc!r}): {AGAIN}") from exc
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
            raise BadBundle(f"{index} names {name!r}, which is not a file beside it: {AGAIN}")
    return [folder / name for name in names]


def _today(name: str) -> str:
    for old, new in RENAMED.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    shown = ", ".join(listed[:3])
    return shown if len(listed) <= 3 else f"{shown} and {len(listed) - 3} more"


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"
