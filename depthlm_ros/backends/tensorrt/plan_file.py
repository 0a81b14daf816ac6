# SPDX-License-Identifier: Apache-2.0
"""A TensorRT plan on disk, and the JSON beside it: what the plan was built from, and for which machine.

A plan runs only with the TensorRT that built it, and on the GPU that it was built on; a plan of TensorRT for RTX runs
on every GPU of its compute capabilities. So a plan is loaded only if its JSON agrees with this machine. The JSON is
written last and removed first: a plan without a JSON is incomplete.

Public names: PlanKey, Machine, machine_of, portable_machine, check_plan, plan_differences, read_key, key_path,
kernel_cache_path, plan_flavour, write_plan, write_engine_file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from depthlm_ros.backends.tensorrt.cuda_device import DeviceFacts
from depthlm_ros.backends.tensorrt.flavour import (
    TENSORRT,
    TENSORRT_RTX,
    Flavour,
    capability_text,
    flavour_named,
    runs_on,
)
from depthlm_ros.errors import BackendFailed, BadBundle, BadPlans, UnknownName
from depthlm_ros.file_io import parse_json, write_atomically
from depthlm_ros.model_files.bundle import ModelBundle, read_manifest

FORMAT = 1
# The files that a killed process leaves behind (file_io.replacing).
PARTIAL_FILES = "partial-*"
# Fields of Machine and PlanKey -> words for messages.
_FIELD_NAMES = {
    "flavour": "the kind of TensorRT",
    "tensorrt": "TensorRT",
    "gpu": "GPU",
    "sm": "compute capability",
    "driver": "driver",
    "precision": "precision",
    "shapes": "shapes",
    "flags": "builder flags",
}


@dataclass(frozen=True)
class Machine:
    """The machine that a plan is for.

    tensorrt: version of TensorRT. gpu, sm: name and compute capability ("8.7") of the GPU. driver: the newest CUDA that
    the driver runs ("CUDA 12.6"). flavour: the kind of TensorRT (Flavour.module). A portable plan is for any machine
    with a GPU of some compute capabilities: there gpu and driver are "", and sm is "8.6 8.9" or "8.0 and later".
    """

    tensorrt: str
    gpu: str
    sm: str
    driver: str
    flavour: str = TENSORRT.module

    @property
    def title(self) -> str:
        """The kind and version of TensorRT, as in "TensorRT for RTX 1.7.1"."""
        return f"{flavour_named(self.flavour).title} {self.tensorrt}"

    @property
    def description(self) -> str:
        """For what a plan was built: TensorRT, and one GPU with its driver or compute capabilities."""
        where = f"{self.gpu} (sm {self.sm}), {self.driver}" if self.gpu else f"compute capability {self.sm}"
        return f"{self.title}, {where}"


def machine_of(facts: DeviceFacts, tensorrt: str, flavour: Flavour = TENSORRT) -> Machine:
    """Returns the machine with this GPU and this version of TensorRT."""
    return Machine(tensorrt, facts.name, facts.sm, facts.driver, flavour.module)


def portable_machine(tensorrt: str, flavour: Flavour, capabilities: Sequence[str] = ()) -> Machine:
    """Returns what a portable plan is built for: all machines with a GPU of these compute capabilities."""
    return Machine(tensorrt, "", capability_text(capabilities), "", flavour.module)


@dataclass(frozen=True)
class PlanKey:
    """Everything that a plan depends on.

    files: SHA-256 of the ONNX graph and its data, by file name. precision: of the graph. shapes: for each optimization
    profile, the smallest, usual and largest shape of every input whose size varies. flags: options of the builder.
    """

    files: Mapping[str, str]
    machine: Machine
    precision: str
    shapes: tuple[Mapping[str, tuple[tuple[int, ...], ...]], ...] = ()
    flags: tuple[str, ...] = ()


def key_path(plan: Path) -> Path:
    """Returns the path of the JSON beside a plan."""
    return plan.with_name(plan.name + ".json")


def kernel_cache_path(plan: Path) -> Path:
    """Returns the path of the kernels that were compiled for this GPU from a portable plan."""
    return plan.with_name(plan.name + ".kernels")


def plan_differences(plan_json: Path, now: PlanKey) -> list[str]:
    """Returns how a plan differs from the plan that is needed now, one clause for each field; [] if it does not differ.

    plan_json: the JSON beside the plan. Raises BadBundle if it is missing or damaged.
    """
    return _key_differences(read_key(plan_json), now)


def check_plan(plan: Path, machine: Machine, files: Mapping[str, str], rebuild: str) -> PlanKey:
    """Returns the key of a plan that this machine can use.

    Raises BadPlans unless the plan is complete and was built on this machine from these files (name -> SHA-256; files
    of other graphs are ignored). rebuild: the command that builds the plan again, for the message.
    """
    try:
        built, described = _read(key_path(plan))
    except BadBundle as exc:
        raise BadPlans(str(exc), rebuild) from exc
    now = replace(built, machine=machine, files={name: files[name] for name in built.files if name in files})
    problems = _key_differences(built, now) or _find_damage(plan, described)
    if problems:
        raise BadPlans(f"{plan} does not fit: {'; '.join(problems)}.", rebuild)
    return built


def read_key(path: Path) -> PlanKey:
    """Reads the key in the JSON of a plan. Raises BadBundle if the JSON is missing or damaged."""
    return _read(path)[0]


def _read(path: Path) -> tuple[PlanKey, Mapping[str, object]]:
    """Returns the key, and size and SHA-256 of the plan ("bytes", "sha256")."""
    try:
        content = parse_json(path.read_text())
        if content["format"] != FORMAT:
            raise BadBundle(f"{path} has format {content['format']}, this version reads {FORMAT}.")
        return _parse_key(content["key"]), dict(content["plan"])
    except OSError as exc:
        raise BadBundle(f"cannot read {path} ({exc.strerror}): the plan is incomplete.") from exc
    except UnknownName as exc:
        raise BadBundle(f"{path}: {exc}") from exc
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise BadBundle(f"{path} is damaged ({exc!r}).") from exc


def plan_flavour(bundle: ModelBundle, plans: Path) -> Flavour:
    """Returns the kind of TensorRT of the plans in a folder. If there are none: that of the engine's target."""
    for graph in bundle.graphs:
        with contextlib.suppress(BadBundle):
            return flavour_named(read_key(key_path(plans / graph.with_suffix(".plan").name)).machine.flavour)
    target = read_manifest(bundle.folder).get("target")
    return TENSORRT_RTX if target == TENSORRT_RTX.target else TENSORRT


