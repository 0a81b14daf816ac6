"""The engines that are here: what each is, how much room it takes, and what can go."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from depthlm_ros.backends.tensorrt.plan_file import PART, PlanKey, check_plan, key_path, read_key
from depthlm_ros.engine.lock import LOCK, idle
from depthlm_ros.errors import BackendFailed, BadBundle, SetupError, UnknownName
from depthlm_ros.model_files.bundle import (
    MANIFEST,
    STEP_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    engine_roots,
    read_manifest,
)

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
