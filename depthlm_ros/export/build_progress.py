# SPDX-License-Identifier: Apache-2.0
"""Progress of an engine build.

BuildProgress shows phases that run inside each other, as TensorRT's progress monitor reports them
(make_progress_monitor). StageProgress shows the stages of an export, which follow each other.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

from depthlm_ros.progress import progress_bar


class _Bar(Protocol):
    """The part of a tqdm bar that is used here."""

    n: float

    def update(self, n: float) -> object: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class _BuildPhase:
    """depth: number of phases around this one. bar: None where there is no terminal."""

    depth: int
    steps: int
    began_s: float
    bar: _Bar | None


class BuildProgress:
    """Shows one bar per running phase on a terminal. Elsewhere it writes one line per finished phase.

    Several threads may call it at once. Unknown names are ignored, because a progress monitor must never break a build.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        self._is_terminal = self._out.isatty()
        self._phases: dict[str, _BuildPhase] = {}
        self._lock = threading.Lock()

    def begin(self, name: str, parent: str | None, steps: int) -> None:
        """Starts the phase `name` inside the phase `parent`, or at the top if `parent` is None or unknown."""
        with self._lock:
            outer = self._phases.get(parent or "")
            depth, steps = outer.depth + 1 if outer else 0, max(steps, 1)
            bar = self._open_bar(name, depth, steps) if self._is_terminal else None
            self._phases[name] = _BuildPhase(depth, steps, time.monotonic(), bar)

    def step(self, name: str, step: int) -> None:
        """Reports that step number `step` of the phase is done. The first step is number 0."""
        with self._lock:
            phase = self._phases.get(name)
            if phase is not None and phase.bar is not None:
                phase.bar.update(min(step + 1, phase.steps) - phase.bar.n)

    def end(self, name: str) -> None:
        """Finishes the phase."""
        with self._lock:
            phase = self._phases.pop(name, None)
            if phase is None:
                return
            if phase.bar is not None:
                phase.bar.close()
                return
            self._out.write(f"{'  ' * phase.depth}{name}: done in {time.monotonic() - phase.began_s:.1f} s\n")
            self._out.flush()

    def _open_bar(self, name: str, depth: int, steps: int) -> _Bar:
        # Only the bars of outer phases stay on the screen.
        title = f"{'  ' * depth}{name}"
        return progress_bar(title, steps, unit="steps", out=self._out, position=depth, leave=depth == 0)


class StageProgress:
    """Shows stages that follow each other: a stage ends when the next one begins, or at the end of the `with` block."""

    def __init__(self, progress: BuildProgress) -> None:
        self._progress, self._current = progress, ""

    def __enter__(self) -> StageProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._finish()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Reports that step number `done` of `total` steps of the stage is done. The first step is number 0."""
        if stage != self._current:
            self._finish()
            self._progress.begin(stage, None, total)
            self._current = stage
        self._progress.step(stage, done)

    def _finish(self) -> None:
        if self._current:
            self._progress.end(self._current)
        self._current = ""


def make_progress_monitor(trt: Any, progress: BuildProgress) -> Any:
    """Returns a TensorRT progress monitor that shows the phases of a build.

    Ctrl-C sets its attribute `interrupted` and ends the build, which only the monitor can do.
    """

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            super().__init__()
            self.interrupted = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._show(lambda: progress.begin(phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._show(lambda: progress.step(phase_name, step))
            return not self.interrupted

        def phase_finish(self, phase_name: str) -> None:
            self._show(lambda: progress.end(phase_name))

        def _show(self, draw: Callable[[], None]) -> None:
            """Catches exceptions, because none may pass through TensorRT's own frames."""
            try:
                draw()
            except KeyboardInterrupt:
                self.interrupted = True
            except (OSError, ValueError):  # the terminal is gone, but the build can go on
                return

    return Monitor()
