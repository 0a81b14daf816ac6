# SPDX-License-Identifier: Apache-2.0
"""Backend tensorrt: runs a bundle's graphs as plans that were built for the GPU of this machine, or that run on it.

Everything stays on the device between calls: the features, keys and values of a look, and those of the text after it,
which are written in place into buffers of fixed size. Only images, depth maps, token ids and a few probabilities
travel. (The plans are built by `depthlm engine build`.)
"""

from __future__ import annotations

import contextlib
import math
import shlex
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from depthlm_ros.backends.base import (
    Look,
    StepInput,
    StepOutput,
    checked_look,
    checked_step,
    pair_of_looks,
    read_input,
    read_look,
)
from depthlm_ros.backends.tensorrt.cuda_device import (
    BufferPool,
    Device,
    DeviceArray,
    open_device,
    parse_device_index,
)
from depthlm_ros.backends.tensorrt.flavour import DEFAULT_CAPABILITIES, capabilities_for
from depthlm_ros.backends.tensorrt.plan_file import (
    Machine,
    check_plan,
    key_path,
    machine_of,
    plan_flavour,
    read_key,
)
from depthlm_ros.backends.tensorrt.runtime import ExecutionContext, LoadedPlan, StagingBuffers, load_tensorrt
from depthlm_ros.errors import BadBundle, BadPlans, BadQuestion, OutOfMemory
from depthlm_ros.file_io import parse_json
from depthlm_ros.model_files.bundle import READ_INPUTS, ModelBundle
from depthlm_ros.model_files.install_paths import MANIFEST, installed_bundle

# Profiles of a step plan: text of any length, and one token at a time.
TEXT_PROFILE, TOKEN_PROFILE = 0, 1
# The number of slots is rounded up to a multiple of this, so that questions of similar lengths share a recorded run.
SLOT_MULTIPLE = 32
IMAGE_INPUTS = ("image", "second")
FEATURES, *MAP_OUTPUTS = READ_INPUTS
CACHE_OUTPUTS = ("keys", "values")
TEXT_INPUTS = ("own_keys", "own_values")
PREFIX_INPUTS = ("prefix_keys", "prefix_values")
STEP_OUTPUTS = ("chosen", "log_probability", "watched_log_probability")


@dataclass(frozen=True, eq=False)
class DevicePrefix:
    """Keys and values of a look on the device, each (layers, B, heads_kv, P, D)."""

    keys: DeviceArray
    values: DeviceArray


@dataclass(frozen=True, eq=False)
class DeviceFeatures:
    """Features of an image on the device, on loan from the pool. They go back when this object is garbage."""

    array: DeviceArray


class QuestionBuffers:
    """The memory of one batch of questions: keys and values of prefix and text, and the context that decodes there."""

    def __init__(self, device: Device, plan: LoadedPlan, prefix: DevicePrefix, rows: int, slots: int) -> None:
        layers, _, heads, _, size = prefix.keys.shape
        shape, item_bytes = (layers, rows, heads, slots, size), prefix.keys.item_bytes
        self.rows, self.slots = rows, slots
        self.prefix = [device.zeros(prefix.keys.shape, item_bytes) for _ in PREFIX_INPUTS]
        self.text = [device.zeros(shape, item_bytes) for _ in TEXT_INPUTS]
        self.decoding = ExecutionContext(device, plan, min(TOKEN_PROFILE, plan.profiles - 1))
        self.decoding_shapes: tuple[tuple[int, ...], ...] = ()

    def inputs(self, slots: int) -> dict[str, DeviceArray]:
        """Returns the keys and values as inputs of a step. For fewer slots only the shape matters: all are masked."""
        layers, rows, heads, _, size = self.text[0].shape
        text = [array.view((layers, rows, heads, slots, size)) for array in self.text]
        return dict(zip((*PREFIX_INPUTS, *TEXT_INPUTS), (*self.prefix, *text), strict=True))


@dataclass(frozen=True, eq=False)
class DeviceKeyValues:
    """Buffers on loan from the pool. They go back when this object is garbage."""

    buffers: QuestionBuffers


