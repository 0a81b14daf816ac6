# SPDX-License-Identifier: Apache-2.0
"""Files of weights that several ONNX graphs share.

share_weights lets a graph point into a safetensors checkpoint: ONNX external data is a file name, an offset and a
length, and a safetensors file is a header followed by plain tensors. The weights are found by content, as they are or
transposed (the exporter folds the transpose of every linear layer). A tensor that is stored in half precision gets a
Cast, a transposed one a Transpose; ONNX Runtime folds both when it loads the graph.

WeightFile writes one file for all graphs of an engine, in the graphs' own precision. It writes the tensors one by one,
so that a model is never twice in memory, and equal tensors only once: look and step contain the same language model.
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

# A tensor with fewer values is not worth an external reference to the checkpoint.
MIN_SHARED_VALUES = 512
# A smaller tensor stays in the graph. Shapes and axes are such tensors, and a reader of the graph alone needs them.
MIN_EXTERNAL_BYTES = 1024
# ONNX Runtime maps external data into memory if its offset is a multiple of the page size.
PAGE_BYTES = 4096


@dataclass(frozen=True)
class StoredTensor:
    """Where a float16 tensor lies in the checkpoint's file. transposed: the graph holds its transpose."""

    name: str
    dims: tuple[int, ...]
    offset: int
    length: int
    transposed: bool


def share_weights(path: Path, weights: Path) -> int:
    """Rewrites the ONNX file at `path`, with its external data, so that it points into the file `weights`.

    The graph must later lie in the folder of `weights`. Returns the number of shared tensors.
    """
    model = onnx.load(path)
    stored = index_weights(weights)
    shared, restoring_nodes = 0, []
    for tensor in list(model.graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < MIN_SHARED_VALUES:
            continue
        place = stored.get(_content_key(numpy_helper.to_array(tensor)))
        if place is None:
            continue
        model.graph.initializer.remove(tensor)
        model.graph.initializer.append(_external_tensor(f"{tensor.name}.half", place, weights.name))
        restoring_nodes += _restoring_nodes(tensor.name, place)
        shared += 1
    nodes = [*restoring_nodes, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)
    path.with_name(path.name + ".data").unlink(missing_ok=True)
    return shared


def index_weights(weights: Path) -> dict[bytes, StoredTensor]:
    """Returns the place of every float16 tensor of a safetensors file by its content, plain and transposed."""
    raw = weights.read_bytes()
    header_size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + header_size])
    header.pop("__metadata__", None)
    places: dict[bytes, StoredTensor] = {}
    for name, entry in header.items():
        if entry["dtype"] != "F16":
            continue
        begin, end = (8 + header_size + offset for offset in entry["data_offsets"])
        array = np.frombuffer(raw[begin:end], np.float16).reshape(entry["shape"]).astype(np.float32)
        dims = tuple(entry["shape"])
        if array.ndim == 2:
            places[_content_key(array.T)] = StoredTensor(name, dims, begin, end - begin, True)
        places[_content_key(array)] = StoredTensor(name, dims, begin, end - begin, False)
    return places


def _content_key(array: np.ndarray) -> bytes:
    array = np.ascontiguousarray(array, np.float32)
    return hashlib.sha256(str(array.shape).encode() + array.tobytes()).digest()


def _external_tensor(name: str, place: StoredTensor, file_name: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT16, dims=place.dims)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", file_name), ("offset", place.offset), ("length", place.length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _restoring_nodes(name: str, place: StoredTensor) -> list[onnx.NodeProto]:
    """Returns the nodes that make the graph's float32 tensor `name` of the stored one."""
    if not place.transposed:
        return [helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT)]
    return [
        helper.make_node("Cast", [f"{name}.half"], [f"{name}.single"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", [f"{name}.single"], [name], perm=[1, 0]),
    ]


class WeightFile:
    """A file of weights while it is written: `with WeightFile(path) as weights: weights.add_model(...)`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")
        self._places: dict[bytes, tuple[int, int]] = {}

    def __enter__(self) -> WeightFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add_model(
        self, model: ir.Model, path: Path, report: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        """Writes the model's weights to this file and the rest of the model to `path`, in the same folder.

        report: called with the number of finished tensors and the number of all tensors.
        """
        values = list(model.graph.initializers.values())
        for index, value in enumerate(values):
            tensor = value.const_value
            if tensor is not None and tensor.nbytes >= MIN_EXTERNAL_BYTES:
                value.const_value = self._store(value.name or "", tensor)
            report(index, len(values))
        ir.save(model, path)

    def _store(self, name: str, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
        content = tensor.tobytes()
        key = hashlib.sha256(content).digest()
        if key not in self._places:
            self._file.write(bytes(-self._file.tell() % PAGE_BYTES))
            self._places[key] = (self._file.tell(), len(content))
            self._file.write(content)
        offset, length = self._places[key]
        return ir.ExternalTensor(
            self.path.name, offset, length, tensor.dtype, shape=tensor.shape, name=name, base_dir=self.path.parent
        )
