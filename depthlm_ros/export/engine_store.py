"""The engines that are here: what each is, how much room it takes, and what can go.

One builder at a time in a folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from depthlm_ros.backends.tensorrt.plan_file import PART, PlanKey, check_plan, key_path, read_key
from depthlm_ros.errors import BackendFailed, BadBundle, SetupError, UnknownName
from depthlm_ros.model_files.bundle import (
    MANIFEST,
    STEP_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    engine_roots,
    read_manifest,
)

LOCK = ".building"


@contextlib.contextmanager
def building(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Held while something is built in `folder`. A second builder says so and waits for the first; a lock dies with its
    process. What a killed builder left half-written is removed. Raises BackendFailed where nothing can be written."""

    def wait(file: TextIO) -> None:
        say(f"process {_holder(file)} is building in {folder}: waiting until it is done.")
        fcntl.flock(file, fcntl.LOCK_EX)

    with _held(folder, wait):
        for part in folder.glob(f".*{PART}"):
            part.unlink(missing_ok=True)
        yield


@contextlib.contextmanager
def idle(folder: Path) -> Iterator[None]:
    """The same for who does not want to wait. Raises BackendFailed where something is being built."""

    def refuse(file: TextIO) -> None:
        raise BackendFailed(f"process {_holder(file)} is building in {folder}: wait until it is done, or end it.")

    with _held(folder, refuse):
        yield


