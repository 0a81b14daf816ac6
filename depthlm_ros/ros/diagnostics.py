# SPDX-License-Identifier: Apache-2.0
"""Makes the message for /diagnostics: one status that shows what the node does and what it lacks.

`InputMonitor` finds out which input is missing, and says why in words that name the topic and what to do.
"""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from std_msgs.msg import Header

from depthlm_ros.ros.input_topics import compressed_topics
from depthlm_ros.ros.request_queue import RequestQueue
from depthlm_ros.ros.statistics import MAX_FAILURES_IN_A_ROW, ProblemLog, StatisticsSnapshot

IMAGE_TYPE, COMPRESSED_TYPE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
INFO_TYPE = "sensor_msgs/msg/CameraInfo"
# A message names so many topics at most.
MAX_NAMED = 5


class MissingInput(enum.Enum):
    """An input that does not arrive. The value is the reason under which the problem is counted and shown."""

    NO_IMAGE = "no image"
    NO_CAMERA_INFO = "no camera_info"
    IMAGES_STOPPED = "images stopped"


class InputMonitor:
    """Watches the inputs of an active node. Call `check` about once a second.

    image_topic, image_type: as they were subscribed to, fully resolved. info_topic: returns the present topic of the
    calibrations.
    """

    def __init__(
        self,
        node: Node,
        queue: RequestQueue,
        problems: ProblemLog,
        image_topic: str,
        image_type: str,
        info_topic: Callable[[], str],
    ) -> None:
        self._node, self._queue, self._problems = node, queue, problems
        self._image_topic, self._image_type, self._info_topic = image_topic, image_type, info_topic
        self._started_s = time.monotonic()
        self._missing: MissingInput | None = None

    def check(self, timeout_s: float) -> MissingInput | None:
        """Returns the input that has been missing for longer than the timeout, and reports it; None if all arrive."""
        missing, before = self._find_missing(timeout_s), self._missing
        if before and missing is not before:
            self._report_return(before)
        self._missing = missing
        if missing is MissingInput.NO_IMAGE:
            self._problems.report(missing.value, f"no image on {self._image_topic}: {self._why_no_image()}")
        elif missing is MissingInput.NO_CAMERA_INFO:
            self._problems.report(missing.value, self._why_no_info())
        elif missing is MissingInput.IMAGES_STOPPED:
            self._problems.report(
                missing.value, f"no new image on {self._image_topic} any more: check the camera and its link."
            )
        return missing

    def _report_return(self, before: MissingInput) -> None:
        """Says that an input that was missing arrives now, if it does."""
        is_info = before is MissingInput.NO_CAMERA_INFO
        if is_info and not self._queue.has_info:
            return  # the images stopped as well
        self._problems.settle(before.value)
        what = f"camera_info arrives on {self._info_topic()}" if is_info else f"images arrive on {self._image_topic}"
        self._node.get_logger().info(f"{what} {'again' if before is MissingInput.IMAGES_STOPPED else 'now'}")

    def _find_missing(self, timeout_s: float) -> MissingInput | None:
        newest = self._queue.newest
        if time.monotonic() - self._started_s < timeout_s:
            return None
        if newest is None:
            return MissingInput.NO_IMAGE
        if time.monotonic_ns() - newest.arrived_ns > timeout_s * 1e9:
            return MissingInput.IMAGES_STOPPED
        return None if self._queue.has_info else MissingInput.NO_CAMERA_INFO

    def _why_no_image(self) -> str:
        publishers = self._node.get_publishers_info_by_topic(self._image_topic)
        if not publishers:
            return f"nobody publishes it; {self._where_images_are()}"
        wrong_types = {info.topic_type for info in publishers} - {self._image_type}
        if wrong_types:
            return (
                f"it carries {', '.join(sorted(wrong_types))}, not {self._image_type}: set parameter image_transport "
                "(raw or compressed) to fit the topic."
            )
        return f"{len(publishers)} publisher(s) are there but send nothing; check the camera, and its QoS."

    def _where_images_are(self) -> str:
        """Returns advice that names the camera's images in the other transport, or any images, if there are any."""
        is_compressed = self._image_type == COMPRESSED_TYPE
        others = [self._node.resolve_topic_name("image")] if is_compressed else compressed_topics(self._node)
        wanted, other_type = ("raw", IMAGE_TYPE) if is_compressed else ("compressed", COMPRESSED_TYPE)
        for topic in others:
            if any(info.topic_type == other_type for info in self._node.get_publishers_info_by_topic(topic)):
                return f"but {topic} is there: set parameter image_transport to {wanted}."
        return (
            "remap `image` to the camera's topic (--ros-args -r image:=/camera/image_raw); "
            f"{self._published(self._image_type)}."
        )

    def _published(self, topic_type: str) -> str:
        """Returns which topics of a type are published."""
        namespace = self._node.get_fully_qualified_name().rstrip("/").rpartition("/")[0]
        own = (f"{namespace}/depth/", f"{namespace}/answers/")
        topics = [
            topic
            for topic, types in self._node.get_topic_names_and_types()
            if topic_type in types and not topic.startswith(own) and self._node.count_publishers(topic)
        ]
        if not topics:
            return f"no topic of type {topic_type} is published now, see `ros2 topic list -t`"
        more = f" and {len(topics) - MAX_NAMED} more" if len(topics) > MAX_NAMED else ""
        return f"published with type {topic_type}: {', '.join(topics[:MAX_NAMED])}{more}"

    def _why_no_info(self) -> str:
        topic = self._info_topic()
        publishers = self._node.count_publishers(topic)
        cause = f"{publishers} publisher(s) send nothing" if publishers else "nobody publishes it"
        return (
            f"images arrive on {self._image_topic} but no camera_info on {topic} ({cause}): depth needs the "
            "camera's calibration; remap `camera_info` to the one of this camera "
            f"(--ros-args -r camera_info:=/camera/camera_info); {self._published(INFO_TYPE)}."
        )


