"""The safetensors files of a checkpoint folder: which they are, and whether they are whole. No weights are read.

A safetensors file is 8 bytes (length of the header, little-endian), the header (JSON: name -> dtype, shape,
data_offsets) and the data (its format's documentation).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthlm_ros.errors import BadBundle

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# What pickle can hide in, and what safetensors was made for.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# The format's own limit.
MOST_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class Shards:
    """paths: the files that hold a checkpoint's weights. names: of all their tensors."""

    paths: tuple[Path, ...]
    names: frozenset[str]

    @property
    def head(self) -> str:
        """Which of DepthVLM's depth heads is among the tensors: "dpt", "mlp" or "" for none."""
        parts = {name.removeprefix("depth_head.") for name in self.names if name.startswith("depth_head.")}
        if not parts:
            return ""
        return "mlp" if any(part.startswith("mlp.") for part in parts) else "dpt"


def read_shards(folder: Path) -> Shards:
    """Raises BadBundle naming the file that is missing, broken off or of a kind that is not read."""
    expected = _expected(folder)
    names = {path: header_names(path) for path in expected}
    for path, wanted in expected.items():
        if lost := sorted(wanted - names[path]):
            raise BadBundle(f"{path} lacks the tensor {lost[0]} that {INDEX} promises ({len(lost)} in all): {_AGAIN}")
    return Shards(tuple(expected), frozenset().union(*names.values()))


_AGAIN = "download the checkpoint again; what is already there is kept."


def header_names(path: Path) -> frozenset[str]:
    """Names of a file's tensors. Raises BadBundle if the file is missing, broken off or no safetensors file."""
    if path.is_symlink() and not path.exists():
        raise BadBundle(f"{path} is a link to {path.readlink()}, which is not there: {_AGAIN}")
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if length <= MOST_HEADER_BYTES else b""
        size = path.stat().st_size
    except OSError as exc:
        raise BadBundle(f"cannot read {path} ({exc.strerror}): {_AGAIN}") from exc
    tensors = _tensors(path, header, length)
    try:
        end = 8 + length + max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
    except (TypeError, LookupError, ValueError, OverflowError) as exc:
        raise BadBundle(f"{path} is no whole safetensors file (a tensor without its place): {_AGAIN}") from exc
    if size != end:
        raise BadBundle(f"{path} is {size} bytes long, but its header says {end}: {_AGAIN}")
    return frozenset(tensors)


def _tensors(path: Path, header: bytes, length: int) -> dict[str, Any]:
    try:
        tensors = json.loads(header)
    except ValueError:
        tensors = None
    if len(header) != length or not isinstance(tensors, dict):
        raise BadBundle(f"{path} is no whole safetensors file (its header cannot be read): {_AGAIN}")
    tensors.pop("__metadata__", None)
    return tensors


def _expected(folder: Path) -> dict[Path, frozenset[str]]:
    """The files that the folder must hold, and the tensors that its index promises of each."""
    if (folder / INDEX).is_file():
        return _indexed(folder / INDEX)
    if (folder / SINGLE).exists() or (folder / SINGLE).is_symlink():
        return {folder / SINGLE: frozenset()}
    if parts := sorted(folder.glob("model-*-of-*.safetensors")):
        raise BadBundle(f"{folder} holds {parts[0].name}, but not {INDEX}, which says what is where: {_AGAIN}")
    if pickles := sorted(path.name for pattern in PICKLES for path in folder.glob(pattern)):
        raise BadBundle(
            f"{folder} holds its weights as {pickles[0]}. Loading such a file can run any code that its maker put into "
            "it, so only safetensors are read: get them, or convert the file where you trust it "
            "(save_pretrained of transformers writes safetensors)."
        )
    raise BadBundle(f"{folder} holds no weights: neither {SINGLE} nor {INDEX}: {_AGAIN}")


def _indexed(index: Path) -> dict[Path, frozenset[str]]:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise BadBundle(f"{index} is damaged ({exc!r}): {_AGAIN}") from exc
    files: dict[str, set[str]] = {}
    for tensor, file in places:
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise BadBundle(f"{index} names {file!r}, which is no safetensors file beside it: {_AGAIN}")
        files.setdefault(file, set()).add(tensor)
    for file in sorted(files):
        path = index.parent / file
        if not path.exists() and not path.is_symlink():
            raise BadBundle(f"{index} names {file}, which is missing ({len(files)} files in all): {_AGAIN}")
    return {index.parent / file: frozenset(files[file]) for file in sorted(files)}
