# SPDX-License-Identifier: Apache-2.0
"""Builds the TensorRT plans of an engine's graphs: on the machine that will run them or, with TensorRT for RTX, on any.

build_plans builds all plans of a bundle. plan_requests says which plans a bundle needs, and the sizes of their inputs.
build_plan builds one plan. Networks are strongly typed: the precision of a plan is the precision of its graph, in every
version of TensorRT. The code uses only names that exist in all versions from 10.3 to 11.4 (test_tensorrt_names.py),
and trt_newer.py those that only some of them have (test_rtx_builder.py).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from depthlm_ros.backends.tensorrt.cuda_device import DeviceFacts, open_device
from depthlm_ros.backends.tensorrt.flavour import (
    DEFAULT_CAPABILITIES,
    TENSORRT,
    Flavour,
    check_capabilities,
    flavour_named,
    named_capabilities,
    parse_capability,
)
from depthlm_ros.backends.tensorrt.plan_file import (
    Machine,
    PlanKey,
    check_plan,
    key_path,
    machine_of,
    plan_differences,
    plan_flavour,
    portable_machine,
    write_engine_file,
    write_plan,
)
from depthlm_ros.backends.tensorrt.runtime import MessageLog, load_tensorrt
from depthlm_ros.errors import BackendFailed, BadBundle, OutOfMemory, SetupError
from depthlm_ros.export.build_progress import BuildProgress, make_progress_monitor
from depthlm_ros.export.engine_store import build_lock
from depthlm_ros.export.onnx_rewrites import cast_bytes_first, choose_tokens, depth_only, file_digests
from depthlm_ros.export.trt_newer import allow_attention_in_parts, name_capabilities
from depthlm_ros.export.trt_support import ParserProblem, check_model
from depthlm_ros.export.trt_support_table import BuildTarget, parse_version, target_for
from depthlm_ros.model_files.bundle import ModelBundle, read_manifest

# Name of an input whose size varies -> its smallest, usual and largest shape.
ProfileShapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]

# Precision of a graph -> the first compute capability that supports it.
MIN_COMPUTE_CAPABILITY = {"fp32": (0, 0), "fp16": (5, 3), "bf16": (8, 0)}
# The same in portable plans: TensorRT for RTX has no matrix products in fp32 for 7.5.
MIN_PORTABLE_CAPABILITY = MIN_COMPUTE_CAPABILITY | {"fp32": (8, 0)}
MAX_LISTED_ERRORS = 5


@dataclass(frozen=True)
class StepLimits:
    """Largest sizes of the text after a look, for which TensorRT reserves scratch memory.

    rows: questions at once. tokens: of one question. slots: tokens of one question and its answer. watched: tokens
    whose probabilities are read.
    """

    rows: int = 16
    tokens: int = 384
    slots: int = 512
    watched: int = 64


@dataclass(frozen=True)
class BuilderOptions:
    """workspace_bytes: memory in which the builder may try tactics, None for half of the free memory (of a portable
    plan: for no limit). limits: of the text. only_depth: leave out everything that only questions need. flavour: the
    kind of TensorRT, None for that of the plans that are there or of the engine's target. capabilities: compute
    capabilities of a portable plan, () for the default ones, None for those in the engine's manifest."""

    workspace_bytes: int | None = None
    limits: StepLimits = field(default_factory=StepLimits)
    only_depth: bool = False
    flavour: Flavour | None = None
    capabilities: tuple[str, ...] | None = None


@dataclass(frozen=True)
class PlanRequest:
    """One plan to build.

    precision: of the graph. workspace_bytes: memory in which the builder may try tactics, None for no limit. profiles:
    input sizes, one entry for each way of using the graph; empty for a graph of fixed sizes. prepare: changes to the
    graph before the build.
    """

    graph: Path
    plan: Path
    precision: str
    workspace_bytes: int | None
    profiles: tuple[ProfileShapes, ...] = ()
    optimization_level: int = 3
    prepare: tuple[Callable[[onnx.ModelProto], None], ...] = ()


@dataclass(frozen=True)
class PlanReport:
    """built: False if a plan that fits existed already. layers: of the built network, 0 if nothing was built."""

    plan: Path
    built: bool
    seconds: float
    plan_bytes: int
    layers: int


