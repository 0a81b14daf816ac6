"""How far a long run is, on stderr: one line that is redrawn on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

REDRAW_S, LINE_S = 0.2, 15.0


class Progress:
    """Counts items of a run of `total`, of which `done` were there before."""

    def __init__(self, what: str, total: int, done: int = 0, out: TextIO | None = None, unit: str = "records") -> None:
        self._what, self._unit, self._total, self._before, self._done = what, unit, total, done, done
        self._out = out or sys.stderr
        self._live = self._out.isatty()
        self._began_s = self._told_s = time.monotonic()
        if done:
            print(f"{what}: {done} of {total} were done before", file=self._out)

    def step(self, records: int) -> None:
        """One item more; `records` of the unit are written by now."""
        self._done += 1
        now_s = time.monotonic()
        if now_s - self._told_s < (REDRAW_S if self._live else LINE_S) and self._done < self._total:
            return
        self._told_s = now_s
        left_s = (now_s - self._began_s) / (self._done - self._before) * (self._total - self._done)
        text = f"{self._what}: {self._done} of {self._total}, {records} {self._unit}, {_span(left_s)} left"
        end = "\r" if self._live and self._done < self._total else "\n"
        print(f"{text:70}" if self._live else text, end=end, file=self._out, flush=True)


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
