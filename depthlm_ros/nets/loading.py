"""Loads the weights of released checkpoints into a Backbone, without a second copy of them in memory.

model_files/checkpoint.py has read and checked the folder; here the weights are compared with what config.json implies
before any of them is read. No code of a checkpoint is run, and nothing is downloaded.

load_released_model: the whole model
index_tensors, check_tensors_fit, load_tensors: the steps, for parts of a model
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import LlavaConfig, PretrainedConfig, Qwen2_5_VLConfig, Qwen3VLConfig

from depthlm_ros.errors import BackendFailed, BadBundle, UnknownName
from depthlm_ros.file_io import JsonObject
from depthlm_ros.model_files.bundle import CONFIG_FILE, TOKENIZER_FILE
from depthlm_ros.model_files.checkpoint import ReleasedCheckpoint
from depthlm_ros.model_files.safetensors_files import TensorEntry, WeightFiles
from depthlm_ros.nets.backbone import Backbone, read_pixel_rule
from depthlm_ros.nets.depth_heads import build_released_head, released_parameter_name
from depthlm_ros.nets.pixtral import Pixtral
from depthlm_ros.nets.qwen3vl import Qwen3VLDepth
from depthlm_ros.nets.qwen25vl import Qwen25VLBackbone

# Checkpoints of older transformers versions (and today's save_pretrained) have no common "model." before the towers.
RENAMED_PREFIXES = {
    "language_model.lm_head.": "lm_head.",
    "language_model.model.": "model.language_model.",
    "visual.": "model.visual.",
    "vision_tower.": "model.vision_tower.",
    "multi_modal_projector.": "model.multi_modal_projector.",
    "model.embed_tokens.": "model.language_model.embed_tokens.",
    "model.layers.": "model.language_model.layers.",
    "model.norm.": "model.language_model.norm.",
}
LM_HEAD = "lm_head.weight"
META = torch.device("meta")
_ADVICE = "download the checkpoint again."


def load_released_model(
    checkpoint: ReleasedCheckpoint,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    head_dtype: torch.dtype = torch.float32,
) -> Backbone:
    """Returns the model of a checkpoint, without gradients. dtype: of the backbone; head_dtype: of the depth head.

    Raises BadBundle with the file or tensor if the weights do not fit config.json or checkpoint.spec.
    """
    device, spec = torch.device(device), checkpoint.spec
    stored = index_tensors(checkpoint.weights)
    with META:
        backbone = _build_backbone(checkpoint)
        shapes = {name: tensor.shape for name, tensor in stored.items()}
        width = backbone.vlm.config.text_config.hidden_size
        backbone.depth_head = build_released_head(spec.head, shapes, checkpoint.config, width, spec.pixels_per_token)
    names = _stored_names(backbone)
    tied = bool(backbone.vlm.config.tie_word_embeddings)
    if tied and LM_HEAD not in stored:
        del names[f"vlm.{LM_HEAD}"]
    state = backbone.state_dict()
    expected = {name: tuple(state[parameter].shape) for parameter, name in names.items()}
    check_tensors_fit(checkpoint.folder, stored, expected)
    vlm_names = {parameter: name for parameter, name in names.items() if parameter.startswith("vlm.")}
    head_names = {parameter: name for parameter, name in names.items() if parameter not in vlm_names}
    load_tensors(backbone, stored, vlm_names, dtype, device)
    load_tensors(backbone, stored, head_names, head_dtype, device)
    if tied:
        _tie_embeddings(backbone, LM_HEAD in stored)
    rebuild_frequencies(backbone)
    return backbone.to(device).requires_grad_(False).eval()


def index_tensors(weights: WeightFiles) -> dict[str, TensorEntry]:
    """Returns all tensors of a checkpoint by the names that today's transformers gives them."""
    return {_current_name(name): tensor for name, tensor in weights.tensors.items()}


