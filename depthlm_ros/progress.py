# SPDX-License-Identifier: Apache-2.0
"""Progress of long runs on stderr: one tqdm bar on a terminal, a line every half minute elsewhere."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

TERMINAL_INTERVAL_S = 0.1
# In a log file every update is a line that stays.
LOG_INTERVAL_S = 30.0


def progress_bar(
    title: str,
    total: int | None,
    done: int = 0,
    unit: str = "items",
    out: TextIO | None = None,
    position: int | None = None,
    leave: bool = True,
) -> tqdm:
    """Returns a tqdm bar, which is a context manager; call update() for every unit.

    total: number of units, None if it is unknown. done: units that an earlier run finished. position: row of the bar
    where several are shown at once. leave: whether the bar stays on the screen after its end.
    """
    out = out or sys.stderr
    live = out.isatty()
    return _bar_class()(
        desc=title,
        total=total,
        initial=done,
        unit=f" {unit}",
        file=out,
        position=position,
        leave=leave,
        dynamic_ncols=live,
        mininterval=TERMINAL_INTERVAL_S if live else LOG_INTERVAL_S,
        maxinterval=LOG_INTERVAL_S,
    )


@contextmanager
def progress_callback(title: str, unit: str = "items") -> Iterator[Callable[[int, int], None]]:
    """Gives a function that shows (units done, all units) as a bar. The bar appears at the first call."""
    bar: tqdm | None = None

    def show(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = progress_bar(title, total, unit=unit)
        bar.update(done - bar.n)

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()


@functools.cache
def _bar_class() -> type[tqdm]:
    """Returns tqdm's bar, changed so that it releases its lock if drawing raises, for example at Ctrl-C.

    tqdm itself keeps the lock then, and its own thread waits for the lock when the program ends.
    """
    from tqdm import tqdm

    class ProgressBar(tqdm):
        def refresh(self, nolock: bool = False, lock_args: tuple[object, ...] | None = None) -> bool | None:
            if nolock:
                return super().refresh(nolock=True)
            with self.get_lock():
                return super().refresh(nolock=True)

    return ProgressBar
