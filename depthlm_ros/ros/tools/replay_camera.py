"""A camera made of files: publishes `image` and `camera_info`, and `depth_truth/image` where depth is known exactly.

    python -m depthlm_ros.ros.tools.replay_camera --images FOLDER_OR_VIDEO --fx 500 --fy 500 --cx 319.5 --cy 239.5
    python -m depthlm_ros.ros.tools.replay_camera --labels labels.jsonl --once --rate 2
    python -m depthlm_ros.ros.tools.replay_camera                       (a rendered room, with ground truth)

Names are relative; stamps are the node's clock, all messages of one shot carry the same. ROS arguments
(--ros-args -r image:=...) work as with any node.

What the replay camera shows: pictures in a folder, a video, labelled images, or a rendered room.

A source is a function that starts from the beginning each time it is called, and yields shots.

The replay camera's rendered room: a camera that glides through it, with the exact depth of every pixel.

The only module of this room that needs numba (extra [scenes]); the node never imports it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import cv2
import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadImage, BadInput, DepthLMError
from depthlm_ros.eval.judges import read_records
from depthlm_ros.image_io import read_rgb
from depthlm_ros.ros.fastdds import use_large_shared_memory
from depthlm_ros.ros.message_out import colour_image, depth_image, rectified_camera_info
from depthlm_ros.ros.node import Stop

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm")

# The first pictures of a folder are decoded once: shown in a loop, the processor belongs to those who look at it.
KEPT_BYTES = 256 << 20


@dataclass(frozen=True)
class Shot:
    """One picture of a pinhole camera. rgb: uint8 (H, W, 3). depth_m: float32 (H, W), z, where it is known exactly."""

    name: str
    rgb: np.ndarray
    intrinsics: Intrinsics
    depth_m: np.ndarray | None = None


@dataclass(frozen=True)
class Lens:
    """Focal lengths and principal point in pixels of the picture, whatever its size."""

    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float

    def intrinsics(self, rgb: np.ndarray) -> Intrinsics:
        """The camera of a picture (H, W, 3) taken through this lens."""
        return Intrinsics(self.fx_px, self.fy_px, self.cx_px, self.cy_px, rgb.shape[1], rgb.shape[0])


Source = Callable[[], Iterator[Shot]]
Report = Callable[[str], object]


class Shelf:
    """Reads pictures, and keeps those that fit into so many bytes. A file that is no picture is reported once, and left
    out; BadInput when a whole round had nothing else."""

    def __init__(self, most_bytes: int, report: Report) -> None:
        self._left_bytes, self._report = most_bytes, report
        self._kept: dict[Path, np.ndarray] = {}
        self._unreadable: set[Path] = set()

    def shots(self, files: Iterable[tuple[Path, Callable[[np.ndarray], Intrinsics]]]) -> Iterator[Shot]:
        """Of each file and its camera, which may depend on the picture (H, W, 3)."""
        shown = False
        for file, camera in files:
            rgb = self._read(file)
            if rgb is not None:
                shown = True
                yield Shot(file.name, rgb, camera(rgb))
        if not shown:
            raise BadInput("none of these pictures can be read: nothing to show.")

    def _read(self, file: Path) -> np.ndarray | None:
        if file in self._kept:
            return self._kept[file]
        if file in self._unreadable:
            return None
        try:
            rgb = read_rgb(file)
        except BadImage as exc:
            self._unreadable.add(file)
            self._report(f"left out: {exc}")
            return None
        if rgb.nbytes <= self._left_bytes:
            self._left_bytes -= rgb.nbytes
            self._kept[file] = rgb
        return rgb


def pictures(path: Path, lens: Lens, report: Report, kept_bytes: int = KEPT_BYTES) -> Source:
    """The pictures of a folder in the order of their names, one picture, or the frames of a video.

    report: told of files that cannot be read; the others are shown. kept_bytes: how much may be kept of the decoded
    pictures, so that a second round need not decode them.

    All must have one size, that of the first, because the lens is given for it; others raise BadImage when they
    come. Raises BadInput if there is nothing to show.
    """
    if not path.exists():
        raise BadInput(f"{path} does not exist: name a folder of pictures, a picture or a video.")
    shelf = Shelf(kept_bytes, report)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)
        if not files:
            raise BadInput(f"{path} holds no pictures ({', '.join(PICTURE_SUFFIXES)}).")
        return lambda: _of_one_size(shelf.shots((file, lens.intrinsics) for file in files))
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return lambda: shelf.shots([(path, lens.intrinsics)])
    return video(path, lens)


def video(path: Path, lens: Lens) -> Source:
    """The frames of a video. Raises BadInput if it cannot be opened."""
    if not cv2.VideoCapture(str(path)).read()[0]:
        raise BadInput(f"{path} is neither a picture nor a video that OpenCV can read.")
    return lambda: _frames(path, lens)


def labelled(path: Path, report: Report) -> Source:
    """The images of a labels file in DepthLM's JSONL schema, each with its own intrinsics. report: told of images that
    cannot be read; the others are shown. Raises BadInput."""
    files = [(record.image, _always(record.intrinsics)) for record in read_records(path).records]
    shelf = Shelf(0, report)
    return lambda: shelf.shots(files)


def _always(camera: Intrinsics) -> Callable[[np.ndarray], Intrinsics]:
    return lambda rgb: camera


def _frames(path: Path, lens: Lens) -> Iterator[Shot]:
    capture = cv2.VideoCapture(str(path))
    number = 0
    while True:
        there, bgr = capture.read()
        if not there:
            return
        rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        yield Shot(f"frame {number}", rgb, lens.intrinsics(rgb))
        number += 1


def _of_one_size(shots: Iterator[Shot]) -> Iterator[Shot]:
    first: Shot | None = None
    for shot in shots:
        first = first or shot
        if shot.intrinsics.size_px != first.intrinsics.size_px:
            raise BadImage(
                f"{shot.name} is {shot.intrinsics.size_px} but {first.name} is {first.intrinsics.size_px}: "
                "one lens belongs to one size; put other sizes into other folders, or use a labels file."
            )
        yield shot


# The same random numbers for every picture: one camera keeps its white balance and its blur.
PHOTO_SEED = 1


def rendered_room(camera: Intrinsics, steps: int, seed: int | None = None) -> Source:
    """A flight of so many pictures through a room and back, all rendered here (about 0.2 s of a core each).

    seed: which room; None is the demo's, which holds a red box and a blue ball. Raises BadInput without numba.
    """
    try:
        from depthlm_ros.scenes.camera.camera_path import camera_path, demo_scene
        from depthlm_ros.scenes.camera.photo import photograph
        from depthlm_ros.scenes.renderer.render import render
        from depthlm_ros.scenes.world.sample import sample_scene
    except ImportError as error:
        raise BadInput(f"the rendered room needs numba ({error}): pip install numba, or show --images.") from error
    scene = demo_scene() if seed is None else sample_scene(np.random.default_rng(seed))
    poses = camera_path(scene, steps)

    def shot(step: int) -> Shot:
        rendered = render(scene, poses[step], camera)
        rgb = photograph(np.random.default_rng(PHOTO_SEED), rendered)
        return Shot(f"step {step}", rgb, camera, rendered.depth_m)

    # Rendered beforehand: while the pictures are shown, the processor belongs to those who look at them.
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        shots = list(workers.map(shot, range(steps)))
    return lambda: iter(shots + shots[-2:0:-1])


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
