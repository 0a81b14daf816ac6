"""Builds TensorRT plans, on the GPU that will run them.

Networks are strongly typed: the precision is the graph's own, on every TensorRT alike. Only names that TensorRT 10.3
to 11.4 all have are used (test_tensorrt_names.py).

Which plans a bundle needs, and the sizes of their inputs.

TensorRT plans of an engine's graphs, on the machine that will run them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from depthlm_ros.backends.tensorrt.cuda_device import DeviceFacts, open_device
from depthlm_ros.backends.tensorrt.plan_file import (
    Machine,
    PlanKey,
    check_plan,
    key_path,
    stale,
    write_plan,
    write_whole,
)
from depthlm_ros.backends.tensorrt.runtime import last_words, load_tensorrt, make_logger
from depthlm_ros.errors import BackendFailed, BadBundle, OutOfMemory, SetupError
from depthlm_ros.export.engine_store import building
from depthlm_ros.export.onnx_rewrites import cast_bytes_first, choose_tokens, depth_only, file_digests
from depthlm_ros.export.progress import Bars
from depthlm_ros.export.trt_support import check_model
from depthlm_ros.export.trt_support_table import Target, parse_version, target_for
from depthlm_ros.model_files.bundle import Bundle

# Name of an input whose size varies -> its least, usual and largest shape.
Shapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True)
class Limits:
    """Largest sizes of text behind a look; scratch memory is reserved for them. rows: questions at once; tokens: of a
    question; slots: of a question and its answer; watched: tokens whose probabilities are asked for."""

    rows: int = 16
    tokens: int = 384
    slots: int = 512
    watched: int = 64


@dataclass(frozen=True)
class PlanOrder:
    """A graph to be built. profiles: one per way of using it; none for a graph of fixed shapes. workspace_bytes: what
    the builder may try tactics in. prepare: what is done to the graph first."""

    graph: Path
    plan: Path
    precision: str
    workspace_bytes: int
    profiles: tuple[Shapes, ...] = ()
    optimization_level: int = 3
    prepare: tuple[Callable[[onnx.ModelProto], None], ...] = ()


def plan_orders(
    bundle: Bundle,
    folder: Path,
    precision: str,
    workspace_bytes: int,
    limits: Limits = Limits(),
    only_depth: bool = False,
) -> list[PlanOrder]:
    """The plans of a bundle: one look for each canvas and, unless it is for depth only, one for two images of each, if
    the model compares images, and one step."""
    counts = (1, 2) if bundle.pairs and not only_depth else (1,)
    looks = [bundle.look_path(size_px, count) for count in counts for size_px in bundle.canvases_px]
    changes = (cast_bytes_first, depth_only) if only_depth else (cast_bytes_first,)
    orders = [PlanOrder(path, _plan(folder, path), precision, workspace_bytes, prepare=changes) for path in looks]
    if only_depth:
        return orders
    step = bundle.step_path
    profiles = step_profiles(step, [_prefix_length(path) for path in looks], limits)
    return [
        *orders,
        PlanOrder(step, _plan(folder, step), precision, workspace_bytes, profiles, prepare=(choose_tokens,)),
    ]


def step_profiles(step: Path, prefixes: list[int], limits: Limits) -> tuple[Shapes, Shapes]:
    """Sizes for any text, and for one token at a time. prefixes: lengths of the looks' prefixes."""
    usual_rows = min(8, limits.rows)
    text = {
        "n": (1, usual_rows, limits.rows),
        "t": (1, min(32, limits.tokens), limits.tokens),
        "p": (min(prefixes), max(prefixes), max(prefixes)),
        "s": (1, 1, limits.slots),
        "w": (1, min(16, limits.watched), limits.watched),
    }
    decode = text | {"t": (1, 1, 1), "s": (1, min(64, limits.slots), limits.slots)}
    model = onnx.load(step, load_external_data=False)
    choose_tokens(model)
    return _shapes(model, text, step), _shapes(model, decode, step)


def _shapes(model: onnx.ModelProto, sizes: Mapping[str, tuple[int, int, int]], path: Path) -> Shapes:
    """For every input with a named dimension."""
    found = {}
    for value in model.graph.input:
        dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        names = [dim for dim in dims if isinstance(dim, str)]
        if unknown := [name for name in names if name not in sizes]:
            raise BadBundle(
                f"{path}: input {value.name} has the unknown dimension {unknown[0]}: export the model again."
            )
        if names:
            least, usual, most = (tuple(sizes[d][i] if isinstance(d, str) else d for d in dims) for i in range(3))
            found[value.name] = (least, usual, most)
    return found


def _prefix_length(look: Path) -> int:
    """Tokens of a look's prefix: keys are (layers, B, heads_kv, P, D)."""
    outputs = {output.name: output for output in onnx.load(look, load_external_data=False).graph.output}
    if "keys" not in outputs:
        raise BadBundle(f"{look} gives no keys, so nothing can be asked: build it with --depth-only.")
    return int(outputs["keys"].type.tensor_type.shape.dim[3].dim_value)


