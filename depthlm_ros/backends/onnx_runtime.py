"""ONNX Runtime: the backend that runs everywhere, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm_ros.backends.base import Look, StepInput, StepOutput
from depthlm_ros.bundle import Bundle
from depthlm_ros.errors import BackendFailed, BadQuestion, OutOfMemory

if TYPE_CHECKING:
    import onnxruntime


@dataclass(frozen=True)
class HostCache:
    """Keys and values in host memory. prefix: (layers, 1, heads_kv, P, D); own: (layers, N, heads_kv, S, D)."""

    prefix: tuple[np.ndarray, np.ndarray]
    own: tuple[np.ndarray, np.ndarray]


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
        self._looks: dict[tuple[tuple[int, int], int], onnxruntime.InferenceSession] = {}

    def look(self, images: Sequence[np.ndarray]) -> Look:
        size_px, count = self._checked_size(images), len(images)
        if (size_px, count) not in self._looks:
            self._looks[size_px, count] = self._session(self._bundle.look_path(size_px, count))
        feeds = dict(zip(("image", "second"), images, strict=False))
        depth_m, keys, values = self._run(self._looks[size_px, count], feeds)
        return Look(depth_m, (keys, values), 1, keys.shape[3], self._bundle.next_position(size_px, count))

    def cache(self, look: Look, rows: int, slots: int) -> HostCache:
        layers, _, heads, _, size = look.prefix[0].shape
        try:
            own = np.zeros((2, layers, rows, heads, slots, size), np.float32)
        except MemoryError as exc:
            raise OutOfMemory(f"no memory for {slots} tokens of {rows} questions.") from exc
        return HostCache(look.prefix, (own[0], own[1]))

    def step(self, cache: HostCache, given: StepInput) -> StepOutput:
        # A first question has nothing of its own to look back on but one masked slot, which the graph needs.
        used = 1 if given.at == 0 else given.mask.shape[1]
        feeds = {
            "ids": given.ids,
            "positions": given.positions,
            "last": given.last,
            "prefix_keys": cache.prefix[0],
            "prefix_values": cache.prefix[1],
            "own_keys": np.ascontiguousarray(cache.own[0][:, :, :, :used]),
            "own_values": np.ascontiguousarray(cache.own[1][:, :, :, :used]),
            "own_mask": np.ascontiguousarray(given.mask[:, :used]),
        }
        logits, keys, values = self._run(self._step, feeds)
        slots = slice(given.at, given.at + keys.shape[3])
        cache.own[0][:, :, :, slots] = keys
        cache.own[1][:, :, :, slots] = values
        return most_probable(logits, given.watched)

    def _checked_size(self, images: Sequence[np.ndarray]) -> tuple[int, int]:
        """The images' size (width, height). Raises BadQuestion for images for which there is no graph."""
        if len(images) > 1 + self._bundle.pairs:
            most = "two images" if self._bundle.pairs else "one image"
            raise BadQuestion(f"{self._bundle.name} was exported for {most} at a time, not {len(images)}.")
        sizes = {(image.shape[2], image.shape[1]) for image in images}
        if len(sizes) > 1:
            raise BadQuestion(
                f"the two images come from cameras so different that the model sees them as {sorted(sizes)} pixels: "
                f"{self._bundle.name} takes two images of one size; use images of one camera."
            )
        return sizes.pop()

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
            kind = OutOfMemory if "alloc" in str(exc).lower() else BackendFailed
            raise kind(f"ONNX Runtime failed to run the model: {exc}") from exc


def most_probable(logits: np.ndarray, watched: np.ndarray) -> StepOutput:
    """The most probable token of each row of logits (N, V), and the log probabilities that StepOutput wants."""
    chosen = logits.argmax(-1)
    top = logits.max(-1)
    total = top + np.log(np.exp(logits - top[:, None]).sum(-1))
    return StepOutput(chosen, top - total, logits[:, watched] - total[:, None])
