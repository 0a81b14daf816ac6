"""Released checkpoints (a folder as Hugging Face lays it out) -> a Backbone, ready to run.

Read are config.json, the image processor's facts, the ids of two tokens (Pixtral) and safetensors; no code of the
checkpoint is run and nothing is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import LlavaConfig, Qwen2_5_VLConfig, Qwen3VLConfig

from depthlm_ros.errors import BackendFailed, BadBundle, UnknownName
from depthlm_ros.model_files.spec import ModelSpec
from depthlm_ros.nets.backbone import Backbone
from depthlm_ros.nets.heads import released_head, released_name
from depthlm_ros.nets.pixels import read_pixel_rule
from depthlm_ros.nets.pixtral import Pixtral
from depthlm_ros.nets.qwen3vl import Qwen3VLDepth
from depthlm_ros.nets.qwen25vl import Qwen25VL
from depthlm_ros.nets.weights import Stored, check_fit, fill, stored_tensors

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