@contextlib.contextmanager
def _held(folder: Path, taken: Callable[[TextIO], None]) -> Iterator[None]:
    """taken: what is done where another process holds the lock; it gets it, or raises. A folder that holds nothing in
    the end, such as that of a build that failed, goes."""
    with _locked(folder, taken) as file:
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            if [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
                with contextlib.suppress(OSError):  # somebody has come and begins anew
                    folder.rmdir()


def _locked(folder: Path, taken: Callable[[TextIO], None]) -> TextIO:
    """The open file of a lock that is held. One that vanished while it was waited for locks nobody out: again."""
    while True:
        file = _opened(folder)
        if file is None:
            continue
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                taken(file)
            if _is_still(folder / LOCK, file):
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def _opened(folder: Path) -> TextIO | None:
    """None where the folder, having been left empty, went in between."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return (folder / LOCK).open("a+")
        except FileNotFoundError:
            return None
    except OSError as exc:
        raise BackendFailed(f"cannot build in {folder}: {exc.strerror}. Name another folder.") from exc


def _is_still(path: Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _holder(file: TextIO) -> str:
    file.seek(0)
    return file.read().strip() or "unknown"


# Folder in which an export makes its files, and a checkpoint's weights (export/package.py, nets/checkpoint.py).
WORK, CHECKPOINT_FILE = ".export", "model.safetensors"
PLANS = ("look_*.plan", "pair_*.plan", "step.plan")
PLAN_FILES = tuple(f"{plan}{end}" for plan in PLANS for end in (".json", ""))
# The manifest first: what is half removed does not load.
ENGINE_FILES = (MANIFEST, *PLAN_FILES, "look_*.onnx", "pair_*.onnx", STEP_FILE, WEIGHTS_FILE, TOKENIZER_FILE)


@dataclass(frozen=True)
class Shelved:
    """An engine's folder. manifest: {} if it cannot be read, then fault says why. plans: names of whole ones."""

    folder: Path
    manifest: dict[str, Any]
    fault: str
    size_bytes: int
    plans: tuple[str, ...]


def shelved() -> list[Shelved]:
    """Every engine in the engine folders; their files are not checked."""
    return [look_up(folder.parent) for root in engine_roots() for folder in sorted(root.glob(f"*/{MANIFEST}"))]


def look_up(folder: Path) -> Shelved:
    try:
        manifest, fault = read_manifest(folder), ""
    except BadBundle as exc:
        manifest, fault = {}, str(exc)
    plans = tuple(path.name for path in sorted(folder.glob("*.plan")) if key_path(path).is_file())
    return Shelved(folder, manifest, fault, _size(folder.rglob("*")), plans)


def table(engines: list[Shelved]) -> str:
    """For people: one line an engine."""
    rows = [("engine", "canvas", "precision", "opset", "size", "plans", "folder"), *map(_row, engines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return "\n".join(
        "  ".join([*(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    )


def _row(engine: Shelved) -> tuple[str, ...]:
    manifest = engine.manifest
    canvases = " ".join(f"{w}x{h}" for w, h in manifest.get("canvases_px", ()))
    kinds = manifest.get("precision", {}).get("backbone", "fp32") + (" depth" if manifest.get("only_depth") else "")
    size = f"{engine.size_bytes / 1e6:.0f} MB"
    if engine.fault:
        canvases, kinds = "damaged", ""
    opset = str(manifest.get("opset", ""))
    return engine.folder.name, canvases, kinds, opset, size, str(len(engine.plans) or "-"), str(engine.folder)


def describe(folder: Path) -> dict[str, Any]:
    """All that is known of an engine: its manifest, sizes of its files, and what its plans were built for.

    Raises BadBundle for a plan that is not what its JSON says, or was built from other graphs than those.
    """
    found = look_up(folder)
    files = {
        path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file() and path.name != LOCK
    }
    rebuild = f"depthlm engine build --model {folder.name} --backend tensorrt"
    plans = {name: asdict(_checked_key(folder / name, found.manifest["files"], rebuild)) for name in found.plans}
    return {"folder": str(folder), **found.manifest, "bytes": files, "plans": plans}


def _checked_key(plan: Path, files: Mapping[str, str], rebuild: str) -> PlanKey:
    """For the machine that the plan itself names, which need not be this one."""
    try:
        machine = read_key(key_path(plan)).machine
    except BadBundle as exc:
        raise BadBundle(f"{exc} Build it: {rebuild}") from exc
    return check_plan(plan, machine, files, rebuild)


def check_place(folder: Path) -> None:
    """Raises SetupError unless an engine may be put into a folder: there is none, it is empty, or it is an engine's."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise SetupError(f"{folder} is a file, no folder: name another with --out.")
    if (folder / CHECKPOINT_FILE).is_file():
        raise SetupError(
            f"{folder} is a model with its checkpoint, which an engine would take the place of: name another folder "
            "with --out."
        )
    others = sorted(path.name for path in folder.iterdir())
    if others and not is_engine(folder):
        raise SetupError(
            f"{folder} is no engine's folder: it holds {', '.join(others[:3])}{' ...' if len(others) > 3 else ''}. "
            "Name a new one, or that of an engine, with --out."
        )


def is_engine(folder: Path) -> bool:
    """Whether an engine was built here, or was about to be."""
    return (folder / MANIFEST).is_file() or (folder / LOCK).is_file()


def clean(name: str, everything: bool, say: Callable[[str], None]) -> int:
    """Removes what killed builds left behind and, of the engine `name`, its plans; with everything, the engine itself.
    Files that no build wrote stay.

    name "": only leftovers, everywhere; where something is being built just now, nothing. Returns the bytes that became
    free. Raises UnknownName for no engine, SetupError for a model that no command here can build again, BackendFailed
    for an engine that is being built.
    """
    if name:
        folder = _engine(name)
        if everything:
            _may_go(folder)
        return _remove(folder, ENGINE_FILES if everything else PLAN_FILES, say)
    freed = 0
    for folder in _engine_folders():
        if not (any(_leftovers(folder)) or _is_bare(folder)):
            continue
        try:
            freed += _remove(folder, (), say)
        except BackendFailed as exc:
            say(f"left alone: {exc}")
    return freed


def _remove(folder: Path, patterns: Iterable[str], say: Callable[[str], None]) -> int:
    """Leftovers, and what fits the patterns, in this order."""
    freed = 0
    with idle(folder):
        found = (path for pattern in patterns for path in sorted(folder.glob(pattern)))
        for path in dict.fromkeys([*_leftovers(folder), *found]):
            freed += _size([path, *path.rglob("*")])
            say(f"removing {path}")
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        others = sorted(path.name for path in folder.iterdir() if path.name != LOCK)
        if others and MANIFEST in patterns:
            say(f"{folder} stays, with {', '.join(others)}, which no build wrote")
    return freed


def _leftovers(folder: Path) -> Iterator[Path]:
    yield from folder.glob(f".*{PART}")
    if (folder / WORK).is_dir():
        yield folder / WORK
    yield from (plan for plan in _globbed(folder, PLANS) if not key_path(plan).is_file())


def _is_bare(folder: Path) -> bool:
    """Left with nothing but its lock, and gone as soon as that is held and given back."""
    return [path.name for path in folder.iterdir()] == [LOCK]


def _engine_folders() -> list[Path]:
    return [path for root in engine_roots() for path in root.iterdir() if path.is_dir() and is_engine(path)]


def _engine(name: str) -> Path:
    folders = _engine_folders()
    known = {folder.name: folder for folder in reversed(folders)}
    given = Path(name).expanduser()
    if name in known:
        return known[name]
    if given.is_dir() and is_engine(given):
        return given
    raise UnknownName(
        f"{name!r} is neither the folder of an engine nor one of {', '.join(sorted(known)) or 'none'}; looked in "
        f"{', '.join(map(str, engine_roots()))}."
    )


def _may_go(folder: Path) -> None:
    if (folder / CHECKPOINT_FILE).is_file():
        raise SetupError(
            f"{folder} is a model with its checkpoint, not an engine that could be built again: remove it by hand if "
            "that is what you want."
        )


def _globbed(folder: Path, patterns: Iterable[str]) -> Iterator[Path]:
    return (path for pattern in patterns for path in folder.glob(pattern))


def _size(paths: Any) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())
