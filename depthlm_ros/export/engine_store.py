# SPDX-License-Identifier: Apache-2.0
"""The folders of built engines: one builder at a time, a list of what exists, checks, and removal.

build_lock and build_lock_without_waiting lock a folder. list_engine_folders, describe_engine and engine_table say what
exists. check_output_folder says whether a build may write into a folder. clean_engines removes leftovers, plans or
whole engines.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from depthlm_ros.backends.tensorrt.plan_file import PARTIAL_FILES, PlanKey, check_plan, key_path, read_key
from depthlm_ros.errors import BackendFailed, BadBundle, SetupError, UnknownName
from depthlm_ros.model_files.bundle import (
    ENGINE_WEIGHTS_FILE,
    STEP_FILE,
    TOKENIZER_FILE,
    Manifest,
    ModelBundle,
    bundle_from_manifest,
    read_manifest,
)
from depthlm_ros.model_files.install_paths import MANIFEST, engine_roots
from depthlm_ros.model_files.safetensors_files import CHECKPOINT_FILE

LOCK_FILE = ".building"
# Folder inside an engine's folder in which an export writes its files. It holds no manifest, so nothing in it loads.
WORK_FOLDER = ".export"
PLAN_PATTERNS = ("look_*.plan", "read_*.plan", "pair_*.plan", "step.plan")
PLAN_FILE_PATTERNS = tuple(f"{plan}{ending}" for plan in PLAN_PATTERNS for ending in (".json", ".kernels", ""))
# The manifest is removed first, so that a half removed engine does not load.
ENGINE_FILE_PATTERNS = (
    MANIFEST,
    *PLAN_FILE_PATTERNS,
    "look_*.onnx",
    "read_*.onnx",
    "pair_*.onnx",
    STEP_FILE,
    ENGINE_WEIGHTS_FILE,
    TOKENIZER_FILE,
)


@contextlib.contextmanager
def build_lock(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Locks `folder` for one builder. A second builder reports that it waits, and waits for the first one.

    The system releases the lock of a process that ends. Half-written files of a killed builder are removed. Raises
    BackendFailed if nothing can be written in the folder.
    """

    def wait(lock: TextIO) -> None:
        report(f"process {_lock_owner(lock)} is building in {folder}: waiting until it is done.")
        fcntl.flock(lock, fcntl.LOCK_EX)

    with _locked(folder, wait):
        for path in folder.glob(PARTIAL_FILES):
            path.unlink(missing_ok=True)
        yield


@contextlib.contextmanager
def build_lock_without_waiting(folder: Path) -> Iterator[None]:
    """Locks `folder` as build_lock does. Raises BackendFailed if another process is building in it."""

    def refuse(lock: TextIO) -> None:
        raise BackendFailed(f"process {_lock_owner(lock)} is building in {folder}: wait until it is done, or end it.")

    with _locked(folder, refuse):
        yield


@contextlib.contextmanager
def _locked(folder: Path, on_conflict: Callable[[TextIO], None]) -> Iterator[None]:
    """Locks a folder, and removes it at the end if it holds nothing else, as after a failed build.

    on_conflict: called if another process holds the lock. It waits until the lock is free, or raises.
    """
    with _acquire_lock(folder, on_conflict) as lock:
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            yield
        finally:
            if _holds_only_lock(folder):
                (folder / LOCK_FILE).unlink()
                with contextlib.suppress(OSError):  # another builder has started in the meantime
                    folder.rmdir()


def _acquire_lock(folder: Path, on_conflict: Callable[[TextIO], None]) -> TextIO:
    """Returns the open lock file. Starts again if another process removed the file while this one waited."""
    while True:
        lock = _open_lock_file(folder)
        if lock is None:
            continue
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_conflict(lock)
            if _is_same_file(folder / LOCK_FILE, lock):
                return lock
        except BaseException:
            lock.close()
            raise
        lock.close()


