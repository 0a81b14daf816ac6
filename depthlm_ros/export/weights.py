"""Lets several ONNX graphs share one safetensors file of weights.

ONNX external data is a file name, an offset and a length, and a safetensors file is a header followed by plain
tensors: so a graph can point straight into the checkpoint. Weights are found by content, as they are or transposed
(the exporter folds the transpose of every linear layer). What is stored in half precision gets a Cast, what was
transposed a Transpose; ONNX Runtime folds both when it loads the graph.

One file for the weights of all graphs of an engine, in the graphs' own precision.

Tensors are written one by one, so that a model is never in memory twice, and equal ones only once: look and step hold
the same language model.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxscript import ir

# Smaller tensors are not worth an external reference each.
SMALLEST = 512


@dataclass(frozen=True)
class Stored:
    """Where a float16 tensor lies in the weights file."""

    name: str
    dims: tuple[int, ...]
    offset: int
    length: int
    transposed: bool


def share_weights(path: Path, weights: Path) -> int:
    """Rewrites the ONNX file at `path` (with any external data of its own) to point into `weights`, which must lie
    in the folder in which the graph will live. Returns how many tensors are shared."""
    model = onnx.load(path)
    stored = index_weights(weights)
    shared, prologue = 0, []
    for tensor in list(model.graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < SMALLEST:
            continue
        found = stored.get(_key(numpy_helper.to_array(tensor)))
        if found is None:
            continue
        model.graph.initializer.remove(tensor)
        model.graph.initializer.append(_external(f"{tensor.name}.half", found, weights.name))
        prologue += _restore(tensor.name, found)
        shared += 1
    nodes = [*prologue, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    # Value types that the exporter noted for the old initialisers are gone with them.
    onnx.save(model, path)
    path.with_name(path.name + ".data").unlink(missing_ok=True)
    return shared


def index_weights(weights: Path) -> dict[bytes, Stored]:
    """Content key -> place, for every float16 tensor of a safetensors file, as it is and transposed."""
    raw = weights.read_bytes()
    header_size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + header_size])
    header.pop("__metadata__", None)
    places: dict[bytes, Stored] = {}
    for name, entry in header.items():
        if entry["dtype"] != "F16":
            continue
        begin, end = (8 + header_size + offset for offset in entry["data_offsets"])
        array = np.frombuffer(raw[begin:end], np.float16).reshape(entry["shape"]).astype(np.float32)
        dims = tuple(entry["shape"])
        if array.ndim == 2:
            places[_key(array.T)] = Stored(name, dims, begin, end - begin, True)
        places[_key(array)] = Stored(name, dims, begin, end - begin, False)
    return places


def _key(array: np.ndarray) -> bytes:
    array = np.ascontiguousarray(array, np.float32)
    return hashlib.sha256(str(array.shape).encode() + array.tobytes()).digest()


def _external(name: str, place: Stored, file_name: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT16, dims=place.dims)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", file_name), ("offset", place.offset), ("length", place.length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _restore(name: str, place: Stored) -> list[onnx.NodeProto]:
    if not place.transposed:
        return [helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT)]
    return [
        helper.make_node("Cast", [f"{name}.half"], [f"{name}.single"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", [f"{name}.single"], [name], perm=[1, 0]),
    ]


# Smaller tensors stay in the graph; shapes and axes among them must be known to whoever reads it without this file.
SMALLEST_BYTES = 1024
# ONNX Runtime maps external data into memory where offsets are whole pages.
PAGE = 4096


class WeightFile:
    """The file while it is written: `with WeightFile(path) as weights: weights.take(...)`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")
        self._places: dict[bytes, tuple[int, int]] = {}

    def __enter__(self) -> WeightFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def take(self, model: ir.Model, path: Path, watch: Callable[[int, int], None] = lambda done, of: None) -> None:
        """Writes the model's weights here and the rest of it to `path`, in the same folder. watch: told how many
        tensors of how many are done."""
        values = list(model.graph.initializers.values())
        for index, value in enumerate(values):
            tensor = value.const_value
            if tensor is not None and tensor.nbytes >= SMALLEST_BYTES:
                value.const_value = self._keep(value.name or "", tensor)
            watch(index, len(values))
        ir.save(model, path)

    def _keep(self, name: str, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
        content = tensor.tobytes()
        key = hashlib.sha256(content).digest()
        if key not in self._places:
            self._file.write(bytes(-self._file.tell() % PAGE))
            self._places[key] = (self._file.tell(), len(content))
            self._file.write(content)
        offset, length = self._places[key]
        return ir.ExternalTensor(
            self.path.name, offset, length, tensor.dtype, shape=tensor.shape, name=name, base_dir=self.path.parent
        )