def build_plans(
    bundle: ModelBundle, options: BuilderOptions, progress: BuildProgress, report: Callable[[str], None]
) -> list[PlanReport]:
    """Builds the plans of a bundle that do not exist yet, in the bundle's folder.

    The timings of all engines are kept beside the engine's folder. Raises BackendFailed, OutOfMemory, BadBundle and
    SetupError as build_plan does.
    """
    flavour = options.flavour or plan_flavour(bundle, bundle.folder)
    tensorrt = str(load_tensorrt(flavour).__version__)
    workspace_bytes, timings = options.workspace_bytes, None
    if flavour.portable:
        machine = portable_machine(tensorrt, flavour, _capabilities(bundle, options))
    else:
        facts = open_device().facts()
        machine = machine_of(facts, tensorrt)
        workspace_bytes = workspace_bytes or default_workspace(facts)
        timings = timing_cache_path(bundle.folder.parent, machine)
    only_depth = options.only_depth or bundle.only_depth
    requests = plan_requests(bundle, bundle.folder, bundle.precision, workspace_bytes, options.limits, only_depth)
    return [build_plan(request, machine, timings, progress, report) for request in requests]


def _capabilities(bundle: ModelBundle, options: BuilderOptions) -> tuple[str, ...]:
    """Returns the compute capabilities of portable plans. Raises SetupError for unknown ones."""
    named = options.capabilities
    if named is None:
        text = read_manifest(bundle.folder).get("compute_capabilities", DEFAULT_CAPABILITIES)
        named = named_capabilities(str(text))
    check_capabilities(named)
    return named


def check_portable_build(target: BuildTarget, capabilities: Sequence[str]) -> None:
    """Raises BackendFailed without the TensorRT of a portable target, SetupError for unknown compute capabilities."""
    check_capabilities(capabilities)
    load_tensorrt(target.flavour)


def installed_target() -> BuildTarget | None:
    """Returns the target for the TensorRT that is installed here, None if there is none.

    Raises UnknownName for a version that is too old.
    """
    try:
        tensorrt = load_tensorrt()
    except BackendFailed:
        return None
    return target_for(parse_version(str(tensorrt.__version__)))


def default_workspace(facts: DeviceFacts) -> int:
    """Returns half of the free memory. TensorRT's own default is all of it, which a Jetson shares with the CPU."""
    return facts.free_bytes // 2


def timing_cache_path(folder: Path, machine: Machine) -> Path:
    """Returns the file of timings for this TensorRT and GPU. With it, a second build takes a fraction of the time."""
    return folder / f"timings-{re.sub(r'[^A-Za-z0-9.]+', '-', f'{machine.tensorrt}-{machine.gpu}')}.cache"


def plan_requests(
    bundle: ModelBundle,
    folder: Path,
    precision: str,
    workspace_bytes: int | None,
    limits: StepLimits = StepLimits(),
    only_depth: bool = False,
) -> list[PlanRequest]:
    """Returns a request for every plan of a bundle.

    There is one look for each canvas. Unless only the depth is wanted, there are also the graphs that give keys and
    values, of two images too if the model compares images, and one step.
    """
    looks = [bundle.look_path(size_px) for size_px in bundle.canvases_px] if only_depth else bundle.look_paths
    changes = (cast_bytes_first, depth_only) if only_depth else (cast_bytes_first,)

    def request(
        graph: Path, profiles: tuple[ProfileShapes, ...], prepare: tuple[Callable[[onnx.ModelProto], None], ...]
    ) -> PlanRequest:
        plan = folder / graph.with_suffix(".plan").name
        return PlanRequest(graph, plan, precision, workspace_bytes, profiles, prepare=prepare)

    requests = [request(path, (), changes) for path in looks]
    if only_depth:
        return requests
    requests += [request(path, (), ()) for path in bundle.prefix_paths if path not in looks]
    profiles = step_profiles(bundle.step_path, [_prefix_tokens(path) for path in bundle.prefix_paths], limits)
    return [*requests, request(bundle.step_path, profiles, (choose_tokens,))]


def step_profiles(step: Path, prefix_tokens: list[int], limits: StepLimits) -> tuple[ProfileShapes, ProfileShapes]:
    """Returns the input sizes of a step graph, for text of any length and for one token at a time.

    prefix_tokens: length of each look's prefix. Raises BadBundle for a graph with an unknown dimension.
    """
    usual_rows = min(8, limits.rows)
    text = {
        "n": (1, usual_rows, limits.rows),
        "t": (1, min(32, limits.tokens), limits.tokens),
        "p": (min(prefix_tokens), max(prefix_tokens), max(prefix_tokens)),
        "s": (1, 1, limits.slots),
        "w": (1, min(16, limits.watched), limits.watched),
    }
    decode = text | {"t": (1, 1, 1), "s": (1, min(64, limits.slots), limits.slots)}
    model = onnx.load(step, load_external_data=False)
    choose_tokens(model)
    return _profile_shapes(model, text, step), _profile_shapes(model, decode, step)


def _profile_shapes(model: onnx.ModelProto, sizes: Mapping[str, tuple[int, int, int]], path: Path) -> ProfileShapes:
    """Returns the shapes of every input that has a named dimension."""
    shapes = {}
    for value in model.graph.input:
        dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        names = [dim for dim in dims if isinstance(dim, str)]
        if unknown := [name for name in names if name not in sizes]:
            raise BadBundle(
                f"{path}: input {value.name} has the unknown dimension {unknown[0]}: export the model again."
            )
        if names:
            smallest, usual, largest = (tuple(sizes[d][i] if isinstance(d, str) else d for d in dims) for i in range(3))
            shapes[value.name] = (smallest, usual, largest)
    return shapes