def _open_lock_file(folder: Path) -> TextIO | None:
    """Returns None if another process removed the empty folder between the two steps."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return (folder / LOCK_FILE).open("a+")
        except FileNotFoundError:
            return None
    except OSError as exc:
        raise BackendFailed(f"cannot build in {folder}: {exc.strerror}. Name another folder.") from exc


def _is_same_file(path: Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _lock_owner(lock: TextIO) -> str:
    """Returns the process id that the owner wrote into the lock file."""
    lock.seek(0)
    return lock.read().strip() or "unknown"


def _holds_only_lock(folder: Path) -> bool:
    return [path.name for path in folder.iterdir()] == [LOCK_FILE]


@dataclass(frozen=True)
class EngineFolder:
    """One engine on disk.

    manifest: its fields, or {} if it cannot be read; fault then says why. bundle: the model that the manifest
    describes, None if it cannot be read. size_bytes: of all files. plans: names of the finished plans.
    """

    folder: Path
    manifest: Manifest
    fault: str
    bundle: ModelBundle | None
    size_bytes: int
    plans: tuple[str, ...]


def list_engine_folders() -> list[EngineFolder]:
    """Returns every engine in the engine folders, without checking its files against the manifest."""
    folders = [folder.parent for root in engine_roots() for folder in sorted(root.glob(f"*/{MANIFEST}"))]
    return [read_engine_folder(folder) for folder in folders]


def read_engine_folder(folder: Path) -> EngineFolder:
    """Reads the manifest of one engine and lists its plans. Never raises BadBundle: see EngineFolder.fault."""
    manifest: Manifest = {}
    bundle, fault = None, ""
    try:
        manifest = read_manifest(folder)
        bundle = bundle_from_manifest(folder, manifest)
    except BadBundle as exc:
        fault = str(exc)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        fault = f"{folder / MANIFEST}: a field is missing or wrong ({exc!r})"
    return EngineFolder(folder, manifest, fault, bundle, _total_bytes(folder.rglob("*")), _finished_plans(folder))


def _finished_plans(folder: Path) -> tuple[str, ...]:
    """Returns the names of the plans that have their JSON, which is written last."""
    return tuple(path.name for path in sorted(folder.glob("*.plan")) if key_path(path).is_file())


def engine_table(engines: list[EngineFolder]) -> str:
    """Returns a table for people, with one line per engine."""
    rows = [("engine", "canvas", "precision", "opset", "size", "plans", "folder"), *map(_table_row, engines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return "\n".join(
        "  ".join([*(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    )


def _table_row(engine: EngineFolder) -> tuple[str, ...]:
    canvases, precision, bundle = "damaged", "", engine.bundle
    if bundle is not None:
        canvases = " ".join(f"{width}x{height}" for width, height in bundle.canvases_px)
        precision = bundle.precision + (" depth" if bundle.only_depth else "")
    opset, size = str(engine.manifest.get("opset", "")), f"{engine.size_bytes / 1e6:.0f} MB"
    return engine.folder.name, canvases, precision, opset, size, str(len(engine.plans) or "-"), str(engine.folder)


@dataclass(frozen=True)
class EngineDescription:
    """Everything that is known about one engine. file_bytes: size of each file. plans: what each plan was built for."""

    folder: Path
    manifest: Manifest
    file_bytes: Mapping[str, int]
    plans: Mapping[str, PlanKey]

    def to_json(self) -> dict[str, object]:
        """Returns the description as one object that JSON can hold."""
        plans = {name: asdict(key) for name, key in self.plans.items()}
        return {"folder": str(self.folder), **self.manifest, "bytes": dict(self.file_bytes), "plans": plans}


def describe_engine(folder: Path) -> EngineDescription:
    """Reads the manifest, the file sizes and the plans of one engine.

    Raises BadBundle for a manifest that cannot be read, for a plan that is not the one that its JSON describes, and for
    a plan that was built from other graphs.
    """
    manifest = read_manifest(folder)
    sizes = {
        path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file() and path.name != LOCK_FILE
    }
    rebuild = f"depthlm engine build --model {folder.name} --backend tensorrt"
    plans = {name: _read_checked_key(folder / name, manifest["files"], rebuild) for name in _finished_plans(folder)}
    return EngineDescription(folder, manifest, sizes, plans)


def _read_checked_key(plan: Path, files: Mapping[str, str], rebuild: str) -> PlanKey:
    """Checks a plan for the machine that its JSON names, which is not always this machine."""
    try:
        machine = read_key(key_path(plan)).machine
    except BadBundle as exc:
        raise BadBundle(f"{exc} Build it: {rebuild}") from exc
    return check_plan(plan, machine, files, rebuild)


def check_output_folder(folder: Path) -> None:
    """Raises SetupError unless a build may write here: the folder is new, empty, or the folder of an engine."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise SetupError(f"{folder} is a file, not a folder: name another folder with --out.")
    if (folder / CHECKPOINT_FILE).is_file():
        raise SetupError(
            f"{folder} is a model with its checkpoint, which an engine would replace: name another folder with --out."
        )
    others = sorted(path.name for path in folder.iterdir())
    if others and not is_engine_folder(folder):
        raise SetupError(
            f"{folder} is not the folder of an engine: it holds {', '.join(others[:3])}"
            f"{' ...' if len(others) > 3 else ''}. Name a new folder, or the folder of an engine, with --out."
        )


