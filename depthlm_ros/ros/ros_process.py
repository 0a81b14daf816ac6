# SPDX-License-Identifier: Apache-2.0
"""A process that takes part in a ROS graph: how it starts, executes callbacks, and ends on a signal.

What keeps it from starting is said in one line. A callback that fails does not end it.

Public names: init_ros, own_arguments, StopSignal, Spinner.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable, Sequence

import rclpy
from rclpy.executors import Executor, ExternalShutdownException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from depthlm_ros.errors import SetupError
from depthlm_ros.ros.qos import Report

# Where in the sources of ROS an error arose, which ROS writes behind it.
_SOURCE_LINES = re.compile(r",? at /?[\w./-]+\.c(pp)?:\d+")
# Words of ROS's own messages, and what to do then.
_ADVICE = {
    "log level": "give --log-level debug, info, warn, error or fatal",
    "logging directory": "set HOME, or ROS_LOG_DIR to a folder for the logs",
    "params file": "check the file given with --params-file",
    "parameter override": "write -p NAME:=VALUE",
    "remap rule": "write -r FROM:=TO, with names of letters, digits, _ and /",
}
# How long a stop signal may go unnoticed.
STOP_POLL_S = 0.1
# How often a spinner that should end is woken, and how long an outstanding callback may then take.
WAKE_PERIOD_S, CALLBACK_TIMEOUT_S = 0.05, 5.0


def init_ros(args: Sequence[str] | None = None) -> None:
    """Initialises ROS without its own signal handlers. args: the command line; None: sys.argv. Raises SetupError."""
    try:
        rclpy.init(args=None if args is None else list(args), signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # rclpy's errors of bad arguments have no common class that is public
        raise SetupError(_in_one_line(error)) from error


def own_arguments(command: Sequence[str]) -> list[str]:
    """Returns a command line, its program first, without that and what is meant for ROS. Raises SetupError."""
    try:
        return remove_ros_args(list(command))[1:]
    except Exception as error:  # as in init_ros
        raise SetupError(_in_one_line(error)) from error


def _in_one_line(error: Exception) -> str:
    if type(error).__name__ == "UnknownROSArgsError":
        return f"ROS does not know the arguments {error}: check what stands after --ros-args."
    words = " ".join(_SOURCE_LINES.sub("", str(error)).split()).rstrip(".")
    advice = next((advice for key, advice in _ADVICE.items() if key in words), "")
    return f"ROS cannot be started: {words}" + (f": {advice}." if advice else ".")


class StopSignal:
    """Set by SIGINT and SIGTERM, or by `set`. Make it in the main thread, because Python handles signals there.

    It is a flag without a lock: the handler may interrupt the main thread anywhere, also where that holds a lock, and
    would then wait for itself. So a thread that waits looks at the flag now and then.
    """

    def __init__(self) -> None:
        self._is_set = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self.set())

    def set(self) -> None:
        """Asks to stop now. Any thread may call it."""
        self._is_set = True

    def wait(self, seconds: float = float("inf")) -> bool:
        """Waits for so long, or until it is set; returns whether it is set."""
        end_s = time.monotonic() + seconds
        while not self._is_set and (left_s := end_s - time.monotonic()) > 0:
            time.sleep(min(left_s, STOP_POLL_S))
        return self._is_set


class Spinner(threading.Thread):
    """Executes callbacks from `start` until `end`, or until ROS is shut down; then it calls on_end.

    report: takes reason and message of a callback that failed.

    rclpy's own `spin` and `Executor.shutdown` do not suffice: if a thread is just about to wait when the executor is
    shut down, nothing may wake it any more, because the guard condition is destroyed first (rclpy 9.1.2; 13 of 1,000
    shutdowns on two cores).
    """

    def __init__(self, executor: Executor, report: Report, on_end: Callable[[], None] = lambda: None) -> None:
        super().__init__(name="executor", daemon=True)
        self._executor, self._report, self._on_end = executor, report, on_end
        self._is_ending = False

    def run(self) -> None:
        """Executes callbacks."""
        try:
            while not self._is_ending and self._executor.context.ok():
                self._spin_once()
        finally:
            self._on_end()

    def end(self) -> None:
        """Ends the thread, and then shuts the executor down."""
        self._is_ending = True
        while self.is_alive():
            self._executor.create_task(lambda: None)  # unlike Executor.wake, this ends one spin_once
            self.join(WAKE_PERIOD_S)
        self._executor.shutdown(CALLBACK_TIMEOUT_S)

    def _spin_once(self) -> None:
        try:
            self._executor.spin_once()
        except ExternalShutdownException:
            return
        except rclpy_implementation.InvalidHandle:
            # rclpy was collecting what to wait for when another thread destroyed a part of it, for example a
            # subscription because the node is deactivated. It starts again.
            return
        except Exception as error:  # of a callback: it concerns only one message or request
            if self._executor.context.ok():
                self._report("internal error", f"a callback failed: {type(error).__name__}: {error}; please report it.")
