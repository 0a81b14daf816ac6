# SPDX-License-Identifier: Apache-2.0
"""Records small bags with rosbags: two cameras that look at rooms, in every storage."""

from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Ros2Writer
from rosbags.typesys import Stores, get_typestore

from depthlm_ros.core import Intrinsics
from support.checkered_room import CAMERA, render_room

STEP_NS, START_NS = 100_000_000, 1_700_000_000_000_000_000
IMAGE, COMPRESSED, INFO = (f"sensor_msgs/msg/{name}" for name in ("Image", "CompressedImage", "CameraInfo"))


class Recorder:
    """Writes messages of ROS 2 (storage "mcap", "zstd" or "sqlite3") or ROS 1 ("ros1", "lz4"); use it with `with`."""

    def __init__(self, path: Path, storage: str) -> None:
        self.is_ros1 = storage in ("ros1", "lz4")
        self.store = get_typestore(Stores.ROS1_NOETIC if self.is_ros1 else Stores.LATEST)
        if self.is_ros1:
            self.writer = Ros1Writer(path)
            if storage == "lz4":
                self.writer.set_compression(Ros1Writer.CompressionFormat.LZ4)
        else:
            plugin = StoragePlugin.SQLITE3 if storage == "sqlite3" else StoragePlugin.MCAP
            self.writer = Ros2Writer(path, version=9, storage_plugin=plugin)
            if storage == "zstd":
                self.writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self.connections = {}

    def __enter__(self):
        self.writer.open()
        return self

    def __exit__(self, *_):
        self.writer.close()

    def new(self, name: str, **fields):
        kind = self.store.types[name]
        return kind(**fields)

    def header(self, time_ns: int, frame_id: str):
        stamp = self.new("builtin_interfaces/msg/Time", sec=time_ns // 10**9, nanosec=time_ns % 10**9)
        return self.new("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id, **({"seq": 0} if self.is_ros1 else {}))

    def write(self, topic: str, name: str, message, time_ns: int) -> None:
        serialise = self.store.serialize_ros1 if self.is_ros1 else self.store.serialize_cdr
        self.write_bytes(topic, name, serialise(message, name), time_ns)

    def write_bytes(self, topic: str, name: str, data: bytes, time_ns: int) -> None:
        if topic not in self.connections:
            self.connections[topic] = self.writer.add_connection(topic, name, typestore=self.store)
        self.writer.write(self.connections[topic], time_ns, data)

    def image(
        self, topic: str, rgb: np.ndarray, time_ns: int, frame_id: str = "camera", encoding: str = "rgb8"
    ) -> None:
        height, width = rgb.shape[:2]
        data, step = np.ascontiguousarray(rgb).view(np.uint8).ravel(), rgb.nbytes // height
        head = self.header(time_ns, frame_id)
        fields = {"height": height, "width": width, "encoding": encoding, "is_bigendian": 0, "step": step, "data": data}
        self.write(topic, IMAGE, self.new(IMAGE, header=head, **fields), time_ns)

    def compressed(self, topic: str, rgb: np.ndarray, time_ns: int, frame_id: str = "camera") -> None:
        data = cv2.imencode(".png", rgb[..., ::-1])[1].ravel()
        head = self.header(time_ns, frame_id)
        self.write(topic, COMPRESSED, self.new(COMPRESSED, header=head, format="rgb8; png", data=data), time_ns)

    def info(self, topic: str, time_ns: int, frame_id: str = "camera", camera: Intrinsics = CAMERA) -> None:
        matrix, window = camera.matrix, {"x_offset": 0, "y_offset": 0, "height": 0, "width": 0, "do_rectify": False}
        numbers = {
            "d": np.zeros(5),
            "k": matrix.ravel(),
            "r": np.eye(3).ravel(),
            "p": np.hstack([matrix, np.zeros((3, 1))]).ravel(),
        }
        numbers = {name.upper() if self.is_ros1 else name: value for name, value in numbers.items()}
        roi = self.new("sensor_msgs/msg/RegionOfInterest", **window)
        fields = {"height": camera.height_px, "width": camera.width_px, "distortion_model": "plumb_bob", "roi": roi}
        head = self.header(time_ns, frame_id)
        message = self.new(INFO, header=head, binning_x=0, binning_y=0, **fields, **numbers)
        self.write(topic, INFO, message, time_ns)


def room(number: int) -> np.ndarray:
    """Returns the picture of a room, uint8 (H, W, 3)."""
    return render_room(wall_m=3.0 + number % 7)[0]


def record_rooms(path: Path, storage: str, images: int = 3) -> Path:
    """Records rooms by two cameras, a raw one and a compressed one, with a CameraInfo for each image."""
    with Recorder(path, storage) as bag:
        for number in range(images):
            time_ns = START_NS + number * STEP_NS
            bag.info("/front/camera_info", time_ns, "front")
            bag.image("/front/image_raw", room(number), time_ns, "front")
            bag.compressed("/rear/image/compressed", room(number + 1), time_ns + 1000, "rear")
            bag.info("/rear/camera_info", time_ns + 2000, "rear")
    return path
