# SPDX-License-Identifier: Apache-2.0
"""Running a TensorRT plan: the plan in memory, an execution context with fixed addresses, and host memory for copies.

For TensorRT 10.3 to 11.4: only names that all these versions have are used (checked by test_tensorrt_names.py). What
only TensorRT for RTX has is in kernel_cache.py.
Public names: load_tensorrt, MessageLog, LoadedPlan, ExecutionContext, StagingBuffers.
"""

from __future__ import annotations

import collections
import logging
import math
import mmap
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from depthlm_ros.backends.tensorrt.cuda_device import Device, DeviceArray, Replay
from depthlm_ros.backends.tensorrt.flavour import TENSORRT, TENSORRT_RTX, Flavour
from depthlm_ros.backends.tensorrt.kernel_cache import KernelCache
from depthlm_ros.errors import BackendFailed

logger = logging.getLogger(__name__)

MAX_MESSAGES = 12


def load_tensorrt(flavour: Flavour = TENSORRT) -> ModuleType:
    """Returns the module of a kind of TensorRT. Raises BackendFailed if it is not installed, cannot be loaded or has a
    version that is not supported."""
    try:
        if flavour is TENSORRT_RTX:
            import tensorrt_rtx as tensorrt
        else:
            import tensorrt
    except (ImportError, OSError) as exc:
        raise BackendFailed(
            f"{flavour.title} cannot be loaded here ({exc}): {flavour.install}; or use backend onnxruntime."
        ) from exc
    flavour.check_version(str(tensorrt.__version__))
    return tensorrt


class MessageLog:
    """The warnings and errors of TensorRT since this object was made. logger: what TensorRT's constructors take.

    TensorRT keeps the first logger that it gets and ignores all others, so there is one for the whole process.
    """

    def __init__(self, trt: Any) -> None:
        self._lines: collections.deque[tuple[int, str]] = collections.deque(maxlen=MAX_MESSAGES)
        if trt.ILogger not in _LOGGERS:
            listeners = _Listeners()
            _LOGGERS[trt.ILogger] = _make_logger(trt, listeners), listeners
        self.logger, listeners = _LOGGERS[trt.ILogger]
        listeners.add(self)

    def add(self, level: int, message: str) -> None:
        """Keeps a message."""
        self._lines.append((level, message))

    def recent(self) -> str:
        """Returns the last errors in one line, for an error message; the last warnings if there is no error."""
        lines = list(self._lines)
        errors = [message for level, message in lines if level >= logging.ERROR]
        return " | ".join(errors or [message for _, message in lines]) or "it gave no reason"


class _Listeners:
    """Every MessageLog that is still in use. Messages come from TensorRT's own threads too."""

    def __init__(self) -> None:
        self._logs: weakref.WeakSet[MessageLog] = weakref.WeakSet()
        self._lock = threading.Lock()

    def add(self, log: MessageLog) -> None:
        with self._lock:
            self._logs.add(log)

    def tell(self, level: int, message: str) -> None:
        with self._lock:
            logs = list(self._logs)
        for log in logs:
            log.add(level, message)


# The logger of each module of TensorRT, and who gets its messages, by its class ILogger.
_LOGGERS: dict[object, tuple[Any, _Listeners]] = {}


def _make_logger(trt: Any, listeners: _Listeners) -> Any:
    """Returns a TensorRT logger that forwards warnings and errors to Python's log and to the listeners."""
    levels: dict[object, int] = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        trt.ILogger.Severity.WARNING: logging.WARNING,
    }

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: object, msg: str) -> None:
            level = levels.get(severity)
            if level is not None:
                listeners.tell(level, msg)
                # The caller raises errors as exceptions. In the log they are only details, so they are warnings there.
                logger.log(min(level, logging.WARNING), "TensorRT: %s", msg)

    return Logger()


@dataclass(frozen=True)
class PlanTensor:
    """An input or output of a plan. shape: -1 where it varies. dtype: numpy's; None for bfloat16, which numpy lacks."""

    name: str
    is_input: bool
    shape: tuple[int, ...]
    item_bytes: int
    dtype: type | None


