"""/diagnostics: one status, from which a person or a monitor sees at a glance what the node does and what it lacks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import Header

from depthlm_ros.ros.statistics import FAILURES_THAT_COUNT, Reading

# A trouble shows for so long after its last occurrence.
TROUBLE_SHOWS_S = 5.0


@dataclass(frozen=True)
class Health:
    """All that the status is made from.

    state: unconfigured, inactive or active. camera: the topic of its images. dropped: frames that a newer one replaced.
    lost: frames that the transport lost. missing: an input that does not come, "" if all do. watched: whether anybody
    receives the outputs. doing: what keeps it from being configured yet. refusal: why the last transition failed.
    """

    state: str
    model: str
    backend: str
    camera: str
    reading: Reading
    received: int = 0
    dropped: int = 0
    lost: int = 0
    newest_age_s: float = math.nan
    missing: str = ""
    watched: bool = False
    trouble_quiet_s: float = math.inf
    last_trouble: str = ""
    doing: str = ""
    refusal: str = ""
    troubles: Mapping[str, int] = field(default_factory=dict)


def level_and_message(health: Health) -> tuple[bytes, str]:
    """Level and a line in words: the worst that is true now."""
    if health.doing:
        return DiagnosticStatus.WARN, health.doing
    if health.state != "active" and health.refusal:
        return DiagnosticStatus.ERROR, f"{health.state}: {health.refusal}"
    if health.state != "active":
        return DiagnosticStatus.OK, f"{health.state}: looks at nothing until it is activated"
    if health.reading.failures >= FAILURES_THAT_COUNT:
        return DiagnosticStatus.ERROR, f"failed {health.reading.failures} times in a row: {health.last_trouble}"
    if health.missing == "no camera_info":
        return DiagnosticStatus.ERROR, "images arrive but no camera_info"
    if health.missing:
        return DiagnosticStatus.STALE, health.missing
    if health.trouble_quiet_s < TROUBLE_SHOWS_S:
        return DiagnosticStatus.WARN, health.last_trouble
    if not health.watched:
        return DiagnosticStatus.OK, "idle: nobody receives depth; questions are answered"
    return DiagnosticStatus.OK, f"{health.reading.rate_hz:.1f} frames/s"


def key_values(health: Health) -> dict[str, str]:
    """Names and values; latencies in milliseconds, ages in seconds."""
    reading = health.reading
    numbers = {
        "rate_hz": reading.rate_hz,
        "total_p50_ms": reading.total_p50_ms,
        "total_p99_ms": reading.total_p99_ms,
        **{f"{stage}_ms": ms for stage, ms in reading.stages_ms.items() if stage != "total"},
        "last_look_age_s": reading.age_s,
        "last_image_age_s": health.newest_age_s,
    }
    counts = {
        "frames_received": health.received,
        "frames_dropped": health.dropped,
        "frames_lost_on_the_way": health.lost,
        "frames_looked_at": reading.frames,
        "questions_answered": reading.questions,
        "failures_in_a_row": reading.failures,
        "failed_answers_in_a_row": reading.failed_answers,
        **{f"count: {reason}": count for reason, count in sorted(health.troubles.items())},
    }
    return {
        "state": health.state,
        "model": health.model,
        "backend": health.backend,
        **{name: f"{value:.2f}" for name, value in numbers.items()},
        **{name: str(value) for name, value in counts.items()},
        "last_trouble": health.last_trouble,
    }


def diagnostics(header: Header, name: str, health: Health) -> DiagnosticArray:
    """The message. name: the node's full name."""
    level, message = level_and_message(health)
    status = DiagnosticStatus(level=level, name=f"{name}: depth", message=message, hardware_id=health.camera)
    status.values = [KeyValue(key=key, value=value) for key, value in key_values(health).items()]
    return DiagnosticArray(header=header, status=[status])
