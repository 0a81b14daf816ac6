# SPDX-License-Identifier: Apache-2.0
"""What the JSON files of a checkpoint say beside its weights: config.json, generation_config.json, adapter_config.json.

read_config: the fields of config.json
read_quantisation: by which method the weights are quantised, and which library loads them
read_generation: how replies are decoded
read_adapter: a LoRA adapter beside weights, or alone
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

from depthlm_ros.errors import BadBundle
from depthlm_ros.file_io import JsonObject, JsonValue
from depthlm_ros.model_files.bounded_files import read_json
from depthlm_ros.model_files.bundle import CONFIG_FILE
from depthlm_ros.model_files.depth_network import NETWORK_FILE
from depthlm_ros.model_files.install_paths import MANIFEST
from depthlm_ros.model_files.safetensors_files import (
    HEAD_PREFIX,
    PICKLE_PATTERNS,
    TensorEntry,
    by_current_name,
    read_tensor_header,
)
from depthlm_ros.model_files.spec import GenerationSettings

GENERATION_FILE, ADAPTER_FILE = "generation_config.json", "adapter_config.json"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
LORA = "LORA"
# The parts of a LoRA adapter's names that follow the name of the module that it changes.
LORA_PARTS = (".lora_A.", ".lora_B.", ".lora_embedding_A", ".lora_embedding_B", ".lora_magnitude_vector")
# Settings of adapters that are more than matrices to add to weights, and initialisations that left the base unchanged:
# all others moved a part of the base into the adapter.
UNMERGEABLE = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)
PLAIN_INITIALISATIONS = (None, True, False, "gaussian", "eva", "orthogonal")
EMBEDDING = "model.language_model.embed_tokens.weight"
# Methods of quantisation that transformers loads and that were tried here: library as it is imported, and as pip
# installs it. fp8 needs no library of its own, because its weights are dequantised.
QUANTISERS = {
    "bitsandbytes": (("bitsandbytes", "bitsandbytes"), ("accelerate", "accelerate")),
    "compressed-tensors": (("compressed_tensors", "compressed-tensors"), ("accelerate", "accelerate")),
    "fp8": (("accelerate", "accelerate"),),
}
# Precision -> settings with which bitsandbytes quantises plain weights when they are loaded.
ON_LOAD: Mapping[str, JsonObject] = {
    "int8": {"load_in_8bit": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
}
# Settings of generation_config.json that greedy decoding does not have.
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "top_h", "epsilon_cutoff", "eta_cutoff")
# Settings that would change greedy replies, with the values that change nothing. They are not supported.
UNSUPPORTED: Mapping[str, tuple[JsonValue, ...]] = {
    "bad_words_ids": (),
    "begin_suppress_tokens": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "guidance_scale": (1.0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "penalty_alpha": (0.0,),
    "sequence_bias": (),
    "stop_strings": (),
    "suppress_tokens": (),
}
_ADVICE = "download the checkpoint again."


@dataclass(frozen=True)
class Quantisation:
    """How weights are quantised. method: its name in config.json. fields: its settings there.

    on_load: settings with which transformers quantises plain weights when it loads them; empty for weights that are
    stored quantised.
    """

    path: Path
    method: str
    fields: JsonObject = field(default_factory=dict, hash=False)
    on_load: JsonObject = field(default_factory=dict, hash=False)

    def check_libraries(self) -> None:
        """Raises BadBundle, with the command, if a library that loads such weights is not installed."""
        missing = [pip for module, pip in QUANTISERS[self.method] if importlib.util.find_spec(module) is None]
        if missing:
            raise BadBundle(
                f"{self.path}: the weights are {'to be ' if self.on_load else ''}quantised by {self.method}, which "
                f"needs {' and '.join(missing)}: "
                f"pip install {' '.join(missing)} (beside depthlm_ros[torch])."
            )


@dataclass(frozen=True)
class GenerationFile:
    """What generation_config.json says.

    settings: what is obeyed; None without the file. sampling: settings of sampling, as texts, which have no meaning for
    greedy replies. unsupported: settings, as texts, that would change greedy replies and are not supported.
    """

    settings: GenerationSettings | None = None
    sampling: tuple[str, ...] = ()
    unsupported: tuple[str, ...] = ()


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: small matrices that are added to the weights of a base model.

    base: the base that adapter_config.json names, a folder or a hub id; "" if it names none. fields: those of
    adapter_config.json. tensors: by their names in the base model (current_name).
    """

    folder: Path
    base: str
    fields: JsonObject = field(compare=False, repr=False)
    tensors: Mapping[str, TensorEntry] = field(compare=False, repr=False)

    @property
    def title(self) -> str:
        """What it is, in words."""
        return f"{self.folder} holds a LoRA adapter (rank {self.fields.get('r')}) of {self.base or 'an unnamed base'}"

    @property
    def changed_modules(self) -> list[str]:
        """Names of the modules that it changes, as today's transformers calls them."""
        return sorted({module for name in self.tensors if (module := module_of_lora(name))})

    @property
    def replaced(self) -> dict[str, TensorEntry]:
        """Whole tensors (modules_to_save, biases) that replace those of the base."""
        return {name: tensor for name, tensor in self.tensors.items() if not module_of_lora(name)}

    def check_library(self) -> None:
        """Raises BadBundle, with two commands, if peft is not installed."""
        if importlib.util.find_spec("peft") is None:
            raise BadBundle(
                f"{self.title}, which peft merges on loading: pip install peft, or merge it once: {self.merge_command}"
            )

    @property
    def merge_command(self) -> str:
        """The command that writes a checkpoint with the adapter merged."""
        base = self.base or "BASE"
        return (
            'python -c "from peft import PeftModel as P; from transformers import AutoModelForImageTextToText as M; '
            f"P.from_pretrained(M.from_pretrained('{base}', dtype='auto'), '{self.folder}').merge_and_unload()"
            ".save_pretrained('MERGED')\", then copy the other files of the base into MERGED."
        )

    def check_base(self, tensors: Mapping[str, TensorEntry], base: Path) -> None:
        """Raises BadBundle if the adapter was made for another model than the one with these tensors (by current_name).

        base: the folder of the base, for the message. A whole depth head may be new to the base.
        """
        modules = {name.rpartition(".")[0] for name in tensors}
        for name, tensor in self.tensors.items():
            module = module_of_lora(name)
            is_new = not module and name.startswith(HEAD_PREFIX)
            weight = tensors.get(f"{module}.weight" if module else name)
            # Packed weights have other names, or other shapes, than the modules.
            is_packed = bool(module) and weight is None and module in modules
            if is_new or is_packed:
                continue
            if weight is None and (module or name).startswith("lm_head"):
                weight = tensors.get(EMBEDDING)  # Input and output are one tensor.
            if weight is None:
                raise self._other_base(base, f"{tensor.name} changes a module that is not there")
            if weight.dtype not in ("F64", "F32", "F16", "BF16", "F8_E4M3"):
                continue
            if not _fits(name, tensor.shape, weight.shape):
                raise self._other_base(base, f"{tensor.name} is {tensor.shape}, the weights are {weight.shape}")

    def _other_base(self, base: Path, why: str) -> BadBundle:
        return BadBundle(f"{self.title}, which does not fit the weights in {base} ({why}): give it its own base.")


