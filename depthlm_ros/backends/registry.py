"""The backends by name."""

from __future__ import annotations

from collections.abc import Sequence

from depthlm_ros.backends.base import Backend
from depthlm_ros.backends.onnx_runtime import OnnxRuntimeBackend
from depthlm_ros.backends.tensorrt.backend import TensorRTBackend
from depthlm_ros.backends.torch_backend import TorchBackend, loader
from depthlm_ros.errors import BackendFailed, UnknownName
from depthlm_ros.model_files.bundle import Bundle
from depthlm_ros.model_files.checkpoint import Checkpoint

BACKENDS = (OnnxRuntimeBackend.name, TensorRTBackend.name, TorchBackend.name)
AUTO = "auto"

Texts = tuple[Sequence[int], Sequence[int], Sequence[int]]


def check_backend_name(name: str) -> None:
    """Raises UnknownName listing the backends that exist."""
    if name != AUTO and name not in BACKENDS:
        raise UnknownName(f"backend {name!r} is not one of {', '.join([AUTO, *BACKENDS])}.")


def open_backend(name: str, source: Bundle | Checkpoint, texts: Texts, threads: int = 0, device: str = "") -> Backend:
    """Loads a model. "auto" is TensorRT where plans were built beside the graphs, ONNX Runtime for what was exported,
    torch for a checkpoint.

    texts: token ids before, between and after the images of a prompt. device: "" for the best there is.
    """
    check_backend_name(name)
    if name == AUTO:
        name = _best_for(source)
    if name != TorchBackend.name:
        if not isinstance(source, Bundle):
            raise BackendFailed(
                f"{source.spec.name} in {source.folder} is a checkpoint, which {name} cannot run as it is: use "
                "backend torch, or export it (depthlm engine build)."
            )
        if name == TensorRTBackend.name:
            return TensorRTBackend(source, device)
        return OnnxRuntimeBackend(source, threads, device)

    return TorchBackend(loader(source), texts, threads, device)


def _best_for(source: Bundle | Checkpoint) -> str:
    if not isinstance(source, Bundle):
        return TorchBackend.name
    built = any(source.folder.glob("look_*.plan"))
    return TensorRTBackend.name if built else OnnxRuntimeBackend.name
