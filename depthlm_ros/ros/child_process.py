"""Other processes of one graph: each in its own process group, its output in a file, and always ended."""

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
# What a process is told in turn until it ends.
FAREWELLS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


def own_graph() -> dict[str, str]:
    """Environment of a graph that no other graph on this machine or network meets.

    A ROS_DOMAIN_ID that is already set is kept; otherwise one of 10 to 99 is chosen by the process id. Images pass
    through shared memory that is large enough for them, unless the user has chosen how they are transported.
    """
    env = dict(os.environ)
    env.setdefault("ROS_DOMAIN_ID", str(os.getpid() % 90 + 10))
    env["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    env["PYTHONUNBUFFERED"] = "1"
    if env.get("ROS_DISTRO") == "humble":  # which does not know the discovery range yet
        env["ROS_LOCALHOST_ONLY"] = "1"
    use_large_shared_memory(env)
    return env


class Process:
    """A running process. A context manager: leaving it ends the process and everything that it started."""

    def __init__(self, name: str, command: Sequence[str], log: Path, env: dict[str, str]) -> None:
        self.name, self.log = name, log
        log.parent.mkdir(parents=True, exist_ok=True)
        self.started_s = time.monotonic()
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                list(command), stdout=output, stderr=subprocess.STDOUT, env=env, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def ended(self) -> bool:
        """Whether it has ended, well or not."""
        return self._popen.poll() is not None

    def check(self) -> None:
        """Raises SetupError, with the end of its log, if the process has failed."""
        code = self._popen.poll()
        if code:
            raise SetupError(f"the {self.name} ended with exit code {code}. The end of {self.log}:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """The last lines that the process wrote."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-TAIL_LINES:]) or "    (nothing)"

    def stop(self, patience_s: float = 5.0) -> int:
        """End the process group, politely first; returns the exit code of the process.

        patience_s: how long to wait for each of FAREWELLS to work.
        """
        for farewell in FAREWELLS:
            if self._popen.poll() is not None:
                break
            self._signal(farewell)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(patience_s)
        self._signal(signal.SIGKILL)  # whatever the process left behind
        return self._popen.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, number)

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def module(name: str, *args: str) -> list[str]:
    """The command that runs a module of this package with this Python."""
    return [sys.executable, "-m", name, *args]
