# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters: small matrices that a training wrote beside, or instead of, the weights of its base model.

model_files/checkpoint.py has found the base and compared names and sizes. peft does the arithmetic of all variants of
LoRA (rank stabilisation, DoRA, ranks by layer). The names of an adapter depend on the version of transformers that
trained it. Therefore the modules that it changes are taken from its tensors, not from the patterns in its settings, and
patterns are matched with the names of then.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel

from depthlm_ros.errors import BadBundle
from depthlm_ros.file_io import JsonObject, JsonValue
from depthlm_ros.model_files.checkpoint_settings import Adapter, module_of_lora
from depthlm_ros.model_files.safetensors_files import name_without_wrappers

# Settings that decide what the matrices mean, and those of them whose patterns name modules. All others are about the
# training, or choose modules and layers.
SETTINGS = ("r", "lora_alpha", "use_rslora", "use_dora", "lora_bias", "fan_in_fan_out")
PATTERNS = ("rank_pattern", "alpha_pattern")


def merge_adapter(vlm: PreTrainedModel, adapter: Adapter, merge: bool = True) -> PreTrainedModel:
    """Returns the model with an adapter. merge: add the matrices to the weights; otherwise they stay beside them, as
    quantised weights need.

    Raises BadBundle if peft is not installed, or if the adapter does not fit the model.
    """
    adapter.check_library()
    from peft import LoraConfig, PeftModel, set_peft_model_state_dict

    _untie_embeddings(vlm, adapter)
    try:
        given = {name: adapter.fields[name] for name in SETTINGS if adapter.fields.get(name) is not None}
        given |= {name: _values_by_module(adapter, adapter.fields.get(name)) for name in PATTERNS}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = PeftModel(vlm, LoraConfig(**given, target_modules=adapter.changed_modules), low_cpu_mem_usage=True)
            tensors = {f"base_model.model.{name}": tensor for name, tensor in _read_matrices(adapter).items()}
            result = set_peft_model_state_dict(model, tensors, low_cpu_mem_usage=True)
            _check_result(model, result.unexpected_keys)
            return model.merge_and_unload(safe_merge=True) if merge else model.get_base_model()
    except (TypeError, ValueError, KeyError, RuntimeError) as exc:
        raise BadBundle(f"{adapter.title}, which peft cannot add to the model ({exc}): give it its own base.") from exc


def _values_by_module(adapter: Adapter, patterns: JsonValue) -> JsonObject:
    """Returns the values of rank_pattern or alpha_pattern by the names that modules have today.

    peft applies a pattern to the names of the model that was trained, which are those in the file of the adapter.
    """
    from peft.utils.other import get_pattern_key

    if not isinstance(patterns, Mapping) or not patterns:
        return {}
    values: JsonObject = {}
    for name, entry in adapter.tensors.items():
        if module := module_of_lora(name):
            key = get_pattern_key(list(patterns), module_of_lora(name_without_wrappers(entry.name)))
            if key in patterns:
                values[module] = patterns[key]
    return values


def _check_result(model: nn.Module, unexpected: list[str]) -> None:
    """Raises ValueError if a matrix of the adapter was not used, or one of the model's was not given."""
    empty = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if unexpected or empty:
        raise ValueError(f"unused: {', '.join(unexpected[:2]) or 'none'}; missing: {', '.join(empty[:2]) or 'none'}")


def _read_matrices(adapter: Adapter) -> dict[str, torch.Tensor]:
    """Returns the matrices of an adapter by their names in the base model."""
    tensors: dict[str, torch.Tensor] = {}
    for name, entry in adapter.tensors.items():
        if not module_of_lora(name):
            continue
        try:
            with safe_open(entry.path, framework="pt") as file:
                tensors[name] = file.get_tensor(entry.name)
        except (OSError, SafetensorError) as exc:
            raise BadBundle(f"{entry.path} cannot be read ({exc}): get the adapter again.") from exc
    return tensors


def _untie_embeddings(vlm: PreTrainedModel, adapter: Adapter) -> None:
    """Gives input and output embeddings a tensor each if the adapter changes only one of them."""
    head, embedding = vlm.lm_head, vlm.get_input_embeddings()
    changed = [name for name in adapter.changed_modules if name == "lm_head" or name.endswith("embed_tokens")]
    if len(changed) == 1 and head.weight is embedding.weight:
        head.weight = nn.Parameter(embedding.weight.detach().clone(), requires_grad=False)