class LoadedPlan:
    """A plan in the device's memory. tensors: its inputs and outputs by name. profiles: number of its profiles.

    kernels: what is compiled for this GPU when a portable plan is prepared, None for any other plan. Raises
    BackendFailed if TensorRT cannot load the plan.
    """

    def __init__(self, trt: ModuleType, device: Device, plan: Path, flavour: Flavour = TENSORRT) -> None:
        self._trt, self._device, self.plan, self._title = trt, device, plan, f"{flavour.title} {trt.__version__}"
        self.log = MessageLog(trt)
        try:
            self._runtime = trt.Runtime(self.log.logger)
            # Mapped, not read: on a Jetson, a copy in host memory takes memory away from the GPU.
            with plan.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                self._engine = self._runtime.deserialize_cuda_engine(content)
        except TypeError as exc:  # the bindings raise it if there is no usable driver
            raise BackendFailed(f"{self._title} does not start: {self.log.recent()}.") from exc
        if self._engine is None:
            raise BackendFailed(f"{self._title} cannot load {plan}: {self.log.recent()}.")
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self.tensors = {name: self._tensor(name) for name in names}
        self.profiles = int(self._engine.num_optimization_profiles)
        self.kernels = KernelCache(trt, self._engine, plan) if flavour.portable else None
        # All contexts of a plan take turns on one stream, so they can share its scratch memory.
        self._scratch = device.zeros((max(int(self._engine.device_memory_size_v2), 1),), 1)

    def max_shape(self, name: str, profile: int) -> tuple[int, ...]:
        """Returns the largest shape that an input can have in a profile."""
        return tuple(self._engine.get_tensor_profile_shape(name, profile)[2])

    def create_context(self, profile: int) -> Any:
        """Returns TensorRT's execution context for a profile. Raises BackendFailed if it cannot be made."""
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self.kernels is not None:
            context = self.kernels.create_context(strategy)
        else:
            context = self._engine.create_execution_context(strategy)
        if context is None:
            raise BackendFailed(f"{self._title} cannot prepare {self.plan.name}: {self.log.recent()}.")
        context.set_device_memory(self._scratch.address, self._scratch.nbytes)
        if profile and not context.set_optimization_profile_async(profile, self._device.stream):
            raise BackendFailed(f"{self.plan.name} has no profile {profile}: {self.log.recent()}.")
        return context

    def _tensor(self, name: str) -> PlanTensor:
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
                f"{self.plan.name}: {name} is {kind}, which this backend does not know: export the model again."
            )
        dtype, item_bytes = known[kind]
        is_input = self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
        return PlanTensor(name, is_input, tuple(self._engine.get_tensor_shape(name)), item_bytes, dtype)


