"""Released checkpoints (a folder as Hugging Face lays it out) -> a Backbone, ready to run.

Read are config.json, the image processor's facts, the ids of two tokens (Pixtral) and safetensors; no code of the
checkpoint is run and nothing is fetched.

Weights of a checkpoint folder: what its safetensors files hold, and how they come into a module without a second
copy of everything.

Only headers are read until it is known that everything fits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import LlavaConfig, Qwen2_5_VLConfig, Qwen3VLConfig

from depthlm_ros.errors import BackendFailed, BadBundle, UnknownName
from depthlm_ros.model_files.spec import ModelSpec
from depthlm_ros.nets.backbone import Backbone
from depthlm_ros.nets.depth_heads import released_head, released_name
from depthlm_ros.nets.pixels import read_pixel_rule
from depthlm_ros.nets.pixtral import Pixtral
from depthlm_ros.nets.qwen3vl import Qwen3VLDepth
from depthlm_ros.nets.qwen25vl import Qwen25VL

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


LM_HEAD = "lm_head.weight"
META = torch.device("meta")


def load_released(
    folder: Path,
    spec: ModelSpec,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    head_dtype: torch.dtype = torch.float32,
) -> Backbone:
    """The model of a checkpoint folder, without gradients.

    Raises BadBundle, saying which file or tensor, if the folder is not whole or is another model than spec says.
    """
    folder, device = Path(folder), torch.device(device)
    facts = read_facts(folder)
    stored = stored_tensors(folder)
    with META:
        backbone = _build(folder, facts, spec)
        shapes = {name: tensor.shape for name, tensor in stored.items()}
        width = backbone.vlm.config.text_config.hidden_size
        backbone.depth_head = released_head(spec.head, shapes, facts, width, spec.pixels_per_token)
    names = file_names(backbone)
    tied = bool(backbone.vlm.config.tie_word_embeddings)
    if tied and LM_HEAD not in stored:
        del names[f"vlm.{LM_HEAD}"]
    state = backbone.state_dict()
    check_fit(folder, stored, {name: tuple(state[parameter].shape) for parameter, name in names.items()})
    _fill(backbone, stored, names, (dtype, head_dtype), device)
    if tied:
        _tie(backbone, LM_HEAD in stored)
    rebuild_frequencies(backbone)
    return backbone.to(device).requires_grad_(False).eval()


def read_facts(folder: Path) -> dict[str, Any]:
    """config.json. Raises BadBundle."""
    path = folder / "config.json"
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError) as exc:
        raise BadBundle(f"{path} cannot be read ({exc}): is {folder} the folder of a checkpoint?") from exc
    if not isinstance(facts, dict):
        raise BadBundle(f"{path} holds no table: get the checkpoint again.")
    if "quantization_config" in facts:
        raise BadBundle(f"{path}: the checkpoint is quantised; only unquantised weights can be used.")
    return facts


def file_names(backbone: Backbone) -> dict[str, str]:
    """Parameter of the backbone -> its name in a checkpoint."""
    names = {}
    for parameter in backbone.state_dict():
        part, _, name = parameter.partition(".")
        names[parameter] = (
            name if part == "vlm" or backbone.depth_head is None else released_name(backbone.depth_head, name)
        )
    return names


def _tie(backbone: Backbone, both_stored: bool) -> None:
    """One tensor for embedding and output; where both are stored and differ, the weights count, not config.json."""
    head, embedding = backbone.vlm.lm_head, backbone.vlm.get_input_embeddings()
    if not both_stored or torch.equal(head.weight, embedding.weight):
        head.weight = embedding.weight


def rebuild_frequencies(backbone: Backbone) -> None:
    """Rotary frequencies are in no file: on the meta device they were lost, so they are computed anew."""
    for path, module in list(backbone.named_modules()):
        if isinstance(getattr(module, "inv_freq", None), torch.Tensor):
            parent, _, name = path.rpartition(".")
            setattr(backbone.get_submodule(parent), name, type(module)(module.config))
    left = [name for name, buffer in backbone.named_buffers() if buffer.is_meta]
    if left:
        raise BackendFailed(
            f"this version of transformers computes {', '.join(left)} unlike those known here: use 5.23."
        )


def _fill(
    backbone: Backbone,
    stored: Mapping[str, Stored],
    names: Mapping[str, str],
    dtypes: tuple[torch.dtype, torch.dtype],
    device: torch.device,
) -> None:
    vlm = {parameter: name for parameter, name in names.items() if parameter.startswith("vlm.")}
    fill(backbone, stored, vlm, dtypes[0], device)
    fill(backbone, stored, {p: name for p, name in names.items() if p not in vlm}, dtypes[1], device)


def _build(folder: Path, facts: Mapping[str, Any], spec: ModelSpec) -> Backbone:
    if spec.architecture not in ARCHITECTURES:
        raise UnknownName(
            f"{spec.name}: architecture {spec.architecture!r} is unknown, there are {', '.join(ARCHITECTURES)}."
        )
    path = folder / "config.json"
    if facts.get("model_type") != spec.architecture:
        raise BadBundle(
            f"{path} is of a {facts.get('model_type')!r}, but the YAML of {spec.name} says {spec.architecture!r}."
        )
    kind, build = ARCHITECTURES[spec.architecture]
    try:
        config = kind.from_dict(dict(facts))
        _check_text(path, config.text_config)
        backbone = build(folder, config)
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, StrictDataclassError) as exc:
        raise BadBundle(f"{path} is no configuration of a {spec.architecture} ({exc}).") from exc
    if backbone.pixels_per_token != spec.pixels_per_token:
        raise BadBundle(
            f"{path}: a token stands for {backbone.pixels_per_token} px, but the YAML of {spec.name} says "
            f"{spec.pixels_per_token}."
        )
    return backbone


def _check_text(path: Path, text: Any) -> None:
    """What transformers could run, but nets/text.py would run wrongly."""
    rope = (text.rope_parameters or {}).get("rope_type", "default")
    if rope != "default":
        raise BadBundle(f"{path}: rotary embedding of type {rope!r} is not supported, only 'default'.")
    if getattr(text, "sliding_window", None) is not None:
        raise BadBundle(f"{path}: attention in a sliding window of {text.sliding_window} tokens is not supported.")


def _qwen3(folder: Path, config: Qwen3VLConfig) -> Backbone:
    return Qwen3VLDepth(config, None, read_pixel_rule(folder))


def _qwen25(folder: Path, config: Qwen2_5_VLConfig) -> Backbone:
    return Qwen25VL(config, read_pixel_rule(folder))


def _pixtral(folder: Path, config: LlavaConfig) -> Backbone:
    parts = (config.vision_config.model_type, config.text_config.model_type)
    if parts != ("pixtral", "mistral"):
        raise BadBundle(
            f"{folder}: a LLaVA of {parts[0]} and {parts[1]}; only that of pixtral and mistral is supported."
        )
    chosen = (config.vision_feature_layer, config.vision_feature_select_strategy)
    if chosen != (-1, "full"):
        raise BadBundle(
            f"{folder}: vision features {chosen} are not supported, only all of the last layer (-1, 'full')."
        )
    break_id, end_id = (token_id(folder, token) for token in ("[IMG_BREAK]", "[IMG_END]"))
    return Pixtral(config, read_pixel_rule(folder), break_id, end_id)


def token_id(folder: Path, token: str) -> int:
    """Id of a special token, from tokenizer.json. Raises BadBundle."""
    path = folder / "tokenizer.json"
    try:
        ids = {entry["content"]: int(entry["id"]) for entry in json.loads(path.read_text())["added_tokens"]}
        return ids[token]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise BadBundle(f"{path} does not say the id of {token} ({exc!r}): get the checkpoint again.") from exc


ARCHITECTURES: dict[str, tuple[Any, Callable[[Path, Any], Backbone]]] = {
    "qwen3_vl": (Qwen3VLConfig, _qwen3),
    "qwen2_5_vl": (Qwen2_5_VLConfig, _qwen25),
    "llava": (LlavaConfig, _pixtral),
}
