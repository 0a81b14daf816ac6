"""ONNX Runtime: the backend that runs everywhere, without torch.

What a look leaves behind stays where ONNX Runtime put it (host or GPU) and is fed back from there uncopied. Keys and
values of the text are kept on the host in buffers of fixed size, which ONNX Runtime reads in place on a CPU.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from depthlm_ros.backends.base import Look, StepInput, StepOutput, checked_size
from depthlm_ros.errors import BackendFailed, BadQuestion, OutOfMemory
from depthlm_ros.model_files.bundle import Bundle

if TYPE_CHECKING:
    import onnxruntime

logger = logging.getLogger(__name__)

CPU, CUDA = "cpu", "cuda"
PROVIDERS = {CPU: "CPUExecutionProvider", CUDA: "CUDAExecutionProvider"}
# Precision of a bundle's backbone -> that of its keys and values. numpy has no bfloat16.
KEPT_AS = {"fp32": np.float32, "fp16": np.float16, "int8": np.float32}


@dataclass(frozen=True)
class HostCache:
    """prefix: keys and values (layers, 1, heads_kv, P, D), ONNX Runtime's own. own: the same of the rows' text, numpy,
    (layers, N, heads_kv, S, D); none: one slot of them, which is never valid."""

    prefix: tuple[onnxruntime.OrtValue, onnxruntime.OrtValue]
    own: tuple[np.ndarray, np.ndarray]
    none: np.ndarray


class OnnxRuntimeBackend:
    """A bundle's graphs as ONNX Runtime sessions.

    threads: 0 lets ONNX Runtime take every core. device: "cpu", "cuda", "cuda:1", or "" for the best that this ONNX
    Runtime offers. A canvas's graph is loaded when it is first looked at.
    """

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, threads: int = 0, device: str = "") -> None:
        try:
            import onnxruntime
        except ImportError as exc:
            raise BackendFailed("backend onnxruntime is not installed: pip install onnxruntime") from exc
        self._runtime = onnxruntime
        self._bundle, self._threads = bundle, threads
        self._asked = device
        self.device, self._index = chosen_device(device, onnxruntime.get_available_providers())
        if bundle.precision not in KEPT_AS:
            raise BackendFailed(
                f"{bundle.name} was built in {bundle.precision}, which ONNX Runtime does not run here: build it with "
                "--precision fp32 (CPU) or fp16 (CUDA), or use backend tensorrt."
            )
        self._step = None if bundle.only_depth else self._session(bundle.step_path)
        self._looks: dict[tuple[tuple[int, int], int], onnxruntime.InferenceSession] = {}

    def look(self, images: Sequence[np.ndarray]) -> Look:
        size_px, count = checked_size(self._bundle, images), len(images)
        if (size_px, count) not in self._looks:
            self._looks[size_px, count] = self._session(self._bundle.look_path(size_px, count))
        feeds = {name: self._given(image) for name, image in zip(("image", "second"), images, strict=False)}
        outputs = self._run(self._looks[size_px, count], feeds)
        depth_m = outputs["depth_m"].numpy() if "depth_m" in outputs else None
        prefix = (outputs["keys"], outputs["values"]) if "keys" in outputs else None
        length = prefix[0].shape()[3] if prefix else 0
        return Look(depth_m, prefix, 1, length, self._bundle.next_position(size_px, count))

    def cache(self, look: Look, rows: int, slots: int) -> HostCache:
        if look.prefix is None:
            raise BadQuestion(f"{self._bundle.name} was built for depth only: build it without --depth-only to ask.")
        layers, _, heads, _, size = look.prefix[0].shape()
        dtype = KEPT_AS[self._bundle.precision]
        try:
            own = np.zeros((2, layers, rows, heads, slots, size), dtype)
            none = np.zeros((layers, rows, heads, 1, size), dtype)
        except MemoryError as exc:
            raise OutOfMemory(f"no memory for {slots} tokens of {rows} questions.") from exc
        return HostCache(look.prefix, (own[0], own[1]), none)

    def step(self, cache: HostCache, given: StepInput) -> StepOutput:
        # A first question has nothing of its own to look back on but one masked slot, which the graph needs. Later,
        # all slots are given, the masked ones too: to leave them out would copy the others, which costs more.
        first = given.at == 0
        own_keys, own_values = (cache.none, cache.none) if first else cache.own
        feeds = {
            "ids": given.ids,
            "positions": given.positions,
            "last": given.last,
            "own_keys": own_keys,
            "own_values": own_values,
            "own_mask": np.ascontiguousarray(given.mask[:, :1]) if first else given.mask,
        }
        prefix = {"prefix_keys": cache.prefix[0], "prefix_values": cache.prefix[1]}
        outputs = self._run(self._step, {name: self._given(array) for name, array in feeds.items()} | prefix)
        slots = slice(given.at, given.at + given.ids.shape[1])
        for own, name in zip(cache.own, ("keys", "values"), strict=True):
            own[:, :, :, slots] = outputs[name].numpy()
        return most_probable(outputs["logits"].numpy(), given.watched)

    def _session(self, path: Path) -> onnxruntime.InferenceSession:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self._threads
        # Spinning threads would take the cores from the node's own work between frames.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        wanted = PROVIDERS[self.device]
        gpu = [(wanted, {"device_id": self._index})] if self.device == CUDA else []
        try:
            session = self._runtime.InferenceSession(str(path), options, providers=[*gpu, PROVIDERS[CPU]])
        except Exception as exc:  # ONNX Runtime raises its own types, one per failure kind
            raise BackendFailed(f"ONNX Runtime {self._runtime.__version__} cannot load {path}: {exc}") from exc
        # A provider that does not start is left out with no more than a line in the log.
        if session.get_providers()[0] != wanted:
            self._do_without(wanted)
        return session

    def _do_without(self, provider: str) -> None:
        """Goes on with the CPU, unless the GPU was asked for: then raises BackendFailed."""
        fault = (
            f"ONNX Runtime {self._runtime.__version__} has {provider}, but it does not start (its log says why; mostly "
            "CUDA or cuDNN of another version than it was built for)"
        )
        if self._asked:
            raise BackendFailed(f"{fault}: install those, or use device cpu.")
        logger.warning("%s: going on with the CPU.", fault)
        self.device, self._index = CPU, 0

    def _given(self, array: np.ndarray) -> onnxruntime.OrtValue:
        """An input; on a CPU it is the array's own memory."""
        array = np.ascontiguousarray(array)
        return self._runtime.OrtValue.ortvalue_from_numpy(array, self.device, self._index)

    def _run(
        self, session: onnxruntime.InferenceSession, feeds: Mapping[str, onnxruntime.OrtValue]
    ) -> dict[str, onnxruntime.OrtValue]:
        """Outputs by name, left on the device."""
        try:
            binding = session.io_binding()
            for name, value in feeds.items():
                binding.bind_ortvalue_input(name, value)
            names = [output.name for output in session.get_outputs()]
            for name in names:
                binding.bind_output(name, self.device, self._index)
            session.run_with_iobinding(binding)
            return dict(zip(names, binding.get_outputs(), strict=True))
        except Exception as exc:  # ONNX Runtime raises its own types, one per failure kind
            kind = OutOfMemory if "alloc" in str(exc).lower() else BackendFailed
            raise kind(f"ONNX Runtime failed to run the model: {exc}") from exc