def module_of_lora(name: str) -> str:
    """Returns the module that a tensor of LoRA belongs to; "" for a whole tensor."""
    for part in LORA_PARTS:
        module, found, _ = f"{name}.".partition(part)
        if found:
            return module
    return ""


def read_config(folder: Path) -> JsonObject:
    """Returns the fields of a checkpoint's config.json. Raises BadBundle."""
    path = folder / CONFIG_FILE
    if not path.exists():
        raise BadBundle(
            f"{folder} is not a model: it has neither {MANIFEST} nor {CONFIG_FILE} nor {NETWORK_FILE} nor "
            f"{ADAPTER_FILE}."
        )
    return _read_fields(path)


def read_quantisation(folder: Path, config: JsonObject) -> Quantisation | None:
    """Returns how the weights are quantised, None if they are not. Raises BadBundle for an unknown method."""
    path = folder / CONFIG_FILE
    text = config.get("text_config")
    groups = (config, text if isinstance(text, dict) else {})
    found = next((g[key] for g in groups for key in ("quantization_config", "compression_config") if g.get(key)), None)
    if found is None:
        return None
    fields = found if isinstance(found, dict) else {}
    method = str(fields.get("quant_method", ""))
    if not method and any(fields.get(key) for key in ("load_in_4bit", "load_in_8bit")):
        method = "bitsandbytes"
    if method not in QUANTISERS:
        raise BadBundle(
            f"{path}: the weights are quantised by {method or 'an unnamed method'}: only {', '.join(QUANTISERS)} and "
            "unquantised weights can be used."
        )
    return Quantisation(path, method, fields)


