# SPDX-License-Identifier: Apache-2.0
"""Finds parameters that the user has set but that this node does not have. ROS takes them without a word."""

from __future__ import annotations

import difflib

from rclpy.node import Node

QOS = "qos_overrides."
# Topics whose quality of service other parts of the process may let the user set.
OTHERS_TOPICS = ("/parameter_events", "/rosout", "/clock", "/tf", "/tf_static", "/diagnostics")
# Belongs to ROS; not every distribution declares it.
OTHERS_NAMES = ("start_type_description_service",)


def unused_parameters(node: Node) -> list[str]:
    """Returns a line for each parameter that was set at the start and does nothing; the node has declared its own."""
    own = sorted(name for name in node._parameters if not name.startswith(QOS))
    unknown = [name for name in _undeclared(node) if not name.startswith(QOS) and name not in OTHERS_NAMES]
    return [f"parameter {name} is set, but this node has none of that name{_like(name, own)}" for name in unknown]


def unused_qos_overrides(node: Node) -> list[str]:
    """Returns a line for each qos_overrides parameter that does nothing; all topics exist by now."""
    own = sorted(name for name in node._parameters if name.startswith(QOS))
    unknown = [
        name
        for name in _undeclared(node)
        if name.startswith(QOS) and not name.removeprefix(QOS).startswith(tuple(f"{each}." for each in OTHERS_TOPICS))
    ]
    return [
        f"parameter {name} does nothing{_like(name, own)} The form is qos_overrides.TOPIC.subscription.POLICY (or "
        "publisher), with the full name of the topic after remapping, and history, depth, reliability or durability."
        for name in unknown
    ]


# rclpy keeps what the user has set, and what is declared, only for itself.
def _undeclared(node: Node) -> list[str]:
    return sorted(name for name in node._parameter_overrides if not node.has_parameter(name))


def _like(name: str, own: list[str]) -> str:
    """Returns the end of a sentence, which asks for the name that was probably meant if there is one like it."""
    near = difflib.get_close_matches(name, own, n=1, cutoff=0.7)
    near = near or [each for each in own if each.startswith(name)][:1]
    return f": did you mean {near[0]}?" if near else "."
