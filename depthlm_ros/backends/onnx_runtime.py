# SPDX-License-Identifier: Apache-2.0
"""Backend onnxruntime: runs exported graphs on any machine, without torch.

Features, keys and values of a look stay where ONNX Runtime put them (host or GPU) and are used from there without a
copy. Those of the text are kept in host buffers of fixed size; on a CPU, ONNX Runtime reads them in place.

Public names: OnnxSessions, OnnxRuntimeBackend, parse_device, pick_most_probable, is_out_of_memory.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from depthlm_ros.backends.base import (
    Look,
    StepInput,
    StepOutput,
    checked_look,
    checked_step,
    pair_of_looks,
    penalise_repetition,
    read_input,
    read_look,
)
from depthlm_ros.errors import BackendFailed, BadBundle, BadQuestion, OutOfMemory
from depthlm_ros.model_files.bundle import READ_INPUTS, ModelBundle

if TYPE_CHECKING:
    import onnxruntime

logger = logging.getLogger(__name__)

CPU, CUDA, OPENVINO = "cpu", "cuda", "openvino"
PROVIDERS = {CPU: "CPUExecutionProvider", CUDA: "CUDAExecutionProvider", OPENVINO: "OpenVINOExecutionProvider"}
IMAGE_INPUTS = ("image", "second")
CACHE_OUTPUTS = ("keys", "values")
# Precision of a bundle's backbone -> that of its keys and values. numpy has no bfloat16.
KEY_VALUE_DTYPES = {"fp32": np.float32, "fp16": np.float16, "int8": np.float32}
# Causes of a failed allocation: the C++ exception, the allocator of ONNX Runtime's arena, the CUDA error
# cudaErrorMemoryAllocation (2), and the same of cuBLAS and cuDNN (onnxruntime/core/providers/cuda/cuda_call.cc).
_OUT_OF_MEMORY = re.compile(
    r"std::bad_alloc|onnxruntime::BFCArena::AllocateRaw|CUDA failure 2:|CU(?:BLAS|DNN)_STATUS_ALLOC_FAILED"
)


@dataclass(frozen=True)
class HostKeyValues:
    """Keys and values behind a look. prefix: those of the look, (layers, 1, heads_kv, P, D), in ONNX Runtime's memory.

    text: those of N rows of text, numpy, (layers, N, heads_kv, S, D). empty: one slot of them that is never valid.
    """

    prefix: tuple[onnxruntime.OrtValue, onnxruntime.OrtValue]
    text: tuple[np.ndarray, np.ndarray]
    empty: np.ndarray


@dataclass(frozen=True)
class _LookGraph:
    """The session for images of one size. next_position: position id of the first token after its prefix."""

    session: onnxruntime.InferenceSession
    next_position: int
    path: Path


class OnnxSessions:
    """Opens ONNX Runtime sessions on one device and runs them.

    threads: 0 for every core. device: "cpu", "openvino" (the CPU, by OpenVINO), "cuda" or "cuda:1"; "" for the first
    GPU that this ONNX Runtime offers, else the CPU. Raises BackendFailed if ONNX Runtime is not installed or does not
    offer the device.
    """

    name = "onnxruntime"

    def __init__(self, threads: int = 0, device: str = "") -> None:
        try:
            import onnxruntime
        except ImportError as exc:
            raise BackendFailed("backend onnxruntime is not installed: pip install onnxruntime") from exc
        self._runtime, self._threads = onnxruntime, threads
        self._requested_device = device
        self._kind, self._index = parse_device(device, onnxruntime.get_available_providers())

    @property
    def device(self) -> str:
        """Where the sessions run: "cpu", "openvino", "cuda" or "cuda:1". Known for sure when the first one is open."""
        return f"{self._kind}:{self._index}" if self._index else self._kind

    @property
    def _memory(self) -> str:
        """The kind of memory that inputs and outputs are in."""
        return CPU if self._kind == OPENVINO else self._kind

    def _session(self, path: Path, has_fixed_sizes: bool = True) -> onnxruntime.InferenceSession:
        """Opens a graph. OpenVINO compiles for one size, so that it does not run graphs of changing sizes."""
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self._threads
        # Spinning threads would take the cores from the node's other work between frames.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        kind = self._kind if has_fixed_sizes or self._kind != OPENVINO else CPU
        if kind == OPENVINO:
            # OpenVINO fuses operators itself, and does so best in the graph as it was written.
            options.graph_optimization_level = self._runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        provider = PROVIDERS[kind]
        try:
            session = self._runtime.InferenceSession(
                str(path), options, providers=[*self._accelerators(kind), PROVIDERS[CPU]]
            )
        except Exception as exc:  # ONNX Runtime has its own class for each kind of failure
            raise BackendFailed(f"ONNX Runtime {self._runtime.__version__} cannot load {path}: {exc}") from exc
        # A provider that does not start is left out, with only a line in ONNX Runtime's log.
        if session.get_providers()[0] != provider:
            self._fall_back_to_cpu(provider)
        return session

    def _accelerators(self, kind: str) -> list[tuple[str, dict[str, object]]]:
        """Returns the provider of a kind of device with its settings; none for the CPU."""
        if kind == CUDA:
            return [(PROVIDERS[CUDA], {"device_id": self._index})]
        if kind == OPENVINO:
            threads = {"num_of_threads": str(self._threads)} if self._threads else {}
            return [(PROVIDERS[OPENVINO], {"device_type": "CPU", "precision": "FP32", **threads})]
        return []

    def _fall_back_to_cpu(self, provider: str) -> None:
        """Continues on the CPU. Raises BackendFailed if the user named the GPU."""
        fault = (
            f"ONNX Runtime {self._runtime.__version__} has {provider}, but it does not start (its log says why; "
            "usually CUDA, cuDNN or OpenVINO has another version than it was built for)"
        )
        if self._requested_device:
            raise BackendFailed(f"{fault}: install the right versions, or use device cpu.")
        logger.warning("%s: continuing on the CPU.", fault)
        self._kind, self._index = CPU, 0

    def _run(
        self,
        session: onnxruntime.InferenceSession,
        arrays: Mapping[str, np.ndarray],
        on_device: Mapping[str, onnxruntime.OrtValue] | None = None,
    ) -> dict[str, onnxruntime.OrtValue]:
        """Runs a session and returns its outputs by name, left on the device.

        arrays: inputs from the host; a CPU reads them in place. on_device: inputs that are on the device already.
        Raises BackendFailed, and OutOfMemory where memory is short.
        """
        try:
            values = dict(on_device or {})
            for name, array in arrays.items():
                contiguous = np.ascontiguousarray(array)
                values[name] = self._runtime.OrtValue.ortvalue_from_numpy(contiguous, self._memory, self._index)
            binding = session.io_binding()
            for name, value in values.items():
                binding.bind_ortvalue_input(name, value)
            names = [output.name for output in session.get_outputs()]
            for name in names:
                binding.bind_output(name, self._memory, self._index)
            session.run_with_iobinding(binding)
            return dict(zip(names, binding.get_outputs(), strict=True))
        except Exception as exc:  # ONNX Runtime has its own class for each kind of failure
            error = OutOfMemory if is_out_of_memory(exc) else BackendFailed
            raise error(f"ONNX Runtime failed to run the model: {exc}") from exc


class OnnxRuntimeBackend(OnnxSessions):
    """Runs the graphs of a bundle as ONNX Runtime sessions.

    threads, device: see OnnxSessions. The graphs of a canvas size are loaded when an image of this size comes, or is
    asked about, for the first time; in depth-first bundles all graphs for questions are. Raises BackendFailed if ONNX
    Runtime cannot run the bundle.
    """

    def __init__(self, bundle: ModelBundle, threads: int = 0, device: str = "") -> None:
        super().__init__(threads, device)
        self._bundle = bundle
        if bundle.precision not in KEY_VALUE_DTYPES:
            raise BackendFailed(
                f"{bundle.name} was built in {bundle.precision}, which ONNX Runtime does not run here: build it with "
                "--precision fp32 (CPU) or fp16 (CUDA), or use backend tensorrt."
            )
        self._step = None if bundle.only_depth or bundle.depth_first else self._step_session()
        self._look_graphs: dict[tuple[tuple[int, ...], ...], _LookGraph] = {}
        self._read_graphs: dict[tuple[int, int], onnxruntime.InferenceSession] = {}

    def look(self, images: Sequence[np.ndarray]) -> Look:
        """See Backend. Raises BadQuestion for images that the bundle has no graph for."""
        if self._bundle.depth_first and len(images) > 1:
            self._bundle.check_images(images)
            looks = [self.look([image]) for image in images]
            features = [None if look.features is None else look.features.numpy() for look in looks]
            return pair_of_looks(looks, features)
        shapes = tuple(image.shape for image in images)
        graph = self._look_graphs.get(shapes) or self._load_look_graph(images)
        outputs = self._run(graph.session, dict(zip(IMAGE_INPUTS, images, strict=False)))
        depth_m, relative_std = (outputs[name].numpy() if name in outputs else None for name in READ_INPUTS[1:])
        prefix = (outputs["keys"], outputs["values"]) if "keys" in outputs else None
        length = prefix[0].shape()[3] if prefix else 0
        look = Look(depth_m, prefix, 1, length, graph.next_position, relative_std, outputs.get(READ_INPUTS[0]))
        return checked_look(look, str(graph.path), self._bundle.precision)

    def read(self, look: Look) -> Look:
        """See Backend. Raises BadBundle for a graph that lacks an input or output."""
        if not look.needs_reading:
            return look
        image = read_input(look)
        height, width = image.depth_m.shape[1:]
        features, depth_m, relative_std = READ_INPUTS
        arrays = {depth_m: image.depth_m, relative_std: image.relative_std}
        outputs = self._run(self._read_session((width, height)), arrays, {features: image.features})
        keys, values = (outputs[name] for name in CACHE_OUTPUTS)
        return read_look(look, (keys, values), keys.shape()[3])

    def cache(self, look: Look, rows: int, slots: int) -> HostKeyValues:
        """See Backend. Raises BadQuestion if the bundle was built for depth only."""
        if look.prefix is None:
            raise BadQuestion(f"{self._bundle.name} was built for depth only: build it without --depth-only to ask.")
        layers, _, heads, _, size = look.prefix[0].shape()
        dtype = KEY_VALUE_DTYPES[self._bundle.precision]
        try:
            text = np.zeros((2, layers, rows, heads, slots, size), dtype)
            empty = np.zeros((layers, rows, heads, 1, size), dtype)
        except MemoryError as exc:
            raise OutOfMemory(f"no memory for {slots} tokens of {rows} questions.") from exc
        return HostKeyValues(look.prefix, (text[0], text[1]), empty)

    def step(self, cache: HostKeyValues, step_input: StepInput) -> StepOutput:
        """See Backend."""
        # The first text has no text before it, but the graph needs one slot, which is masked. Later, all slots are
        # given, the masked ones too: to leave them out would mean to copy the others, which takes longer.
        is_first = step_input.first_slot == 0
        keys, values = (cache.empty, cache.empty) if is_first else cache.text
        inputs = {
            "ids": step_input.ids,
            "positions": step_input.positions,
            "last": step_input.last,
            "own_keys": keys,
            "own_values": values,
            "own_mask": step_input.mask[:, :1] if is_first else step_input.mask,
        }
        prefix = {"prefix_keys": cache.prefix[0], "prefix_values": cache.prefix[1]}
        self._step = self._step or self._step_session()
        outputs = self._run(self._step, inputs, prefix)
        slots = slice(step_input.first_slot, step_input.first_slot + step_input.ids.shape[1])
        for text, name in zip(cache.text, ("keys", "values"), strict=True):
            text[:, :, :, slots] = outputs[name].numpy()
        output = pick_most_probable(penalise_repetition(outputs["logits"].numpy(), step_input), step_input.watched)
        return checked_step(output, str(self._bundle.step_path), self._bundle.precision)

    def _step_session(self) -> onnxruntime.InferenceSession:
        return self._session(self._bundle.step_path, has_fixed_sizes=False)

    def _load_look_graph(self, images: Sequence[np.ndarray]) -> _LookGraph:
        """Checks the sizes of images, which come for the first time, and loads their graph."""
        size_px, count = self._bundle.check_images(images), len(images)
        path = self._bundle.look_path(size_px, count)
        session = self._session(path)
        if self._bundle.depth_first:
            _check_names(session, path, (), READ_INPUTS[1:] if self._bundle.only_depth else READ_INPUTS)
        graph = _LookGraph(session, self._bundle.next_position(size_px, count), path)
        self._look_graphs[tuple(image.shape for image in images)] = graph
        return graph

    def _read_session(self, size_px: tuple[int, int]) -> onnxruntime.InferenceSession:
        """Returns the session that reads an image of this size; loads it when it is first needed."""
        session = self._read_graphs.get(size_px)
        if session is None:
            path = self._bundle.read_path(size_px)
            session = self._read_graphs[size_px] = self._session(path)
            _check_names(session, path, READ_INPUTS, CACHE_OUTPUTS)
        return session


def _check_names(
    session: onnxruntime.InferenceSession, path: Path, inputs: Sequence[str], outputs: Sequence[str]
) -> None:
    """Raises BadBundle, with the file and the names, for a graph that lacks one of these inputs or outputs."""
    found = {value.name for value in (*session.get_inputs(), *session.get_outputs())}
    if missing := [name for name in (*inputs, *outputs) if name not in found]:
        raise BadBundle(f"{path} has no {', '.join(missing)}: export the model again with this version.")


def parse_device(device: str, providers: Sequence[str]) -> tuple[str, int]:
    """Returns kind and number of a device: "", "cpu", "openvino", "cuda" or "cuda:1".

    providers: those that ONNX Runtime offers.

    Raises BackendFailed for any other name, and for a device that this ONNX Runtime does not offer.
    """
    kind, _, number = device.partition(":")
    if kind not in ("", *PROVIDERS) or (number and not (kind == CUDA and number.isdigit())):
        raise BackendFailed(f"ONNX Runtime cannot use device {device!r} here: use cpu, openvino, cuda or cuda:1.")
    if kind == OPENVINO and PROVIDERS[OPENVINO] not in providers:
        raise BackendFailed(
            f"ONNX Runtime cannot use device {device!r}: it offers only {', '.join(providers)}. Install the build with "
            "OpenVINO (pip install onnxruntime-openvino instead of onnxruntime), or use device cpu."
        )
    if kind == CUDA and PROVIDERS[CUDA] not in providers:
        raise BackendFailed(
            f"ONNX Runtime cannot use device {device!r}: it offers only {', '.join(providers)}. Install the build with "
            "CUDA (pip install onnxruntime-gpu instead of onnxruntime), or use device cpu."
        )
    best = CUDA if PROVIDERS[CUDA] in providers else CPU
    return kind or best, int(number or 0)


def is_out_of_memory(exc: Exception) -> bool:
    """Returns whether an error of ONNX Runtime was caused by an allocation that failed.

    Class and code of the error do not say so: the same failure is a RuntimeError without a code from
    run_with_iobinding, and code 1 (FAIL) or 6 (RUNTIME_EXCEPTION) from run, depending on the allocator (seen in 1.32).
    The text after the last "Status Message:" is the cause, and unlike the text before it holds no names from the graph.
    """
    cause = str(exc).rpartition("Status Message:")[2]
    return isinstance(exc, MemoryError) or _OUT_OF_MEMORY.search(cause) is not None


def pick_most_probable(logits: np.ndarray, watched: np.ndarray) -> StepOutput:
    """Returns the most probable token of each row of logits (N, V), and the log probabilities of StepOutput."""
    chosen = logits.argmax(-1)
    top = logits.max(-1)
    total = top + np.log(np.exp(logits - top[:, None]).sum(-1))
    return StepOutput(chosen, top - total, logits[:, watched] - total[:, None])
