# SPDX-License-Identifier: Apache-2.0
"""Runs other processes of one ROS graph: each in its own process group, with its output in a file, and always ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from depthlm_ros.errors import SetupError
from depthlm_ros.ros.fastdds import use_large_shared_memory

TAIL_LINES = 25
# The signals that a process gets one after another until it ends.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


def graph_environment() -> dict[str, str]:
    """Returns the environment of a graph that other graphs on this machine or network do not see.

    A ROS_DOMAIN_ID that is already set is kept; otherwise one of 10 to 99 is chosen by the process id. The shared
    memory is large enough for images, unless the user has chosen how they are transported.
    """
    env = dict(os.environ)
    env.setdefault("ROS_DOMAIN_ID", str(os.getpid() % 90 + 10))
    env["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    env["PYTHONUNBUFFERED"] = "1"
    if env.get("ROS_DISTRO") == "humble":  # Humble does not know the discovery range
        env["ROS_LOCALHOST_ONLY"] = "1"
    use_large_shared_memory(env)
    return env


class ChildProcess:
    """A running process. As a context manager it ends the process and everything that the process started.

    folder: where it runs; None: here. (`python -m` finds modules there first.)
    """

    def __init__(
        self, name: str, command: Sequence[str], log: Path, env: dict[str, str], folder: Path | None = None
    ) -> None:
        self.name, self.log = name, log
        log.parent.mkdir(parents=True, exist_ok=True)
        self.started_s = time.monotonic()
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                list(command), stdout=output, stderr=subprocess.STDOUT, env=env, cwd=folder, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def ended(self) -> bool:
        """Whether the process has ended, with or without an error."""
        return self._popen.poll() is not None

    def check(self) -> None:
        """Raises SetupError with the end of the log if the process has failed."""
        code = self._popen.poll()
        if code:
            raise SetupError(f"the {self.name} ended with exit code {code}. The end of {self.log}:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """Returns the last lines that the process wrote."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-TAIL_LINES:]) or "    (nothing)"

    def stop(self, patience_s: float = 5.0) -> int:
        """Ends the process group and returns the exit code of the process.

        It sends the STOP_SIGNALS one after another. patience_s: how long to wait for each of them to work.
        """
        for number in STOP_SIGNALS:
            if self._popen.poll() is not None:
                break
            self._signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(patience_s)
        self._signal(signal.SIGKILL)  # ends what the process left behind
        return self._popen.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, number)

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def module_command(name: str, *args: str) -> list[str]:
    """Returns the command that runs a module of this package with this Python."""
    return [sys.executable, "-m", name, *args]
