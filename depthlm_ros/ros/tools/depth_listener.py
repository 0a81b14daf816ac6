# SPDX-License-Identifier: Apache-2.0
"""Receives what the camera and the depth node publish, for the demo and the benchmarks.

DepthListener groups the messages by stamp; ReceivedFrame is one group, ReceptionStatistics counts them.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud2

from depthlm_ros.errors import BadImage
from depthlm_ros.eval.metrics import DepthScores, score_depth
from depthlm_ros.ros.camera_info_sync import stamp_ns
from depthlm_ros.ros.message_in import image_to_rgb

RELIABLE = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
# The listener keeps this many frames, because the depth of an image arrives later than the image.
MAX_KEPT_FRAMES = 40
# The error is measured at every n-th pixel of every n-th row.
ERROR_STRIDE_PX = 4


@dataclass(frozen=True)
class ReceivedFrame:
    """The messages that arrived with one stamp; None for those that have not arrived.

    rgb: uint8 (H, W, 3). depth_m, true_depth_m: float32 (H, W), NaN = unknown. cloud_m: float32 (H, W, 3).
    depth_arrived_ns: wall-clock time.
    """

    stamp_ns: int
    rgb: np.ndarray | None = None
    true_depth_m: np.ndarray | None = None
    depth_m: np.ndarray | None = None
    depth_arrived_ns: int = 0
    cloud_m: np.ndarray | None = None


class DepthListener(Node):
    """Receives images, depth and point clouds, and groups them by stamp.

    on_depth: called with a frame when its depth arrives. cloud: whether to subscribe to the point cloud too.
    truth_topic: topic of the exact depth, "" if there is none. on_message: called with a frame when any part of it
    arrives. image_qos: of the images; the default, best effort, does not slow down the camera. images, clouds: numbers
    of received messages.
    """

    def __init__(
        self,
        on_depth: Callable[[ReceivedFrame], None],
        cloud: bool = True,
        truth_topic: str = "",
        on_message: Callable[[ReceivedFrame], None] = lambda frame: None,
        image_qos: QoSProfile = BEST_EFFORT,
    ) -> None:
        super().__init__("depthlm_listener")
        self.images = self.clouds = 0
        self._on_depth, self._on_message = on_depth, on_message
        self._frames: OrderedDict[int, ReceivedFrame] = OrderedDict()
        self.create_subscription(Image, "image", self._receive_image, image_qos)
        self.create_subscription(Image, "depth/image", self._receive_depth, RELIABLE)
        if cloud:
            self.create_subscription(PointCloud2, "depth/points", self._receive_cloud, RELIABLE)
        if truth_topic:
            self.create_subscription(Image, truth_topic, self._receive_truth, BEST_EFFORT)

    def newest_frame_with(self, *fields: str) -> ReceivedFrame | None:
        """Returns the newest frame in which none of these fields is None."""
        newest_first = reversed(self._frames.values())
        return next((f for f in newest_first if all(getattr(f, name) is not None for name in fields)), None)

    def _receive_image(self, message: Image) -> None:
        self.images += 1
        self._store(message, rgb=image_to_rgb(message))

    def _receive_truth(self, message: Image) -> None:
        self._store(message, true_depth_m=read_depth(message))

    def _receive_depth(self, message: Image) -> None:
        arrived_ns = time.time_ns()
        self._on_depth(self._store(message, depth_m=read_depth(message), depth_arrived_ns=arrived_ns))

    def _receive_cloud(self, message: PointCloud2) -> None:
        self.clouds += 1
        self._store(message, cloud_m=read_cloud(message))

    def _store(self, message: Image | PointCloud2, **fields: Any) -> ReceivedFrame:
        stamp = stamp_ns(message.header)
        frame = replace(self._frames.get(stamp) or ReceivedFrame(stamp), **fields)
        self._frames[stamp] = frame
        while len(self._frames) > MAX_KEPT_FRAMES:
            self._frames.popitem(last=False)
        self._on_message(frame)
        return frame


@dataclass
class ReceptionStatistics:
    """Arrival time, latency and, where the exact depth is known, error of each received depth image."""

    arrived_ns: list[int] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    errors: list[DepthScores] = field(default_factory=list)

    def add(self, frame: ReceivedFrame) -> None:
        """Counts a frame whose depth has just arrived; the callback of DepthListener."""
        self.arrived_ns.append(frame.depth_arrived_ns)
        self.latency_s.append((frame.depth_arrived_ns - frame.stamp_ns) / 1e9)
        if frame.true_depth_m is not None and frame.depth_m is not None:
            grid = slice(None, None, ERROR_STRIDE_PX)
            self.errors.append(score_depth(frame.depth_m[grid, grid], frame.true_depth_m[grid, grid]))

    def clear(self) -> None:
        """Starts again, for example to exclude the start of the processes from rate and latency."""
        self.arrived_ns.clear()
        self.latency_s.clear()
        self.errors.clear()

    @property
    def rate_hz(self) -> float:
        """Frames per second between the first and the last arrival; NaN for fewer than two frames."""
        if len(self.arrived_ns) < 2:
            return float("nan")
        return (len(self.arrived_ns) - 1) * 1e9 / (self.arrived_ns[-1] - self.arrived_ns[0])


def read_depth(message: Image) -> np.ndarray:
    """Reads a depth image of REP 118. Returns float32 (H, W) in metres, NaN = unknown.

    Raises BadImage for other encodings than 32FC1 (metres) and 16UC1 (millimetres, 0 = unknown).
    """
    kind = {"32FC1": "f4", "16UC1": "u2"}.get(message.encoding)
    if kind is None:
        raise BadImage(f"depth image has encoding {message.encoding!r}: expected 32FC1 or 16UC1.")
    dtype = np.dtype((">" if message.is_bigendian else "<") + kind)
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    stored = np.ascontiguousarray(rows[:, : message.width * dtype.itemsize]).view(dtype).astype(np.float32)
    return stored if kind == "f4" else np.where(stored == 0, np.float32(np.nan), stored / 1000)


def read_cloud(message: PointCloud2) -> np.ndarray:
    """Reads an organised little-endian cloud whose points begin with x, y, z. Returns float32 (H, W, 3), metres."""
    floats = np.frombuffer(message.data, "<f4").reshape(message.height, message.width, message.point_step // 4)
    return floats[..., :3]
