"""TensorRT: a bundle's graphs as plans that were built for this very GPU (depthlm engine build).

Between calls everything stays on the device: keys and values of a look, and of the text behind it, which are written
in place into buffers of fixed size. Only token ids and a few probabilities travel.
"""

from __future__ import annotations

import json
import math
import shlex
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from depthlm_ros.backends.base import Look, StepInput, StepOutput, checked_size
from depthlm_ros.backends.tensorrt.cuda_device import Device, DeviceArray, Pool, device_index, open_device
from depthlm_ros.backends.tensorrt.plan_file import Machine, check_plan, key_path, read_key
from depthlm_ros.backends.tensorrt.runtime import Engine, Run, Staging, load_tensorrt
from depthlm_ros.errors import BadBundle, BadQuestion, OutOfMemory, UnfitPlans
from depthlm_ros.model_files.bundle import MANIFEST, Bundle
from depthlm_ros.model_files.checkpoint import bundle_folder

# Profiles of a step plan: any text, and one token at a time.
TEXT, DECODE = 0, 1
# Slots come in steps of this many, so that questions of similar lengths share a recorded run.
SLOT_STEP = 32
IMAGES = ("image", "second")
OWN = ("own_keys", "own_values")
PREFIX = ("prefix_keys", "prefix_values")
ANSWERS = ("chosen", "log_probability", "watched_log_probability")


@dataclass(frozen=True, eq=False)
class Prefix:
    """Keys and values of a look, each (layers, B, heads_kv, P, D), on the device."""

    keys: DeviceArray
    values: DeviceArray


class Slab:
    """Room for one batch of questions: prefix and own keys and values, and the recorded run that decodes there."""

    def __init__(self, device: Device, engine: Engine, look: Prefix, rows: int, slots: int) -> None:
        layers, _, heads, _, size = look.keys.shape
        own, item_bytes = (layers, rows, heads, slots, size), look.keys.item_bytes
        self.rows, self.slots = rows, slots
        self.prefix = [device.zeros(look.keys.shape, item_bytes) for _ in PREFIX]
        self.own = [device.zeros(own, item_bytes) for _ in OWN]
        self.decode = Run(device, engine, min(DECODE, engine.profiles - 1))
        self.decode_shapes: tuple = ()


@dataclass(frozen=True, eq=False)
class DeviceCache:
    """A slab while somebody uses it."""

    slab: Slab


