"""Memory of a CUDA device, one stream of work on it and recorded work, over cuda-python or torch: whichever is there.

Everything is ordered by the one stream: copies and recorded work take effect in the order of the calls, and a host
array may be read or reused only after `synchronize`.
"""

from __future__ import annotations

import contextlib
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
    from depthlm_ros.backends.device_cuda import CudaDevice
    from depthlm_ros.backends.device_torch import TorchDevice

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
