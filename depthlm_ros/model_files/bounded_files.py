# SPDX-License-Identifier: Apache-2.0
"""Reading the files of a model's folder that nobody has vouched for yet: a hostile one costs little and leads nowhere.

read_json      the value in a JSON file of a bounded size and depth
check_size     whether a file is small enough for what it should be; ordinary_size: its size, if it is a file
check_links    whether the files of a folder lie together, so that no link leads out of it
graph_files    the files beside an ONNX graph into which it points
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from depthlm_ros.errors import BadBundle
from depthlm_ros.file_io import JsonValue, parse_json

# The largest fields (a manifest, a config.json) of published models have 100 kB, tokenizers 20 MB.
MAX_FIELDS_BYTES = 4 << 20
MAX_TOKENIZER_BYTES = 64 << 20

# Fields of ONNX's messages (onnx.proto) that lead to external data, whose entries have a key (1) and a value (2).
_ENTRY: dict[int, Any] = {}
_TENSOR = {13: _ENTRY}
_SPARSE = {1: _TENSOR, 2: _TENSOR}
_GRAPH: dict[int, Any] = {5: _TENSOR, 15: _SPARSE}
_NODE = {5: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE}}
_GRAPH[1] = _NODE
_MODEL = {7: _GRAPH, 20: {1: _GRAPH, 2: _GRAPH}, 25: {7: _NODE}}
_KEY = b"location"
_VARINT, _FIXED_64, _LENGTH, _GROUP, _FIXED_32 = 0, 1, 2, (3, 4), 5


def read_json(path: Path, most_bytes: int = MAX_FIELDS_BYTES) -> JsonValue:
    """Returns the value in a JSON file.

    Raises OSError if it cannot be read, ValueError if it is no JSON, too large, or nested too deeply.
    """
    check_size(path, most_bytes)
    value: JsonValue = parse_json(path.read_text(encoding="utf-8"))
    return value


def check_size(path: Path, most_bytes: int) -> None:
    """Raises ValueError for a file that is too large, OSError as ordinary_size does."""
    if (size := ordinary_size(path)) > most_bytes:
        raise ValueError(f"it has {size} bytes, at most {most_bytes} are read")


def ordinary_size(path: Path) -> int:
    """Returns the number of bytes of a file. Raises OSError for a pipe or a device, which may have no end."""
    size = path.stat().st_size
    if not path.is_file():
        raise OSError(errno.EINVAL, "not an ordinary file")
    return size


def check_links(folder: Path, first: str, names: Iterable[str]) -> None:
    """Raises BadBundle if one of the files lies elsewhere than the first, by a link.

    Installed files may all be links to one other folder, as colcon and the cache of Hugging Face make them.
    """
    home = (folder / first).resolve().parent
    for name in names:
        if (place := (folder / name).resolve()).parent != home:
            raise BadBundle(
                f"{folder / name} is a link to {place}, which is not beside {first} in {home}: put the file there."
            )


def graph_files(path: Path) -> set[str]:
    """Returns the names of the files into which an ONNX graph points, as it writes them.

    Raises BadBundle if the file is damaged, OSError if it cannot be read.
    """
    if not ordinary_size(path):
        raise BadBundle(f"{path} is empty: export or download the model again.")
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        return set(_names(data, _MODEL))
    except (ValueError, IndexError, RecursionError):
        raise BadBundle(f"{path} is not an ONNX graph: export or download the model again.") from None


def _names(data: memoryview, fields: Mapping[int, Any]) -> Iterator[str]:
    """Yields the locations of external data in a message. fields: those that lead there."""
    if fields is _ENTRY:
        entry = {number: bytes(content) for number, content in _contents(data)}  # of two, the last one counts
        if entry.get(1) == _KEY:
            yield entry.get(2, b"").decode(errors="replace")
        return
    for number, content in _contents(data):
        if number in fields:
            yield from _names(content, fields[number])


def _contents(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yields number and content of the fields of a protocol-buffer message that have a length."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _LENGTH:
            length, at = _varint(data, at)
            if length > len(data) - at:
                raise ValueError(length)
            yield tag >> 3, data[at : at + length]
            at += length
        elif kind in (_FIXED_32, _FIXED_64):
            at += 4 if kind == _FIXED_32 else 8
        elif kind not in _GROUP:  # what is in a group is looked at as if it stood outside
            raise ValueError(kind)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Returns a number of 7 bits a byte, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError(shift)