def read_generation(folder: Path, config: JsonObject) -> GenerationFile:
    """Reads generation_config.json. A checkpoint without it is decoded as the YAML file says.

    Raises BadBundle for a damaged file and for values out of range.
    """
    path = folder / GENERATION_FILE
    if not path.is_file():
        return GenerationFile()
    fields = _read_fields(path)
    penalty = fields.get("repetition_penalty")
    if penalty is None:
        penalty = 1.0
    if not _is_number(penalty) or not 0 < penalty < math.inf:
        raise BadBundle(
            f"{path}: repetition_penalty is {penalty!r}: it must be a positive number (1 for none); correct the file."
        )
    ends, vocabulary = fields.get("eos_token_id"), _vocabulary_size(config)
    if fields.get("_from_model_config"):
        # Nobody chose these ids: transformers took them from config.json, or from its own defaults.
        listed = ends if isinstance(ends, list) else [ends]
        ends = [one for one in listed if isinstance(one, int) and 0 <= one < (vocabulary or one + 1)]
    settings = GenerationSettings(float(penalty), _stop_ids(path, ends, vocabulary))
    sampling = [f"{name} {fields[name]}" for name in SAMPLING if fields.get(name) is not None]
    changed = [
        f"{name} {fields[name]}"
        for name, neutral in UNSUPPORTED.items()
        if fields.get(name) not in (None, [], *neutral)
    ]
    return GenerationFile(settings, tuple(sampling) if fields.get("do_sample") else (), tuple(changed))


def read_adapter(folder: Path) -> Adapter | None:
    """Reads the adapter of a folder, None if there is none. Raises BadBundle if it is not a complete LoRA adapter."""
    path = folder / ADAPTER_FILE
    if not path.is_file():
        return None
    fields = _read_fields(path)
    base = str(fields.get("base_model_name_or_path") or "")
    kind = str(fields.get("peft_type", ""))
    if kind.upper() != LORA:
        raise BadBundle(
            f"{path}: the adapter of {base or 'an unnamed base'} is of the kind {kind!r}: only LORA is read."
        )
    if odd := [name for name in UNMERGEABLE if fields.get(name)]:
        raise BadBundle(f"{path}: the adapter of {base} uses {odd[0]}, which is not supported: train a plain LoRA.")
    start = fields.get("init_lora_weights")
    if start not in PLAIN_INITIALISATIONS:
        raise BadBundle(
            f"{path}: the adapter was initialised by {start!r}, which moved a part of {base} into it: save it with "
            "path_initial_model_for_weight_conversion of peft, which makes it a plain LoRA."
        )
    weights = folder / ADAPTER_WEIGHTS_FILE
    if not weights.exists() and not weights.is_symlink():
        pickles = sorted(path.name for pattern in PICKLE_PATTERNS for path in folder.glob(pattern))
        found = f"only {pickles[0]}, which can run any code when it is loaded" if pickles else "no file of weights"
        raise BadBundle(f"{path} describes an adapter of {base}, but there is {found}: get {ADAPTER_WEIGHTS_FILE}.")
    adapter = Adapter(folder, base, fields, by_current_name(read_tensor_header(weights)))
    if not adapter.changed_modules:
        raise BadBundle(f"{weights} holds no LoRA matrices (lora_A, lora_B): get the adapter again.")
    return adapter


def _stop_ids(path: Path, value: JsonValue, vocabulary: int) -> tuple[int, ...]:
    listed = value if isinstance(value, list) else [] if value is None else [value]
    ids: list[int] = []
    for one in listed:
        if not isinstance(one, int) or isinstance(one, bool) or one < 0 or (vocabulary and one >= vocabulary):
            limit = f"0 to {vocabulary - 1}" if vocabulary else "0 or more"
            raise BadBundle(f"{path}: eos_token_id holds {one!r}: ids are whole numbers, {limit}; correct the file.")
        ids.append(one)
    return tuple(dict.fromkeys(ids))


def _vocabulary_size(config: JsonObject) -> int:
    """Returns the number of tokens that config.json tells, 0 if it does not."""
    text = config.get("text_config")
    sizes: Iterable[JsonValue] = (text.get("vocab_size") if isinstance(text, dict) else None, config.get("vocab_size"))
    return next((size for size in sizes if isinstance(size, int) and size > 0), 0)


def _fits(name: str, shape: tuple[int, ...], weight: tuple[int, ...]) -> bool:
    """Returns whether a tensor of an adapter has the sizes of the weight that it changes."""
    if not module_of_lora(name):
        return shape == weight
    if len(shape) != 2 or len(weight) != 2:
        return True
    if ".lora_A." in f"{name}.":
        return shape[1] == weight[1]
    if ".lora_embedding_A" in name:
        return shape[1] == weight[0]
    return shape[0] == weight[1 if ".lora_embedding_B" in name else 0]


def _read_fields(path: Path) -> JsonObject:
    try:
        fields = read_json(path)
    except OSError as exc:
        raise BadBundle(f"cannot read {path} ({exc.strerror}): {_ADVICE}") from exc
    except ValueError as exc:
        raise BadBundle(f"{path} is damaged ({exc}): {_ADVICE}") from exc
    if not isinstance(fields, dict):
        raise BadBundle(f"{path} holds no fields: {_ADVICE}")
    return fields


def _is_number(value: JsonValue) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
