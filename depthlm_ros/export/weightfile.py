"""One file for the weights of all graphs of an engine, in the graphs' own precision.

Tensors are written one by one, so that a model is never in memory twice, and equal ones only once: look and step hold
the same language model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from onnxscript import ir

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
