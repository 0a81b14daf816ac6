"""Quality of service: what we ask for, what we offer, and words for a mismatch, which ROS otherwise keeps silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rclpy.exceptions import InvalidParameterTypeException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import InvalidQosOverridesError, QoSOverridingOptions

from depthlm_ros.errors import SetupError

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks, UnsupportedEventTypeError

__all__ = ["UnsupportedEventTypeError"]  # from where this version of rclpy has it

# Cameras offer either reliability; best effort accepts both. Only the newest frame is of use.
NEWEST_ONLY = {"history": HistoryPolicy.KEEP_LAST, "depth": 1, "reliability": ReliabilityPolicy.BEST_EFFORT}
# A calibration is small and may come seldom.
FEW = {"history": HistoryPolicy.KEEP_LAST, "depth": 10, "reliability": ReliabilityPolicy.BEST_EFFORT}
OFFERED = {"history": HistoryPolicy.KEEP_LAST, "depth": 2, "reliability": ReliabilityPolicy.RELIABLE}


def profile(policies: dict[str, Any]) -> QoSProfile:
    """A new profile; rclpy writes the user's overrides into it."""
    return QoSProfile(**policies)


def overridable(reliability: bool = True) -> QoSOverridingOptions:
    """Lets parameters qos_overrides.<topic>.<subscription or publisher>.{history,depth,reliability} decide."""
    kinds = [QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH]
    return QoSOverridingOptions([*kinds, QoSPolicyKind.RELIABILITY] if reliability else kinds)


@contextmanager
def named_overrides(topic: str, entity: str) -> Iterator[None]:
    """Turns what rclpy raises for unusable qos_overrides into a SetupError that names them and what may be set.

    entity: subscription or publisher.
    """
    try:
        yield
    except UnsupportedEventTypeError:
        raise
    except (InvalidParameterTypeException, InvalidQosOverridesError, RuntimeError) as error:  # RCLError is the last
        raise SetupError(
            f"cannot make the {entity} of {topic}: {error}. If parameters qos_overrides.{topic}.{entity}.* are set, "
            "check them: reliability is reliable or best_effort, history keep_last or keep_all, depth a whole number "
            "from 1."
        ) from error


def is_reliability_given(node: Node, topic: str) -> bool:
    """Whether the user has set the reliability of our subscription. To be asked before the subscription is made.

    rclpy declares the parameter with our choice as its default; then nobody can tell any more whose choice it was.
    Raises SetupError if it is not a word.
    """
    name = f"qos_overrides.{topic}.subscription.reliability"
    with named_overrides(topic, "subscription"):
        given = node.declare_parameter(name, Parameter.Type.STRING).value is not None
    node.undeclare_parameter(name)
    return given


def on_unheard_publisher(
    topic: str, tell: Callable[[str, str], None], on_lost: Callable[[Any], None] | None = None
) -> SubscriptionEventCallbacks:
    """Tells when a publisher of a topic we subscribe to offers less than we ask for; passes on losses."""

    def incompatible(event: Any) -> None:
        tell(
            "incompatible QoS",
            f"a publisher on {topic} is not heard: it offers a weaker {_policy(event)} than this node asks for. Remove "
            f"qos_overrides.{topic}.subscription from the parameters, or change the publisher.",
        )

    return SubscriptionEventCallbacks(incompatible_qos=incompatible, message_lost=on_lost)


def on_unserved_subscriber(topic: str, tell: Callable[[str, str], None]) -> PublisherEventCallbacks:
    """Tells when a subscriber of a topic we publish asks for more than we offer."""

    def incompatible(event: Any) -> None:
        tell(
            "incompatible QoS",
            f"a subscriber of {topic} gets nothing: it asks for a stronger {_policy(event)} than this node offers. "
            f"Change the subscriber, or set qos_overrides.{topic}.publisher.",
        )

    return PublisherEventCallbacks(incompatible_qos=incompatible)


def _policy(event: Any) -> str:
    return QoSPolicyKind(event.last_policy_kind).name.lower()
