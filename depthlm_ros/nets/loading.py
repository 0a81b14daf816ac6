# SPDX-License-Identifier: Apache-2.0
"""Loads the weights of released checkpoints into a Backbone, without a second copy of them in memory.

model_files/checkpoint.py has read and checked the folder; here the weights are compared with what config.json implies
before any of them is read. No code of a checkpoint is run, and nothing is downloaded.

load_released_model: the whole model, with its LoRA adapter
load_quantised_vlm: weights that bitsandbytes, compressed-tensors or fp8 made small
check_tensors_fit, load_tensors: the steps, for parts of a model
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    BitsAndBytesConfig,
    LlavaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen3VLConfig,
)
from transformers.utils import logging

from depthlm_ros.errors import BackendFailed, BadBundle, UnknownName
from depthlm_ros.file_io import JsonObject
from depthlm_ros.model_files.bundle import CONFIG_FILE
from depthlm_ros.model_files.checkpoint import ReleasedCheckpoint
from depthlm_ros.model_files.checkpoint_settings import Quantisation
from depthlm_ros.model_files.safetensors_files import HEAD_PREFIX, TensorEntry, current_name
from depthlm_ros.model_files.tokenizer_files import read_token_id
from depthlm_ros.nets.adapters import merge_adapter
from depthlm_ros.nets.backbone import Backbone, read_pixel_rule
from depthlm_ros.nets.depth_heads import build_released_head, released_parameter_name
from depthlm_ros.nets.pixtral import Pixtral
from depthlm_ros.nets.qwen3vl import Qwen3VLDepth
from depthlm_ros.nets.qwen25vl import Qwen25VLBackbone

LM_HEAD = "lm_head.weight"
META = torch.device("meta")
# Methods of quantisation whose weights become plain ones on loading.
DEQUANTISED = ("fp8", "compressed-tensors")
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
    device, spec, adapter = torch.device(device), checkpoint.spec, checkpoint.adapter
    stored = checkpoint.weights.tensors
    with META:
        backbone = _build_backbone(checkpoint)
        shapes = {name: tensor.shape for name, tensor in stored.items()}
        width = backbone.vlm.config.text_config.hidden_size
        backbone.depth_head = build_released_head(spec.head, shapes, checkpoint.config, width, spec.pixels_per_token)
    names = _stored_names(backbone)
    vlm_names = {parameter: name for parameter, name in names.items() if parameter.startswith("vlm.")}
    head_names = {parameter: name for parameter, name in names.items() if parameter not in vlm_names}
    quantisation = checkpoint.quantisation
    if quantisation is None:
        _load_plain_vlm(backbone, checkpoint, stored, vlm_names, dtype, device)
    else:
        backbone.vlm = load_quantised_vlm(type(backbone.vlm), checkpoint, quantisation, dtype, device)
        # transformers has read the files of the base only.
        whole = adapter.replaced if adapter else {}
        load_tensors(backbone, stored, {name: old for name, old in vlm_names.items() if old in whole}, dtype, device)
    check_tensors_fit(checkpoint.folder, _only_head(stored), _expected_shapes(backbone, head_names))
    load_tensors(backbone, stored, head_names, head_dtype, device)
    if adapter is not None:
        backbone.vlm = merge_adapter(backbone.vlm, adapter, merge=quantisation is None)
    rebuild_frequencies(backbone, device)
    if quantisation is None:
        backbone.to(device)
    return backbone.requires_grad_(False).eval()


def _load_plain_vlm(
    backbone: Backbone,
    checkpoint: ReleasedCheckpoint,
    stored: Mapping[str, TensorEntry],
    names: dict[str, str],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Loads the unquantised weights of the language and vision model. names: parameter -> name in `stored`."""
    tied = bool(backbone.vlm.config.tie_word_embeddings)
    if tied and LM_HEAD not in stored:
        del names[f"vlm.{LM_HEAD}"]
    # A depth head is compared on its own; without one in the model, its tensors are another model's.
    others = {name: tensor for name, tensor in stored.items() if name not in _only_head(stored)}
    given = others if backbone.depth_head is not None else stored
    check_tensors_fit(checkpoint.folder, given, _expected_shapes(backbone, names))
    load_tensors(backbone, stored, names, dtype, device)
    if tied:
        _tie_embeddings(backbone, LM_HEAD in stored)


