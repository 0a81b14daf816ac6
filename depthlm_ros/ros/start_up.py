# SPDX-License-Identifier: Apache-2.0
"""The start of a process that takes part in a ROS graph: what keeps it from starting is said in one line.

Public names: init_ros, own_arguments.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import rclpy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from depthlm_ros.errors import SetupError

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
