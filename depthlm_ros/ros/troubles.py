"""What goes wrong, counted by reason and logged now and then.

rclpy's own throttle is per line of code; this one is per reason, and says how often it held its tongue.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable

REPEAT_AFTER_S = 5.0


class Troubles:
    """Counts every trouble and logs each reason at most every few seconds. Safe to use from several threads.

    log: writes one line, for example a logger's `warning`. clock: seconds, for tests.
    """

    def __init__(self, log: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock = log, clock
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._logged_s: dict[str, float] = {}
        self._silent: Counter[str] = Counter()
        self._last = ""
        self._last_s = -math.inf

    def note(self, reason: str, message: str) -> None:
        """Count a trouble. reason: a short fixed name. message: what was wrong, and what to do."""
        with self._lock:
            self._counts[reason] += 1
            self._last = message
            now_s = self._last_s = self._clock()
            if now_s - self._logged_s.get(reason, -REPEAT_AFTER_S) < REPEAT_AFTER_S:
                self._silent[reason] += 1
                return
            self._logged_s[reason] = now_s
            silent = self._silent.pop(reason, 0)
        self._log(f"{message} ({silent} more like this before)" if silent else message)

    @property
    def counts(self) -> dict[str, int]:
        """How often each reason occurred."""
        with self._lock:
            return dict(self._counts)

    @property
    def last(self) -> str:
        """The last message; empty if there was none."""
        with self._lock:
            return self._last

    @property
    def quiet_s(self) -> float:
        """Seconds since the last trouble; inf if there was none."""
        with self._lock:
            return self._clock() - self._last_s