# A problem shows in the status for so long after its last occurrence.
PROBLEM_SHOWN_S = 5.0


@dataclass(frozen=True)
class InputStatus:
    """The inputs of an active node.

    dropped: frames that a newer one replaced. lost: frames that the transport lost. newest_age_s: since the newest
    image arrived. missing: an input that does not arrive. is_watched: whether anybody receives the outputs.
    canvas_size_px: (width, height) in which the model sees an image; (0, 0) before the first.
    """

    received: int = 0
    dropped: int = 0
    lost: int = 0
    newest_age_s: float = math.nan
    missing: MissingInput | None = None
    is_watched: bool = False
    canvas_size_px: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class NodeHealth:
    """Everything that the status is made from.

    state: unconfigured, inactive or active. device: where the model runs. max_rate_hz: the limit of the rate; 0: none.
    camera_topic: the topic of the images. problem_age_s: since the last
    problem. problem_counts: by reason. progress: what keeps the node from being configured yet, such as the build of an
    engine; empty otherwise. refusal: why the last transition failed; empty if it did not. peak_memory_mb: the most
    resident memory that the process ever had. scale: names and values of what is known of the depth's scale.
    kernel_compile_s: time in which kernels were compiled for this GPU; NaN if none are.
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
    device: str = ""
    max_rate_hz: float = 0.0
    peak_memory_mb: float = math.nan
    scale: Mapping[str, str] = field(default_factory=dict)
    kernel_compile_s: float = math.nan


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
        "max_rate_hz": health.max_rate_hz,
        "total_p50_ms": statistics.total_p50_ms,
        "total_p99_ms": statistics.total_p99_ms,
        **{f"{stage}_ms": ms for stage, ms in statistics.stages_ms.items() if stage != "total"},
        "answer_p50_ms": statistics.answer_p50_ms,
        "peak_memory_mb": health.peak_memory_mb,
        "last_look_age_s": statistics.last_frame_age_s,
        "last_image_age_s": inputs.newest_age_s,
    }
    if not math.isnan(health.kernel_compile_s):
        numbers["kernel_compile_s"] = health.kernel_compile_s
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
        "device": health.device,
        "canvas": "{} x {}".format(*inputs.canvas_size_px) if any(inputs.canvas_size_px) else "",
        **{name: f"{value:.2f}" for name, value in numbers.items()},
        **{name: str(value) for name, value in counts.items()},
        **health.scale,
        "last_trouble": health.last_problem,
    }


def diagnostics_message(header: Header, name: str, health: NodeHealth) -> DiagnosticArray:
    """Returns the message. name: the node's full name."""
    level, message = level_and_message(health)
    status = DiagnosticStatus(level=level, name=f"{name}: depth", message=message, hardware_id=health.camera_topic)
    status.values = [KeyValue(key=key, value=value) for key, value in key_values(health).items()]
    return DiagnosticArray(header=header, status=[status])