def chosen_device(device: str, offered: Sequence[str]) -> tuple[str, int]:
    """Kind and number of a device named "", "cpu", "cuda" or "cuda:1". offered: names of this ONNX Runtime's providers.

    Raises BackendFailed for what it does not offer.
    """
    kind, _, number = device.partition(":")
    if kind not in ("", CPU, CUDA) or (number and not (kind == CUDA and number.isdigit())):
        raise BackendFailed(f"device {device!r} is none that ONNX Runtime can use here: say cpu, cuda or cuda:1.")
    if kind == CUDA and PROVIDERS[CUDA] not in offered:
        raise BackendFailed(
            f"device {device!r} was asked for, but this ONNX Runtime offers {', '.join(offered)} only: install the "
            "build with CUDA (pip install onnxruntime-gpu instead of onnxruntime), or use device cpu."
        )
    best = CUDA if PROVIDERS[CUDA] in offered else CPU
    return kind or best, int(number or 0)


def most_probable(logits: np.ndarray, watched: np.ndarray) -> StepOutput:
    """The most probable token of each row of logits (N, V), and the log probabilities that StepOutput wants."""
    chosen = logits.argmax(-1)
    top = logits.max(-1)
    total = top + np.log(np.exp(logits - top[:, None]).sum(-1))
    return StepOutput(chosen, top - total, logits[:, watched] - total[:, None])
