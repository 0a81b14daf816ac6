"""TensorRT 10.3 to 11.4: a plan as an engine whose tensors are known by name, and runs of it with fixed addresses.

Only names that all these versions have are used (test_tensorrt_names.py).
"""

from __future__ import annotations

import collections
import logging
import math
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from depthlm_ros.backends.tensorrt.cuda_device import Device, DeviceArray
from depthlm_ros.errors import BackendFailed

logger = logging.getLogger(__name__)


def load_tensorrt() -> Any:
    """The module. Raises BackendFailed if it is not installed or cannot be loaded."""
    try:
        import tensorrt
    except (ImportError, OSError) as exc:
        raise BackendFailed(
            f"TensorRT cannot be loaded here ({exc}): on a Jetson install JetPack's python3-libnvinfer and use an "
            "environment that sees the system's packages; elsewhere pip install tensorrt; or use backend onnxruntime."
        ) from exc
    return tensorrt


def make_logger(trt: Any) -> Any:
    """A TensorRT logger that passes warnings and errors on, and keeps the last of them in `lines`."""
    levels = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        trt.ILogger.Severity.WARNING: logging.WARNING,
    }

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.lines: collections.deque[str] = collections.deque(maxlen=12)

        def log(self, severity: Any, msg: str) -> None:
            level = levels.get(severity)
            if level is not None:
                self.lines.append(msg)
                # Errors are raised by who asked; here they are for whoever wants the details.
                logger.log(min(level, logging.WARNING), "TensorRT: %s", msg)

    return Logger()


def last_words(log: Any) -> str:
    """What TensorRT said last, for a message."""
    return " | ".join(log.lines) or "it gave no reason"


@dataclass(frozen=True)
class Tensor:
    """An input or output of an engine; -1 in shape: varies. dtype: numpy's, None for what numpy lacks (bfloat16)."""

    name: str
    is_input: bool
    shape: tuple[int, ...]
    item_bytes: int
    dtype: Any


class Engine:
    """A plan in the device's memory. Raises BackendFailed if TensorRT does not take it."""

    def __init__(self, trt: Any, device: Device, plan: Path) -> None:
        self._trt, self._device, self.plan = trt, device, plan
        self.log = make_logger(trt)
        try:
            self._runtime = trt.Runtime(self.log)
            # Mapped, not read: on a Jetson a copy in host memory would be taken from the GPU's.
            with plan.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                self._engine = self._runtime.deserialize_cuda_engine(content)
        except TypeError as exc:  # the bindings' way of telling that there is no usable driver
            raise BackendFailed(f"TensorRT {trt.__version__} does not start: {last_words(self.log)}.") from exc
        if self._engine is None:
            raise BackendFailed(f"TensorRT {trt.__version__} cannot load {plan}: {last_words(self.log)}.")
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self.tensors = {name: self._tensor(name) for name in names}
        self.profiles = int(self._engine.num_optimization_profiles)
        # All runs of an engine take turns on one stream, so they share its scratch memory.
        self._scratch = device.zeros((max(int(self._engine.device_memory_size_v2), 1),), 1)

    def most(self, name: str, profile: int) -> tuple[int, ...]:
        """The largest shape that an input may have."""
        return tuple(self._engine.get_tensor_profile_shape(name, profile)[2])

    def new_context(self, profile: int) -> Any:
        context = self._engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise BackendFailed(f"TensorRT cannot prepare {self.plan.name}: {last_words(self.log)}.")
        context.set_device_memory(self._scratch.address, self._scratch.nbytes)
        if profile and not context.set_optimization_profile_async(profile, self._device.stream):
            raise BackendFailed(f"{self.plan.name} has no profile {profile}: {last_words(self.log)}.")
        return context

    def _tensor(self, name: str) -> Tensor:
        types, kind = self._trt.DataType, self._engine.get_tensor_dtype(name)
        known = {
            types.FLOAT: (np.float32, 4),
            types.HALF: (np.float16, 2),
            types.BF16: (None, 2),
            types.INT32: (np.int32, 4),
            types.INT64: (np.int64, 8),
            types.BOOL: (np.bool_, 1),
            types.UINT8: (np.uint8, 1),
        }
        if kind not in known:
            raise BackendFailed(
                f"{self.plan.name}: {name} is {kind}, which this backend does not know: export it anew."
            )
        dtype, item_bytes = known[kind]
        is_input = self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
        return Tensor(name, is_input, tuple(self._engine.get_tensor_shape(name)), item_bytes, dtype)


