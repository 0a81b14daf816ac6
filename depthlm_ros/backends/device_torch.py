"""A CUDA device over torch."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from depthlm_ros.backends.device_memory import DeviceArray, DeviceFacts, cuda_version, slots_of
from depthlm_ros.errors import BackendFailed, OutOfMemory


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