def check_tensors_fit(folder: Path, stored: Mapping[str, TensorEntry], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises BadBundle unless the stored tensors are the expected ones, in name, shape and type of number.

    Old checkpoints also hold rotary frequencies, which are ignored because they are computed here.
    """
    missing = [name for name in expected if name not in stored]
    if missing:
        raise BadBundle(
            f"{folder} lacks {_list_names(missing)} of the {len(expected)} tensors that config.json implies: {_ADVICE}"
        )
    unexpected = [name for name in stored if name not in expected and not name.endswith("inv_freq")]
    if unexpected:
        raise BadBundle(
            f"{folder} holds {_list_names(unexpected)} that config.json does not imply: these are another model's "
            "weights."
        )
    for name, shape in expected.items():
        tensor = stored[name]
        if tensor.shape != shape:
            raise BadBundle(
                f"{tensor.path}: {tensor.name} is {_shape_text(tensor.shape)}, but config.json implies "
                f"{_shape_text(shape)}: weights and configuration (or YAML) belong to different models."
            )
        if tensor.dtype not in ("F64", "F32", "F16", "BF16"):
            raise BadBundle(f"{tensor.path}: {name} is {tensor.dtype}: only unquantised weights can be used.")


def load_tensors(
    module: nn.Module,
    stored: Mapping[str, TensorEntry],
    names: Mapping[str, str],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Puts stored tensors into a module on the meta device. names: parameter -> name in `stored`.

    The tensors are read straight to device and dtype and become the module's own: there is never a second copy of the
    weights. Raises BadBundle if a file cannot be read.
    """
    order = sorted(names, key=lambda name: (str(stored[names[name]].path), stored[names[name]].name))
    for path, group in groupby(order, key=lambda name: stored[names[name]].path):
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                tensors = {name: file.get_tensor(stored[names[name]].name).to(dtype) for name in group}
        except (OSError, SafetensorError) as exc:
            raise BadBundle(f"{path} cannot be read ({exc}): {_ADVICE}") from exc
        module.load_state_dict(tensors, strict=False, assign=True)


def rebuild_frequencies(backbone: Backbone) -> None:
    """Computes the rotary frequencies again. No file holds them, and a module on the meta device has lost them.

    Raises BackendFailed if other buffers are still on the meta device.
    """
    for path, module in list(backbone.named_modules()):
        if isinstance(getattr(module, "inv_freq", None), torch.Tensor):
            parent, _, name = path.rpartition(".")
            setattr(backbone.get_submodule(parent), name, type(module)(module.config))
    left = [name for name, buffer in backbone.named_buffers() if buffer.is_meta]
    if left:
        raise BackendFailed(
            f"this version of transformers computes {', '.join(left)} in a way that is not known here: use 5.23."
        )


def read_token_id(folder: Path, token: str) -> int:
    """Returns the id of a special token, from tokenizer.json. Raises BadBundle."""
    path = folder / TOKENIZER_FILE
    try:
        ids = {entry["content"]: int(entry["id"]) for entry in json.loads(path.read_text())["added_tokens"]}
        return ids[token]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise BadBundle(f"{path} does not say the id of {token} ({exc!r}): {_ADVICE}") from exc


def _stored_names(backbone: Backbone) -> dict[str, str]:
    """Returns, for every parameter of the backbone, its name in a checkpoint."""
    names = {}
    for parameter in backbone.state_dict():
        part, _, name = parameter.partition(".")
        in_vlm = part == "vlm" or backbone.depth_head is None
        names[parameter] = name if in_vlm else released_parameter_name(backbone.depth_head, name)
    return names


def _current_name(name: str) -> str:
    for old, new in RENAMED_PREFIXES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _tie_embeddings(backbone: Backbone, both_stored: bool) -> None:
    """Makes embedding and output one tensor, unless both are stored and differ, whatever config.json says."""
    head, embedding = backbone.vlm.lm_head, backbone.vlm.get_input_embeddings()
    if not both_stored or torch.equal(head.weight, embedding.weight):
        head.weight = embedding.weight


def _build_backbone(checkpoint: ReleasedCheckpoint) -> Backbone:
    """Builds the modules that config.json describes, with the device and values that the context decides."""
    folder, spec = checkpoint.folder, checkpoint.spec
    path = folder / CONFIG_FILE
    if spec.architecture not in BUILDERS:
        raise UnknownName(
            f"{spec.name}: architecture {spec.architecture!r} is unknown, there are {', '.join(BUILDERS)}."
        )
    try:
        backbone = BUILDERS[spec.architecture](folder, dict(checkpoint.config))
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, StrictDataclassError) as exc:
        raise BadBundle(f"{path} is not a configuration of a {spec.architecture} ({exc}).") from exc
    if backbone.pixels_per_token != spec.pixels_per_token:
        raise BadBundle(
            f"{path}: a token stands for {backbone.pixels_per_token} px, but the YAML of {spec.name} says "
            f"{spec.pixels_per_token}."
        )
    return backbone


def _check_text_config(folder: Path, text: PretrainedConfig) -> None:
    """Refuses settings that transformers supports, but text_decoder.py would compute wrongly."""
    path = folder / CONFIG_FILE
    rope = (text.rope_parameters or {}).get("rope_type", "default")
    if rope != "default":
        raise BadBundle(f"{path}: rotary embedding of type {rope!r} is not supported, only 'default'.")
    if getattr(text, "sliding_window", None) is not None:
        raise BadBundle(f"{path}: attention in a sliding window of {text.sliding_window} tokens is not supported.")


def _build_qwen3(folder: Path, fields: JsonObject) -> Backbone:
    config = Qwen3VLConfig.from_dict(fields)
    _check_text_config(folder, config.text_config)
    return Qwen3VLDepth(config, None, read_pixel_rule(folder))


def _build_qwen25(folder: Path, fields: JsonObject) -> Backbone:
    config = Qwen2_5_VLConfig.from_dict(fields)
    _check_text_config(folder, config.text_config)
    return Qwen25VLBackbone(config, read_pixel_rule(folder))


def _build_pixtral(folder: Path, fields: JsonObject) -> Backbone:
    config = LlavaConfig.from_dict(fields)
    _check_text_config(folder, config.text_config)
    parts = (config.vision_config.model_type, config.text_config.model_type)
    if parts != ("pixtral", "mistral"):
        raise BadBundle(
            f"{folder}: a LLaVA of {parts[0]} and {parts[1]}; only one of pixtral and mistral is supported."
        )
    layer = (config.vision_feature_layer, config.vision_feature_select_strategy)
    if layer != (-1, "full"):
        raise BadBundle(
            f"{folder}: vision features {layer} are not supported, only all of the last layer (-1, 'full')."
        )
    break_id, end_id = (read_token_id(folder, token) for token in ("[IMG_BREAK]", "[IMG_END]"))
    return Pixtral(config, read_pixel_rule(folder), break_id, end_id)


def _list_names(names: Iterable[str]) -> str:
    listed = list(names)
    first = ", ".join(listed[:3])
    return first if len(listed) <= 3 else f"{first} and {len(listed) - 3} more"


def _shape_text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


BUILDERS: dict[str, Callable[[Path, JsonObject], Backbone]] = {
    "qwen3_vl": _build_qwen3,
    "qwen2_5_vl": _build_qwen25,
    "llava": _build_pixtral,
}
