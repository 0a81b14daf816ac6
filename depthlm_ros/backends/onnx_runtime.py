"""ONNX Runtime: the backend that runs everywhere, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm_ros.backends.base import Look, StepInput, StepOutput
from depthlm_ros.bundle import Bundle
from depthlm_ros.errors import BackendFailed

if TYPE_CHECKING:
    import onnxruntime


class OnnxRuntimeBackend:
    """A bundle's graphs as ONNX Runtime sessions on the CPU.

    threads: 0 lets ONNX Runtime take every core. A canvas's graph is loaded when it is first looked at.
    """

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, threads: int = 0) -> None:
        try:
            import onnxruntime
        except ImportError as exc:
            raise BackendFailed("backend onnxruntime is not installed: pip install onnxruntime") from exc
        self._runtime = onnxruntime
        self._bundle, self._threads = bundle, threads
        self._step = self._session(bundle.step_path)
        self._looks: dict[tuple[int, int], onnxruntime.InferenceSession] = {}

    def look(self, image: np.ndarray) -> Look:
        size_px = (image.shape[1], image.shape[0])
        if size_px not in self._looks:
            self._looks[size_px] = self._session(self._bundle.look_path(size_px))
        depth_m, keys, values = self._run(self._looks[size_px], {"image": image[None]})
        return Look(depth_m[0], keys, values, self._bundle.next_position(size_px))

    def step(self, given: StepInput) -> StepOutput:
        return StepOutput(*self._run(self._step, {name: getattr(given, name) for name in given.__dataclass_fields__}))

    def _session(self, path: Path) -> onnxruntime.InferenceSession:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self._threads
        # Spinning threads would take the cores from the node's own work between frames.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return self._runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # ONNX Runtime raises its own types, one per failure kind
            raise BackendFailed(f"ONNX Runtime {self._runtime.__version__} cannot load {path}: {exc}") from exc

    def _run(self, session: onnxruntime.InferenceSession, feeds: dict[str, np.ndarray]) -> list[Any]:
        try:
            return session.run(None, feeds)
        except Exception as exc:  # as above
            raise BackendFailed(f"ONNX Runtime failed to run the model: {exc}") from exc
