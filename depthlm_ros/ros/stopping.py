"""How a node's process runs and ends: signals as an orderly end, and a spin that one failed callback does not end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from rclpy.executors import Executor
from rclpy.impl.implementation_singleton import rclpy_implementation

# How long a set flag may go unnoticed.
_LOOK_UP_S = 0.1


class Stop:
    """Set by SIGINT and SIGTERM, or by `set`. To be made in the main thread, in which Python handles signals.

    A flag without a lock: the handler interrupts the main thread anywhere, also where that holds a lock, and would then
    wait for itself. So whoever waits looks up now and then.
    """

    def __init__(self) -> None:
        self._is_set = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self.set())

    def set(self) -> None:
        """Stop now; any thread may call it."""
        self._is_set = True

    def wait(self, seconds: float = float("inf")) -> bool:
        """Wait so long, or until it is set; whether it is set."""
        end_s = time.monotonic() + seconds
        while not self._is_set and (left_s := end_s - time.monotonic()) > 0:
            time.sleep(min(left_s, _LOOK_UP_S))
        return self._is_set


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