def write_plan(plan: Path, content: bytes | memoryview, key: PlanKey) -> None:
    """Writes a plan and its JSON, so that an incomplete plan can be loaded at no time.

    Raises BackendFailed if a file cannot be written, for example on a full disk.
    """
    json_path = key_path(plan)
    digest, size = hashlib.sha256(content).hexdigest(), memoryview(content).nbytes
    with _disk_errors(plan, size):
        json_path.unlink(missing_ok=True)
        kernel_cache_path(plan).unlink(missing_ok=True)
    described = {"format": FORMAT, "plan": {"sha256": digest, "bytes": size}, "key": asdict(key)}
    write_engine_file(plan, content)
    write_engine_file(json_path, json.dumps(described, indent=1).encode() + b"\n")


def write_engine_file(path: Path, content: bytes | memoryview) -> None:
    """Replaces a file in one step. Raises BackendFailed, with path and size, if it cannot be written."""
    with _disk_errors(path, memoryview(content).nbytes):
        write_atomically(path, content)


@contextlib.contextmanager
def _disk_errors(path: Path, size: int) -> Iterator[None]:
    """Raises the errors of the system as BackendFailed while `size` bytes are written to `path`."""
    try:
        yield
    except OSError as exc:
        is_full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = f"no space is left for {size / 1e6:.1f} MB" if is_full else exc.strerror
        raise BackendFailed(f"cannot write {path}: {reason}. Free some space, or name another folder.") from exc


def _key_differences(built: PlanKey, now: PlanKey) -> list[str]:
    """Does the work of plan_differences for two keys."""
    now = replace(now, machine=_as_seen_by(built.machine, now.machine))
    fields_then, fields_now = ({**vars(key.machine), **vars(key)} for key in (built, now))
    names = _FIELD_NAMES | {"tensorrt": flavour_named(now.machine.flavour).title}
    found = [
        f"{words} is {_to_text(fields_now[name])}, but the plan was built for {_to_text(fields_then[name])}"
        for name, words in names.items()
        if fields_then[name] != fields_now[name]
    ]
    for name in sorted({*built.files, *now.files}):
        if name not in now.files:
            found.append(f"{name}, from which the plan was built, is gone")
        elif built.files.get(name) != now.files[name]:
            found.append(f"{name} has changed since the plan was built")
    return found


def _as_seen_by(built: Machine, here: Machine) -> Machine:
    """Returns a machine without the facts about its GPU that a portable plan for `built` does not depend on."""
    if here.flavour != built.flavour or not flavour_named(built.flavour).portable or not here.gpu:
        return here
    return replace(here, gpu="", driver="", sm=built.sm if runs_on(built.sm, here.sm) else here.sm)


def _find_damage(plan: Path, described: Mapping[str, object]) -> list[str]:
    """Returns how the file of a plan differs from the size and SHA-256 in its JSON; [] if it does not differ."""
    try:
        with plan.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != described.get("bytes"):
                return [f"it has {size} bytes instead of {described.get('bytes')}: it is cut short or was changed"]
            digest = hashlib.sha256()
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as exc:
        return [f"it cannot be read ({exc.strerror})"]
    return [] if digest.hexdigest() == described.get("sha256") else ["it was changed after it was built"]


def _parse_key(content: Any) -> PlanKey:
    """Returns the key in decoded JSON. Raises KeyError, TypeError, ValueError or AttributeError if it is damaged."""
    machine = Machine(**{name: _checked_text(value) for name, value in content["machine"].items()})
    flavour_named(machine.flavour)
    shapes = tuple(
        {name: tuple(tuple(int(n) for n in shape) for shape in span) for name, span in profile.items()}
        for profile in content["shapes"]
    )
    files = {str(name): _checked_text(digest) for name, digest in content["files"].items()}
    return PlanKey(files, machine, _checked_text(content["precision"]), shapes, tuple(map(str, content["flags"])))


def _checked_text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _to_text(value: object) -> str:
    if isinstance(value, str):
        return value or "unknown"
    return json.dumps(value)