def _plan(folder: Path, graph: Path) -> Path:
    return folder / graph.with_suffix(".plan").name


# Precision of a graph -> compute capability from which GPUs have it.
NEEDS_SM = {"fp32": (0, 0), "fp16": (5, 3), "bf16": (8, 0)}


@dataclass(frozen=True)
class PlanReport:
    """built: False if a plan that fits was there already."""

    plan: Path
    built: bool
    seconds: float
    plan_bytes: int
    layers: int


def default_workspace(facts: DeviceFacts) -> int:
    """Half of the free memory. TensorRT's own default is all of it, which a Jetson shares with everything else."""
    return facts.free_bytes // 2


def build_plan(
    order: PlanOrder, facts: DeviceFacts, timing_cache: Path, bars: Bars, say: Callable[[str], None]
) -> PlanReport:
    """Builds one plan, unless one that fits is there. Plan and JSON are put in place at the very end, as a whole.

    Raises BadBundle for a graph that is damaged or that this TensorRT does not take, SetupError for a precision that
    the GPU lacks, BackendFailed for everything that TensorRT refuses, with its own words.
    """
    began_s = time.monotonic()
    trt = load_tensorrt()
    check_precision(order.precision, facts)
    with building(order.plan.parent, say):
        key = plan_key(order, facts, str(trt.__version__))
        if _fits(order.plan, key):
            return PlanReport(order.plan, False, time.monotonic() - began_s, order.plan.stat().st_size, 0)
        content, layers = _Build(trt, order, bars).run(timing_cache)
        write_plan(order.plan, content, key)
        return PlanReport(order.plan, True, time.monotonic() - began_s, content.nbytes, layers)


def check_precision(precision: str, facts: DeviceFacts) -> None:
    """Raises SetupError for a precision that does not exist, or that the GPU lacks."""
    if precision not in NEEDS_SM:
        raise SetupError(f"precision {precision!r} is not one of {', '.join(NEEDS_SM)}.")
    have = tuple(int(part) for part in facts.sm.split("."))
    if have < NEEDS_SM[precision]:
        needed = ".".join(map(str, NEEDS_SM[precision]))
        fitting = [name for name, sm in NEEDS_SM.items() if have >= sm]
        raise SetupError(
            f"{precision} needs a GPU of compute capability {needed}; {facts.name} has {facts.sm}: "
            f"export with --precision {fitting[-1]}."
        )


def plan_key(order: PlanOrder, facts: DeviceFacts, tensorrt: str) -> PlanKey:
    """What the plan depends on. Raises BadBundle for a graph whose files are not all there."""
    flags = ["strongly typed", f"optimization level {order.optimization_level}"]
    flags += ["TF32 off"] if order.precision == "fp32" else []
    flags += [change.__name__ for change in order.prepare]
    return PlanKey(
        files=file_digests(order.graph),
        machine=Machine(tensorrt, facts.name, facts.sm, facts.driver),
        precision=order.precision,
        shapes=tuple(dict(profile) for profile in order.profiles),
        flags=tuple(flags),
    )


def timing_cache_path(folder: Path, facts: DeviceFacts, tensorrt: str) -> Path:
    """Timings are kept per TensorRT and GPU: a build after a change of the graph takes a fraction of the first."""
    return folder / f"timings-{re.sub(r'[^A-Za-z0-9.]+', '-', f'{tensorrt}-{facts.name}')}.cache"


def _fits(plan: Path, key: PlanKey) -> bool:
    if not key_path(plan).is_file():
        return False
    try:
        return not stale(key_path(plan), key) and check_plan(plan, key.machine, key.files, "") == key
    except BadBundle:
        return False


