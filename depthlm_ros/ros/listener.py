"""The other end of the topics: receives what the depth node publishes and pairs it, by stamp, with what went in."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud2

from depthlm_ros.errors import BadImage
from depthlm_ros.ros.convert import image_to_rgb

RELIABLE = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
# Frames whose parts are kept until all have arrived. A part may lag by the latency of the node.
KEPT_FRAMES = 40


@dataclass(frozen=True)
class Parts:
    """What has arrived with one stamp; None is what has not.

    rgb: uint8 (H, W, 3). depth_m, true_m: float32 (H, W), NaN = unknown. cloud: float32 (H, W, 3), metres.
    depth_arrived_ns: wall clock.
    """

    stamp_ns: int
    rgb: np.ndarray | None = None
    true_m: np.ndarray | None = None
    depth_m: np.ndarray | None = None
    depth_arrived_ns: int = 0
    cloud: np.ndarray | None = None


class Listener(Node):
    """Counts and pairs frames. `on_depth` is called with the parts of a frame whenever its depth arrives."""

    def __init__(self, on_depth: Callable[[Parts], None], cloud: bool = True, truth_topic: str = "") -> None:
        super().__init__("depthlm_listener")
        self.images = self.clouds = 0
        self._on_depth = on_depth
        self._frames: OrderedDict[int, Parts] = OrderedDict()
        self.create_subscription(Image, "image", self._take_image, BEST_EFFORT)
        self.create_subscription(Image, "depth/image", self._take_depth, RELIABLE)
        if cloud:
            self.create_subscription(PointCloud2, "depth/points", self._take_cloud, RELIABLE)
        if truth_topic:
            self.create_subscription(Image, truth_topic, self._take_truth, BEST_EFFORT)

    def newest(self, *wanted: str) -> Parts | None:
        """The newest frame of which all the wanted parts have arrived."""
        frames = reversed(self._frames.values())
        return next((f for f in frames if all(getattr(f, part) is not None for part in wanted)), None)

    def _take_image(self, message: Image) -> None:
        self.images += 1
        self._keep(message, rgb=image_to_rgb(message))

    def _take_truth(self, message: Image) -> None:
        self._keep(message, true_m=read_depth(message))

    def _take_depth(self, message: Image) -> None:
        arrived_ns = time.time_ns()
        self._on_depth(self._keep(message, depth_m=read_depth(message), depth_arrived_ns=arrived_ns))

    def _take_cloud(self, message: PointCloud2) -> None:
        self.clouds += 1
        self._keep(message, cloud=read_cloud(message))

    def _keep(self, message: Any, **parts: Any) -> Parts:
        stamp_ns = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        frame = replace(self._frames.get(stamp_ns) or Parts(stamp_ns), **parts)
        self._frames[stamp_ns] = frame
        while len(self._frames) > KEPT_FRAMES:
            self._frames.popitem(last=False)
        return frame


def read_depth(message: Image) -> np.ndarray:
    """float32 (H, W) in metres, NaN = unknown, of a depth image as REP 118 has it.

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
    """float32 (H, W, 3): x, y, z of an organised little-endian cloud that begins each point with them."""
    floats = np.frombuffer(message.data, "<f4").reshape(message.height, message.width, message.point_step // 4)
    return floats[..., :3]
