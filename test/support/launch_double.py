# SPDX-License-Identifier: Apache-2.0
"""Runs this package's launch files where the packages launch and launch_ros do not exist.

It has the classes that the files use, with the constructor arguments of the real ones and no others, and does with them
what `ros2 launch` does: arguments take their defaults and are checked against their choices, an included file reads
the arguments of its parent, a scoped group keeps its own, and a process is started when its turn comes, so that what
fails later leaves it running. Nothing else of launch is imitated.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import yaml

from support.paths import ROOT

FOLDERS = {"depthlm_ros": ROOT}


class Context:
    """The values of the arguments, and what was started so far, in order."""

    def __init__(self, configurations: dict[str, str]) -> None:
        self.launch_configurations = configurations
        self.is_shutdown = False
        self.started: list[Node] = []
        self.messages: list[str] = []
        self.declared: dict[str, DeclareLaunchArgument] = {}


def performed(context: Context, value: Any) -> str:
    """Returns a substitution, a text or a list of both as text."""
    if isinstance(value, (list, tuple)):
        return "".join(performed(context, part) for part in value)
    return value if isinstance(value, str) else value.perform(context)


@dataclass
class LaunchConfiguration:
    variable_name: str

    def perform(self, context: Context) -> str:
        return context.launch_configurations[self.variable_name]


@dataclass
class PathJoinSubstitution:
    substitutions: list

    def perform(self, context: Context) -> str:
        return str(Path(*(performed(context, part) for part in self.substitutions)))


@dataclass
class FindPackageShare:
    package: str

    def perform(self, context: Context) -> str:
        return str(FOLDERS[self.package])


@dataclass
class ParameterValue:
    value: Any
    value_type: type | None = field(default=None, kw_only=True)

    def evaluate(self, context: Context) -> Any:
        return self.value_type(performed(context, self.value))


@dataclass
class DeclareLaunchArgument:
    name: str
    default_value: Any = field(default=None, kw_only=True)
    description: str | None = field(default=None, kw_only=True)
    choices: list[str] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.choices and isinstance(self.default_value, str) and self.default_value not in self.choices:
            raise RuntimeError(f"default of {self.name} is no choice")

    def execute(self, context: Context) -> None:
        context.declared.setdefault(self.name, self)
        values = context.launch_configurations
        if self.name not in values:
            values[self.name] = performed(context, self.default_value)
        if self.choices and values[self.name] not in self.choices:
            raise RuntimeError(f'Argument "{self.name}" provided value "{values[self.name]}" is not valid.')


@dataclass
class OpaqueFunction:
    function: Callable = field(kw_only=True)

    def execute(self, context: Context) -> Iterable | None:
        return self.function(context)


@dataclass
class LogInfo:
    msg: Any = field(kw_only=True)

    def execute(self, context: Context) -> None:
        context.messages.append(performed(context, self.msg))


@dataclass
class Shutdown:
    reason: str = field(default="", kw_only=True)

    def execute(self, context: Context) -> None:
        context.is_shutdown = True


@dataclass
class GroupAction:
    actions: list
    scoped: bool = field(default=True, kw_only=True)

    def execute(self, context: Context) -> None:
        outside = dict(context.launch_configurations)
        visit(context, self.actions)
        if self.scoped:
            context.launch_configurations = outside


@dataclass
class PythonLaunchDescriptionSource:
    location: Any


@dataclass
class IncludeLaunchDescription:
    launch_description_source: PythonLaunchDescriptionSource
    launch_arguments: Iterable = field(default=(), kw_only=True)

    def execute(self, context: Context) -> None:
        for name, value in self.launch_arguments:
            context.launch_configurations[name] = performed(context, value)
        visit(context, description(Path(performed(context, self.launch_description_source.location))))


@dataclass(kw_only=True)
class Node:
    package: str
    executable: str
    name: str | None = None
    namespace: Any = None
    parameters: list = field(default_factory=list)
    remappings: list = field(default_factory=list)
    arguments: list = field(default_factory=list)
    ros_arguments: list = field(default_factory=list)
    respawn: bool = False
    respawn_delay: float | None = None
    on_exit: Any = None
    output: str = "log"

    def execute(self, context: Context) -> None:
        self.context = context
        self.given = {}
        self.files = []
        for entry in self.parameters:
            if isinstance(entry, dict):
                self.given.update({name: evaluated(context, value) for name, value in entry.items()})
            else:
                self.files.append(performed(context, entry))
        self.remapped = {name: performed(context, topic) for name, topic in self.remappings}
        self.words = [performed(context, word) for word in self.arguments]
        self.ros_words = [performed(context, word) for word in self.ros_arguments]
        context.started.append(self)

    def command(self, folder: Path) -> list[str]:
        """Returns the command line that launch_ros makes; a file of the parameters is written into the folder."""
        rules = {"__node": self.name, "__ns": "/" + performed(self.context, self.namespace or ""), **self.remapped}
        words = [*self.words, "--ros-args", *self.ros_words]
        for name, value in rules.items():
            words += ["-r", f"{name}:={value}"] if value not in (None, "/") else []
        own = folder / f"{self.name}.yaml"
        own.write_text(yaml.safe_dump({"/**": {"ros__parameters": self.given}}))
        for file in [*self.files, own]:
            words += ["--params-file", str(file)]
        return [sys.executable, str(ROOT / "scripts" / self.executable), *words]

    def ended(self, returncode: int) -> Any:
        """Returns what launch does when the process has ended with an exit code."""
        return self.on_exit and self.on_exit(SimpleNamespace(returncode=returncode), self.context)


def evaluated(context: Context, value: Any) -> Any:
    return value.evaluate(context) if isinstance(value, ParameterValue) else value


@dataclass
class LaunchDescription:
    entities: list


MODULES = {
    "launch": [LaunchDescription],
    "launch.actions": [
        *(DeclareLaunchArgument, OpaqueFunction, LogInfo, Shutdown, GroupAction, IncludeLaunchDescription),
    ],
    "launch.launch_description_sources": [PythonLaunchDescriptionSource],
    "launch.substitutions": [LaunchConfiguration, PathJoinSubstitution],
    "launch_ros": [],
    "launch_ros.actions": [Node],
    "launch_ros.parameter_descriptions": [ParameterValue],
    "launch_ros.substitutions": [FindPackageShare],
}


@contextmanager
def in_place_of_launch():
    """While it is entered, `import launch` finds the classes of this module."""
    before = {name: sys.modules.get(name) for name in MODULES}
    try:
        for name, classes in MODULES.items():
            sys.modules[name] = ModuleType(name)
            vars(sys.modules[name]).update({cls.__name__: cls for cls in classes})
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def description(path: Path) -> list:
    """Returns the entities of a launch file."""
    spec = importlib.util.spec_from_file_location(path.name.replace(".", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description().entities


def visit(context: Context, entities: Iterable) -> None:
    for entity in entities:
        visit(context, entity.execute(context) or ())


def launched(file: str, **arguments: str) -> Context:
    """Runs a file of launch/ with the arguments, as `ros2 launch depthlm_ros FILE name:=value` does."""
    with in_place_of_launch():
        context = Context(dict(arguments))
        visit(context, description(ROOT / "launch" / file))
        return context


def failed_launch(file: str, **arguments: str) -> tuple[str, Context]:
    """Runs a file that must fail; returns the message and what had been started by then."""
    with in_place_of_launch():
        context = Context(dict(arguments))
        try:
            visit(context, description(ROOT / "launch" / file))
        except RuntimeError as error:
            return str(error), context
    raise AssertionError(f"{file} did not fail with {arguments}")
