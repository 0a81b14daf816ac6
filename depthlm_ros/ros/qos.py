# SPDX-License-Identifier: Apache-2.0
"""Quality of service: what the node asks for, what it offers, and messages for a mismatch.

ROS itself says nothing to the user if two ends of a topic do not fit; the event callbacks made here report it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from rcl_interfaces.msg import SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import InvalidQosOverridesError, QoSOverridingOptions

from depthlm_ros.errors import SetupError

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks, UnsupportedEventTypeError

# From the modules in which this version of rclpy has them.
__all__ = ["QoSOverridingOptions", "SubscriptionEventCallbacks", "UnsupportedEventTypeError"]

Policies = Mapping[str, Any]
# Takes the reason (a short fixed name) and the message of a problem.
Report = Callable[[str, str], object]

# Cameras offer either reliability; best effort accepts both. Only the newest frame is of use.
NEWEST_ONLY: Policies = {
    "history": HistoryPolicy.KEEP_LAST,
    "depth": 1,
    "reliability": ReliabilityPolicy.BEST_EFFORT,
    "durability": DurabilityPolicy.VOLATILE,
}
# A calibration is small and may come rarely.
CAMERA_INFO: Policies = {**NEWEST_ONLY, "depth": 10}
# For what was published before this node came.
LATCHED: Policies = {
    **NEWEST_ONLY,
    "reliability": ReliabilityPolicy.RELIABLE,
    "durability": DurabilityPolicy.TRANSIENT_LOCAL,
}
OFFERED: Policies = {**NEWEST_ONLY, "depth": 2, "reliability": ReliabilityPolicy.RELIABLE}


class LostEvent(Protocol):
    """What the middleware reports about lost messages."""

    @property
    def total_count_change(self) -> int: ...


class IncompatibleEvent(Protocol):
    """What the middleware reports about another end whose quality of service does not fit."""

    @property
    def last_policy_kind(self) -> int: ...


def profile(policies: Policies) -> QoSProfile:
    """Returns a new profile; rclpy writes the user's overrides into it."""
    return QoSProfile(**policies)


def asked_for(policies: Policies, reliability: str, durability: str) -> Policies:
    """Returns policies with a reliability and a durability by their names, such as best_effort and volatile."""
    return {
        **policies,
        "reliability": ReliabilityPolicy[reliability.upper()],
        "durability": DurabilityPolicy[durability.upper()],
    }


def overriding_options(reliability: bool = True) -> QoSOverridingOptions:
    """Lets parameters qos_overrides.<topic>.<subscription or publisher>.<policy> decide.

    The policies are history, depth, durability and reliability. reliability: whether that one may be set too.
    """
    kinds = [QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.DURABILITY]
    return QoSOverridingOptions([*kinds, QoSPolicyKind.RELIABILITY] if reliability else kinds, callback=_keeps_some)


def _keeps_some(overridden: QoSProfile) -> SetParametersResult:
    """Refuses a queue that holds nothing, about which rclpy only warns."""
    is_empty = overridden.history == HistoryPolicy.KEEP_LAST and overridden.depth < 1
    return SetParametersResult(successful=not is_empty, reason="a depth of 0 keeps no message" if is_empty else "")


@contextmanager
def explained_overrides(topic: str, entity: str) -> Iterator[None]:
    """Turns the errors of rclpy about unusable qos_overrides into a SetupError that says what may be set.

    entity: subscription or publisher.
    """
    try:
        yield
    except UnsupportedEventTypeError:
        raise
    except (InvalidParameterTypeException, InvalidQosOverridesError, RuntimeError) as error:  # RCLError is the last
        raise SetupError(
            f"cannot make the {entity} of {topic}: {error}. If parameters qos_overrides.{topic}.{entity}.* are set, "
            "check them: reliability is reliable or best_effort, durability volatile or transient_local, history "
            "keep_last or keep_all, depth a whole number from 1."
        ) from error


def is_reliability_set(node: Node, topic: str) -> bool:
    """Whether the user has set the reliability of the node's subscription. Ask before the subscription is made.

    When it is made, rclpy declares the parameter with the node's choice as its default. After that nobody can tell
    whose choice it was. Raises SetupError if the value is not a string.
    """
    name = f"qos_overrides.{topic}.subscription.reliability"
    with explained_overrides(topic, "subscription"):
        is_set = node.declare_parameter(name, Parameter.Type.STRING).value is not None
    node.undeclare_parameter(name)
    return is_set


def subscription_events(
    topic: str, report: Report, on_lost: Callable[[LostEvent], None] | None = None
) -> SubscriptionEventCallbacks:
    """Reports a publisher that offers less than the node asks for; passes losses on to on_lost."""

    def on_incompatible(event: IncompatibleEvent) -> None:
        report(
            "incompatible QoS",
            f"a publisher on {topic} is not heard: it offers a weaker {_policy(event)} than this node asks for. Set "
            f"parameter qos_{_policy(event)} to what it offers, remove qos_overrides.{topic}.subscription from the "
            "parameters, or change the publisher.",
        )

    return SubscriptionEventCallbacks(incompatible_qos=on_incompatible, message_lost=on_lost)


def publisher_events(topic: str, report: Report) -> PublisherEventCallbacks:
    """Reports a subscriber that asks for more than the node offers."""

    def on_incompatible(event: IncompatibleEvent) -> None:
        report(
            "incompatible QoS",
            f"a subscriber of {topic} gets nothing: it asks for a stronger {_policy(event)} than this node offers. "
            f"Change the subscriber, or set qos_overrides.{topic}.publisher.",
        )

    return PublisherEventCallbacks(incompatible_qos=on_incompatible)


def _policy(event: IncompatibleEvent) -> str:
    return QoSPolicyKind(event.last_policy_kind).name.lower()
