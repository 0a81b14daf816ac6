"""Makes the message for /diagnostics: one status that shows what the node does and what it lacks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import Header

from depthlm_ros.ros.input_monitor import MissingInput
from depthlm_ros.ros.statistics import MAX_FAILURES_IN_A_ROW, StatisticsSnapshot

# A problem shows in the status for so long after its last occurrence.
PROBLEM_SHOWN_S = 5.0


@dataclass(frozen=True)
class InputStatus:
    """The inputs of an active node.

    dropped: frames that a newer one replaced. lost: frames that the transport lost. newest_age_s: since the newest
    image arrived. missing: an input that does not arrive. is_watched: whether anybody receives the outputs.
    """

    received: int = 0
    dropped: int = 0
    lost: int = 0
    newest_age_s: float = math.nan
    missing: MissingInput | None = None
    is_watched: bool = False


@dataclass(frozen=True)
class NodeHealth:
    """Everything that the status is made from.

    state: unconfigured, inactive or active. camera_topic: the topic of the images. problem_age_s: since the last
    problem. problem_counts: by reason. progress: what keeps the node from being configured yet, such as the build of an
    engine; empty otherwise. refusal: why the last transition failed; empty if it did not.
    """

    state: str
    model: str
    backend: str
    camera_topic: str
    statistics: StatisticsSnapshot
    inputs: InputStatus = field(default_factory=InputStatus)
    problem_age_s: float = math.inf
    last_problem: str = ""
    problem_counts: Mapping[str, int] = field(default_factory=dict)
    progress: str = ""
    refusal: str = ""


def level_and_message(health: NodeHealth) -> tuple[bytes, str]:
    """Returns the level of the worst fact that holds now, and a line about it."""
    missing = health.inputs.missing
    if health.progress:
        return DiagnosticStatus.WARN, health.progress
    if health.state != "active" and health.refusal:
        return DiagnosticStatus.ERROR, f"{health.state}: {health.refusal}"
    if health.state != "active":
        return DiagnosticStatus.OK, f"{health.state}: processes nothing until it is activated"
    if health.statistics.failures >= MAX_FAILURES_IN_A_ROW:
        return DiagnosticStatus.ERROR, f"failed {health.statistics.failures} times in a row: {health.last_problem}"
    if missing is MissingInput.NO_CAMERA_INFO:
        return DiagnosticStatus.ERROR, f"images arrive but {missing.value}"
    if missing is not None:
        return DiagnosticStatus.STALE, missing.value
    if health.problem_age_s < PROBLEM_SHOWN_S:
        return DiagnosticStatus.WARN, health.last_problem
    if not health.inputs.is_watched:
        return DiagnosticStatus.OK, "idle: nobody receives depth; questions are answered"
    return DiagnosticStatus.OK, f"{health.statistics.rate_hz:.1f} frames/s"


def key_values(health: NodeHealth) -> dict[str, str]:
    """Returns names and values; latencies in milliseconds, ages in seconds."""
    statistics, inputs = health.statistics, health.inputs
    numbers = {
        "rate_hz": statistics.rate_hz,
        "total_p50_ms": statistics.total_p50_ms,
        "total_p99_ms": statistics.total_p99_ms,
        **{f"{stage}_ms": ms for stage, ms in statistics.stages_ms.items() if stage != "total"},
        "last_look_age_s": statistics.last_frame_age_s,
        "last_image_age_s": inputs.newest_age_s,
    }
    counts = {
        "frames_received": inputs.received,
        "frames_dropped": inputs.dropped,
        "frames_lost_on_the_way": inputs.lost,
        "frames_looked_at": statistics.frames,
        "questions_answered": statistics.questions,
        "failures_in_a_row": statistics.failures,
        "failed_answers_in_a_row": statistics.failed_answers,
        **{f"count: {reason}": count for reason, count in sorted(health.problem_counts.items())},
    }
    return {
        "state": health.state,
        "model": health.model,
        "backend": health.backend,
        **{name: f"{value:.2f}" for name, value in numbers.items()},
        **{name: str(value) for name, value in counts.items()},
        "last_trouble": health.last_problem,
    }


def diagnostics_message(header: Header, name: str, health: NodeHealth) -> DiagnosticArray:
    """Returns the message. name: the node's full name."""
    level, message = level_and_message(health)
    status = DiagnosticStatus(level=level, name=f"{name}: depth", message=message, hardware_id=health.camera_topic)
    status.values = [KeyValue(key=key, value=value) for key, value in key_values(health).items()]
    return DiagnosticArray(header=header, status=[status])
