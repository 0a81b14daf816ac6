# SPDX-License-Identifier: Apache-2.0
"""A CUDA device: memory, copies, one stream of work, and recorded work that is replayed (CUDA graphs).

`open_device` gives a Device over cuda-python (CudaPythonDevice) or torch (TorchDevice), whichever is installed; neither
is imported before. BufferPool keeps buffers that are expensive to allocate.

All work is ordered by the one stream: copies and recorded work take effect in the order of the calls, and a host array
can be read or used again only after `synchronize`.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import numpy as np

from depthlm_ros.errors import BackendFailed, OutOfMemory

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")
Buffer = TypeVar("Buffer")
Loan = TypeVar("Loan")

# Puts recorded work on the stream again.
Replay: TypeAlias = Callable[[], None]


@dataclass(frozen=True)
class DeviceFacts:
    """What a GPU is. sm: compute capability ("8.7"). driver: the newest CUDA that its driver runs ("CUDA 12.6")."""

    name: str
    sm: str
    driver: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """An array in C order on the device. address: of its first element. owner: the object that keeps the memory."""

    address: int
    shape: tuple[int, ...]
    item_bytes: int
    owner: object

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.item_bytes

    def view(self, shape: Sequence[int]) -> DeviceArray:
        """Returns the same memory from its beginning in another shape. Raises BackendFailed if the shape is larger."""
        view = DeviceArray(self.address, tuple(shape), self.item_bytes, self)
        if view.nbytes > self.nbytes:
            raise BackendFailed(f"{tuple(shape)} does not fit into {self.shape}.")
        return view


class Device(Protocol):
    """One CUDA device. Its methods raise BackendFailed, and OutOfMemory where memory is short."""

    stream: int

    def activate(self) -> None:
        """Makes this the current device. Must be called first on every thread that uses it."""
        ...

    def facts(self) -> DeviceFacts:
        """Returns the name, the versions and the memory of the device."""
        ...

    def zeros(self, shape: Sequence[int], item_bytes: int) -> DeviceArray:
        """Allocates an array of zeros."""
        ...

    def clear(self, array: DeviceArray) -> None:
        """Sets all elements to zero."""
        ...

    def pinned(self, shape: Sequence[int], dtype: type) -> np.ndarray:
        """Allocates a host array in page-locked memory, which is copied from and to the device directly."""
        ...

    def upload(self, target: DeviceArray, source: np.ndarray) -> None:
        """Copies a host array to the beginning of a device array."""
        ...

    def download(self, target: np.ndarray, source: DeviceArray) -> None:
        """Copies the beginning of a device array to a host array."""
        ...

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        """Copies a device array to another one of the same size."""
        ...

    def copy_slots(self, target: DeviceArray, source: DeviceArray, first_slot: int) -> None:
        """Copies source (..., T, D) into target[..., first_slot : first_slot + T, :] of (..., S, D)."""
        ...

    def record(self, work: Callable[[], None]) -> Replay:
        """Records what `work` puts on the stream, without running it, and returns the function that runs it."""
        ...

    def synchronize(self) -> None:
        """Waits until all work on the stream is done."""
        ...


def open_device(index: int = 0) -> Device:
    """Returns the device with this number. Raises BackendFailed if there is none, or no library that reaches it."""
    for device_class in (CudaPythonDevice, TorchDevice):
        with contextlib.suppress(ImportError):
            return device_class(index)
    raise BackendFailed(
        "backend tensorrt needs cuda-python or torch to reach the GPU, and neither is installed: "
        "pip install cuda-bindings (of the CUDA version of your driver)."
    )


def parse_device_index(name: str) -> int:
    """Returns the number of a device named "", "cuda" or "cuda:1". Raises BackendFailed for any other name."""
    kind, _, number = name.partition(":")
    if kind not in ("", "cuda") or (number and not number.isdigit()):
        raise BackendFailed(f"TensorRT cannot use device {name!r}: use cuda or cuda:1.")
    return int(number or 0)


class CudaPythonDevice:
    """A Device over cuda-python (cuda.bindings). Raises ImportError without it. Device documents the methods."""

    def __init__(self, index: int) -> None:
        from cuda.bindings import runtime

        self._cuda, self._index = runtime, index
        self.activate()
        self._stream = self._checked(runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking))
        self.stream = int(self._stream)

    def activate(self) -> None:
        self._checked(self._cuda.cudaSetDevice(self._index))

    def facts(self) -> DeviceFacts:
        properties = self._checked(self._cuda.cudaGetDeviceProperties(self._index))
        free_bytes, total_bytes = self._checked(self._cuda.cudaMemGetInfo())
        sm, driver = f"{properties.major}.{properties.minor}", self._checked(self._cuda.cudaDriverGetVersion())
        return DeviceFacts(properties.name.decode(), sm, _cuda_version(driver), free_bytes, total_bytes)

    def zeros(self, shape: Sequence[int], item_bytes: int) -> DeviceArray:
        address = int(self._checked(self._cuda.cudaMalloc(math.prod(shape) * item_bytes)))
        array = DeviceArray(address, tuple(shape), item_bytes, None)
        weakref.finalize(array, self._cuda.cudaFree, address)
        self.clear(array)
        return array

    def clear(self, array: DeviceArray) -> None:
        self._checked(self._cuda.cudaMemsetAsync(array.address, 0, array.nbytes, self._stream))

    def pinned(self, shape: Sequence[int], dtype: type) -> np.ndarray:
        count = math.prod(shape)
        size = count * np.dtype(dtype).itemsize
        address = int(self._checked(self._cuda.cudaHostAlloc(size, self._cuda.cudaHostAllocDefault)))
        raw = (ctypes.c_uint8 * size).from_address(address)
        weakref.finalize(raw, self._cuda.cudaFreeHost, address)
        return np.frombuffer(raw, dtype, count).reshape(shape)

    def upload(self, target: DeviceArray, source: np.ndarray) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(target.address, source.ctypes.data, source.nbytes, kind)

    def download(self, target: np.ndarray, source: DeviceArray) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(target.ctypes.data, source.address, target.nbytes, kind)

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._copy(target.address, source.address, source.nbytes, kind)

    def copy_slots(self, target: DeviceArray, source: DeviceArray, first_slot: int) -> None:
        rows, pitch, width, skip = _slot_layout(target, source, first_slot)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._checked(
            self._cuda.cudaMemcpy2DAsync(
                target.address + skip, pitch, source.address, width, width, rows, kind, self._stream
            )
        )

    def record(self, work: Callable[[], None]) -> Replay:
        # Other threads may allocate at the same time: only the calls of this thread belong to the recording.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._checked(self._cuda.cudaStreamBeginCapture(self._stream, mode))
        try:
            work()
        except BaseException:
            self._cuda.cudaStreamEndCapture(self._stream)
            raise
        graph = self._checked(self._cuda.cudaStreamEndCapture(self._stream))
        try:
            executable = self._checked(self._cuda.cudaGraphInstantiate(graph, 0))
        finally:
            self._cuda.cudaGraphDestroy(graph)

        def replay() -> None:
            self._checked(self._cuda.cudaGraphLaunch(executable, self._stream))

        weakref.finalize(replay, self._cuda.cudaGraphExecDestroy, executable)
        return replay

    def synchronize(self) -> None:
        self._checked(self._cuda.cudaStreamSynchronize(self._stream))

    def _copy(self, target: int, source: int, size: int, kind: object) -> None:
        self._checked(self._cuda.cudaMemcpyAsync(target, source, size, kind, self._stream))

    def _checked(self, result: tuple) -> Any:
        """Returns the values of a call without its status. Raises OutOfMemory or BackendFailed by the status."""
        status, *values = result
        if status == self._cuda.cudaError_t.cudaSuccess:
            return values[0] if len(values) == 1 else tuple(values)
        text = self._cuda.cudaGetErrorString(status)[1]
        error = OutOfMemory if status == self._cuda.cudaError_t.cudaErrorMemoryAllocation else BackendFailed
        raise error(f"CUDA device {self._index}: {text.decode() if isinstance(text, bytes) else status}.")


class TorchDevice:
    """A Device over torch. Raises ImportError without it. Device documents the methods."""

    def __init__(self, index: int) -> None:
        import torch

        self._torch, self._device = torch, torch.device("cuda", index)
        self._stream = self._call(lambda: torch.cuda.Stream(self._device))
        self.stream = int(self._stream.cuda_stream)

    def activate(self) -> None:
        self._call(lambda: self._torch.cuda.set_device(self._device))

    def facts(self) -> DeviceFacts:
        properties = self._torch.cuda.get_device_properties(self._device)
        free_bytes, total_bytes = self._torch.cuda.mem_get_info(self._device)
        sm = f"{properties.major}.{properties.minor}"
        return DeviceFacts(properties.name, sm, _driver_version(), free_bytes, total_bytes)

    def zeros(self, shape: Sequence[int], item_bytes: int) -> DeviceArray:
        size = math.prod(shape) * item_bytes
        # Allocated on this stream, so that the freed memory comes back to it in order.
        memory = self._call_on_stream(lambda: self._torch.zeros(size, dtype=self._torch.uint8, device=self._device))
        return DeviceArray(memory.data_ptr(), tuple(shape), item_bytes, memory)

    def clear(self, array: DeviceArray) -> None:
        self._call_on_stream(lambda: self._bytes(array).zero_())

    def pinned(self, shape: Sequence[int], dtype: type) -> np.ndarray:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        memory = self._call(lambda: self._torch.empty(size, dtype=self._torch.uint8, pin_memory=True))
        return memory.numpy().view(dtype).reshape(shape)

    def upload(self, target: DeviceArray, source: np.ndarray) -> None:
        host = self._torch.from_numpy(source.reshape(-1).view(np.uint8))
        self._call_on_stream(lambda: self._bytes(target)[: source.nbytes].copy_(host, non_blocking=True))

    def download(self, target: np.ndarray, source: DeviceArray) -> None:
        host = self._torch.from_numpy(target.reshape(-1).view(np.uint8))
        self._call_on_stream(lambda: host.copy_(self._bytes(source)[: target.nbytes], non_blocking=True))

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        self._call_on_stream(lambda: self._bytes(target)[: source.nbytes].copy_(self._bytes(source)))

    def copy_slots(self, target: DeviceArray, source: DeviceArray, first_slot: int) -> None:
        rows, pitch, width, skip = _slot_layout(target, source, first_slot)
        slots = self._bytes(target).view(rows, pitch)[:, skip : skip + width]
        self._call_on_stream(lambda: slots.copy_(self._bytes(source).view(rows, width)))

    def record(self, work: Callable[[], None]) -> Replay:
        graph = self._torch.cuda.CUDAGraph()

        def capture() -> None:
            with self._torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                work()

        self._call(capture)
        return lambda: self._call_on_stream(graph.replay)

    def synchronize(self) -> None:
        self._call(self._stream.synchronize)

    def _bytes(self, array: DeviceArray) -> torch.Tensor:
        """Returns an array as a tensor of bytes. The owner of a view is the array that it is a view of."""
        owner = array.owner
        while isinstance(owner, DeviceArray):
            owner = owner.owner
        assert isinstance(owner, self._torch.Tensor), "the array belongs to another kind of device"
        return owner[: array.nbytes]

    def _call_on_stream(self, call: Callable[[], Result]) -> Result:
        with self._torch.cuda.stream(self._stream):
            return self._call(call)

    def _call(self, call: Callable[[], Result]) -> Result:
        """Calls a function of torch, and raises its errors as OutOfMemory or BackendFailed."""
        try:
            return call()
        except self._torch.cuda.OutOfMemoryError as exc:
            raise OutOfMemory(f"{self._device}: {exc}") from exc
        except (RuntimeError, AssertionError) as exc:  # torch without CUDA raises AssertionError
            if isinstance(exc, BackendFailed):
                raise
            raise BackendFailed(f"{self._device}: {exc}") from exc


class BufferPool:
    """Buffers that are expensive to allocate, used again and again. A buffer comes back when its loan is garbage."""

    def __init__(self) -> None:
        self._free: dict[Hashable, list[Any]] = {}

    def lend(self, key: Hashable, allocate: Callable[[], Buffer], as_loan: Callable[[Buffer], Loan]) -> Loan:
        """Returns as_loan(buffer) for a free buffer of this key, or for a new one.

        If there is not enough memory for a new buffer, all free ones are released first. Raises OutOfMemory.
        """
        free = self._free.setdefault(key, [])
        buffer = free.pop() if free else self._allocate(allocate)
        loan = as_loan(buffer)
        weakref.finalize(loan, free.append, buffer)
        return loan

    def _allocate(self, allocate: Callable[[], Buffer]) -> Buffer:
        try:
            return allocate()
        except OutOfMemory:
            for free in self._free.values():
                free.clear()
            return allocate()


def _slot_layout(target: DeviceArray, source: DeviceArray, first_slot: int) -> tuple[int, int, int, int]:
    """Returns (rows, bytes from row to row of target, bytes of a row of source, bytes to skip in a row of target).

    Raises BackendFailed if the slots of source do not fit into those of target.
    """
    *outer, slots, size = target.shape
    *source_outer, count, source_size = source.shape
    fits = outer == source_outer and size == source_size and target.item_bytes == source.item_bytes
    if not fits or not 0 <= first_slot <= first_slot + count <= slots:
        raise BackendFailed(f"{source.shape} at slot {first_slot} does not fit into {target.shape}.")
    slot_bytes = size * target.item_bytes
    return math.prod(outer), slots * slot_bytes, count * slot_bytes, first_slot * slot_bytes


def _cuda_version(number: int) -> str:
    """Returns "CUDA 12.6" for 12060."""
    return f"CUDA {number // 1000}.{number % 1000 // 10}"


def _driver_version() -> str:
    """Returns the newest CUDA that the driver runs, which torch does not say."""
    version = ctypes.c_int(0)
    status = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    if status:
        raise BackendFailed(f"the NVIDIA driver does not report its version (error {status}): reinstall it.")
    return _cuda_version(version.value)