def _only_head(stored: Mapping[str, TensorEntry]) -> dict[str, TensorEntry]:
    """Returns the tensors of a depth head."""
    return {name: tensor for name, tensor in stored.items() if name.startswith(HEAD_PREFIX)}


def _expected_shapes(backbone: Backbone, names: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of stored tensors. names: parameter -> name in the files."""
    state = backbone.state_dict()
    return {name: tuple(state[parameter].shape) for parameter, name in names.items()}


def load_quantised_vlm(
    kind: type[PreTrainedModel],
    checkpoint: ReleasedCheckpoint,
    quantisation: Quantisation,
    dtype: torch.dtype,
    device: torch.device,
) -> PreTrainedModel:
    """Loads quantised weights by transformers' own quantisers.

    Weights of bitsandbytes stay quantised. Those of fp8 and compressed-tensors become `dtype` on loading: their kernels
    are not part of torch, and would be downloaded at the first question. Raises BadBundle if a library or a tensor is
    missing.
    """
    quantisation.check_libraries()
    config = kind.config_class.from_dict(dict(checkpoint.config))
    settings = dict(quantisation.fields)
    if quantisation.method in DEQUANTISED:
        settings["dequantize"] = True
    options = {}
    if quantisation.on_load:
        options["quantization_config"] = BitsAndBytesConfig(**quantisation.on_load, bnb_4bit_compute_dtype=dtype)
    else:
        config.quantization_config = settings
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        vlm, report = kind.from_pretrained(
            checkpoint.folder,
            config=config,
            dtype=dtype,
            device_map={"": str(device)},
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except (ImportError, OSError, ValueError, KeyError, RuntimeError) as exc:
        raise BadBundle(
            f"{quantisation.path}: transformers cannot load these {quantisation.method} weights on {device} "
            f"({' '.join(str(exc).split())}): use another device, or the unquantised checkpoint."
        ) from exc
    finally:
        logging.set_verbosity(verbosity)
    odd = [name for name in report["unexpected_keys"] if not current_name(name).startswith(HEAD_PREFIX)]
    if wrong := sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"], *odd])):
        raise BadBundle(f"{checkpoint.folder}: {_list_names(wrong)} do not fit config.json: {_ADVICE}")
    return vlm.to(dtype) if quantisation.method in DEQUANTISED else vlm


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
            raise BadBundle(
                f"{tensor.path}: {name} is {tensor.dtype}: only unquantised weights can be used, unless config.json "
                "says how they are quantised."
            )


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


def rebuild_frequencies(backbone: Backbone, device: torch.device | str = "cpu") -> None:
    """Computes the rotary frequencies again, for a device. No file holds them, and a module on the meta device has lost
    them.

    Raises BackendFailed if other buffers are still on the meta device.
    """
    for path, module in list(backbone.named_modules()):
        if isinstance(getattr(module, "inv_freq", None), torch.Tensor):
            parent, _, name = path.rpartition(".")
            setattr(backbone.get_submodule(parent), name, type(module)(module.config).to(device))
    left = [name for name, buffer in backbone.named_buffers() if buffer.is_meta]
    if left:
        raise BackendFailed(
            f"this version of transformers computes {', '.join(left)} in a way that is not known here: use 5.23."
        )


def _stored_names(backbone: Backbone) -> dict[str, str]:
    """Returns, for every parameter of the backbone, its name in a checkpoint."""
    names = {}
    for parameter in backbone.state_dict():
        part, _, name = parameter.partition(".")
        in_vlm = part == "vlm" or backbone.depth_head is None
        names[parameter] = name if in_vlm else released_parameter_name(backbone.depth_head, name)
    return names


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


def _check_text_config(folder: Path, text: PretrainedConfig, sliding: bool = False) -> None:
    """Refuses settings that transformers supports, but text_decoder.py would compute wrongly.

    sliding: whether attention in a sliding window is allowed, because the backbone refuses longer texts.
    """
    path = folder / CONFIG_FILE
    rope = (text.rope_parameters or {}).get("rope_type", "default")
    if rope != "default":
        raise BadBundle(f"{path}: rotary embedding of type {rope!r} is not supported, only 'default'.")
    if not sliding and getattr(text, "sliding_window", None) is not None:
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
    _check_text_config(folder, config.text_config, sliding=True)
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
