"""The engines that are here: what each is, how much room it takes, and what can go."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthlm_ros.backends.plan import PART, key_path
from depthlm_ros.bundle import engine_roots
from depthlm_ros.engine.lock import LOCK, building
from depthlm_ros.errors import BadBundle, SetupError, UnknownName
from depthlm_ros.manifest import MANIFEST, read_manifest

# Folder in which an export makes its files, and a checkpoint's weights (export/package.py, nets/checkpoint.py).
WORK, CHECKPOINT_FILE = ".export", "model.safetensors"


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
    """All that is known of an engine: its manifest, sizes of its files, and what its plans were built for."""
    found = look_up(folder)
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    plans = {name: json.loads(key_path(folder / name).read_text())["key"] for name in found.plans}
    return {"folder": str(folder), **found.manifest, "bytes": files, "plans": plans}


def clean(name: str, everything: bool, say: Callable[[str], None]) -> int:
    """Removes what killed builds left behind and, of the engine `name`, its plans; with everything, the engine itself.

    name "": only leftovers, everywhere. Returns the bytes that became free. Raises UnknownName for no engine,
    SetupError for a model that no command here can build again.
    """
    folders = [_engine(name)] if name else [path for root in engine_roots() for path in root.iterdir() if path.is_dir()]
    freed = 0
    for folder in folders:
        leftovers = list(_leftovers(folder))
        going = [*leftovers, *(_plans(folder) if name else ())]
        if everything and name:
            _may_go(folder)
            going = list(folder.iterdir())
        if going:
            freed += _remove(folder, going, say)
    return freed


def _remove(folder: Path, going: list[Path], say: Callable[[str], None]) -> int:
    with building(folder, say):
        # The manifest first: what is half removed does not load.
        going.sort(key=lambda path: path.name != MANIFEST)
        freed = 0
        for path in going:
            if path.name == LOCK or not path.exists():
                continue
            freed += _size([path, *path.rglob("*")])
            say(f"removing {path}")
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not [path for path in folder.iterdir() if path.name != LOCK]:
        shutil.rmtree(folder)
    return freed


def _leftovers(folder: Path) -> Iterator[Path]:
    yield from folder.glob(f".*{PART}")
    if (folder / WORK).is_dir():
        yield folder / WORK
    yield from (plan for plan in folder.glob("*.plan") if not key_path(plan).is_file())


def _plans(folder: Path) -> Iterator[Path]:
    for plan in folder.glob("*.plan"):
        yield from (plan, key_path(plan))


def _engine(name: str) -> Path:
    given = Path(name).expanduser()
    known = {folder.name: folder for root in reversed(engine_roots()) for folder in root.iterdir() if folder.is_dir()}
    if name in known:
        return known[name]
    if given.is_dir() and ((given / MANIFEST).is_file() or (given / WORK).is_dir()):
        return given
    raise UnknownName(f"engine {name!r} is neither a folder nor one of {', '.join(sorted(known)) or 'none'}.")


def _may_go(folder: Path) -> None:
    if (folder / CHECKPOINT_FILE).is_file():
        raise SetupError(
            f"{folder} is a model with its checkpoint, not an engine that could be built again: remove it by hand if "
            "that is what you want."
        )


def _size(paths: Any) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())
