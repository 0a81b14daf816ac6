"""Progress of a build as lines of text: one bar a phase on a terminal, one line a phase elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass
from typing import TextIO

BAR = 24
# A terminal is redrawn at most this often; TensorRT reports every tactic.
REDRAW_S = 0.1


@dataclass
class _Phase:
    steps: int
    done: int
    began_s: float
    depth: int


class Bars:
    """Phases that begin inside each other, as TensorRT's progress monitor reports them.

    May be told by several threads at once. Unknown names are ignored: a monitor must never break a build.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        self._live = self._out.isatty()
        self._phases: dict[str, _Phase] = {}
        self._drawn_s = 0.0
        self._lock = threading.Lock()

    def begin(self, name: str, parent: str | None, steps: int) -> None:
        with self._lock:
            outer = self._phases.get(parent or "")
            self._phases[name] = _Phase(max(steps, 1), 0, time.monotonic(), outer.depth + 1 if outer else 0)
            self._draw(name)

    def step(self, name: str, step: int) -> None:
        """step counts from 0."""
        with self._lock:
            phase = self._phases.get(name)
            if phase is not None:
                phase.done = min(step + 1, phase.steps)
                if time.monotonic() - self._drawn_s >= REDRAW_S:
                    self._draw(name)

    def end(self, name: str) -> None:
        with self._lock:
            phase = self._phases.pop(name, None)
            # On a terminal, what is inside other phases is not worth a line that stays.
            if phase is not None and (phase.depth == 0 or not self._live):
                self._write(f"{'  ' * phase.depth}{name}: done in {time.monotonic() - phase.began_s:.1f} s", "\n")

    def _draw(self, name: str) -> None:
        if self._live:
            self._drawn_s = time.monotonic()
            phase = self._phases[name]
            full = BAR * phase.done // phase.steps
            bar = f"[{'#' * full}{'.' * (BAR - full)}] {phase.done}/{phase.steps}"
            self._write(f"{'  ' * phase.depth}{name} {bar}", "")

    def _write(self, text: str, end: str) -> None:
        clear = "\r\x1b[K" if self._live else ""
        self._out.write(f"{clear}{text}{end}")
        self._out.flush()
