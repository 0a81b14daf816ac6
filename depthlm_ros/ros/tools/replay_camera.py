# SPDX-License-Identifier: Apache-2.0
"""A camera made of files: publishes `image` and `camera_info`, and `depth_truth/image` where the exact depth is known.

    python -m depthlm_ros.ros.tools.replay_camera --images FOLDER_OR_VIDEO --fx 500
    python -m depthlm_ros.ros.tools.replay_camera --labels labels.jsonl --once --rate 2
    python -m depthlm_ros.ros.tools.replay_camera                       (a rendered room, with exact depth)

Topic names are relative. All messages of one image carry the same stamp, from the node's clock. ROS arguments
(--ros-args -r image:=...) work as with any node.

image_source, video_source, label_source and rendered_room_source return an ImageSource: a function that returns an
iterator over ReplayImages and starts from the beginning at each call. ReplayCamera publishes them. Only
rendered_room_source needs numba (extra [scenes]).
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
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadInput, DepthLMError, SetupError
from depthlm_ros.eval.judges import read_point_records
from depthlm_ros.ros.fastdds import use_large_shared_memory
from depthlm_ros.ros.message_out import colour_image, depth_image, rectified_camera_info
from depthlm_ros.ros.ros_process import StopSignal, init_ros, own_arguments
from depthlm_ros.ros.tools.picture_lens import (
    Lens,
    LogLine,
    add_lens_options,
    check_video,
    find_lens,
    known_lens,
    picture_files,
    read_picture,
    spread,
)

# Decoded images of a folder are kept up to this size: when the folder is shown in a loop, the processor is free for the
# programs that receive the images.
CACHE_BYTES = 256 << 20
# The same random numbers for every image: one camera keeps its white balance and its blur.
PHOTO_SEED = 1
# After the first subscriber is found, others that are found within this time also receive the first image.
SETTLE_S = 0.5
POLL_S = 0.05
# After the last image the publisher stays alive for this long, so that reliable delivery can finish.
LAST_DELIVERY_S = 1.0


@dataclass(frozen=True)
class ReplayImage:
    """One image of a pinhole camera. rgb: uint8 (H, W, 3). depth_m: exact z-depth, float32 (H, W), None if unknown."""

    name: str
    rgb: np.ndarray
    intrinsics: Intrinsics
    depth_m: np.ndarray | None = None


ImageSource = Callable[[], Iterator[ReplayImage]]
# (name, (width, height)) -> intrinsics. Raises BadInput if there are none for this image.
IntrinsicsOfImage = Callable[[str, tuple[int, int]], Intrinsics]


class ImageCache:
    """Reads image files and keeps the decoded images that fit into `max_bytes`.

    Warns once about each file that cannot be read or has no intrinsics, and leaves it out. upright: turn images as
    their Exif data say. longest_px: shrink larger images to this longer side; None keeps all sizes.
    """

    def __init__(self, max_bytes: int, warn: LogLine, upright: bool = False, longest_px: int | None = None) -> None:
        self._free_bytes, self._warn, self._upright, self._longest_px = max_bytes, warn, upright, longest_px
        self._decoded: dict[Path, ReplayImage] = {}
        self._unreadable: set[Path] = set()

    def read_all(self, files: Iterable[tuple[Path, IntrinsicsOfImage]]) -> Iterator[ReplayImage]:
        """Yields the readable images of these files. Raises BadInput at the end if there was none."""
        any_readable = False
        for file, intrinsics_of in files:
            image = self._read(file, intrinsics_of)
            if image is not None:
                any_readable = True
                yield image
        if not any_readable:
            raise BadInput("none of these images can be read: there is nothing to show.")

    def _read(self, file: Path, intrinsics_of: IntrinsicsOfImage) -> ReplayImage | None:
        if file in self._decoded:
            return self._decoded[file]
        if file in self._unreadable:
            return None
        try:
            rgb = read_picture(file, self._upright)
            image = ReplayImage(file.name, rgb, intrinsics_of(file.name, (rgb.shape[1], rgb.shape[0])))
        except BadInput as exc:
            self._unreadable.add(file)
            self._warn(f"left out: {exc}")
            return None
        image = shrink(image, self._longest_px)
        if image.rgb.nbytes <= self._free_bytes:
            self._free_bytes -= image.rgb.nbytes
            self._decoded[file] = image
        return image


def shrink(image: ReplayImage, longest_px: int | None) -> ReplayImage:
    """Returns an image without depth whose longer side has at most this many pixels, with the camera that fits it."""
    size = np.array(image.intrinsics.size_px)
    if longest_px is None or size.max() <= longest_px:
        return image
    width, height = np.maximum(np.rint(size * longest_px / size.max()), 1).astype(int).tolist()
    x, y = (width, height) / size
    camera = image.intrinsics
    cx_px, cy_px = (camera.cx_px + 0.5) * x - 0.5, (camera.cy_px + 0.5) * y - 0.5
    smaller = Intrinsics(camera.fx_px * x, camera.fy_px * y, cx_px, cy_px, width, height)
    return ReplayImage(image.name, cv2.resize(image.rgb, (width, height), interpolation=cv2.INTER_AREA), smaller)


def image_source(
    path: Path,
    lens: Lens,
    warn: LogLine,
    longest_px: int | None = None,
    most: int | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> ImageSource:
    """Returns a source of the images of a folder in the order of their names, of one image, or of a video.

    warn: called for files that are not shown: those that cannot be read, and those of a size to which the lens does not
    belong. longest_px: larger images are shrunk to this longer side. most: of a larger folder, this many images, evenly
    spread, are shown. cache_bytes: largest size of the decoded images that are kept for the next round. Images are
    turned as their Exif data say, unless the lens is calibrated.

    Raises BadInput if there is nothing to show.
    """
    files = picture_files(path, warn)
    if not files:
        return video_source(path, lens, longest_px)
    files = [files[index] for index in spread(len(files), most or len(files))]
    cache = ImageCache(cache_bytes, warn, upright=not lens.known.is_calibrated, longest_px=longest_px)
    return lambda: cache.read_all((file, lens.intrinsics_of) for file in files)


def video_source(path: Path, lens: Lens, longest_px: int | None = None) -> ImageSource:
    """Returns a source of the frames of a video. Raises BadInput if OpenCV cannot read it."""
    check_video(path)
    return lambda: _read_video(path, lens, longest_px)


def _read_video(path: Path, lens: Lens, longest_px: int | None) -> Iterator[ReplayImage]:
    capture = cv2.VideoCapture(str(path))
    number = 0
    while True:
        success, bgr = capture.read()
        if not success:
            return
        rgb, name = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), f"frame {number}"
        yield shrink(ReplayImage(name, rgb, lens.intrinsics_of(name, (rgb.shape[1], rgb.shape[0]))), longest_px)
        number += 1


def label_source(path: Path, warn: LogLine) -> ImageSource:
    """Returns a source of the images of a labels file in DepthLM's JSONL schema, each with its own intrinsics.

    warn: called for images that cannot be read; the others are shown. Raises BadInput if the file is unusable.
    """
    files = [(record.image, _constant(record.intrinsics)) for record in read_point_records(path).records]
    cache = ImageCache(0, warn)
    return lambda: cache.read_all(files)


def _constant(intrinsics: Intrinsics) -> IntrinsicsOfImage:
    return lambda name, size_px: intrinsics


def rendered_room_source(camera: Intrinsics, steps: int, seed: int | None = None) -> ImageSource:
    """Renders a flight of `steps` images through a room, and returns a source that flies it forth and back.

    An image costs about 0.2 s of a core. seed: number of the room; None is the room of the demo, which holds a red box
    and a blue ball. Raises BadInput without numba.
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

    def render_step(step: int) -> ReplayImage:
        rendered = render(scene, poses[step], camera)
        rgb = photograph(np.random.default_rng(PHOTO_SEED), rendered)
        return ReplayImage(f"step {step}", rgb, camera, rendered.depth_m)

    # All images are rendered first, so that later the processor is free for the programs that receive them.
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        images = list(workers.map(render_step, range(steps)))
    return lambda: iter(images + images[-2:0:-1])