def _prefix_tokens(path: Path) -> int:
    """Returns the length of the prefix that a graph gives. The shape of its keys is (layers, B, heads_kv, P, D)."""
    outputs = {output.name: output for output in onnx.load(path, load_external_data=False).graph.output}
    if "keys" not in outputs:
        raise BadBundle(f"{path} gives no keys, so no question can be asked: build it with --depth-only.")
    return int(outputs["keys"].type.tensor_type.shape.dim[3].dim_value)


def build_plan(
    request: PlanRequest,
    machine: Machine,
    timing_cache: Path | None,
    progress: BuildProgress,
    report: Callable[[str], None],
) -> PlanReport:
    """Builds one plan, unless a plan that fits exists already. Plan and JSON are moved into place at the end.

    machine: for which the plan is. timing_cache: None for a portable plan. report: called with messages for people.
    Raises BadBundle for a graph that is damaged or that this TensorRT does not support, SetupError for a precision that
    the GPU lacks, OutOfMemory, and BackendFailed with TensorRT's own words for everything else that TensorRT refuses.
    """
    began_s = time.monotonic()
    trt = load_tensorrt(flavour_named(machine.flavour))
    check_gpu_precision(request.precision, machine)
    with build_lock(request.plan.parent, report):
        key = plan_key(request, machine)
        if _is_up_to_date(request.plan, key):
            return PlanReport(request.plan, False, time.monotonic() - began_s, request.plan.stat().st_size, 0)
        content, layers = _PlanBuilder(trt, request, machine, progress).run(timing_cache)
        write_plan(request.plan, content, key)
        return PlanReport(request.plan, True, time.monotonic() - began_s, content.nbytes, layers)


def check_gpu_precision(precision: str, machine: Machine) -> None:
    """Raises SetupError for a precision that does not exist, or that the GPU lacks."""
    portable = flavour_named(machine.flavour).portable
    minima = MIN_PORTABLE_CAPABILITY if portable else MIN_COMPUTE_CAPABILITY
    if precision not in minima:
        raise SetupError(f"precision {precision!r} is not one of {', '.join(minima)}.")
    least = min(named_capabilities(machine.sm) or ("8.0",), key=parse_capability) if portable else machine.sm
    capability = parse_capability(least)
    if capability < minima[precision]:
        needed = ".".join(map(str, minima[precision]))
        supported = [name for name, minimum in minima.items() if capability >= minimum]
        raise SetupError(
            f"{precision} needs a GPU of compute capability {needed}; {machine.gpu or 'one that was named'} has "
            f"{least}: export with --precision {supported[-1]}."
        )


def count_layers(request: PlanRequest, machine: Machine) -> int:
    """Returns the number of layers of a graph's network without building it. Raises as build_plan does."""
    trt = load_tensorrt(flavour_named(machine.flavour))
    return _PlanBuilder(trt, request, machine, BuildProgress()).parse_graph()


def plan_key(request: PlanRequest, machine: Machine) -> PlanKey:
    """Returns everything that the plan depends on. Raises BadBundle for a graph with missing files."""
    flags = ["strongly typed", f"optimization level {request.optimization_level}"]
    flags += ["TF32 off"] if request.precision == "fp32" else []
    flags += [change.__name__ for change in request.prepare]
    return PlanKey(
        files=file_digests(request.graph),
        machine=machine,
        precision=request.precision,
        shapes=tuple(dict(profile) for profile in request.profiles),
        flags=tuple(flags),
    )


def _is_up_to_date(plan: Path, key: PlanKey) -> bool:
    if not key_path(plan).is_file():
        return False
    try:
        return not plan_differences(key_path(plan), key) and check_plan(plan, key.machine, key.files, "") == key
    except BadBundle:
        return False


