"""A TensorRT plan and the JSON beside it, which says what the plan was built from, and for which machine.

A plan runs only on the GPU and with the TensorRT that built it, so it is loaded only if its JSON agrees with the
machine at hand. The JSON is written last and removed first: a plan without one was not finished.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from depthlm_ros.errors import BackendFailed, BadBundle, UnfitPlans

FORMAT = 1


@dataclass(frozen=True)
class Machine:
    """gpu, sm: name and compute capability ("8.7"). driver: the newest CUDA that the driver runs."""

    tensorrt: str
    gpu: str
    sm: str
    driver: str


@dataclass(frozen=True)
class PlanKey:
    """Everything a plan depends on.

    files: SHA-256 of the ONNX graph and its data, by file name. shapes: of the inputs whose size varies, per
    optimization profile (least, usual, most). flags: how the builder was told to build.
    """

    files: Mapping[str, str]
    machine: Machine
    precision: str
    shapes: tuple[Mapping[str, tuple[tuple[int, ...], ...]], ...] = ()
    flags: tuple[str, ...] = ()


_WORDS = {
    "tensorrt": "TensorRT",
    "gpu": "GPU",
    "sm": "compute capability",
    "driver": "driver",
    "precision": "precision",
    "shapes": "shapes",
    "flags": "builder flags",
}


def key_path(plan: Path) -> Path:
    return plan.with_name(plan.name + ".json")


def stale(plan_json: Path, now: PlanKey) -> list[str]:
    """How the plan that the JSON describes differs from what is wanted now, one sentence a field; [] if it does not.

    Raises BadBundle for a JSON that is missing or damaged.
    """
    return differences(read_key(plan_json), now)


def differences(built: PlanKey, now: PlanKey) -> list[str]:
    """As stale, of two keys."""
    fields_then, fields_now = ({**vars(key.machine), **vars(key)} for key in (built, now))
    found = [
        f"{words} is {_say(fields_now[name])}, but the plan was built for {_say(fields_then[name])}"
        for name, words in _WORDS.items()
        if fields_then[name] != fields_now[name]
    ]
    for name in sorted({*built.files, *now.files}):
        if name not in now.files:
            found.append(f"{name} is gone, from which the plan was built")
        elif built.files.get(name) != now.files[name]:
            found.append(f"{name} has changed since the plan was built")
    return found


def check_plan(plan: Path, machine: Machine, files: Mapping[str, str], rebuild: str) -> PlanKey:
    """Raises UnfitPlans unless the plan is whole and was built on this machine from these files (name -> SHA-256; those
    of other graphs may be among them). rebuild: the command that builds it anew, for the message."""
    try:
        built, described = _read(key_path(plan))
    except BadBundle as exc:
        raise UnfitPlans(str(exc), rebuild) from exc
    now = replace(built, machine=machine, files={name: files[name] for name in built.files if name in files})
    wrong = differences(built, now) or _damage(plan, described)
    if wrong:
        raise UnfitPlans(f"{plan} does not fit: {'; '.join(wrong)}.", rebuild)
    return built


def read_key(path: Path) -> PlanKey:
    """The key in a plan's JSON. Raises BadBundle."""
    return _read(path)[0]


def _read(path: Path) -> tuple[PlanKey, Mapping[str, Any]]:
    """The key, and size and SHA-256 of the plan."""
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise BadBundle(f"{path} has format {content['format']}, this version reads {FORMAT}.")
        return _key(content["key"]), dict(content["plan"])
    except OSError as exc:
        raise BadBundle(f"cannot read {path} ({exc.strerror}): the plan was not built to its end.") from exc
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise BadBundle(f"{path} is damaged ({exc!r}).") from exc


def write_plan(plan: Path, content: bytes | memoryview, key: PlanKey) -> None:
    """Puts a plan and its JSON in place, so that at no time a half-written one can be loaded.

    Raises BackendFailed where the disk is full.
    """
    json_path = key_path(plan)
    digest, size = hashlib.sha256(content).hexdigest(), memoryview(content).nbytes
    with _disk(plan, size):
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.unlink(missing_ok=True)
    described = {"format": FORMAT, "plan": {"sha256": digest, "bytes": size}, "key": asdict(key)}
    write_whole(plan, content)
    write_whole(json_path, json.dumps(described, indent=1).encode() + b"\n")


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Replaces a file in one step. Raises BackendFailed, naming sizes, where the disk is full or closed to us."""
    with _disk(path, memoryview(content).nbytes):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _part(path) as part:
            part.write(content)
            part.flush()
            os.fsync(part.fileno())
            Path(part.name).chmod(0o644)
            Path(part.name).replace(path)


@contextlib.contextmanager
def _disk(path: Path, size: int) -> Iterator[None]:
    """Tells the system's errors while `size` bytes are written to `path`."""
    try:
        yield
    except OSError as exc:
        full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
        what = f"no space is left for {size / 1e6:.1f} MB" if full else exc.strerror
        raise BackendFailed(f"cannot write {path}: {what}. Free some, or name another folder.") from exc


PART = ".part"


@contextlib.contextmanager
def _part(path: Path) -> Iterator[Any]:
    """An open file beside `path`, gone afterwards if it is still there."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=PART, delete=False) as file:
        try:
            yield file
        finally:
            Path(file.name).unlink(missing_ok=True)


def _damage(plan: Path, described: Mapping[str, Any]) -> list[str]:
    """What is wrong with the plan file itself, against its JSON."""
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


def _key(content: Mapping[str, Any]) -> PlanKey:
    machine = Machine(**{name: _text(value) for name, value in content["machine"].items()})
    shapes = tuple(
        {name: tuple(tuple(int(n) for n in shape) for shape in span) for name, span in profile.items()}
        for profile in content["shapes"]
    )
    files = {str(name): _text(digest) for name, digest in content["files"].items()}
    return PlanKey(files, machine, _text(content["precision"]), shapes, tuple(map(str, content["flags"])))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _say(value: Any) -> str:
    if isinstance(value, str):
        return value or "unknown"
    return json.dumps(value)
