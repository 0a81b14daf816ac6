"""The safetensors files of a checkpoint: which files there are, what they hold, and whether they are complete.

Only headers are read, never weights. A safetensors file consists of 8 bytes (the length of the header, little-endian),
the header (JSON: name -> dtype, shape, data_offsets) and the data, as its format's documentation says.

read_weight_files: all tensors of a checkpoint folder
read_tensor_header: the tensors of one file
depth_head_kind: which of DepthVLM's depth heads is among the tensors
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from depthlm_ros.errors import BadBundle
from depthlm_ros.file_io import JsonValue

CHECKPOINT_FILE = "model.safetensors"
CHECKPOINT_INDEX_FILE = "model.safetensors.index.json"
# The names of a depth head's tensors begin with this.
HEAD_PREFIX = "depth_head."
# File types that use pickle, which can run any code when it is loaded.
PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# The format's own limit.
MAX_HEADER_BYTES = 100_000_000
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
    """The weights of a checkpoint folder: its files, and all tensors by their names in the files."""

    paths: tuple[Path, ...]
    tensors: Mapping[str, TensorEntry]

    @property
    def head(self) -> str:
        """The kind of depth head: "dpt", "mlp" or "" for none."""
        return depth_head_kind(self.tensors)


def depth_head_kind(names: Iterable[str]) -> str:
    """Returns which of DepthVLM's depth heads is among the tensors: "dpt", "mlp" or "" for none."""
    parts = [name.removeprefix(HEAD_PREFIX) for name in names if name.startswith(HEAD_PREFIX)]
    if not parts:
        return ""
    return "mlp" if any(part.startswith("mlp.") for part in parts) else "dpt"


def read_weight_files(folder: Path) -> WeightFiles:
    """Reads the headers of all weight files of a checkpoint folder.

    Raises BadBundle with the name of a file that is missing, incomplete or of a type that is not read.
    """
    promised = _read_index(folder / CHECKPOINT_INDEX_FILE) or _single_file(folder)
    tensors: dict[str, TensorEntry] = {}
    for path, names in promised.items():
        found = read_tensor_header(path)
        if lost := sorted(names - found.keys()):
            raise BadBundle(
                f"{path} lacks the tensor {lost[0]} that {CHECKPOINT_INDEX_FILE} promises ({len(lost)} in all): "
                f"{_ADVICE}"
            )
        tensors |= found
    return WeightFiles(tuple(promised), tensors)


def read_tensor_header(path: Path) -> dict[str, TensorEntry]:
    """Reads the tensors of a file by name, without their values.

    Raises BadBundle if the file is missing, incomplete or not a safetensors file.
    """
    if path.is_symlink() and not path.exists():
        raise BadBundle(f"{path} is a link to {path.readlink()}, which does not exist: {_ADVICE}")
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if length <= MAX_HEADER_BYTES else b""
        size = path.stat().st_size
    except OSError as exc:
        raise BadBundle(f"cannot read {path} ({exc.strerror}): {_ADVICE}") from exc
    try:
        entries = json.loads(header)
    except ValueError:
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
    return TensorEntry(path, name, tuple(map(int, entry["shape"])), str(entry["dtype"]), begin, end)


def _single_file(folder: Path) -> dict[Path, set[str]]:
    """Returns the one weight file of a folder without an index."""
    path = folder / CHECKPOINT_FILE
    if path.exists() or path.is_symlink():
        return {path: set()}
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
        places: Mapping[str, JsonValue] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
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