class ReplayCamera(Node):
    """Publishes ReplayImages as a camera driver does."""

    def __init__(self, frame_id: str, best_effort: bool) -> None:
        super().__init__("replay_camera")
        self._frame_id = frame_id
        reliability = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
        qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=reliability)
        self._image = self.create_publisher(Image, "image", qos)
        self._info = self.create_publisher(CameraInfo, "camera_info", qos)
        self._truth = self.create_publisher(Image, "depth_truth/image", qos)

    @property
    def has_subscribers(self) -> bool:
        """Whether both the images and their calibration have a subscriber."""
        return min(self._image.get_subscription_count(), self._info.get_subscription_count()) > 0

    def publish(self, image: ReplayImage) -> None:
        """Publishes one image, stamped now. The calibration goes first, so that it arrives before the image."""
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=self._frame_id)
        self._info.publish(rectified_camera_info(header, image.intrinsics))
        if image.depth_m is not None:
            self._truth.publish(depth_image(header, image.depth_m, "32FC1"))
        self._image.publish(colour_image(header, image.rgb))

    def replay(self, source: ImageSource, options: argparse.Namespace, stop: StopSignal) -> None:
        """Publishes the images of a source at --rate until it ends or `stop` is set."""
        for _ in range(int(options.wait / POLL_S)):
            if self.has_subscribers:
                stop.wait(SETTLE_S)
                break
            if stop.wait(POLL_S):
                break
        rounds = [source] if options.once else repeat(source)
        due_s = time.monotonic()
        for image in chain.from_iterable(start() for start in rounds):
            if stop.wait(max(0.0, due_s - time.monotonic())):
                return
            self.publish(image)
            due_s = max(due_s + 1.0 / options.rate, time.monotonic())  # a late image does not hurry the next ones
        self.get_logger().info("published the last image")
        stop.wait(LAST_DELIVERY_S)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(prog="replay_camera", description=__doc__.split("\n")[0])
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--images", type=Path, help="folder of images, an image, or a video")
    source.add_argument("--labels", type=Path, help="labels file (JSONL); each image has its own intrinsics")
    add_lens_options(parser)
    parser.add_argument("--longest", type=int, metavar="PX", help="shrink larger --images to this longer side")
    parser.add_argument("--most", type=int, metavar="N", help="show only N of a folder's --images, evenly spread")
    room = parser.add_argument_group("the rendered room (without --images and --labels)")
    room.add_argument(
        "--size", type=int, nargs=2, default=(640, 480), metavar=("W", "H"), help="pixels (default: 640 480)"
    )
    room.add_argument("--focal", type=float, help="focal length in pixels (default: 0.8 times the width)")
    room.add_argument("--seed", type=int, help="number of the room (default: the room of the demo)")
    room.add_argument(
        "--steps", type=int, default=24, help="images on the way, before the camera turns back (default: %(default)s)"
    )
    parser.add_argument("--rate", type=float, default=10.0, help="images per second (default: %(default)g)")
    parser.add_argument("--once", action="store_true", help="end after the last image instead of starting again")
    parser.add_argument(
        "--wait",
        type=float,
        default=0.0,
        metavar="S",
        help="first wait for a subscriber for at most this time (default: 0)",
    )
    parser.add_argument("--frame-id", default="camera_optical_frame", help="frame_id of the headers")
    parser.add_argument("--best-effort", action="store_true", help="publish best effort, as many drivers do")
    return parser


