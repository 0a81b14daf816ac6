"""One builder at a time in a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from depthlm_ros.backends.tensorrt.plan_file import PART
from depthlm_ros.errors import BackendFailed

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