@dataclass(frozen=True)
class _LookRunner:
    """The loaded plan for images of one size. next_position: position id of the first token after its prefix."""

    plan: LoadedPlan
    context: ExecutionContext
    staging: StagingBuffers
    next_position: int


@dataclass(frozen=True)
class _ReadRunner:
    """The loaded plan that reads an image of one size. features: its input."""

    context: ExecutionContext
    staging: StagingBuffers
    features: DeviceArray


@dataclass(frozen=True)
class _StepRunner:
    """The loaded plan for text. context: for text of any length."""

    plan: LoadedPlan
    context: ExecutionContext
    staging: StagingBuffers


class TensorRTBackend:
    """Runs the plans of a bundle on one GPU, with the kind of TensorRT that built them. The plans lie beside the
    graphs, or in the folder `plans`.

    Raises BackendFailed without TensorRT or a GPU, and BadPlans for plans that are missing or were built for another
    machine, TensorRT or graph. Plans that were built for depth only need no step.plan.
    """

    name = "tensorrt"

    def __init__(self, bundle: ModelBundle, device: str = "", plans: Path | None = None) -> None:
        self._bundle, self._plans = bundle, plans or bundle.folder
        self._flavour = plan_flavour(bundle, self._plans)
        self._trt = load_tensorrt(self._flavour)
        self._device = open_device(parse_device_index(device))
        self.device = device or "cuda"
        self._lock = threading.Lock()
        self._check_plans()
        self._look_runners: dict[tuple[tuple[int, ...], ...], _LookRunner] = {}
        self._read_runners: dict[tuple[int, int], _ReadRunner] = {}
        self._pool = BufferPool()
        self._step: _StepRunner | None = None

    def look(self, images: Sequence[np.ndarray]) -> Look:
        """See Backend. Raises BadQuestion for images that the bundle has no graph for."""
        if self._bundle.depth_first and len(images) > 1:
            self._bundle.check_images(images)
            looks = [self.look([image]) for image in images]
            on_host = [self._features_on_host(look, image) for look, image in zip(looks, images, strict=True)]
            return pair_of_looks(looks, on_host)
        with self._lock:
            self._device.activate()
            runner = self._look_runners.get(tuple(image.shape for image in images)) or self._load_look_runner(images)
            for name, image in zip(IMAGE_INPUTS, images, strict=False):
                runner.staging.upload(name, image)
            runner.context.run()
            outputs = runner.context.outputs
            fetched = {name: runner.staging.download(name, outputs[name]) for name in MAP_OUTPUTS if name in outputs}
            # The outputs themselves are overwritten by the next look.
            prefix = self._copy_prefix(outputs) if "keys" in outputs else None
            features = self._copy_features(outputs[FEATURES]) if FEATURES in outputs else None
            self._device.synchronize()
            maps = {name: array.astype(np.float32) for name, array in fetched.items()}
        length = prefix.keys.shape[3] if prefix else 0
        depth_m, relative_std = (maps.get(name) for name in MAP_OUTPUTS)
        look = Look(depth_m, prefix, 1, length, runner.next_position, relative_std, features)
        return checked_look(look, str(runner.plan.plan), self._bundle.precision)

    def read(self, look: Look) -> Look:
        """See Backend. Raises BadBundle for a plan that lacks an input or output."""
        if not look.needs_reading:
            return look
        image = read_input(look)
        height, width = image.depth_m.shape[1:]
        with self._lock:
            self._device.activate()
            runner = self._read_runner((width, height))
            self._device.copy(runner.features, image.features.array)
            for name, array in zip(MAP_OUTPUTS, (image.depth_m, image.relative_std), strict=True):
                runner.staging.upload(name, array)
            runner.context.run()
            prefix = self._copy_prefix(runner.context.outputs)
            self._device.synchronize()
        return read_look(look, prefix, prefix.keys.shape[3])

    def cache(self, look: Look, rows: int, slots: int) -> DeviceKeyValues:
        """See Backend. Raises OutOfMemory for more rows, and BadQuestion for more slots, than the plans were built for,
        and BadQuestion if they were built for depth only."""
        if look.prefix is None:
            raise BadQuestion(f"{self._bundle.name} was built for depth only: build it without --depth-only to ask.")
        with self._lock:
            self._device.activate()
            plan, prefix = self._step_runner().plan, look.prefix
            slots = _round_up_slots(plan, rows, slots)
            cache = self._pool.lend(
                (prefix.keys.shape, rows, slots),
                lambda: QuestionBuffers(self._device, plan, prefix, rows, slots),
                DeviceKeyValues,
            )
            for target, source in zip(cache.buffers.prefix, (prefix.keys, prefix.values), strict=True):
                self._device.copy(target, source)
            # The content of masked slots is multiplied by zero, which is harmless only if it is a number.
            for array in cache.buffers.text:
                self._device.clear(array)
        return cache

    def step(self, cache: DeviceKeyValues, step_input: StepInput) -> StepOutput:
        """See Backend. Raises BadQuestion for a longer text than the plans were built for."""
        with self._lock:
            self._device.activate()
            is_decoding = step_input.ids.shape[1] == 1 and step_input.first_slot > 0
            context = (self._decode if is_decoding else self._read_text)(cache.buffers, step_input)
            staging = self._step_runner().staging
            for text, name in zip(cache.buffers.text, ("keys", "values"), strict=True):
                self._device.copy_slots(text, context.outputs[name], step_input.first_slot)
            fetched = [staging.download(name, context.outputs[name]) for name in STEP_OUTPUTS]
            self._device.synchronize()
            chosen, log_probability, watched = (array.copy() for array in fetched)
        output = StepOutput(chosen, log_probability, watched[:, : len(step_input.watched)])
        return checked_step(output, str(self._plan_path(self._bundle.step_path)), self._bundle.precision)

    def _check_plans(self) -> None:
        machine = machine_of(self._device.facts(), str(self._trt.__version__), self._flavour)
        files = parse_json((self._bundle.folder / MANIFEST).read_text())["files"]
        bundle = self._bundle
        looks = [self._plan_path(bundle.look_path(size_px)) for size_px in bundle.canvases_px]
        only_depth = bundle.only_depth or all(map(_is_built_for_depth_only, looks))
        # Questions about two images are questions too: for depth only, no plan for pairs is needed.
        plans = looks if only_depth else [self._plan_path(graph) for graph in bundle.graphs]
        rebuild = self._build_command(only_depth, machine)
        if missing := [plan.name for plan in plans if not plan.is_file()]:
            raise BadPlans(f"{self._plans} has no {', '.join(missing)}.", rebuild)
        for plan in plans:
            check_plan(plan, machine, files, rebuild)

    def _build_command(self, only_depth: bool, machine: Machine) -> str:
        """Returns the command that builds the same plans for this machine. Raises BackendFailed if none can be."""
        bundle, known = self._bundle, installed_bundle(self._bundle.name)
        model = bundle.name if known and known.samefile(bundle.folder) else str(bundle.folder.resolve())
        options = self._flavour_options(machine) + (" --depth-only" if only_depth and not bundle.only_depth else "")
        return f"depthlm engine build --model {shlex.quote(model)} --backend tensorrt{options}"

    def _flavour_options(self, machine: Machine) -> str:
        """Returns the options that make portable plans, for this GPU too."""
        if not self._flavour.portable:
            return ""
        built_for = DEFAULT_CAPABILITIES
        with contextlib.suppress(BadBundle):
            built_for = read_key(key_path(self._plan_path(self._bundle.graphs[0]))).machine.sm
        capabilities = capabilities_for(machine.sm, built_for)
        named = "" if capabilities == DEFAULT_CAPABILITIES else f" --compute-capability {capabilities}"
        return f" --target {self._flavour.target}{named}"

    def _plan_path(self, graph: Path) -> Path:
        return self._plans / graph.with_suffix(".plan").name

    def _load_plan(self, graph: Path) -> LoadedPlan:
        return LoadedPlan(self._trt, self._device, self._plan_path(graph), self._flavour)

    def _load_look_runner(self, images: Sequence[np.ndarray]) -> _LookRunner:
        """Checks the sizes of images, which come for the first time, and loads their plan."""
        size_px, count = self._bundle.check_images(images), len(images)
        plan = self._load_plan(self._bundle.look_path(size_px, count))
        if self._bundle.depth_first:
            _check_names(plan, MAP_OUTPUTS)
        shapes = {name: plan.tensors[name].shape for name in (*IMAGE_INPUTS, *MAP_OUTPUTS) if name in plan.tensors}
        context = ExecutionContext(self._device, plan, TEXT_PROFILE)
        staging = StagingBuffers(self._device, plan, {name: math.prod(shape) for name, shape in shapes.items()})
        context.bind({name: staging.input_array(name, shapes[name]) for name in IMAGE_INPUTS[:count]})
        runner = _LookRunner(plan, context, staging, self._bundle.next_position(size_px, count))
        self._look_runners[tuple(image.shape for image in images)] = runner
        return runner

    def _read_runner(self, size_px: tuple[int, int]) -> _ReadRunner:
        """Returns the plan that reads an image of this size; loads it when it is first needed."""
        runner = self._read_runners.get(size_px)
        if runner is None:
            plan = self._load_plan(self._bundle.read_path(size_px))
            _check_names(plan, (*READ_INPUTS, *CACHE_OUTPUTS))
            shapes = {name: plan.tensors[name].shape for name in MAP_OUTPUTS}
            features = self._device.zeros(plan.tensors[FEATURES].shape, plan.tensors[FEATURES].item_bytes)
            context = ExecutionContext(self._device, plan, TEXT_PROFILE)
            staging = StagingBuffers(self._device, plan, {name: math.prod(shape) for name, shape in shapes.items()})
            inputs = {name: staging.input_array(name, shape) for name, shape in shapes.items()}
            context.bind(inputs | {FEATURES: features})
            runner = self._read_runners[size_px] = _ReadRunner(context, staging, features)
        return runner

    def _copy_prefix(self, outputs: Mapping[str, DeviceArray]) -> DevicePrefix:
        """Returns a copy of the keys and values among the outputs of a plan."""
        keys, values = (outputs[name] for name in CACHE_OUTPUTS)

        def allocate() -> tuple[DeviceArray, DeviceArray]:
            shape, item_bytes = keys.shape, keys.item_bytes
            return self._device.zeros(shape, item_bytes), self._device.zeros(shape, item_bytes)

        prefix = self._pool.lend((CACHE_OUTPUTS, keys.shape), allocate, lambda pair: DevicePrefix(*pair))
        self._device.copy(prefix.keys, keys)
        self._device.copy(prefix.values, values)
        return prefix

    def _copy_features(self, features: DeviceArray) -> DeviceFeatures:
        """Returns a copy of the features of an image."""
        shape, item_bytes = features.shape, features.item_bytes
        copy = self._pool.lend((FEATURES, shape), lambda: self._device.zeros(shape, item_bytes), DeviceFeatures)
        self._device.copy(copy.array, features)
        return copy

    def _features_on_host(self, look: Look, image: np.ndarray) -> np.ndarray | None:
        """Returns float (B, C, h, w), the features of a look at one image; None if it has none."""
        if look.features is None:
            return None
        with self._lock:
            self._device.activate()
            dtype = self._look_runners[(image.shape,)].plan.tensors[FEATURES].dtype
            host = self._device.pinned(look.features.array.shape, dtype or np.uint16)
            self._device.download(host, look.features.array)
            self._device.synchronize()
        # bfloat16, which numpy lacks, is the upper half of a float32.
        return host if dtype else (host.astype(np.uint32) << 16).view(np.float32)

    def _step_runner(self) -> _StepRunner:
        """Returns the plan for text; loads it when it is first needed."""
        if self._step is None:
            plan = self._load_plan(self._bundle.step_path)
            _check_names(plan, STEP_OUTPUTS)
            names = ("ids", "positions", "last", "own_mask", "watched")
            max_values = {name: math.prod(plan.max_shape(name, TEXT_PROFILE)) for name in names}
            rows, watched = max_values["last"], max_values["watched"]
            max_values |= {"chosen": rows, "log_probability": rows, "watched_log_probability": rows * watched}
            context = ExecutionContext(self._device, plan, TEXT_PROFILE)
            self._step = _StepRunner(plan, context, StagingBuffers(self._device, plan, max_values))
        return self._step

    def _decode(self, buffers: QuestionBuffers, step_input: StepInput) -> ExecutionContext:
        """Runs one more token of each row, in the recorded run of its buffers."""
        mask = _pad_mask(step_input.mask, buffers.slots)
        inputs = _upload_inputs(self._step_runner().staging, step_input, mask)
        shapes = tuple(array.shape for array in inputs.values())
        if buffers.decoding_shapes != shapes:
            buffers.decoding.bind(inputs | buffers.inputs(buffers.slots))
            buffers.decoding_shapes = shapes
        buffers.decoding.run()
        return buffers.decoding

    def _read_text(self, buffers: QuestionBuffers, step_input: StepInput) -> ExecutionContext:
        """Runs text of any length. The first text has no text before it, but the graph needs one slot, which is
        masked."""
        runner = self._step_runner()
        tokens, max_tokens = step_input.ids.shape[1], runner.plan.max_shape("ids", TEXT_PROFILE)[1]
        if tokens > max_tokens:
            raise BadQuestion(f"the question has {tokens} tokens: the engine was built for {max_tokens}.")
        if step_input.first_slot == 0:
            mask = np.full((len(step_input.ids), 1), -np.inf, np.float32)
        else:
            mask = _pad_mask(step_input.mask, buffers.slots)
        inputs = _upload_inputs(runner.staging, step_input, mask)
        runner.context.bind(inputs | buffers.inputs(mask.shape[1]))
        runner.context.run()
        return runner.context


