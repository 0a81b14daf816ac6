"""A camera made of files: publishes `image` and `camera_info`, and `depth_truth/image` where depth is known exactly.

    python -m depthlm_ros.ros.replay --images FOLDER_OR_VIDEO --fx 500 --fy 500 --cx 319.5 --cy 239.5
    python -m depthlm_ros.ros.replay --labels labels.jsonl --once --rate 2
    python -m depthlm_ros.ros.replay                       (a rendered room, with ground truth)

Names are relative; stamps are the node's clock, all messages of one shot carry the same. ROS arguments
(--ros-args -r image:=...) work as with any node.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
import time
from collections.abc import Sequence
from itertools import chain, repeat
from pathlib import Path

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import DepthLMError
from depthlm_ros.ros.messages import colour_image, depth_image, rectified_camera_info
from depthlm_ros.ros.room import rendered_room
from depthlm_ros.ros.sources import Lens, Shot, Source, labelled, pictures
from depthlm_ros.ros.stopping import Stop
from depthlm_ros.ros.transport import use_large_shared_memory

TOPICS = ("image", "camera_info", "depth_truth/image")
# Where one subscriber was waited for, those that are found a moment later see the first picture too.
SETTLE_S = 0.5


class ReplayCamera(Node):
    """Publishes shots."""

    def __init__(self, frame_id: str, best_effort: bool) -> None:
        super().__init__("replay_camera")
        self._frame_id = frame_id
        reliability = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
        qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=reliability)
        self._image = self.create_publisher(Image, TOPICS[0], qos)
        self._info = self.create_publisher(CameraInfo, TOPICS[1], qos)
        self._truth = self.create_publisher(Image, TOPICS[2], qos)

    @property
    def watched(self) -> bool:
        """Whether anybody receives both the images and their calibration."""
        return min(self._image.get_subscription_count(), self._info.get_subscription_count()) > 0

    def show(self, shot: Shot) -> None:
        """Publish one shot, stamped now; the calibration first, so that it is there when the image is."""
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=self._frame_id)
        self._info.publish(rectified_camera_info(header, shot.intrinsics))
        if shot.depth_m is not None:
            self._truth.publish(depth_image(header, shot.depth_m, "32FC1"))
        self._image.publish(colour_image(header, shot.rgb))


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="replay_camera", description=__doc__.split("\n")[0])
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--images", type=Path, help="folder of pictures, a picture, or a video; needs the lens")
    source.add_argument("--labels", type=Path, help="labels file (JSONL); each image with its own intrinsics")
    lens = parser.add_argument_group("lens of --images, in pixels")
    for name, text in (
        ("fx", "focal length"),
        ("fy", "focal length"),
        ("cx", "principal point"),
        ("cy", "principal point"),
    ):
        lens.add_argument(f"--{name}", type=float, help=text)
    room = parser.add_argument_group("the rendered room (without --images and --labels)")
    room.add_argument("--size", type=int, nargs=2, default=(640, 480), metavar=("W", "H"), help="pixels (640 480)")
    room.add_argument("--focal", type=float, help="focal length in pixels (0.8 times the width)")
    room.add_argument("--seed", type=int, help="which room (the demo's)")
    room.add_argument("--steps", type=int, default=24, help="pictures on the camera's way, before it turns back (24)")
    parser.add_argument("--rate", type=float, default=10.0, help="pictures per second (10)")
    parser.add_argument("--once", action="store_true", help="end after the last picture instead of beginning again")
    parser.add_argument("--wait", type=float, default=0.0, metavar="S", help="first wait so long for a subscriber (0)")
    parser.add_argument("--frame-id", default="camera_optical_frame", help="frame_id of the headers")
    parser.add_argument("--best-effort", action="store_true", help="publish best effort, as many drivers do")
    return parser


def source_from(options: argparse.Namespace) -> Source:
    """The source that the command line names. Raises BadInput if it shows nothing, SystemExit for a missing lens."""
    log = rclpy.logging.get_logger("replay_camera")
    if options.labels:
        return labelled(options.labels, log.warning)
    if not options.images:
        log.info(f"rendering {options.steps} pictures of a room (the first time, its code is compiled) ...")
        return rendered_room(_room_camera(options), options.steps, options.seed)
    missing = [f"--{name}" for name in ("fx", "fy", "cx", "cy") if getattr(options, name) is None]
    if missing:
        arguments().error(f"--images needs the lens; missing: {' '.join(missing)}. No depth is right without it.")
    return pictures(options.images, Lens(options.fx, options.fy, options.cx, options.cy), log.warning)


def _room_camera(options: argparse.Namespace) -> Intrinsics:
    width, height = options.size
    focal_px = 0.8 * width if options.focal is None else options.focal
    return Intrinsics(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2, width, height)


def replay(camera: ReplayCamera, source: Source, options: argparse.Namespace, stop: Stop) -> None:
    """Show the source at its rate until it ends or `stop` is set."""
    for _ in range(int(options.wait * 20)):
        if camera.watched:
            stop.wait(SETTLE_S)
            break
        if stop.wait(0.05):
            break
    rounds = [source] if options.once else repeat(source)
    due_s = time.monotonic()
    for shot in chain.from_iterable(start() for start in rounds):
        if stop.wait(max(0.0, due_s - time.monotonic())):
            return
        camera.show(shot)
        due_s = max(due_s + 1.0 / options.rate, time.monotonic())  # what came late is not made up for
    camera.get_logger().info("the last picture is shown")
    stop.wait(1.0)  # reliable delivery of the last messages needs the publisher alive


def spin(camera: ReplayCamera) -> None:
    """Serve parameters and the clock until ROS is shut down."""
    with contextlib.suppress(ExternalShutdownException):
        rclpy.spin(camera)


def main(args: Sequence[str] | None = None) -> None:
    """Run until the source ends or SIGINT or SIGTERM arrives; ends the process with 1 if there is nothing to show."""
    command = list(sys.argv if args is None else args)
    options = arguments().parse_args(remove_ros_args(command)[1:])
    if not 0 < options.rate <= 1000:
        arguments().error(f"--rate is {options.rate:g}: give a number of pictures per second, at most 1000.")
    if options.steps < 2:
        arguments().error(f"--steps is {options.steps}: a way has at least 2 pictures.")
    stop = Stop()
    use_large_shared_memory()
    rclpy.init(args=command, signal_handler_options=SignalHandlerOptions.NO)
    camera = ReplayCamera(options.frame_id, options.best_effort)
    spinner = threading.Thread(target=spin, args=(camera,), daemon=True)
    spinner.start()
    try:
        replay(camera, source_from(options), options, stop)
    except DepthLMError as error:
        camera.get_logger().fatal(str(error))
        sys.exit(1)
    finally:
        rclpy.try_shutdown()
        spinner.join(2.0)


if __name__ == "__main__":
    main()