class ExecutionContext:
    """Runs a plan with the shapes and addresses of the last `bind`. outputs: the arrays that a run writes, by name."""

    def __init__(self, device: Device, plan: LoadedPlan, profile: int) -> None:
        self._device, self._plan, self._context = device, plan, plan.create_context(profile)
        self._memory: dict[str, DeviceArray] = {}
        self.outputs: dict[str, DeviceArray] = {}
        self._runs, self._has_run = 0, False
        self._replay: Replay | None = None

    def bind(self, inputs: Mapping[str, DeviceArray]) -> None:
        """Sets the inputs and allocates the outputs. Raises BackendFailed for a shape that the plan cannot take."""
        self._runs, self._replay = 0, None
        for name, array in inputs.items():
            self._require(self._context.set_input_shape(name, array.shape), f"take {name} of shape {array.shape}")
            self._require(self._context.set_tensor_address(name, array.address), f"use {name}")
        missing = self._context.infer_shapes()
        self._require(not missing, f"run without {', '.join(missing)}")
        outputs = [tensor for tensor in self._plan.tensors.values() if not tensor.is_input]
        self.outputs = {tensor.name: self._output_array(tensor) for tensor in outputs}
        for name, array in self.outputs.items():
            self._require(self._context.set_tensor_address(name, array.address), f"write {name}")

    def run(self) -> None:
        """Puts one pass on the stream.

        The first pass after `bind` is a plain one. The second one is recorded, and from then on it is replayed, so that
        the CPU spends no time on single kernels.
        """
        self._runs += 1
        if self._replay is None and self._runs == 2:
            self._replay = self._record()
        if self._replay is not None:
            self._replay()
        elif self._has_run or self._plan.kernels is None:
            self._enqueue()
        else:
            self._run_first(self._plan.kernels)

    def _run_first(self, kernels: KernelCache) -> None:
        """Runs the plan for the first time, which compiles what preparing it has not, and keeps all of it."""
        began_s = time.monotonic()
        self._enqueue()
        self._device.synchronize()
        self._has_run = True
        kernels.keep(time.monotonic() - began_s)

    def _record(self) -> Replay | None:
        try:
            if self._plan.kernels is not None:
                self._plan.kernels.check_recordable(self._context, self._device.stream)
            return self._device.record(self._enqueue)
        except BackendFailed as exc:
            logger.warning("%s runs without a CUDA graph: %s", self._plan.plan.name, exc)
            return None

    def _enqueue(self) -> None:
        self._require(self._context.execute_async_v3(self._device.stream), "run")

    def _output_array(self, tensor: PlanTensor) -> DeviceArray:
        """Returns memory for an output. Memory of an earlier, larger output is used again."""
        shape = tuple(self._context.get_tensor_shape(tensor.name))
        memory = self._memory.get(tensor.name)
        if memory is None or memory.nbytes < math.prod(shape) * tensor.item_bytes:
            self._memory[tensor.name] = memory = self._device.zeros(shape, tensor.item_bytes)
        return memory.view(shape)

    def _require(self, success: bool, task: str) -> None:
        if not success:
            raise BackendFailed(f"{self._plan.plan.name} cannot {task}: {self._plan.log.recent()}.")


class StagingBuffers:
    """Pinned host memory for the arrays that go to a plan and come back from it in every call.

    The place of an input on the device stays the same from call to call, as recorded runs need.
    """

    def __init__(self, device: Device, plan: LoadedPlan, max_values: Mapping[str, int]) -> None:
        """max_values: the largest number of values of each tensor. Raises BackendFailed for a bfloat16 tensor."""
        self._device = device
        self._host: dict[str, np.ndarray] = {}
        self._inputs: dict[str, DeviceArray] = {}
        for name, count in max_values.items():
            tensor = plan.tensors[name]
            if tensor.dtype is None:
                raise BackendFailed(f"{plan.plan.name}: {name} is bfloat16, which numpy lacks: export it as fp32.")
            self._host[name] = device.pinned((count,), tensor.dtype)
            if tensor.is_input:
                self._inputs[name] = device.zeros((count,), tensor.item_bytes)

    def upload(self, name: str, values: np.ndarray) -> DeviceArray:
        """Sends an input. It arrives before anything that is put on the stream later. Raises BackendFailed if it is
        too large."""
        host = self._host[name]
        if values.size > host.size:
            raise BackendFailed(f"{name} has {values.size} values, the engine was built for at most {host.size}.")
        np.copyto(host[: values.size].reshape(values.shape), values, casting="same_kind")
        array = self.input_array(name, values.shape)
        self._device.upload(array, host[: values.size])
        return array

    def input_array(self, name: str, shape: Sequence[int]) -> DeviceArray:
        """Returns the device array to which an input of this shape is sent."""
        return self._inputs[name].view(shape)

    def download(self, name: str, source: DeviceArray) -> np.ndarray:
        """Starts to copy an output to the host. The array is valid from `synchronize` to the next download."""
        host = self._host[name][: math.prod(source.shape)].reshape(source.shape)
        self._device.download(host, source)
        return host