def parse_options(command: Sequence[str]) -> argparse.Namespace:
    """Reads and checks a command line with ROS arguments. Ends the process with 2 if it is wrong."""
    parser = build_parser()
    options = parser.parse_args(own_arguments(command))
    if not 0 < options.rate <= 1000:
        parser.error(f"--rate is {options.rate:g}: give a number of images per second, at most 1000.")
    if options.steps < 2:
        parser.error(f"--steps is {options.steps}: the camera's way has at least 2 images.")
    for name in ("longest", "most"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"--{name} is {value}: give a positive number.")
    return options


def open_source(options: argparse.Namespace) -> ImageSource:
    """Returns the source that the options name. Raises BadInput if it has nothing to show."""
    log = rclpy.logging.get_logger("replay_camera")
    if options.labels:
        return label_source(options.labels, log.warning)
    if options.images:
        lens = find_lens(options.images, known_lens(options))
        log.info(lens.text)
        return image_source(options.images, lens, log.warning, options.longest, options.most)
    log.info(f"rendering {options.steps} images of a room (the first run compiles the renderer) ...")
    width, height = options.size
    focal_px = 0.8 * width if options.focal is None else options.focal
    camera = Intrinsics(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2, width, height)
    return rendered_room_source(camera, options.steps, options.seed)


def spin(camera: ReplayCamera) -> None:
    """Serves parameters and the clock until ROS is shut down."""
    with contextlib.suppress(ExternalShutdownException):
        rclpy.spin(camera)


def main(args: Sequence[str] | None = None) -> None:
    """Runs until the source ends, or until SIGINT or SIGTERM. Ends the process with 1 if there is nothing to show."""
    command = list(sys.argv if args is None else args)
    stop = StopSignal()
    use_large_shared_memory()
    try:
        options = parse_options(command)
        init_ros(command)
    except SetupError as error:
        sys.exit(str(error))
    camera = ReplayCamera(options.frame_id, options.best_effort)
    spinner = threading.Thread(target=spin, args=(camera,), daemon=True)
    spinner.start()
    try:
        camera.replay(open_source(options), options, stop)
    except DepthLMError as error:
        camera.get_logger().fatal(str(error))
        sys.exit(1)
    finally:
        rclpy.try_shutdown()
        spinner.join(2.0)


if __name__ == "__main__":
    main()
