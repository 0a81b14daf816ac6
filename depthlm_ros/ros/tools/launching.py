# SPDX-License-Identifier: Apache-2.0
"""What the launch files share: reading their arguments, and starting optional programs only where they are installed.

Everything that can fail is found out before a launch file starts its first process: `ros2 launch` leaves a process
that runs already behind if it fails later in the same file.

Public names: BOOLEANS, LOG_LEVELS, text, flag, value_as, missing_program, ends_launch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ament_index_python.packages import PackageNotFoundError, get_package_prefix

if TYPE_CHECKING:
    from launch.actions import Shutdown
    from launch.events.process import ProcessExited
    from launch.launch_context import LaunchContext

BOOLEANS = ["true", "false", "True", "False"]  # True and False are what Python's str makes of a bool
LOG_LEVELS = ["debug", "info", "warn", "error", "fatal", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"]
KINDS = {int: "a whole number", float: "a number"}


def text(context: LaunchContext, name: str) -> str:
    """Returns the value of a launch argument."""
    from launch.substitutions import LaunchConfiguration

    return LaunchConfiguration(name).perform(context)


def flag(context: LaunchContext, name: str) -> bool:
    """Returns the value of a launch argument whose choices are BOOLEANS."""
    return text(context, name).lower() == "true"


def value_as(kind: type, name: str, value: str) -> Any:
    """Returns the text of a launch argument as a parameter of a type: bool, int, float or str.

    Raises RuntimeError that names the argument if the text is no number.
    """
    from launch_ros.parameter_descriptions import ParameterValue

    if kind is str:
        return ParameterValue(value, value_type=str)  # otherwise ROS takes a model named 3 for a number
    if kind is bool:
        return value.lower() == "true"
    try:
        return kind(value)
    except ValueError:
        raise RuntimeError(f"launch argument {name} is {value!r}: give {KINDS[kind]}.") from None


def missing_program(package: str, executable: str) -> str:
    """Returns why a program of another package cannot be started, with the remedy; empty if it can."""
    try:
        if (Path(get_package_prefix(package)) / "lib" / package / executable).exists():
            return ""
    except (PackageNotFoundError, ValueError):
        pass
    return (
        f"{package} is not installed and is not started: sudo apt install ros-$ROS_DISTRO-{package.replace('_', '-')}"
    )


def ends_launch(name: str) -> Callable[[ProcessExited, LaunchContext], list[Shutdown] | None]:
    """Returns an `on_exit` by which the launch ends with a process, and fails if that process has failed."""

    def ended(event: ProcessExited, context: LaunchContext) -> list[Shutdown] | None:
        from launch.actions import Shutdown

        if context.is_shutdown:
            return None
        if event.returncode:  # only an exception gives `ros2 launch` an exit code other than 0
            raise RuntimeError(f"{name} has ended with exit code {event.returncode}; its last lines say why.")
        return [Shutdown(reason=f"{name} has ended")]

    return ended