class _PlanBuilder:
    """Builds one plan. It holds TensorRT's objects, each of which needs the others as long as it lives."""

    def __init__(self, trt: Any, request: PlanRequest, machine: Machine, progress: BuildProgress) -> None:
        self._trt, self._request, self._machine = trt, request, machine
        self._log, self._monitor = MessageLog(trt), make_progress_monitor(trt, progress)
        try:
            self._builder = trt.Builder(self._log.logger)
        except TypeError as exc:  # this is how the bindings report that there is no usable driver
            raise BackendFailed(f"{machine.title} does not start: {self._log.recent()}.") from exc
        # The number of the flag differs between versions, its name does not. Since TensorRT 11 it is the only kind.
        typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self._network = self._builder.create_network(typed)
        self._config = self._builder.create_builder_config()

    def run(self, timing_cache: Path | None) -> tuple[memoryview, int]:
        """Returns the plan and the number of layers of its network."""
        self.parse_graph()
        self._configure()
        # To ask for timings, TensorRT for RTX would need a GPU, and it does not use them.
        if timing_cache is not None:
            self._read_timings(timing_cache)
        plan = self._builder.build_serialized_network(self._network, self._config)
        if self._monitor.interrupted:
            raise KeyboardInterrupt
        if plan is None:
            raise self._build_error()
        timings = self._config.get_timing_cache() if timing_cache is not None else None
        if timings is not None and timing_cache is not None:
            write_engine_file(timing_cache, bytes(memoryview(timings.serialize())))
        return memoryview(plan), int(self._network.num_layers)

    def parse_graph(self) -> int:
        """Makes the network of the graph and returns its number of layers. Raises BadBundle, BackendFailed."""
        request, title = self._request, self._machine.title
        model = onnx.load(request.graph, load_external_data=False)
        for change in request.prepare:
            change(model)
        if problems := self._known_problems(model):
            raise BadBundle(f"{title} does not support {request.graph}: {_join_first(map(str, problems))}")
        parser = self._trt.OnnxParser(self._network, self._log.logger)
        # The parser looks for the weights beside this path.
        if not parser.parse(model.SerializeToString(), str(request.graph)):
            errors = [parser.get_error(index) for index in range(parser.num_errors)]
            texts = [f"{error.node_operator()} {error.node_name()!r}: {error.desc()}" for error in errors]
            raise BackendFailed(
                f"{title} does not read {request.graph}: {_join_first(texts) or self._log.recent()}. Export for this "
                "target (--target), or report it with this message."
            )
        allow_attention_in_parts(self._trt, self._network)
        return int(self._network.num_layers)

    def _known_problems(self, model: onnx.ModelProto) -> list[ParserProblem]:
        """Returns what the table of operators says. It has no column for TensorRT for RTX, whose own parser is here."""
        if flavour_named(self._machine.flavour) is not TENSORRT:
            return []
        return list(check_model(model, parse_version(self._machine.tensorrt)))

    def _configure(self) -> None:
        request, config, trt = self._request, self._config, self._trt
        if request.workspace_bytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_bytes)
        config.builder_optimization_level = request.optimization_level
        config.progress_monitor = self._monitor
        if request.precision == "fp32":
            config.clear_flag(trt.BuilderFlag.TF32)
        if flavour_named(self._machine.flavour).portable:
            name_capabilities(trt, config, named_capabilities(self._machine.sm), self._machine.title)
        for shapes in request.profiles:
            self._add_profile(shapes)

    def _add_profile(self, shapes: ProfileShapes) -> None:
        profile = self._builder.create_optimization_profile()
        inputs = [self._network.get_input(index) for index in range(self._network.num_inputs)]
        varying = {tensor.name for tensor in inputs if -1 in tuple(tensor.shape)}
        if varying != set(shapes):
            raise BackendFailed(
                f"{self._request.graph}: inputs {sorted(varying)} vary in size, but sizes are given for "
                f"{sorted(shapes)}."
            )
        for name, (smallest, usual, largest) in shapes.items():
            profile.set_shape(name, smallest, usual, largest)
        if self._config.add_optimization_profile(profile) < 0:
            raise BackendFailed(f"TensorRT refuses the sizes {dict(shapes)}: {self._log.recent()}.")

    def _read_timings(self, path: Path) -> None:
        """Reads the timings of earlier builds. A file that is damaged or of another version is ignored."""
        content = path.read_bytes() if path.is_file() else b""
        timings = self._config.create_timing_cache(content)
        if timings is None or not self._config.set_timing_cache(timings, False):
            self._config.set_timing_cache(self._config.create_timing_cache(b""), False)

    def _build_error(self) -> BackendFailed:
        words, workspace_bytes = self._log.recent(), self._request.workspace_bytes
        memory = re.search(r"out of memory|outofmemory|memory allocation|insufficient memory", words, re.IGNORECASE)
        limit = "" if workspace_bytes is None else f" with {workspace_bytes / 1e9:.1f} GB of workspace"
        text = f"{self._machine.title} cannot build {self._request.graph.name}{limit}: {words}."
        if memory:
            return OutOfMemory(
                f"{text} Close other programs, or build with --depth-only, which leaves out the LM head."
            )
        return BackendFailed(text)


def _join_first(texts: Iterable[str]) -> str:
    """Joins the first few texts and says how many more there are."""
    texts = list(texts)
    more = f" (and {len(texts) - MAX_LISTED_ERRORS} more)" if len(texts) > MAX_LISTED_ERRORS else ""
    return "; ".join(texts[:MAX_LISTED_ERRORS]) + more
