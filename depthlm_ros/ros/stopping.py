"""How a node's process runs and ends: signals as an orderly end, and a spin that one failed callback does not end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

from rclpy.executors import Executor
from rclpy.impl.implementation_singleton import rclpy_implementation

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


def spin(executor: Executor, stop: Stop, tell: Callable[[str, str], None]) -> None:
    """Execute callbacks until the executor is shut down; sets `stop` then. tell: reason and message of a trouble."""
    try:
        while not stop.wait(0.0):
            try:
                executor.spin()
            except rclpy_implementation.InvalidHandle:
                # rclpy was collecting what to wait for when another thread destroyed some of it (a subscription, when
                # the node is deactivated); it begins anew.
                continue
            except Exception as error:  # of a callback: it concerns one message or request only
                tell("internal error", f"a callback failed: {type(error).__name__}: {error}; please report it.")
            else:
                return
    finally:
        stop.set()
