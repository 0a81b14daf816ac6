# SPDX-License-Identifier: Apache-2.0
"""Runs the command line as a process, and gives a test its own engine folder."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.paths import ROOT


def start(*words, max_file_bytes: int | None = None, **options) -> subprocess.Popen:
    """Starts `depthlm ...`. max_file_bytes: larger files cannot be written, as on a full disk."""

    def limit_file_size() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))

    command = [sys.executable, "-m", "depthlm_ros.cli", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    return subprocess.Popen(command, preexec_fn=None if max_file_bytes is None else limit_file_size, **pipes | options)


def depthlm(*words, timeout: float = 600, **options) -> subprocess.CompletedProcess:
    """Runs `depthlm ...` to its end. options: as for `start`."""
    process = start(*words, **options)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@contextmanager
def own_engines(folder: Path) -> Iterator[Path]:
    """Makes `depthlm` build engines into this folder, and find only these and those of the repository."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPTHLM_ENGINES", str(folder))
        patch.setenv("XDG_DATA_HOME", str(folder / "none"))
        yield folder