class TensorRTBackend:
    """A bundle's plans on one GPU. Plans lie beside the graphs, or in the folder `plans`.

    Raises BackendFailed without TensorRT or a GPU, UnfitPlans for plans that are missing or were built for another
    machine, TensorRT or graph. Plans that were built for depth only need no step.plan.
    """

    name = "tensorrt"

    def __init__(self, bundle: Bundle, device: str = "", plans: Path | None = None) -> None:
        self._trt = load_tensorrt()
        self._bundle, self._plans = bundle, plans or bundle.folder
        self._device = open_device(device_index(device))
        self._lock = threading.Lock()
        self._check_plans()
        self._looks: dict[tuple[tuple[int, int], int], tuple[Run, Staging]] = {}
        self._pool = Pool()
        self._step: tuple[Engine, Run, Staging] | None = None

    def look(self, images: Sequence[np.ndarray]) -> Look:
        size_px, count = checked_size(self._bundle, images), len(images)
        with self._lock:
            self._device.activate()
            run, staging = self._looker(size_px, count)
            for name, image in zip(IMAGES, images, strict=False):
                staging.put(name, image)
            run.go()
            depth_m = staging.fetch("depth_m", run.outputs["depth_m"]) if "depth_m" in run.outputs else None
            # The run's own outputs are overwritten by the next look.
            prefix = self._kept(run.outputs["keys"], run.outputs["values"]) if "keys" in run.outputs else None
            self._device.synchronize()
            kept_m = None if depth_m is None else depth_m.astype(np.float32)
        length = prefix.keys.shape[3] if prefix else 0
        return Look(kept_m, prefix, 1, length, self._bundle.next_position(size_px, count))

    def cache(self, look: Look, rows: int, slots: int) -> DeviceCache:
        if look.prefix is None:
            raise BadQuestion(f"{self._bundle.name} was built for depth only: build it without --depth-only to ask.")
        with self._lock:
            self._device.activate()
            engine, _, _ = self._stepper()
            slots = self._fitting(engine, rows, slots)
            prefix = look.prefix
            cache = self._pool.lend(
                (prefix.keys.shape, rows, slots), lambda: Slab(self._device, engine, prefix, rows, slots), DeviceCache
            )
            for to, source in zip(cache.slab.prefix, (prefix.keys, prefix.values), strict=True):
                self._device.copy(to, source)
            # What masked slots hold is multiplied by zero, which is only harmless for numbers.
            for array in cache.slab.own:
                self._device.clear(array)
        return cache

    def step(self, cache: DeviceCache, given: StepInput) -> StepOutput:
        with self._lock:
            self._device.activate()
            decoding = given.ids.shape[1] == 1 and given.at > 0
            run = self._decode(cache.slab, given) if decoding else self._text(cache.slab, given)
            _, _, staging = self._stepper()
            for own, new in zip(cache.slab.own, ("keys", "values"), strict=True):
                self._device.copy_slots(own, run.outputs[new], given.at)
            fetched = [staging.fetch(name, run.outputs[name]) for name in ANSWERS]
            self._device.synchronize()
            chosen, log_probability, watched = (array.copy() for array in fetched)
        return StepOutput(chosen, log_probability, watched[:, : len(given.watched)])

    def _check_plans(self) -> None:
        facts = self._device.facts()
        machine = Machine(str(self._trt.__version__), facts.name, facts.sm, facts.driver)
        files = json.loads((self._bundle.folder / MANIFEST).read_text())["files"]
        bundle = self._bundle
        plans = [self._plan(bundle.look_path(size_px)) for size_px in bundle.canvases_px]
        only_depth = bundle.only_depth or all(map(_tells_depth_only, plans))
        # Of an engine for depth only, nothing is asked about two images either.
        if not only_depth:
            pairs = bundle.canvases_px if bundle.pairs else ()
            plans += [*(self._plan(bundle.look_path(size_px, 2)) for size_px in pairs), self._plan(bundle.step_path)]
        rebuild = self._rebuild(only_depth)
        if missing := [plan.name for plan in plans if not plan.is_file()]:
            raise UnfitPlans(f"{self._plans} has no {', '.join(missing)}.", rebuild)
        for plan in plans:
            check_plan(plan, machine, files, rebuild)

    def _rebuild(self, only_depth: bool) -> str:
        """The command that builds the same plans on this machine."""
        bundle, known = self._bundle, bundle_folder(self._bundle.name)
        model = bundle.name if known and known.samefile(bundle.folder) else str(bundle.folder.resolve())
        less = " --depth-only" if only_depth and not bundle.only_depth else ""
        return f"depthlm engine build --model {shlex.quote(model)} --backend tensorrt{less}"

    def _plan(self, graph: Path) -> Path:
        return self._plans / graph.with_suffix(".plan").name

    def _looker(self, size_px: tuple[int, int], count: int) -> tuple[Run, Staging]:
        if (size_px, count) not in self._looks:
            engine = Engine(self._trt, self._device, self._plan(self._bundle.look_path(size_px, count)))
            seen = {name: engine.tensors[name].shape for name in (*IMAGES, "depth_m") if name in engine.tensors}
            run = Run(self._device, engine, TEXT)
            staging = Staging(self._device, engine, {name: math.prod(shape) for name, shape in seen.items()})
            run.bind({name: staging.place(name, seen[name]) for name in IMAGES[:count]})
            self._looks[size_px, count] = (run, staging)
        return self._looks[size_px, count]

    def _kept(self, keys: DeviceArray, values: DeviceArray) -> Prefix:
        """A copy of a look's keys and values."""

        def make() -> tuple[DeviceArray, DeviceArray]:
            shape, item_bytes = keys.shape, keys.item_bytes
            return self._device.zeros(shape, item_bytes), self._device.zeros(shape, item_bytes)

        prefix = self._pool.lend(keys.shape, make, lambda pair: Prefix(*pair))
        self._device.copy(prefix.keys, keys)
        self._device.copy(prefix.values, values)
        return prefix

    def _stepper(self) -> tuple[Engine, Run, Staging]:
        if self._step is None:
            engine = Engine(self._trt, self._device, self._plan(self._bundle.step_path))
            if absent := [name for name in ANSWERS if name not in engine.tensors]:
                raise BadBundle(f"{engine.plan} does not give {', '.join(absent)}: build it with this version.")
            most = {name: _most(engine, name) for name in ("ids", "positions", "last", "own_mask", "watched")}
            rows, watched = most["last"], most["watched"]
            most |= {"chosen": rows, "log_probability": rows, "watched_log_probability": rows * watched}
            self._step = (engine, Run(self._device, engine, TEXT), Staging(self._device, engine, most))
        return self._step

    def _fitting(self, engine: Engine, rows: int, slots: int) -> int:
        """`slots` rounded up. Raises OutOfMemory, which makes the caller try fewer rows, or BadQuestion."""
        most_rows, most_slots = engine.most("own_mask", TEXT)
        if rows > most_rows:
            raise OutOfMemory(f"the engine was built for {most_rows} questions at once, not {rows}.")
        if slots > most_slots:
            raise BadQuestion(f"question and answer need {slots} tokens: the engine was built for {most_slots}.")
        return min(-(-slots // SLOT_STEP) * SLOT_STEP, most_slots)

    def _decode(self, slab: Slab, given: StepInput) -> Run:
        _, _, staging = self._stepper()
        inputs = self._put(staging, given, _widened(given.mask, slab.slots))
        shapes = tuple(array.shape for array in inputs.values())
        if slab.decode_shapes != shapes:
            slab.decode.bind(inputs | _held(slab, slab.slots))
            slab.decode_shapes = shapes
        slab.decode.go()
        return slab.decode

    def _text(self, slab: Slab, given: StepInput) -> Run:
        """A first question has nothing of its own to look back on but one masked slot, which the graph needs."""
        engine, run, staging = self._stepper()
        tokens, most = given.ids.shape[1], engine.most("ids", TEXT)[1]
        if tokens > most:
            raise BadQuestion(f"the question has {tokens} tokens: the engine was built for {most}.")
        first = given.at == 0
        mask = np.full((len(given.ids), 1), -np.inf, np.float32) if first else _widened(given.mask, slab.slots)
        run.bind(self._put(staging, given, mask) | _held(slab, mask.shape[1]))
        run.go()
        return run

    def _put(self, staging: Staging, given: StepInput, mask: np.ndarray) -> dict[str, DeviceArray]:
        # TensorRT takes no empty tensors.
        watched = given.watched if len(given.watched) else np.zeros(1, np.int64)
        values = {"ids": given.ids, "positions": given.positions, "last": given.last, "own_mask": mask}
        return {name: staging.put(name, array) for name, array in (values | {"watched": watched}).items()}


def _tells_depth_only(look: Path) -> bool:
    """Whether a look's plan was built with --depth-only."""
    try:
        return "depth_only" in read_key(key_path(look)).flags
    except BadBundle:
        return False


def _most(engine: Engine, name: str) -> int:
    return math.prod(engine.most(name, TEXT))


def _held(slab: Slab, slots: int) -> dict[str, DeviceArray]:
    """What a run reads from a slab; of fewer slots only the shape matters, all being masked."""
    layers, rows, heads, _, size = slab.own[0].shape
    own = [array.view((layers, rows, heads, slots, size)) for array in slab.own]
    return dict(zip((*PREFIX, *OWN), (*slab.prefix, *own), strict=True))


def _widened(mask: np.ndarray, slots: int) -> np.ndarray:
    """A mask (N, S) for more slots, which are not valid."""
    return np.pad(mask, ((0, 0), (0, slots - mask.shape[1])), constant_values=-np.inf)
