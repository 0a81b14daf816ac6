"""A CUDA device over cuda-python (cuda.bindings)."""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from depthlm_ros.backends.device_memory import DeviceArray, DeviceFacts, cuda_version, slots_of
from depthlm_ros.errors import BackendFailed, OutOfMemory


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
