"""The files that an ONNX graph consists of: itself, and the external data it points into."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import GraphProto, TensorProto

from depthlm_ros.errors import BadBundle
from depthlm_ros.model_files.bundle import file_digest


def graph_files(path: Path) -> list[Path]:
    """The graph and its data files, each checked to be there and long enough. Raises BadBundle naming what is not."""
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as exc:  # protobuf's errors are of several kinds
        raise BadBundle(f"{path} cannot be read as an ONNX graph ({exc}): export the model again.") from exc
    needed: dict[str, int] = {}
    for tensor in _external(model.graph):
        place = {entry.key: entry.value for entry in tensor.external_data}
        name = place.get("location", "")
        end = int(place.get("offset", 0)) + int(place.get("length", 0))
        needed[name] = max(needed.get(name, 0), end)
    return [path, *(_checked(path, name, size) for name, size in needed.items())]


def file_digests(path: Path) -> dict[str, str]:
    """SHA-256 by name of a graph's files. Raises BadBundle."""
    return {file.name: file_digest(file) for file in graph_files(path)}


def _external(graph: GraphProto) -> Iterator[TensorProto]:
    for tensor in graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            yield tensor
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _external(inner)


def _checked(path: Path, name: str, size: int) -> Path:
    file = path.parent / name
    if not name or Path(name).name != name:
        raise BadBundle(f"{path} keeps data in {name!r}, which is not a file beside it: export the model again.")
    if not file.is_file():
        raise BadBundle(
            f"{path} keeps its weights in {name}, which is not in {path.parent}: copy both, or export again."
        )
    if file.stat().st_size < size:
        raise BadBundle(f"{file} has {file.stat().st_size} bytes, but {path.name} needs {size}: it is cut short.")
    return file
