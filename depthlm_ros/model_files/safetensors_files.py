# SPDX-License-Identifier: Apache-2.0
"""The safetensors files of a checkpoint: which files there are, what they hold, and whether they are complete.

Only headers are read, never weights. A safetensors file consists of 8 bytes (the length of the header, little-endian),
the header (JSON: name -> dtype, shape, data_offsets) and the data, as its format's documentation says.

read_weight_files: all tensors of a checkpoint folder
read_tensor_header: the tensors of one file
depth_head_kind: which of DepthVLM's depth heads is among the tensors
name_without_wrappers, current_name: the name of a tensor, whichever trainer or version of transformers wrote it
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from depthlm_ros.errors import BadBundle
from depthlm_ros.file_io import JsonValue
from depthlm_ros.model_files.bounded_files import ordinary_size, read_json

CHECKPOINT_FILE = "model.safetensors"
CHECKPOINT_INDEX_FILE = "model.safetensors.index.json"
# The names of a depth head's tensors begin with this.
HEAD_PREFIX = "depth_head."
# Modules that trainers put around a model or around parts of it. Their names stay in the names of the tensors:
# torch.compile, fully sharded training and gradient checkpointing anywhere, DDP and peft at the beginning.
WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
OUTER_PREFIXES = ("module.", "base_model.model.")
# Parts of names in files of a model whose LoRA adapter was not merged before the model was saved.
UNMERGED = (".base_layer.", ".lora_A.", ".lora_B.", ".lora_embedding_A", ".lora_magnitude_vector")
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
    f"model.{HEAD_PREFIX}": HEAD_PREFIX,
}
# File types that use pickle, which can run any code when it is loaded.
PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# A header with the 2,000 tensors of a large model has 300 kB; the format itself allows 100 MB.
MAX_HEADER_BYTES = 32 << 20
# Bits of a value in each type of the format.
BITS = {
    **dict.fromkeys(("F64", "I64", "U64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 8),
}
# The length that a pointer of Git LFS ("version https://git-lfs...") has in place of the header's. `git clone` without
# Git LFS leaves such pointers.
LFS_BEGINNING = int.from_bytes(b"version ", "little")
_ADVICE = "download the checkpoint again; what is already there is kept."


@dataclass(frozen=True)
class TensorEntry:
    """A tensor in a safetensors file. dtype: its name in the format, such as "BF16". begin, end: its bytes in the
    file."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    begin: int
    end: int


@dataclass(frozen=True)
class WeightFiles:
    """The weights of a checkpoint folder: its files, and all tensors by their names today (current_name)."""

    paths: tuple[Path, ...]
    tensors: Mapping[str, TensorEntry]

    @property
    def head(self) -> str:
        """The kind of depth head: "dpt", "mlp" or "" for none."""
        return depth_head_kind(self.tensors)


def name_without_wrappers(name: str) -> str:
    """Returns the name of a tensor without the names of the modules that a trainer put around the model."""
    name = ".".join(part for part in name.split(".") if part not in WRAPPERS)
    while any(name.startswith(prefix) for prefix in OUTER_PREFIXES):
        for prefix in OUTER_PREFIXES:
            name = name.removeprefix(prefix)
    return name


def current_name(name: str) -> str:
    """Returns the name that today's transformers gives a tensor, or a module, of any version and trainer."""
    name = name_without_wrappers(name)
    for old, new in RENAMED_PREFIXES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def depth_head_kind(names: Iterable[str]) -> str:
    """Returns which of DepthVLM's depth heads is among the tensors, by their names today: "dpt", "mlp", "" for none."""
    parts = [name.removeprefix(HEAD_PREFIX) for name in names if name.startswith(HEAD_PREFIX)]
    if not parts:
        return ""
    return "mlp" if any(part.startswith("mlp.") for part in parts) else "dpt"


def read_weight_files(folder: Path) -> WeightFiles:
    """Reads the headers of all weight files of a checkpoint folder.

    Raises BadBundle with the name of a file that is missing, incomplete or of a type that is not read.
    """
    promised = _single_file(folder) or _read_index(folder / CHECKPOINT_INDEX_FILE) or _refuse_other_weights(folder)
    tensors: dict[str, TensorEntry] = {}
    for path, names in promised.items():
        found = read_tensor_header(path)
        if lost := sorted(names - found.keys()):
            raise BadBundle(
                f"{path} lacks the tensor {lost[0]} that {CHECKPOINT_INDEX_FILE} promises ({len(lost)} in all): "
                f"{_ADVICE}"
            )
        tensors |= found
    if unmerged := next((name for name in tensors if any(part in f"{name}." for part in UNMERGED)), None):
        raise BadBundle(
            f"{tensors[unmerged].path} holds {unmerged}: the model was saved with a LoRA adapter that was not merged. "
            "Save it again after merge_and_unload() of peft, or save the adapter alone."
        )
    return WeightFiles(tuple(promised), by_current_name(tensors))


