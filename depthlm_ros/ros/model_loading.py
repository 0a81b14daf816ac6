"""Loading the node's model; TensorRT plans that do not fit this machine are built anew first, if the parameters allow.

The build is the command that the refusal names, `depthlm engine build`, in a process of its own: it takes minutes and
gigabytes, and may be killed without harm, because a plan takes its place only when it is whole.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from depthlm_ros.errors import SetupError, UnfitPlans
from depthlm_ros.model import Model, load_model
from depthlm_ros.ros.child_process import Process
from depthlm_ros.ros.parameters import Parameters

SAY_EVERY_S = 10.0
LOOK_UP_S = 0.2
TAIL_BYTES = 2000
# How long a build that is broken off may take to end itself.
FAREWELL_S = 2.0


class BrokenOff(SetupError):
    """The node ends while its engine is being built."""


class Loader:
    """Loads models. doing: what is being built, and since when; "" if nothing is.

    say: logs a line. is_ending: whether the node ends, so that a build is broken off.
    """

    def __init__(self, say: Callable[[str], object], is_ending: Callable[[], bool]) -> None:
        self._say, self._is_ending = say, is_ending
        self.doing = ""

    def load(self, wanted: Parameters) -> Model:
        """The model that the parameters name. Raises SetupError."""
        try:
            return _load(wanted)
        except UnfitPlans as unfit:
            if not wanted.rebuild_engine:
                raise SetupError(f"{unfit} (With parameter rebuild_engine true, the node does that itself.)") from unfit
            self._say(f"{unfit} (Parameter rebuild_engine is true: this is done now, and may take many minutes.)")
            self._rebuild(unfit)
        return _load(wanted)

    def _rebuild(self, unfit: UnfitPlans) -> None:
        """Raises SetupError, with the build's last words, unless it succeeds; plans that it did not replace stay."""
        command = [sys.executable, "-m", "depthlm_ros.cli", *shlex.split(unfit.rebuild)[1:]]
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "build.log"
            try:
                code = self._run(command, log)
            except OSError as exc:
                raise SetupError(f"{unfit} (The node cannot start that itself: {exc}.)") from exc
            finally:
                self.doing = ""
            if code:
                raise SetupError(f"{unfit} (The node has tried that itself, in vain: {last_line(log)})") from unfit
        self._say("the plans are built")

    def _run(self, command: list[str], log: Path) -> int:
        """The exit code of a build. Raises BrokenOff."""
        began_s = said_s = time.monotonic()
        process = Process("engine build", command, log, dict(os.environ))
        try:
            while not process.ended:
                now_s = time.monotonic()
                self.doing = f"building TensorRT plans for {now_s - began_s:.0f} s: {last_line(log)}"
                if self._is_ending():
                    raise BrokenOff("the engine is not built to its end, because the node ends: start it again.")
                if now_s - said_s >= SAY_EVERY_S:
                    said_s = now_s
                    self._say(self.doing)
                time.sleep(LOOK_UP_S)
        finally:
            code = process.stop(FAREWELL_S)
        return code


def last_line(log: Path) -> str:
    """What a process wrote last."""
    lines = log.read_bytes()[-TAIL_BYTES:].decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing said yet")


def _load(wanted: Parameters) -> Model:
    return load_model(wanted.model, wanted.backend, wanted.num_threads, wanted.device)
