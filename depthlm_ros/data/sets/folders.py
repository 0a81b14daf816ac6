"""Finding things in the folders of data sets, always in the same order."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from depthlm_ros.data.problems import BadRecord


def folders_with(root: Path, inner: str, split: str = "") -> list[str]:
    """Folders that hold this file or folder, relative to root: root itself ("."), its folders, or its splits' folders.

    split: only what lies in the folder of this name, if it is given.
    """
    if not split and (root / inner).exists():
        return ["."]
    starts = [root / split] if split else [root, *_folders(root)]
    found = {folder for start in starts for folder in _folders(start) if (folder / inner).exists()}
    return sorted(folder.relative_to(root).as_posix() for folder in found)


def files_in(folder: Path, *suffixes: str) -> list[Path]:
    """Files with one of these suffixes (lower case, with dot), by name; none if the folder is not there."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)


def one_file(folder: Path, *suffixes: str) -> Path:
    """The first file with one of these suffixes. Raises BadRecord if there is none."""
    found = files_in(folder, *suffixes)
    if not found:
        raise BadRecord("file missing", f"{folder} holds no file ending in {' or '.join(suffixes)}.")
    return found[0]


def must_exist(path: Path, kind: str) -> Path:
    """The path. Raises BadRecord if it does not exist."""
    if not path.exists():
        raise BadRecord(f"{kind} missing", f"{path} does not exist.")
    return path


def in_split(names: Iterable[str], split: str, splits: dict[str, str]) -> list[str]:
    """Those names that belong to a split, all if split is ""."""
    return [name for name in names if not split or splits.get(name) == split]


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
