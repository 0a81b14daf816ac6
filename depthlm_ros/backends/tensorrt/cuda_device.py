"""Memory of a CUDA device, one stream of work on it and recorded work, over cuda-python or torch: whichever is there.

Everything is ordered by the one stream: copies and recorded work take effect in the order of the calls, and a host
array may be read or reused only after `synchronize`.

A CUDA device over cuda-python (cuda.bindings).

A CUDA device over torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from depthlm_ros.errors import BackendFailed, OutOfMemory

Thing = TypeVar("Thing")
User = TypeVar("User")


@dataclass(frozen=True)
class DeviceFacts:
    """sm: compute capability ("8.7"). driver: the newest CUDA it runs ("CUDA 12.6")."""

    name: str
    sm: str
    driver: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """A C-ordered array on the device. address: of its first element. owner: keeps the memory."""

    address: int
    shape: tuple[int, ...]
    item_bytes: int
    owner: Any

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.item_bytes

    def view(self, shape: Sequence[int]) -> DeviceArray:
        """The same memory from its beginning, in a shape that needs no more of it."""
        seen = DeviceArray(self.address, tuple(shape), self.item_bytes, self)
        if seen.nbytes > self.nbytes:
            raise BackendFailed(f"{tuple(shape)} does not fit into {self.shape}.")
        return seen


class Device(Protocol):
    """One CUDA device. Errors are BackendFailed, OutOfMemory where memory is short."""

    stream: int

    def activate(self) -> None:
        """To be called first on every thread that uses the device."""
        ...

    def facts(self) -> DeviceFacts: ...

    def zeros(self, shape: Sequence[int], item_bytes: int) -> DeviceArray: ...

    def clear(self, array: DeviceArray) -> None:
        """Sets it to zeros."""
        ...

    def pinned(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """A host array that is copied from and to the device without a detour."""
        ...

    def upload(self, to: DeviceArray, source: np.ndarray) -> None: ...

    def download(self, to: np.ndarray, source: DeviceArray) -> None: ...

    def copy(self, to: DeviceArray, source: DeviceArray) -> None:
        """All of it; both have the same size."""
        ...

    def copy_slots(self, to: DeviceArray, source: DeviceArray, at: int) -> None:
        """source (..., T, D) into to[..., at : at + T, :] of (..., S, D)."""
        ...

    def record(self, work: Callable[[], None]) -> Any:
        """What `work` puts on the stream, to be replayed; it is not run now."""
        ...

    def replay(self, recorded: Any) -> None: ...

    def synchronize(self) -> None:
        """Waits until all work on the stream is done."""
        ...


def open_device(index: int = 0) -> Device:
    """The device of this number. Raises BackendFailed if there is none, or no library to reach it."""

    for kind in (CudaDevice, TorchDevice):
        with contextlib.suppress(ImportError):
            return kind(index)
    raise BackendFailed(
        "backend tensorrt needs cuda-python or torch to reach the GPU, and neither is installed: "
        "pip install cuda-bindings (of the CUDA version of your driver)."
    )


def device_index(name: str) -> int:
    """Number of a device named "", "cuda" or "cuda:1". Raises BackendFailed for any other name."""
    kind, _, number = name.partition(":")
    if kind not in ("", "cuda") or (number and not number.isdigit()):
        raise BackendFailed(f"device {name!r} is no GPU that TensorRT can use: say cuda or cuda:1.")
    return int(number or 0)


def cuda_version(number: int) -> str:
    """12060 -> "CUDA 12.6"."""
    return f"CUDA {number // 1000}.{number % 1000 // 10}"


class Pool:
    """Costly things that are used for a while and then again. What is lent comes back when its user is gone."""

    def __init__(self) -> None:
        self._free: dict[Hashable, list[Any]] = {}

    def lend(self, key: Hashable, make: Callable[[], Thing], user_of: Callable[[Thing], User]) -> User:
        """A user of a free thing of this key, or of a new one. If there is no memory, what is free is given up."""
        free = self._free.setdefault(key, [])
        thing = free.pop() if free else self._made(make)
        user = user_of(thing)
        weakref.finalize(user, free.append, thing)
        return user

    def _made(self, make: Callable[[], Thing]) -> Thing:
        try:
            return make()
        except OutOfMemory:
            for free in self._free.values():
                free.clear()
            return make()


def slots_of(to: DeviceArray, source: DeviceArray, at: int) -> tuple[int, int, int, int]:
    """(rows, bytes from row to row of `to`, bytes of a row of `source`, bytes to skip in each row of `to`)."""
    *outer, slots, size = to.shape
    *source_outer, count, source_size = source.shape
    fits = outer == source_outer and size == source_size and to.item_bytes == source.item_bytes
    if not fits or not 0 <= at <= at + count <= slots:
        raise BackendFailed(f"{source.shape} at {at} does not fit into {to.shape}.")
    slot_bytes = size * to.item_bytes
    return math.prod(outer), slots * slot_bytes, count * slot_bytes, at * slot_bytes


class CudaDevice:
    """As device_memory.Device tells."""

    def __init__(self, index: int) -> None:
        from cuda.bindings import runtime

        self._cuda, self._index = runtime, index
        self.activate()
        self._stream = self._done(runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking))
        self.stream = int(self._stream)

    def activate(self) -> None:
        self._done(self._cuda.cudaSetDevice(self._index))

    def facts(self) -> DeviceFacts:
        properties = self._done(self._cuda.cudaGetDeviceProperties(self._index))
        free_bytes, total_bytes = self._done(self._cuda.cudaMemGetInfo())
        sm, driver = f"{properties.major}.{properties.minor}", self._done(self._cuda.cudaDriverGetVersion())
        return DeviceFacts(properties.name.decode(), sm, cuda_version(driver), free_bytes, total_bytes)

    def zeros(self, shape: Sequence[int], item_bytes: int) -> DeviceArray:
        address = int(self._done(self._cuda.cudaMalloc(math.prod(shape) * item_bytes)))
        array = DeviceArray(address, tuple(shape), item_bytes, None)
        weakref.finalize(array, self._cuda.cudaFree, address)
        self.clear(array)
        return array

    def clear(self, array: DeviceArray) -> None:
        self._done(self._cuda.cudaMemsetAsync(array.address, 0, array.nbytes, self._stream))

    def pinned(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        count = math.prod(shape)
        size = count * np.dtype(dtype).itemsize
        address = int(self._done(self._cuda.cudaHostAlloc(size, self._cuda.cudaHostAllocDefault)))
        raw = (ctypes.c_uint8 * size).from_address(address)
        weakref.finalize(raw, self._cuda.cudaFreeHost, address)
        return np.frombuffer(raw, dtype, count).reshape(shape)

    def upload(self, to: DeviceArray, source: np.ndarray) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(to.address, source.ctypes.data, source.nbytes, kind)

    def download(self, to: np.ndarray, source: DeviceArray) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(to.ctypes.data, source.address, to.nbytes, kind)

    def copy(self, to: DeviceArray, source: DeviceArray) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._copy(to.address, source.address, source.nbytes, kind)

    def copy_slots(self, to: DeviceArray, source: DeviceArray, at: int) -> None:
        rows, pitch, width, skip = slots_of(to, source, at)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._done(
            self._cuda.cudaMemcpy2DAsync(
                to.address + skip, pitch, source.address, width, width, rows, kind, self._stream
            )
        )

    def record(self, work: Callable[[], None]) -> Any:
        # Other threads may allocate meanwhile; only this thread's calls belong to the recording.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._done(self._cuda.cudaStreamBeginCapture(self._stream, mode))
        try:
            work()
        except BaseException:
            self._cuda.cudaStreamEndCapture(self._stream)
            raise
        graph = self._done(self._cuda.cudaStreamEndCapture(self._stream))
        try:
            recorded = self._done(self._cuda.cudaGraphInstantiate(graph, 0))
        finally:
            self._cuda.cudaGraphDestroy(graph)
        return _Recorded(recorded, self._cuda.cudaGraphExecDestroy)

    def replay(self, recorded: Any) -> None:
        self._done(self._cuda.cudaGraphLaunch(recorded.handle, self._stream))

    def synchronize(self) -> None:
        self._done(self._cuda.cudaStreamSynchronize(self._stream))

    def _copy(self, to: int, source: int, size: int, kind: Any) -> None:
        self._done(self._cuda.cudaMemcpyAsync(to, source, size, kind, self._stream))

    def _done(self, result: tuple) -> Any:
        """What a call returned besides its status. Raises for a status that is no success."""
        status, *values = result
        if status == self._cuda.cudaError_t.cudaSuccess:
            return values[0] if len(values) == 1 else tuple(values)
        text = self._cuda.cudaGetErrorString(status)[1]
        kind = OutOfMemory if status == self._cuda.cudaError_t.cudaErrorMemoryAllocation else BackendFailed
        raise kind(f"CUDA device {self._index}: {text.decode() if isinstance(text, bytes) else status}.")


class _Recorded:
    """A recorded graph, destroyed with this object."""

    def __init__(self, handle: Any, destroy: Callable[[Any], Any]) -> None:
        self.handle = handle
        weakref.finalize(self, destroy, handle)


class TorchDevice:
    """As device_memory.Device tells."""

    def __init__(self, index: int) -> None:
        import torch

        self._torch, self._device = torch, torch.device("cuda", index)
        self._stream = self._mapped(lambda: torch.cuda.Stream(self._device))
        self.stream = int(self._stream.cuda_stream)

    def activate(self) -> None:
        self._mapped(lambda: self._torch.cuda.set_device(self._device))

    def facts(self) -> DeviceFacts:
        properties = self._torch.cuda.get_device_properties(self._device)
        free_bytes, total_bytes = self._torch.cuda.mem_get_info(self._device)
        sm = f"{properties.major}.{properties.minor}"
        return DeviceFacts(properties.name, sm, _driver(), free_bytes, total_bytes)

    def zeros(self, shape: Sequence[int], item_bytes: int) -> DeviceArray:
        size = math.prod(shape) * item_bytes
        # On this stream, so that the memory comes back to it in order.
        bytes_ = self._ordered(lambda: self._torch.zeros(size, dtype=self._torch.uint8, device=self._device))
        return DeviceArray(bytes_.data_ptr(), tuple(shape), item_bytes, bytes_)

    def clear(self, array: DeviceArray) -> None:
        self._ordered(lambda: _bytes(array).zero_())

    def pinned(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        bytes_ = self._mapped(lambda: self._torch.empty(size, dtype=self._torch.uint8, pin_memory=True))
        return bytes_.numpy().view(dtype).reshape(shape)

    def upload(self, to: DeviceArray, source: np.ndarray) -> None:
        bytes_ = self._torch.from_numpy(source.reshape(-1).view(np.uint8))
        self._ordered(lambda: _bytes(to)[: source.nbytes].copy_(bytes_, non_blocking=True))

    def download(self, to: np.ndarray, source: DeviceArray) -> None:
        bytes_ = self._torch.from_numpy(to.reshape(-1).view(np.uint8))
        self._ordered(lambda: bytes_.copy_(_bytes(source)[: to.nbytes], non_blocking=True))

    def copy(self, to: DeviceArray, source: DeviceArray) -> None:
        self._ordered(lambda: _bytes(to)[: source.nbytes].copy_(_bytes(source)))

    def copy_slots(self, to: DeviceArray, source: DeviceArray, at: int) -> None:
        rows, pitch, width, skip = slots_of(to, source, at)
        into = _bytes(to).view(rows, pitch)[:, skip : skip + width]
        self._ordered(lambda: into.copy_(_bytes(source).view(rows, width)))

    def record(self, work: Callable[[], None]) -> Any:
        graph = self._torch.cuda.CUDAGraph()

        def recorded() -> Any:
            with self._torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                work()
            return graph

        return self._mapped(recorded)

    def replay(self, recorded: Any) -> None:
        self._ordered(recorded.replay)

    def synchronize(self) -> None:
        self._mapped(self._stream.synchronize)

    def _ordered(self, call: Callable[[], Any]) -> Any:
        with self._torch.cuda.stream(self._stream):
            return self._mapped(call)

    def _mapped(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except self._torch.cuda.OutOfMemoryError as exc:
            raise OutOfMemory(f"{self._device}: {exc}") from exc
        except (RuntimeError, AssertionError) as exc:  # torch without CUDA asserts
            if isinstance(exc, BackendFailed):
                raise
            raise BackendFailed(f"{self._device}: {exc}") from exc


def _bytes(array: DeviceArray) -> Any:
    """An array as a torch tensor of bytes; the owner of a view is the array it is a view of."""
    owner = array.owner
    while isinstance(owner, DeviceArray):
        owner = owner.owner
    return owner[: array.nbytes]


def _driver() -> str:
    """torch does not tell what the driver runs."""
    version = ctypes.c_int(0)
    status = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    if status:
        raise BackendFailed(f"the NVIDIA driver does not tell its version (error {status}): reinstall it.")
    return cuda_version(version.value)
