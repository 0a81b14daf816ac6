# SPDX-License-Identifier: Apache-2.0
"""A camera, a listener and a client around a real depth node in its own process; each rig has its own namespace."""

import itertools
import os
import signal
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from depthlm_ros.core import Intrinsics
from depthlm_ros.ros.camera_info_sync import stamp_ns
from depthlm_ros.ros.child_process import ChildProcess, graph_environment, module_command
from depthlm_ros.ros.message_out import colour_image, rectified_camera_info
from depthlm_ros.ros.ros_process import Spinner
from depthlm_ros.ros.tools.process_graph import handshake
from depthlm_ros.srv import MatchPixels, QueryDepth, RelativePose, SpatialQuery

CAMERA = Intrinsics(150.0, 151.0, 79.0, 60.0, 160, 120)
PATIENCE_S = 20.0
OUTPUTS = {
    "depth/image": Image,
    "depth/camera_info": CameraInfo,
    "depth/points": PointCloud2,
    "depth/sparse": PointCloud2,
    "depth/std": Image,
    "depth/image/compressedDepth": CompressedImage,
}
# A request that the node refuses without effect, as it refuses empty requests to its other services.
NO_TRANSITION = ChangeState.Request(transition=Transition(label="none"))
_numbers = itertools.count()


def picture(seed: int = 0, camera: Intrinsics = CAMERA) -> np.ndarray:
    """Returns a smooth random image, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    v, u = np.mgrid[: camera.height_px, : camera.width_px]
    waves = [np.sin(u * rng.uniform(0.01, 0.1) + v * rng.uniform(0.01, 0.1) + rng.uniform(0, 6)) for _ in range(3)]
    return (127 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)


def depth_of(message: Image) -> np.ndarray:
    return np.frombuffer(message.data, "<f4").reshape(message.height, message.width)


def points_of(message: PointCloud2) -> np.ndarray:
    return np.frombuffer(message.data, "<f4").reshape(message.height, message.width, -1)


class Rig:
    """The test's side of the graph. Its node spins in a thread; `received` and `health` collect what arrives."""

    def __init__(self, log: Path) -> None:
        self.namespace = f"/rig{next(_numbers)}"
        self.log_path = log
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("rig", namespace=self.namespace, context=self.context)
        self.received: dict[str, list] = {name: [] for name in OUTPUTS}
        self.health: list = []
        self.process: ChildProcess | None = None
        reliable = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
        self.publishers = {
            "image": self.node.create_publisher(Image, "image", reliable),
            "image/compressed": self.node.create_publisher(CompressedImage, "image/compressed", reliable),
            "camera_info": self.node.create_publisher(CameraInfo, "camera_info", reliable),
        }
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._keep_health, 10)
        self.clients = {
            "spatial_query": self.node.create_client(SpatialQuery, "spatial_query"),
            "query_depth": self.node.create_client(QueryDepth, "query_depth"),
            "match_pixels": self.node.create_client(MatchPixels, "match_pixels"),
            "relative_pose": self.node.create_client(RelativePose, "relative_pose"),
            "depth_node/change_state": self.node.create_client(ChangeState, "depth_node/change_state"),
            "depth_node/get_state": self.node.create_client(GetState, "depth_node/get_state"),
        }
        self._ready_services: set[str] = set()
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._spinner = Spinner(self._executor, print)
        self._spinner.start()

    def close(self) -> None:
        self._spinner.end()
        self.node.destroy_node()
        self.context.try_shutdown()

    def _keep_health(self, message: DiagnosticArray) -> None:
        self.health += [status for status in message.status if status.name.startswith(self.namespace + "/")]

    def listen(self, *names: str) -> None:
        """Subscribes to outputs of the node, and waits until their publishers exist."""
        for name in names:
            self.node.create_subscription(OUTPUTS[name], name, self.received[name].append, 50)
        for name in names:
            self.wait(lambda name=name: self.node.count_publishers(f"{self.namespace}/{name}"), f"publisher of {name}")

    def start(self, *args: str, watched: tuple[str, ...] = ("depth/image",)) -> None:
        """Starts the node (args: after --ros-args) and subscribes to `watched`; if any, waits for "active"."""
        command = module_command("depthlm_ros.ros.node", "--ros-args", "-r", f"__ns:={self.namespace}", *args)
        self.process = ChildProcess(
            "depth node",
            command,
            self.log_path,
            graph_environment() | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"},
        )
        self.listen(*watched)
        if watched:
            self.wait(lambda: self.state() == "active", "active node")

    def stop(self, number: int = signal.SIGINT) -> int:
        """Sends a signal to the node and returns its exit code."""
        os.kill(self.process.pid, number)
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s and not self.process.ended:
            time.sleep(0.02)
        if not self.process.ended:
            os.kill(self.process.pid, signal.SIGABRT)  # the node then writes what its threads do
            self.process.stop()
            raise AssertionError(f"the node has not ended within {PATIENCE_S:g} s; it said:\n{self.log}")
        return self.process.stop()

    def wait(self, until: Callable[[], object], what: str, patience_s: float = PATIENCE_S):
        """Calls `until` until its result is true, and returns the result."""
        deadline_s = time.monotonic() + patience_s
        while time.monotonic() < deadline_s:
            if found := until():
                return found
            if self.process:
                self.process.check()
            time.sleep(0.01)
        raise AssertionError(f"no {what} within {patience_s:g} s; the node said:\n{self.log}")

    @property
    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def header(self, at_ns: int | None = None, frame_id: str = "camera") -> Header:
        header = Header(frame_id=frame_id)
        at_ns = self.node.get_clock().now().nanoseconds if at_ns is None else at_ns
        header.stamp.sec, header.stamp.nanosec = divmod(at_ns, 1_000_000_000)
        return header

    def shoot(self, image: Image | None = None, info: CameraInfo | None = None, camera: Intrinsics = CAMERA) -> int:
        """Publishes one image with its calibration, and returns its stamp."""
        image = image or colour_image(self.header(), picture(camera=camera))
        self.publishers["camera_info"].publish(info or rectified_camera_info(image.header, camera))
        self.publishers["image"].publish(image)
        return stamp_ns(image.header)

    def shoot_until(self, name: str, make: Callable[[], int] | None = None):
        """Publishes images until an output arrives that belongs to one of them, and returns the output."""
        stamps = set()
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            stamps.add((make or self.shoot)())
            time.sleep(0.1)
            for message in list(self.received[name]):
                if stamp_ns(message.header) in stamps:
                    return message
            self.process.check()
        raise AssertionError(f"no {name} within {PATIENCE_S:g} s; the node said:\n{self.log}")

    def of_stamp(self, name: str, at_ns: int):
        """Returns the output with this stamp."""
        found = lambda: [m for m in list(self.received[name]) if stamp_ns(m.header) == at_ns]  # noqa: E731
        return self.wait(found, f"{name} of stamp {at_ns}")[0]

    def ask(self, service: str, request):
        """Calls a service and returns its response."""
        return self.finish(self.begin(service, request), service)

    def begin(self, service: str, request):
        client = self.clients[service]
        if service not in self._ready_services:
            harmless = NO_TRANSITION if client.srv_type is ChangeState else client.srv_type.Request()
            self.wait(handshake(client, harmless), f"service {service}")
            self._ready_services.add(service)
        return client.call_async(request)

    def finish(self, future, service: str = "service"):
        self.wait(future.done, f"response of {service}")
        return future.result()

    def transition(self, number: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=number))
        return self.ask("depth_node/change_state", request).success

    def state(self) -> str:
        return self.ask("depth_node/get_state", GetState.Request()).current_state.label

    def newest_health(self) -> dict:
        """Returns the values, level and message of a diagnostic status that arrives after this call."""
        before = len(self.health)
        self.wait(lambda: len(self.health) > before, "diagnostics")
        status = self.health[-1]
        values = {item.key: item.value for item in status.values}
        return {"level": status.level, "message": status.message, **values}


@contextmanager
def new_rig(folder: Path):
    """Yields a rig, and ends its node afterwards."""
    rig = Rig(folder / "node.log")
    try:
        yield rig
    finally:
        if rig.process:
            rig.process.stop()
        rig.close()