class _Build:
    """One build: TensorRT's objects, which must outlive each other."""

    def __init__(self, trt: Any, order: PlanOrder, bars: Bars) -> None:
        self._trt, self._order = trt, order
        self._log, self._monitor = make_logger(trt), _monitor(trt, bars)
        try:
            self._builder = trt.Builder(self._log)
        except TypeError as exc:  # the bindings' way of telling that there is no usable driver
            raise BackendFailed(f"TensorRT {trt.__version__} does not start: {last_words(self._log)}.") from exc
        # The flag's number differs between versions, its name does not; from 11 on it is the only kind there is.
        typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self._network = self._builder.create_network(typed)
        self._config = self._builder.create_builder_config()

    def run(self, timing_cache: Path) -> tuple[memoryview, int]:
        """The plan and the number of its network's layers."""
        self._parse()
        self._configure()
        self._read_timings(timing_cache)
        plan = self._builder.build_serialized_network(self._network, self._config)
        if self._monitor.interrupted:
            raise KeyboardInterrupt
        if plan is None:
            raise self._refused()
        timings = self._config.get_timing_cache()
        if timings is not None:
            write_whole(timing_cache, bytes(memoryview(timings.serialize())))
        return memoryview(plan), int(self._network.num_layers)

    def _parse(self) -> None:
        order, version = self._order, self._trt.__version__
        model = onnx.load(order.graph, load_external_data=False)
        for change in order.prepare:
            change(model)
        if problems := list(check_model(model, parse_version(version))):
            raise BadBundle(f"TensorRT {version} does not take {order.graph}: {_listed(map(str, problems))}")
        parser = self._trt.OnnxParser(self._network, self._log)
        # The path is where the weights are looked for.
        if not parser.parse(model.SerializeToString(), str(order.graph)):
            errors = [parser.get_error(index) for index in range(parser.num_errors)]
            told = [f"{error.node_operator()} {error.node_name()!r}: {error.desc()}" for error in errors]
            raise BackendFailed(
                f"TensorRT {version} does not read {order.graph}: {_listed(told) or last_words(self._log)}. "
                "Export for this target (--target), or report it with this message."
            )

    def _configure(self) -> None:
        order, config, trt = self._order, self._config, self._trt
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, order.workspace_bytes)
        config.builder_optimization_level = order.optimization_level
        config.progress_monitor = self._monitor
        if order.precision == "fp32":
            config.clear_flag(trt.BuilderFlag.TF32)
        for shapes in order.profiles:
            self._add_profile(shapes)

    def _add_profile(self, shapes: Shapes) -> None:
        profile = self._builder.create_optimization_profile()
        varying = {tensor.name for tensor in self._inputs() if -1 in tuple(tensor.shape)}
        if varying != set(shapes):
            raise BackendFailed(
                f"{self._order.graph}: inputs {sorted(varying)} vary in size, but sizes are given for {sorted(shapes)}."
            )
        for name, (least, usual, most) in shapes.items():
            profile.set_shape(name, least, usual, most)
        if self._config.add_optimization_profile(profile) < 0:
            raise BackendFailed(f"TensorRT refuses the sizes {dict(shapes)}: {last_words(self._log)}.")

    def _inputs(self) -> list[Any]:
        return [self._network.get_input(index) for index in range(self._network.num_inputs)]

    def _read_timings(self, path: Path) -> None:
        """A cache that is damaged or of another version is not used; it only costs time."""
        content = path.read_bytes() if path.is_file() else b""
        timings = self._config.create_timing_cache(content)
        if timings is None or not self._config.set_timing_cache(timings, False):
            self._config.set_timing_cache(self._config.create_timing_cache(b""), False)

    def _refused(self) -> BackendFailed:
        words = last_words(self._log)
        short = re.search(r"out of memory|outofmemory|memory allocation|insufficient memory", words, re.IGNORECASE)
        limit = f"{self._order.workspace_bytes / 1e9:.1f} GB of workspace"
        text = f"TensorRT {self._trt.__version__} cannot build {self._order.graph.name} with {limit}: {words}."
        if short:
            return OutOfMemory(
                f"{text} Close other programs, or build with --depth-only, which leaves out the LM head."
            )
        return BackendFailed(text)


def _monitor(trt: Any, bars: Bars) -> Any:
    """TensorRT's progress monitor that draws bars. Ctrl-C during a build ends it, which only the monitor can."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            super().__init__()
            self.interrupted = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._guarded(lambda: bars.begin(phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._guarded(lambda: bars.step(phase_name, step))
            return not self.interrupted

        def phase_finish(self, phase_name: str) -> None:
            self._guarded(lambda: bars.end(phase_name))

        def _guarded(self, draw: Callable[[], None]) -> None:
            """An exception must not run through TensorRT's own frames."""
            try:
                draw()
            except KeyboardInterrupt:
                self.interrupted = True
            except (OSError, ValueError):  # the terminal is gone; the build need not be
                return

    return Monitor()


def _listed(given: Iterable[str], most: int = 5) -> str:
    texts = list(given)
    more = f" (and {len(texts) - most} more)" if len(texts) > most else ""
    return "; ".join(texts[:most]) + more


@dataclass(frozen=True)
class PlanWishes:
    """workspace_bytes: what the builder may try tactics in, None for half of the free memory. limits: of text."""

    workspace_bytes: int | None = None
    limits: Limits = field(default_factory=Limits)
    only_depth: bool = False


def build_plans(bundle: Bundle, wishes: PlanWishes, bars: Bars, say: Callable[[str], None]) -> list[PlanReport]:
    """Builds what is not there yet. Timings are kept beside the engine's folder, for all engines.

    Raises BackendFailed, OutOfMemory, BadBundle, SetupError as build_plan does.
    """
    tensorrt = str(load_tensorrt().__version__)
    facts = open_device().facts()
    workspace = wishes.workspace_bytes or default_workspace(facts)
    only_depth = wishes.only_depth or bundle.only_depth
    orders = plan_orders(bundle, bundle.folder, bundle.precision, workspace, wishes.limits, only_depth)
    timings = timing_cache_path(bundle.folder.parent, facts, tensorrt)
    return [build_plan(order, facts, timings, bars, say) for order in orders]


def target_here() -> Target | None:
    """The target that this machine's TensorRT fits, None without one (or with one too old)."""
    try:
        tensorrt = load_tensorrt()
    except BackendFailed:
        return None
    return target_for(parse_version(str(tensorrt.__version__)))
