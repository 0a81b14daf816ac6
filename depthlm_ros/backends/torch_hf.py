"""The reference backend: the same weights in torch and transformers. For export, parity tests and development."""

from __future__ import annotations

import numpy as np

from depthlm_ros.backends.base import Look, StepInput, StepOutput
from depthlm_ros.bundle import Bundle
from depthlm_ros.errors import BackendFailed


class TorchBackend:
    """A bundle's checkpoint as torch modules (extra [torch])."""

    name = "torch"

    def __init__(self, bundle: Bundle, threads: int = 0) -> None:
        try:
            import torch

            from depthlm_ros.nets.checkpoint import load_checkpoint
            from depthlm_ros.nets.graphs import LookGraph, StepGraph
        except ImportError as exc:
            raise BackendFailed(
                f"backend torch needs torch, transformers and safetensors ({exc}): pip install 'depthlm_ros[torch]', "
                "or use backend onnxruntime."
            ) from exc
        if threads:
            torch.set_num_threads(threads)
        self._torch, self._bundle, self._look_graph = torch, bundle, LookGraph
        self._model = load_checkpoint(bundle.folder).eval()
        self._step = StepGraph(self._model).eval()
        self._looks: dict[tuple[int, int], LookGraph] = {}

    def look(self, image: np.ndarray) -> Look:
        size_px = (image.shape[1], image.shape[0])
        if size_px not in self._looks:
            before, after = list(self._bundle.before), list(self._bundle.after)
            self._looks[size_px] = self._look_graph(self._model, before, after, size_px).eval()
        with self._torch.inference_mode():
            depth_m, keys, values = self._looks[size_px](self._torch.from_numpy(image[None]))
        return Look(depth_m[0].numpy(), keys.numpy(), values.numpy(), self._bundle.next_position(size_px))

    def step(self, given: StepInput) -> StepOutput:
        tensors = (self._torch.from_numpy(getattr(given, name)) for name in given.__dataclass_fields__)
        with self._torch.inference_mode():
            return StepOutput(*(output.numpy() for output in self._step(*tensors)))
