"""SIGINT and SIGTERM as an orderly end instead of an exception somewhere in the middle."""

from __future__ import annotations

import signal
import threading
import time

# The kernel may hand a signal to any thread, which does not wake a waiting main thread; so it looks up now and then.
_LOOK_UP_S = 0.1


class Stop:
    """Set by SIGINT and SIGTERM, or by `set`. To be made in the main thread, which alone may wait for signals."""

    def __init__(self) -> None:
        self._event = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._event.set())

    def set(self) -> None:
        """Stop now; any thread may call it."""
        self._event.set()

    def wait(self, seconds: float = float("inf")) -> bool:
        """Wait so long, or until it is set; whether it is set."""
        end_s = time.monotonic() + seconds
        while not self._event.is_set() and (left_s := end_s - time.monotonic()) > 0:
            self._event.wait(min(left_s, _LOOK_UP_S))
        return self._event.is_set()
