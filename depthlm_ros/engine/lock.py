"""One builder at a time in a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from depthlm_ros.backends.plan import PART
from depthlm_ros.errors import BackendFailed

LOCK = ".building"


@contextlib.contextmanager
def building(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Held while plans are built in `folder`. A second builder says so and waits for the first; a lock dies with its
    process. What a killed builder left half-written is removed. Raises BackendFailed where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+")
    except OSError as exc:
        raise BackendFailed(f"cannot build in {folder}: {exc.strerror}. Name another folder.") from exc
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            say(f"process {file.read().strip() or 'unknown'} is building in {folder}: waiting until it is done.")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        for part in folder.glob(f".*{PART}"):
            part.unlink(missing_ok=True)
        yield
