"""Progress of long runs on stderr: one tqdm bar on a terminal, a line every half minute elsewhere."""

from __future__ import annotations

import sys
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
    from tqdm import tqdm

    out = out or sys.stderr
    live = out.isatty()
    return tqdm(
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