def is_engine_folder(folder: Path) -> bool:
    """Says whether an engine was built here, or a build has started here."""
    return (folder / MANIFEST).is_file() or (folder / LOCK_FILE).is_file()


def clean_engines(name: str, everything: bool, report: Callable[[str], None]) -> int:
    """Removes the leftovers of killed builds and, of the engine `name`, its plans. Returns the number of freed bytes.

    name: a name or folder; "" removes only leftovers, in all engine folders where no build is running. everything:
    removes the engine itself too. Files that no build wrote stay. Raises UnknownName if there is no such engine,
    SetupError for a model that no command here can build again, BackendFailed if a build of the engine is running.
    """
    if name:
        folder = _find_engine_folder(name)
        if everything:
            _check_removable(folder)
        return _remove_files(folder, ENGINE_FILE_PATTERNS if everything else PLAN_FILE_PATTERNS, report)
    freed = 0
    for folder in _engine_folders():
        # A folder with nothing but its lock is removed as soon as the lock is acquired and released.
        if not (any(_leftovers(folder)) or _holds_only_lock(folder)):
            continue
        try:
            freed += _remove_files(folder, (), report)
        except BackendFailed as exc:
            report(f"left alone: {exc}")
    return freed


def _remove_files(folder: Path, patterns: Iterable[str], report: Callable[[str], None]) -> int:
    """Removes leftovers, and then the files that match the patterns, in the order of the patterns."""
    freed = 0
    with build_lock_without_waiting(folder):
        matches = (path for pattern in patterns for path in sorted(folder.glob(pattern)))
        for path in dict.fromkeys([*_leftovers(folder), *matches]):
            freed += _total_bytes([path, *path.rglob("*")])
            report(f"removing {path}")
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        others = sorted(path.name for path in folder.iterdir() if path.name != LOCK_FILE)
        if others and MANIFEST in patterns:
            report(f"{folder} stays, because it holds {', '.join(others)}, which no build wrote")
    return freed


def _leftovers(folder: Path) -> Iterator[Path]:
    """Yields what a killed build left: partial files, the work folder, and plans without their JSON."""
    yield from folder.glob(PARTIAL_FILES)
    if (folder / WORK_FOLDER).is_dir():
        yield folder / WORK_FOLDER
    plans = (plan for pattern in PLAN_PATTERNS for plan in folder.glob(pattern))
    yield from (plan for plan in plans if not key_path(plan).is_file())


def _engine_folders() -> list[Path]:
    return [path for root in engine_roots() for path in root.iterdir() if path.is_dir() and is_engine_folder(path)]


def _find_engine_folder(name: str) -> Path:
    known = {folder.name: folder for folder in reversed(_engine_folders())}
    given = Path(name).expanduser()
    if name in known:
        return known[name]
    if given.is_dir() and is_engine_folder(given):
        return given
    raise UnknownName(
        f"{name!r} is neither the folder of an engine nor one of {', '.join(sorted(known)) or 'none'}; looked in "
        f"{', '.join(map(str, engine_roots()))}."
    )


def _check_removable(folder: Path) -> None:
    if (folder / CHECKPOINT_FILE).is_file():
        raise SetupError(
            f"{folder} is a model with its checkpoint, not an engine that could be built again: remove it by hand if "
            "you are sure."
        )


def _total_bytes(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())
