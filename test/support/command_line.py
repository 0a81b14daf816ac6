"""The command line as a process of its own, and engine folders of a test's own."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.paths import ROOT


def start(*words, most_bytes: int | None = None, **options) -> subprocess.Popen:
    """`depthlm ...`, which can write files of at most so many bytes, as on a disk that is full."""

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    command = [sys.executable, "-m", "depthlm_ros.cli", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    return subprocess.Popen(command, preexec_fn=None if most_bytes is None else full, **pipes | options)


def depthlm(*words, timeout: float = 600, **options) -> subprocess.CompletedProcess:
    """The same, when it has ended."""
    process = start(*words, **options)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@contextmanager
def own_engines(folder: Path) -> Iterator[Path]:
    """Engines are built into this folder; beside it only those of the repository are found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPTHLM_ENGINES", str(folder))
        patch.setenv("XDG_DATA_HOME", str(folder / "none"))
        yield folder
