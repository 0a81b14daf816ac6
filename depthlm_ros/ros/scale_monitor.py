# SPDX-License-Identifier: Apache-2.0
"""Compares the depth of each frame with what the robot knows, and says or mends how far its scale is off.

What tells the scale: the camera's height above the floor (parameters camera_height_m and camera_pitch_deg, or
floor_frame by tf), range sensors (topics scale/range, scale/scan, scale/points, in any frame that tf knows), and how
far the camera has moved (odom_frame by tf). The arithmetic is in measurement/: floor_height.py, range_scale.py,
motion_scale.py, scale.py. Nothing here waits: what is not known yet when a frame has been published does not count.

Public names: ScaleMonitor, ScaleReport.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import LaserScan, PointCloud2, Range
from std_msgs.msg import Header

from depthlm_ros.core import DepthMap, Intrinsics
from depthlm_ros.errors import BadInput
from depthlm_ros.measurement.floor_height import height_ratios
from depthlm_ros.measurement.motion_scale import LEAST_MOTION_M, MovedCamera, motion_ratios
from depthlm_ros.measurement.range_scale import range_ratios
from depthlm_ros.measurement.scale import ScaleEstimate, ScaleTracker, SmoothScale
from depthlm_ros.ros import qos
from depthlm_ros.ros.camera_info_sync import NS_PER_S
from depthlm_ros.ros.frame_processing import FrameResult
from depthlm_ros.ros.parameters import CORRECT, OFF, Parameters
from depthlm_ros.ros.range_messages import Reading, read_cloud, read_range, read_scan
from depthlm_ros.ros.statistics import ProblemLog
from depthlm_ros.ros.tf import Transforms

CAMERA_HEIGHT, RANGE, ODOMETRY = "camera_height", "range", "odometry"
TOPICS = (
    ("scale/range", Range, read_range),
    ("scale/scan", LaserScan, read_scan),
    ("scale/points", PointCloud2, read_cloud),
)
# Sensors offer either reliability; their messages are small and may come in bursts.
QOS: qos.Policies = {**qos.NEWEST_ONLY, "depth": 20}
# A range belongs to an image whose time differs by no more than this. So many readings are kept.
SYNC_NS, MOST_READINGS = NS_PER_S // 10, 64
# Frames are compared at most so often: the scale changes slowly.
PERIOD_S = 0.1
# A larger share of error is warned about; after so long without any sample the node says so.
WARN_BEYOND, SILENT_S = 0.25, 10.0
# The motion is measured when the camera has moved by this share of the median depth, and begins anew after so long.
LEAST_MOTION_SHARE, MOST_MOTION_S = 0.08, 4.0


@dataclass(frozen=True)
class ScaleReport:
    """The scale by what the robot knows. applied: what the depth of the newest frame was multiplied by."""

    estimate: ScaleEstimate = field(default_factory=ScaleEstimate)
    applied: float = 1.0


@dataclass(frozen=True, eq=False)
class _KeyFrame:
    """A frame with which later ones are compared. told: as the model tells it."""

    header: Header
    time_s: float
    told: DepthMap
    grey: np.ndarray


class ScaleMonitor:
    """Listens from `start` to `destroy`. `observe` is called by the inference thread after each frame.

    parameters: returns the node's parameters with their present values.
    """

    def __init__(
        self, node: Node, parameters: Callable[[], Parameters], transforms: Transforms, problems: ProblemLog
    ) -> None:
        self._node, self._parameters, self._transforms, self._problems = node, parameters, transforms, problems
        self._lock = threading.Lock()
        self._readings: deque[Reading] = deque(maxlen=MOST_READINGS)
        self._said: set[str] = set()
        self._subscriptions: list[Subscription] = []
        self._forget()

    def start(self) -> None:
        """Subscribes to the range sensors. Raises SetupError if that is impossible."""
        group = MutuallyExclusiveCallbackGroup()
        for name, message_type, read in TOPICS:
            self._subscriptions.append(self._subscribe(name, message_type, read, group))

    def destroy(self) -> None:
        """Ends the subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def restart(self) -> None:
        """Forgets all samples, because time went back."""
        with self._lock:
            self._forget()

    @property
    def report(self) -> ScaleReport:
        """The newest report."""
        return self._report

    def depth_scale(self) -> float:
        """Returns what the depth of the next frame is to be multiplied by: 1 unless scale_mode is correct."""
        return self._smooth.value if self._parameters().scale_mode == CORRECT else 1.0

    def observe(self, result: FrameResult) -> ScaleReport:
        """Compares a frame with what the robot knows; returns what is known of the scale now."""
        parameters, frame = self._parameters(), result.view.frame
        time_s = frame.stamp_ns / NS_PER_S
        with self._lock:
            if parameters.scale_mode == OFF:
                self._forget()
            elif self._is_due(time_s, frame.intrinsics):
                told = _told(result)
                if told is not None:
                    for source, ratios in self._ratios(result, told, time_s, parameters):
                        if self._tracker.add(time_s, source, ratios):
                            self._last_sample_s = time_s
                estimate = self._tracker.estimate(time_s)
                if parameters.scale_mode == CORRECT:
                    self._smooth.follow(estimate, time_s)
                self._report = ScaleReport(estimate, frame.depth_scale)
                self._speak(estimate, time_s, parameters)
            return replace(self._report, applied=frame.depth_scale)

    def _forget(self) -> None:
        self._tracker, self._smooth, self._report = ScaleTracker(), SmoothScale(), ScaleReport()
        self._readings.clear()
        self._camera: Intrinsics | None = None
        self._key: _KeyFrame | None = None
        self._observed_s = self._first_s = self._last_sample_s = -math.inf
        self._missing = ""

    def _is_due(self, time_s: float, camera: Intrinsics) -> bool:
        """Returns whether a frame is to be compared. Another camera, or a time that went back, begins anew."""
        if camera != self._camera or time_s < self._observed_s:
            self._forget()
            self._camera, self._first_s = camera, time_s
        if time_s - self._observed_s < PERIOD_S:
            return False
        self._observed_s = time_s
        return True

    def _ratios(
        self, result: FrameResult, told: DepthMap, time_s: float, parameters: Parameters
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yields the ratios of measured to told depth of each source."""
        header = result.image.message.header
        self._missing = ""
        if parameters.camera_height_m > 0 or parameters.floor_frame:
            yield CAMERA_HEIGHT, self._by_height(header, told, parameters)
        for reading in self._readings_at(result.view.frame.stamp_ns):
            yield RANGE, self._by_reading(header, told, reading)
        if parameters.odom_frame:
            grey = cv2.cvtColor(result.view.frame.rgb, cv2.COLOR_RGB2GRAY)
            yield ODOMETRY, self._by_motion(_KeyFrame(header, time_s, told, grey), parameters.odom_frame)

    def _by_height(self, header: Header, told: DepthMap, parameters: Parameters) -> np.ndarray:
        pitch = math.radians(parameters.camera_pitch_deg)
        height_m, down = parameters.camera_height_m, np.array([0.0, math.cos(pitch), math.sin(pitch)])
        if parameters.floor_frame:
            moved = self._rigid(header, header.frame_id, parameters.floor_frame)
            if moved is None:
                return np.zeros(0)
            rotation, shift_m = moved
            height_m, down = height_m or float(shift_m[2]), -rotation[2]
        ratios = height_ratios(told, height_m, down)
        if not len(ratios):
            self._missing = "the depth shows no floor; check the camera's height and pitch"
        return ratios

    def _by_reading(self, header: Header, told: DepthMap, reading: Reading) -> np.ndarray:
        moved = self._rigid(header, reading.header.frame_id, header.frame_id)
        if moved is None:
            return np.zeros(0)
        rotation, shift_m = moved
        return range_ratios(told, reading.points_m @ rotation.T + shift_m, reading.cone_rad)

    def _by_motion(self, now: _KeyFrame, odom_frame: str) -> np.ndarray:
        key, nothing = self._key, np.zeros(0)
        if key is None or now.time_s - key.time_s > MOST_MOTION_S:
            self._key = now
            return nothing
        poses = [self._rigid(each.header, each.header.frame_id, odom_frame) for each in (key, now)]
        if poses[0] is None or poses[1] is None:
            return nothing
        (first_turn, first_m), (turn, at_m) = poses[0], poses[1]
        moved = MovedCamera(first_turn.T @ turn, first_turn.T @ (at_m - first_m))
        known_m = key.told.depth_m[::8, ::8][np.isfinite(key.told.depth_m[::8, ::8])]
        enough_m = max(LEAST_MOTION_M, LEAST_MOTION_SHARE * float(np.median(known_m))) if len(known_m) else math.inf
        if moved.distance_m < enough_m:
            return nothing
        self._key = now
        return motion_ratios(key.told, key.grey, now.grey, moved)

    def _rigid(self, header: Header, source: str, target: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns rotation and shift at the time of a header; None if tf does not know them."""
        moved = self._transforms.rigid(source, target, header.stamp)
        if moved is None:
            absent = f"tf does not say where {source!r} is in {target!r} at the image's stamp"
            self._missing = self._transforms.why_none or absent
        return moved

    def _readings_at(self, at_ns: int) -> list[Reading]:
        """Returns the reading of each sensor whose time is nearest to an image's, if it is near enough."""
        nearest: dict[tuple[str, bool], Reading] = {}
        for reading in self._readings.copy():  # the callbacks add to it
            key, apart_ns = (reading.header.frame_id, reading.cone_rad > 0), abs(reading.stamp_ns - at_ns)
            if apart_ns <= SYNC_NS and (key not in nearest or apart_ns < abs(nearest[key].stamp_ns - at_ns)):
                nearest[key] = reading
        if self._readings and not nearest:
            apart_s = min(abs(reading.stamp_ns - at_ns) for reading in self._readings) / NS_PER_S
            self._missing = f"the stamps of the range sensors and of the images differ by {apart_s:.2f} s or more"
        return list(nearest.values())

    def _speak(self, estimate: ScaleEstimate, time_s: float, parameters: Parameters) -> None:
        """Says once that depth is wrong or is mended, and once that a source gives nothing."""
        if parameters.scale_mode != CORRECT and estimate.differs(WARN_BEYOND):
            self._say(
                "wrong scale", f"depth is told {_described(estimate)}. Set scale_mode to correct, to multiply by it."
            )
        if parameters.scale_mode == CORRECT and estimate.is_sure:
            self._say("scale corrected", f"depth was told {_described(estimate)}; it is multiplied by the ratio.")
        silent_s = time_s - max(self._first_s, self._last_sample_s)
        if silent_s > SILENT_S and (sources := self._sources(parameters)):
            why = f": {self._missing}" if self._missing else ""
            self._say(
                "no scale", f"{sources} gave nothing for {silent_s:.0f} s{why}. The scale of depth stays as it is."
            )
        elif silent_s > SILENT_S and parameters.scale_mode == CORRECT:
            self._say(
                "no scale",
                "scale_mode is correct, but nothing tells the scale: set camera_height_m, floor_frame or odom_frame, "
                "or remap scale/range, scale/scan or scale/points to a sensor.",
            )

    def _sources(self, parameters: Parameters) -> str:
        """Returns the names of what should tell the scale; empty without any."""
        names = ["camera_height_m"] * (parameters.camera_height_m > 0)
        frames = {"floor_frame": parameters.floor_frame, "odom_frame": parameters.odom_frame}
        names += [f"{name} {frame}" for name, frame in frames.items() if frame]
        topics = [self._node.resolve_topic_name(name) for name, _, _ in TOPICS]
        return ", ".join([*names, *(topic for topic in topics if self._node.count_publishers(topic))])

    def _say(self, reason: str, message: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            self._problems.report(reason, message)

    def _subscribe(self, name: str, message_type: type, read: Callable, group: MutuallyExclusiveCallbackGroup):
        topic = self._node.resolve_topic_name(name)

        def keep(message) -> None:
            try:
                reading = read(message)
            except BadInput as error:
                self._problems.report("bad range message", f"a message on {topic} is left out: {error}")
                return
            if len(reading.points_m):
                self._readings.append(reading)

        with qos.explained_overrides(topic, "subscription"):
            return self._node.create_subscription(
                message_type,
                name,
                keep,
                qos.profile(QOS),
                callback_group=group,
                event_callbacks=qos.subscription_events(topic, self._problems.report),
                qos_overriding_options=qos.overriding_options(),
            )


def _told(result: FrameResult) -> DepthMap | None:
    """Returns the depth as the model tells it, without correction; None if it tells none for all pixels."""
    try:
        depth = result.view.depth(with_std=False)
    except BadInput:
        return None
    scale = result.view.frame.depth_scale
    return depth if scale == 1.0 else replace(depth, depth_m=depth.depth_m / np.float32(scale))


def _described(estimate: ScaleEstimate) -> str:
    way = "too small" if estimate.ratio > 1 else "too large"
    sources = ", ".join(f"{name} ({count})" for name, count in estimate.samples.items())
    return f"{way}: measured over told is {estimate.ratio:.2f} +- {estimate.std:.2f}, by {sources}"


def scale_values(mode: str, report: ScaleReport) -> dict[str, str]:
    """Returns names and values for /diagnostics."""
    estimate = report.estimate
    return {
        "scale_mode": mode,
        "scale_ratio": f"{estimate.ratio:.3f}",
        "scale_std": f"{estimate.std:.3f}",
        "scale_samples": str(estimate.count),
        "scale_sources": ", ".join(estimate.samples),
        "scale_applied": f"{report.applied:.3f}",
    }
