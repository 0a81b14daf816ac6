"""The backends by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from depthlm_ros.backends.base import Backend
from depthlm_ros.backends.onnx_runtime import OnnxRuntimeBackend
from depthlm_ros.backends.tensorrt_engine import TensorRTBackend
from depthlm_ros.backends.torch_hf import TorchBackend
from depthlm_ros.bundle import Bundle
from depthlm_ros.checkpoint import Checkpoint
from depthlm_ros.errors import BackendFailed, UnknownName

if TYPE_CHECKING:
    from depthlm_ros.nets.backbone import Backbone

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

    def load(on_device: str) -> Backbone:
        if isinstance(source, Bundle):
            from depthlm_ros.nets.checkpoint import load_checkpoint

            return load_checkpoint(source.folder).eval().to(on_device)
        import torch

        from depthlm_ros.nets.released import load_released

        # A CPU is right, if slow, in single precision; half of it is for devices that compute in it.
        dtype = torch.float32 if on_device == "cpu" else getattr(torch, source.spec.dtype)
        return load_released(source.folder, source.spec, dtype, on_device)

    return TorchBackend(load, texts, threads, device)


def _best_for(source: Bundle | Checkpoint) -> str:
    if not isinstance(source, Bundle):
        return TorchBackend.name
    built = any(source.folder.glob("look_*.plan"))
    return TensorRTBackend.name if built else OnnxRuntimeBackend.name