def by_current_name(tensors: Mapping[str, TensorEntry]) -> dict[str, TensorEntry]:
    """Returns tensors by their names today. Raises BadBundle if two of them have the same name then."""
    renamed: dict[str, TensorEntry] = {}
    for name, tensor in tensors.items():
        current = current_name(name)
        if current in renamed:
            raise BadBundle(
                f"{tensor.path} holds {name}, but {renamed[current].name} is the same tensor: two models are mixed; "
                f"{_ADVICE}"
            )
        renamed[current] = tensor
    return renamed


def read_tensor_header(path: Path) -> dict[str, TensorEntry]:
    """Reads the tensors of a file by name, without their values.

    Raises BadBundle if the file is missing, incomplete or not a safetensors file.
    """
    if path.is_symlink() and not path.exists():
        raise BadBundle(f"{path} is a link to {path.readlink()}, which does not exist: {_ADVICE}")
    try:
        size = ordinary_size(path)
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if length <= min(MAX_HEADER_BYTES, size) else b""
    except OSError as exc:
        raise BadBundle(f"cannot read {path} ({exc.strerror}): {_ADVICE}") from exc
    if length == LFS_BEGINNING:
        raise BadBundle(f"{path} is a pointer of Git LFS in place of the file: run `git lfs pull` in {path.parent}.")
    try:
        entries = json.loads(header)
    except (ValueError, RecursionError):
        entries = None
    if len(header) != length or not isinstance(entries, dict):
        raise BadBundle(f"{path} is not a complete safetensors file (its header cannot be read): {_ADVICE}")
    entries.pop("__metadata__", None)
    try:
        tensors = {name: _tensor_entry(path, name, entry, 8 + length) for name, entry in entries.items()}
    except (TypeError, LookupError, ValueError, OverflowError) as exc:
        raise BadBundle(
            f"{path} is not a complete safetensors file (dtype, shape or place of a tensor is missing): {_ADVICE}"
        ) from exc
    end = max((tensor.end for tensor in tensors.values()), default=8 + length)
    if size != end:
        raise BadBundle(f"{path} is {size} bytes long, but its header says {end}: {_ADVICE}")
    return tensors


def _tensor_entry(path: Path, name: str, entry: Mapping[str, list[float]], data_begin: int) -> TensorEntry:
    begin, end = (data_begin + int(offset) for offset in entry["data_offsets"])
    shape, dtype = tuple(map(int, entry["shape"])), str(entry["dtype"])
    bits = BITS.get(dtype)
    fits = min(shape, default=0) >= 0 and (bits is None or 8 * (end - begin) == bits * math.prod(shape))
    if not (data_begin <= begin <= end and fits):
        raise ValueError(f"{name}: {begin} to {end}")
    return TensorEntry(path, name, shape, dtype, begin, end)


def _single_file(folder: Path) -> dict[Path, set[str]]:
    """Returns the one weight file of a folder, none if there is none. It comes before an index, as in transformers."""
    path = folder / CHECKPOINT_FILE
    return {path: set()} if path.exists() or path.is_symlink() else {}


def _refuse_other_weights(folder: Path) -> NoReturn:
    """Raises BadBundle, with what the folder holds in place of weights that are read."""
    if parts := sorted(folder.glob("model-*-of-*.safetensors")):
        raise BadBundle(
            f"{folder} holds {parts[0].name}, but not {CHECKPOINT_INDEX_FILE}, which says which tensor is in which "
            f"file: {_ADVICE}"
        )
    if pickles := sorted(path.name for pattern in PICKLE_PATTERNS for path in folder.glob(pattern)):
        raise BadBundle(
            f"{folder} holds its weights as {pickles[0]}. Loading such a file can run any code that its maker put into "
            "it, so only safetensors are read: get them, or convert the file where you trust it "
            "(save_pretrained of transformers writes safetensors)."
        )
    raise BadBundle(f"{folder} holds no weights: neither {CHECKPOINT_FILE} nor {CHECKPOINT_INDEX_FILE}: {_ADVICE}")


def _read_index(index: Path) -> dict[Path, set[str]]:
    """Returns the weight files that an index names, with the tensors that it promises in each. Empty: no index."""
    if not index.is_file():
        return {}
    try:
        fields: Any = read_json(index, MAX_HEADER_BYTES)
        places: Mapping[str, JsonValue] = fields["weight_map"]
        files: dict[Path, set[str]] = {}
        for tensor, file in places.items():
            if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
                raise BadBundle(f"{index} names {file!r}, which is not a safetensors file beside it: {_ADVICE}")
            files.setdefault(index.parent / file, set()).add(tensor)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise BadBundle(f"{index} is damaged ({exc!r}): {_ADVICE}") from exc
    if missing := [path.name for path in sorted(files) if not path.exists() and not path.is_symlink()]:
        raise BadBundle(f"{index} names {missing[0]}, which is missing ({len(files)} files in all): {_ADVICE}")
    return {path: files[path] for path in sorted(files)}
