# SPDX-License-Identifier: Apache-2.0
"""The backends by name: which exist, which one runs a model if none is named, and the memory that it takes."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TypeAlias

from depthlm_ros.backends.base import Backend
from depthlm_ros.backends.depth_network import DepthNetworkBackend
from depthlm_ros.backends.onnx_runtime import OnnxRuntimeBackend
from depthlm_ros.backends.tensorrt.backend import TensorRTBackend
from depthlm_ros.backends.torch_backend import TorchBackend, backbone_loader
from depthlm_ros.errors import BackendFailed, UnknownName
from depthlm_ros.model_files.bundle import ModelBundle
from depthlm_ros.model_files.checkpoint import ModelSource, ReleasedCheckpoint
from depthlm_ros.model_files.depth_network import DepthNetwork

logger = logging.getLogger(__name__)

BACKENDS = (OnnxRuntimeBackend.name, TensorRTBackend.name, TorchBackend.name)
AUTO = "auto"

# Token ids before, between and after the images of a prompt.
PromptTexts: TypeAlias = tuple[Sequence[int], Sequence[int], Sequence[int]]


def check_backend_name(name: str) -> None:
    """Raises UnknownName, with the names that exist, for any other name."""
    if name != AUTO and name not in BACKENDS:
        raise UnknownName(f"backend {name!r} is not one of {', '.join([AUTO, *BACKENDS])}.")


def open_backend(name: str, source: ModelSource, texts: PromptTexts, threads: int = 0, device: str = "") -> Backend:
    """Loads a model into the backend `name`.

    "auto" is TensorRT for a bundle with TensorRT plans, ONNX Runtime for any other bundle and for a network for depth,
    and torch for a checkpoint.
    texts: token ids before, between and after the images of a prompt. device: "" for the best one that there is.
    Raises UnknownName, BackendFailed, and BadBundle (BadPlans) for plans that this machine cannot use.
    """
    check_backend_name(name)
    if name == AUTO:
        name = best_backend(source)
    if isinstance(source, DepthNetwork):
        return _open_network(name, source, threads, device)
    if name == TorchBackend.name:
        return TorchBackend(backbone_loader(source), texts, threads, device)
    if not isinstance(source, ModelBundle):
        raise BackendFailed(
            f"{source.spec.name} in {source.folder} is a checkpoint, which {name} cannot run as it is: use "
            "backend torch, or export it (depthlm engine build)."
        )
    if name == TensorRTBackend.name:
        if source.spec.generation.repetition_penalty != 1.0:
            penalty = source.spec.generation.repetition_penalty
            logger.warning("%s: TensorRT plans do not apply the repetition penalty of %g", source.name, penalty)
        return TensorRTBackend(source, device)
    return OnnxRuntimeBackend(source, threads, device)


def _open_network(name: str, network: DepthNetwork, threads: int, device: str) -> Backend:
    if name != OnnxRuntimeBackend.name:
        raise BackendFailed(
            f"{network.spec.name} in {network.folder} is an ONNX file, which {name} cannot run as it is: use backend "
            "onnxruntime, or build an engine for your camera (depthlm engine build --backend tensorrt)."
        )
    return DepthNetworkBackend(network, threads, device)


def best_backend(source: ModelSource) -> str:
    """Returns the backend that "auto" is for a model."""
    if isinstance(source, DepthNetwork):
        return OnnxRuntimeBackend.name
    if not isinstance(source, ModelBundle):
        return TorchBackend.name
    has_plans = any(source.folder.glob("look_*.plan"))
    return TensorRTBackend.name if has_plans else OnnxRuntimeBackend.name


def memory_bytes(source: ModelSource, backend: Backend) -> int:
    """Returns how many bytes the weights of a loaded model take. (On a CPU, torch computes in float32.)"""
    if not isinstance(source, ReleasedCheckpoint):
        return sum(path.stat().st_size for path in source.folder.iterdir() if path.is_file())
    on_cpu = isinstance(backend, TorchBackend) and backend.device == "cpu"
    tensors = source.weights.tensors.values()
    return sum(4 * math.prod(each.shape) if on_cpu else each.end - each.begin for each in tensors)
