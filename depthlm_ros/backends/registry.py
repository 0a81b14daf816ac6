"""The backends by name."""

from __future__ import annotations

from collections.abc import Callable

from depthlm_ros.backends.base import Backend
from depthlm_ros.backends.onnx_runtime import OnnxRuntimeBackend
from depthlm_ros.backends.torch_hf import TorchBackend
from depthlm_ros.bundle import Bundle
from depthlm_ros.errors import UnknownName

BACKENDS: dict[str, Callable[[Bundle, int], Backend]] = {
    OnnxRuntimeBackend.name: OnnxRuntimeBackend,
    TorchBackend.name: TorchBackend,
}
AUTO = "auto"


def check_backend_name(name: str) -> None:
    """Raises UnknownName listing the backends that exist."""
    if name != AUTO and name not in BACKENDS:
        raise UnknownName(f"backend {name!r} is not one of {', '.join([AUTO, *BACKENDS])}.")


def open_backend(name: str, bundle: Bundle, threads: int) -> Backend:
    """Loads a bundle's graphs; "auto" is ONNX Runtime, which runs everywhere."""
    check_backend_name(name)
    return BACKENDS[OnnxRuntimeBackend.name if name == AUTO else name](bundle, threads)
