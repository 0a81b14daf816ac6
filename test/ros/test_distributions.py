# SPDX-License-Identifier: Apache-2.0
"""What the node takes from rclpy exists on Humble and Jazzy too, or has another way there.

Neither distribution is here. The tables are from the CHANGELOG.rst of rclpy, which says in which version a name came:
Humble has 3.3, Jazzy 7.1, Kilted 9.1.
"""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.paths import ROOT

ROOM = ROOT / "depthlm_ros" / "ros"
FILES = sorted(ROOM.rglob("*.py"))
# Modules of rclpy on Humble, as far as nodes import them.
ON_HUMBLE = {
    *("rclpy", "rclpy.action", "rclpy.action.client", "rclpy.action.server", "rclpy.callback_groups", "rclpy.client"),
    *("rclpy.clock", "rclpy.context", "rclpy.duration", "rclpy.exceptions", "rclpy.executors", "rclpy.lifecycle"),
    *("rclpy.impl.implementation_singleton", "rclpy.logging", "rclpy.node", "rclpy.parameter", "rclpy.publisher"),
    *("rclpy.qos", "rclpy.qos_event", "rclpy.qos_overriding_options", "rclpy.service", "rclpy.signals", "rclpy.task"),
    *("rclpy.subscription", "rclpy.time", "rclpy.time_source", "rclpy.timer", "rclpy.topic_endpoint_info"),
    *("rclpy.type_support", "rclpy.utilities", "rclpy.validate_topic_name", "rclpy.waitable"),
}
# Names that came later: with the version of rclpy.
LATER = {
    **dict.fromkeys(["BEST_AVAILABLE", "qos_profile_best_available"], "3.5"),
    **dict.fromkeys(["parameter_client", "AsyncParameterClient"], "3.6"),
    **dict.fromkeys(["wait_for_node", "add_pre_set_parameters_callback", "add_post_set_parameters_callback"], "3.7"),
    **dict.fromkeys(["wait_for_message", "on_parameter_event"], "3.8"),
    **dict.fromkeys(["service_introspection", "configure_introspection"], "3.10"),
    **dict.fromkeys(["event_handler", "QoSPublisherMatchedInfo", "get_publisher_count", "incompatible_type"], "4.0"),
    **dict.fromkeys(["logging_service", "enable_logger_service"], "4.1"),
    **dict.fromkeys(["type_description_service", "TypeDescriptionService"], "5.0"),
    "list_parameters": "5.2",
    **dict.fromkeys(["parameter_event_handler", "ParameterEventHandler"], "5.3"),
    **dict.fromkeys(["count_services", "count_clients"], "5.4"),
    **dict.fromkeys(["experimental", "EventsExecutor"], "7.1.4"),
    "logger_name": "7.1.5",
    "create_future": "7.1.6",
    **dict.fromkeys(["ContentFilterOptions", "set_content_filter"], "7.1.8"),
    **dict.fromkeys(["endpoint_info", "get_clients_info_by_service", "get_servers_info_by_service"], "9.1"),
}
# Later names that the node uses, each inside a `try` with another way. A new one is added here on purpose.
WITH_ANOTHER_WAY = {"event_handler"}


def guarded_lines(path: Path) -> set[int]:
    """Returns the lines of a file inside a `try` that goes on where a name is missing."""
    kinds = {"ImportError", "AttributeError", "ModuleNotFoundError"}
    lines: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        caught = {
            name.id
            for handler in getattr(node, "handlers", [])
            for name in ast.walk(handler)
            if isinstance(name, ast.Name)
        }
        if isinstance(node, ast.Try) and caught & kinds:
            lines |= {line for part in node.body for line in range(part.lineno, (part.end_lineno or part.lineno) + 1)}
    return lines


def modules_used(path: Path) -> Iterator[tuple[int, str]]:
    """Yields line and name of the modules of rclpy that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rclpy":
            yield node.lineno, node.module
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "rclpy")


def names_used(path: Path) -> Iterator[tuple[int, str]]:
    """Yields line and every name that a file imports, reads from an object, or gives as an argument."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, part) for part in (node.module or "").split("."))
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.value.lineno, node.arg


def test_every_module_of_rclpy_exists_on_humble_or_has_another_way():
    lacking = [
        f"{path.name}:{line} {module}"
        for path in FILES
        for line, module in modules_used(path)
        if module not in ON_HUMBLE and line not in guarded_lines(path)
    ]
    assert not lacking


@pytest.mark.parametrize(("distribution", "version"), [("humble", (3, 3)), ("jazzy", (7, 1))])
def test_every_name_that_came_after_a_distribution_has_another_way_there(distribution, version):
    lacking = [
        f"{path.name}:{line} {name} (rclpy {LATER[name]}, not on {distribution})"
        for path in FILES
        for line, name in names_used(path)
        if name in LATER and tuple(map(int, LATER[name].split(".")))[:2] > version
        if name not in WITH_ANOTHER_WAY or line not in guarded_lines(path)
    ]
    assert not lacking


@pytest.mark.ros
def test_the_names_that_humble_lacks_and_the_node_uses_are_these():
    """So that the table of docs/INSTALL.md stays true."""
    used = {name for path in FILES for _, name in names_used(path) if name in LATER}
    assert used == WITH_ANOTHER_WAY
    assert "rclpy.event_handler" in (ROOT / "docs" / "INSTALL.md").read_text()


@pytest.mark.ros
def test_every_name_that_is_imported_from_rclpy_exists_here():
    """In the version that the tests run on; of two ways, one is enough."""
    for path in FILES:
        tree = ast.parse(path.read_text())
        guarded = guarded_lines(path)
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.ImportFrom)
                and (node.module or "").startswith("rclpy")
                and node.lineno not in guarded
            ):
                module = importlib.import_module(node.module)
                lacking = {alias.name for alias in node.names if not hasattr(module, alias.name)}
                assert not lacking or path.name == "qos.py", (path, lacking)  # the other way, for Humble