def _check_names(plan: LoadedPlan, names: Sequence[str]) -> None:
    """Raises BadBundle, with the plan and the names, for a plan that lacks one of these inputs or outputs."""
    if missing := [name for name in names if name not in plan.tensors]:
        raise BadBundle(f"{plan.plan} has no {', '.join(missing)}: build it with this version.")


def _round_up_slots(plan: LoadedPlan, rows: int, slots: int) -> int:
    """Returns `slots` rounded up.

    Raises OutOfMemory for too many rows, so that the caller tries fewer, and BadQuestion for too many slots.
    """
    max_rows, max_slots = plan.max_shape("own_mask", TEXT_PROFILE)
    if rows > max_rows:
        raise OutOfMemory(f"the engine was built for {max_rows} questions at once, not {rows}.")
    if slots > max_slots:
        raise BadQuestion(f"question and answer need {slots} tokens: the engine was built for {max_slots}.")
    return min(-(-slots // SLOT_MULTIPLE) * SLOT_MULTIPLE, max_slots)


def _upload_inputs(staging: StagingBuffers, step_input: StepInput, mask: np.ndarray) -> dict[str, DeviceArray]:
    # TensorRT takes no empty tensors.
    watched = step_input.watched if len(step_input.watched) else np.zeros(1, np.int64)
    arrays = {
        "ids": step_input.ids,
        "positions": step_input.positions,
        "last": step_input.last,
        "own_mask": mask,
        "watched": watched,
    }
    return {name: staging.upload(name, array) for name, array in arrays.items()}


def _pad_mask(mask: np.ndarray, slots: int) -> np.ndarray:
    """Returns a mask (N, S) with more slots, which are not valid."""
    return np.pad(mask, ((0, 0), (0, slots - mask.shape[1])), constant_values=-np.inf)


def _is_built_for_depth_only(look_plan: Path) -> bool:
    """Returns whether the plan of a look was built with --depth-only; False if its description cannot be read."""
    try:
        return "depth_only" in read_key(key_path(look_plan)).flags
    except BadBundle:
        return False