class Run:
    """An execution context. After `bind`, its shapes and addresses stay until the next `bind`."""

    def __init__(self, device: Device, engine: Engine, profile: int) -> None:
        self._device, self._engine, self._context = device, engine, engine.new_context(profile)
        self._memory: dict[str, DeviceArray] = {}
        self.outputs: dict[str, DeviceArray] = {}
        self._runs, self._recorded = 0, None

    def bind(self, inputs: Mapping[str, DeviceArray]) -> None:
        """Fixes inputs, and makes room for the outputs. Raises BackendFailed for a shape that the plan cannot take."""
        self._runs, self._recorded = 0, None
        for name, array in inputs.items():
            self._must(self._context.set_input_shape(name, array.shape), f"take {name} of shape {array.shape}")
            self._must(self._context.set_tensor_address(name, array.address), f"use {name}")
        missing = self._context.infer_shapes()
        self._must(not missing, f"do without {', '.join(missing)}")
        outputs = [tensor for tensor in self._engine.tensors.values() if not tensor.is_input]
        self.outputs = {tensor.name: self._room(tensor) for tensor in outputs}
        for name, array in self.outputs.items():
            self._must(self._context.set_tensor_address(name, array.address), f"write {name}")

    def go(self) -> None:
        """Puts one pass on the stream. The first is a plain one, the second is recorded, from then on it is replayed:
        the CPU then spends no time on single kernels."""
        self._runs += 1
        if self._recorded is None and self._runs == 2:
            self._recorded = self._record()
        if self._recorded is None:
            self._enqueue()
        else:
            self._device.replay(self._recorded)

    def _record(self) -> Any:
        try:
            return self._device.record(self._enqueue)
        except BackendFailed as exc:
            logger.warning("%s runs without a CUDA graph: %s", self._engine.plan.name, exc)
            return None

    def _enqueue(self) -> None:
        self._must(self._context.execute_async_v3(self._device.stream), "run")

    def _room(self, tensor: Tensor) -> DeviceArray:
        """Memory for an output, larger if it was needed larger before."""
        shape = tuple(self._context.get_tensor_shape(tensor.name))
        kept = self._memory.get(tensor.name)
        if kept is None or kept.nbytes < math.prod(shape) * tensor.item_bytes:
            self._memory[tensor.name] = kept = self._device.zeros(shape, tensor.item_bytes)
        return kept.view(shape)

    def _must(self, done: bool, what: str) -> None:
        if not done:
            raise BackendFailed(f"{self._engine.plan.name} cannot {what}: {last_words(self._engine.log)}.")


class Staging:
    """What goes to an engine and comes back from it each time, in pinned host memory.

    An input's place on the device stays the same from call to call, as recorded runs need.
    """

    def __init__(self, device: Device, engine: Engine, most: Mapping[str, int]) -> None:
        """most: largest number of values, per tensor."""
        self._device = device
        self._host: dict[str, np.ndarray] = {}
        self._there: dict[str, DeviceArray] = {}
        for name, count in most.items():
            tensor = engine.tensors[name]
            if tensor.dtype is None:
                raise BackendFailed(f"{engine.plan.name}: {name} is bfloat16, which the host lacks: export it as fp32.")
            self._host[name] = device.pinned((count,), tensor.dtype)
            if tensor.is_input:
                self._there[name] = device.zeros((count,), tensor.item_bytes)

    def put(self, name: str, values: np.ndarray) -> DeviceArray:
        """Sends an array; it arrives before whatever is put on the stream later."""
        host = self._host[name]
        if values.size > host.size:
            raise BackendFailed(f"{name} has {values.size} values, the engine was built for at most {host.size}.")
        np.copyto(host[: values.size].reshape(values.shape), values, casting="same_kind")
        there = self.place(name, values.shape)
        self._device.upload(there, host[: values.size])
        return there

    def place(self, name: str, shape: Sequence[int]) -> DeviceArray:
        """Where an array of this shape is put."""
        return self._there[name].view(shape)

    def fetch(self, name: str, source: DeviceArray) -> np.ndarray:
        """Pinned memory into which an output is being copied: valid from `synchronize` to the next fetch."""
        host = self._host[name][: math.prod(source.shape)].reshape(source.shape)
        self._device.download(host, source)
        return host
