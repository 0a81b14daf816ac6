# SPDX-License-Identifier: Apache-2.0
"""Loads the node's model. If the parameters allow it, TensorRT plans that do not fit this machine are built first.

The build is the command that the error names, `depthlm engine build`, in a process of its own: it takes minutes and
gigabytes. It may be killed without harm, because a plan replaces the old one only when it is complete.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from depthlm_ros.errors import BadPlans, SetupError
from depthlm_ros.model import Model, WordsOnDepth, load_model
from depthlm_ros.ros.child_process import ChildProcess
from depthlm_ros.ros.parameters import Parameters

LOG_PERIOD_S = 10.0
POLL_PERIOD_S = 0.2
TAIL_BYTES = 2000
# How long a cancelled build may take to end by itself.
CANCEL_TIMEOUT_S = 2.0


class BuildCancelled(SetupError):
    """The node stops while its engine is being built."""


class ModelLoader:
    """Loads models. progress: what is being built, and for how long; empty if nothing is.

    log: writes one line. is_stopping: whether the node stops, so that a build must be cancelled.
    """

    def __init__(self, log: Callable[[str], object], is_stopping: Callable[[], bool]) -> None:
        self._log, self._is_stopping = log, is_stopping
        self.progress = ""

    def load(self, parameters: Parameters) -> Model:
        """Returns the model that the parameters name. Raises SetupError."""
        try:
            return _load(parameters)
        except BadPlans as error:
            if not parameters.rebuild_engine:
                raise SetupError(f"{error} (With parameter rebuild_engine true, the node does that itself.)") from error
            self._log(f"{error} (Parameter rebuild_engine is true: the node does that now; it may take many minutes.)")
            self._rebuild(error)
        return _load(parameters)

    def _rebuild(self, bad_plans: BadPlans) -> None:
        """Builds the plans. Raises SetupError with the last line of the build if it fails; the old plans stay then."""
        command = [sys.executable, "-m", "depthlm_ros.cli", *shlex.split(bad_plans.rebuild)[1:]]
        with tempfile.TemporaryDirectory() as folder:
            log_file = Path(folder) / "build.log"
            try:
                exit_code = self._run(command, log_file)
            except OSError as error:
                raise SetupError(f"{bad_plans} (The node cannot start that itself: {error}.)") from error
            finally:
                self.progress = ""
            if exit_code:
                raise SetupError(
                    f"{bad_plans} (The node has tried that itself and failed: {last_line(log_file)})"
                ) from bad_plans
        self._log("the plans are built")

    def _run(self, command: list[str], log_file: Path) -> int:
        """Returns the exit code of a build. Raises BuildCancelled."""
        started_s = logged_s = time.monotonic()
        process = ChildProcess("engine build", command, log_file, dict(os.environ))
        try:
            while not process.ended:
                now_s = time.monotonic()
                self.progress = f"building TensorRT plans for {now_s - started_s:.0f} s: {last_line(log_file)}"
                if self._is_stopping():
                    raise BuildCancelled("the build of the engine is cancelled because the node stops: start it again.")
                if now_s - logged_s >= LOG_PERIOD_S:
                    logged_s = now_s
                    self._log(self.progress)
                time.sleep(POLL_PERIOD_S)
        finally:
            exit_code = process.stop(CANCEL_TIMEOUT_S)
        return exit_code


def last_line(log_file: Path) -> str:
    """Returns the last line that a process wrote."""
    lines = log_file.read_bytes()[-TAIL_BYTES:].decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output yet")


def device_of(model: Model) -> str:
    """Returns where a model runs; "" for VLM3, whose checkpoints are loaded when they are first asked."""
    if isinstance(model, WordsOnDepth):
        model = model.depth_model
    backend = getattr(model, "backend", None)
    return backend.device if backend else ""


def runs_on_gpu(model: Model) -> bool:
    """Whether the processor is free while the model runs."""
    return device_of(model).startswith("cuda")


def _load(parameters: Parameters) -> Model:
    return load_model(parameters.model, parameters.backend, parameters.num_threads, parameters.device)
