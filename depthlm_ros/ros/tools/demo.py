"""The demo: runs a camera and the depth node as processes, asks two questions, and writes pictures and a table.

`make demo`, or `python -m depthlm_ros.ros.tools.demo`. Without --images the camera moves through a rendered room whose
exact depth is known. The exit code is 0 only if depth, point cloud and both answers arrived.

DepthListener receives the topics of the camera and the node and groups their messages by stamp; ReceivedFrame is one
group, ReceptionStatistics counts them. The benchmarks use these three too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud2

from depthlm_ros.errors import BadImage, DepthLMError, SetupError
from depthlm_ros.eval.metrics import DepthScores, score_depth
from depthlm_ros.image_io import write_rgb
from depthlm_ros.ros.message_in import image_to_rgb
from depthlm_ros.ros.tools.process_graph import ProcessGraph
from depthlm_ros.srv import SpatialQuery
from depthlm_ros.visualization import cloud_picture, depth_picture, depth_range_m, side_by_side

RELIABLE = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
# The listener keeps this many frames, because the depth of an image arrives later than the image.
MAX_KEPT_FRAMES = 40
TRUTH_TOPIC = "depth_truth/image"
ROOM_QUESTIONS = ("How far is the red box?", "Which is closer, the blue ball or the red box?")
PIXEL_QUESTION = "How far is this point?"
# "There is no red box" is an answer, too.
ANSWERED_STATUSES = (SpatialQuery.Response.OK, SpatialQuery.Response.NOT_FOUND)
# The pictures show these fields of a ReceivedFrame.
PICTURE_FIELDS = ("rgb", "depth_m", "cloud_m")
# The error is measured at every n-th pixel of every n-th row.
ERROR_STRIDE_PX = 4
STRIP_HEIGHT_PX = 360
LENS_OPTIONS = ("fx", "fy", "cx", "cy")


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
    truth_topic: topic of the exact depth, "" if there is none. images, clouds: numbers of received messages.
    """

    def __init__(self, on_depth: Callable[[ReceivedFrame], None], cloud: bool = True, truth_topic: str = "") -> None:
        super().__init__("depthlm_listener")
        self.images = self.clouds = 0
        self._on_depth = on_depth
        self._frames: OrderedDict[int, ReceivedFrame] = OrderedDict()
        self.create_subscription(Image, "image", self._receive_image, BEST_EFFORT)
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
        stamp_ns = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        frame = replace(self._frames.get(stamp_ns) or ReceivedFrame(stamp_ns), **fields)
        self._frames[stamp_ns] = frame
        while len(self._frames) > MAX_KEPT_FRAMES:
            self._frames.popitem(last=False)
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


@dataclass(frozen=True)
class QuestionResult:
    """One question of the demo. answered: whether the model replied; "there is no such object" is a reply too."""

    question: str
    text: str
    seconds: float
    answered: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo and returns the exit code."""
    args = build_parser().parse_args(argv)
    try:
        run(args)
    except KeyboardInterrupt:
        return 130
    except DepthLMError as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the demo's options."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder of images, or a video (default: a rendered room)")
    for name in LENS_OPTIONS:
        parser.add_argument(f"--{name}", type=float, help=f"{name} of these images, in pixels")
    parser.add_argument("--model", default="tiny", help="name or folder of a model (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=60, help="depth images to wait for (default: %(default)s)")
    parser.add_argument(
        "--timeout", type=float, default=120.0, metavar="S", help="longest wait for each step (default: %(default)g)"
    )
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the pictures (default: %(default)s)")
    return parser


def run(args: argparse.Namespace) -> None:
    """Starts camera and node, receives frames, asks the questions, writes the pictures and prints the table.

    Raises SetupError if a process fails, a step takes too long, or a question has no answer.
    """
    args.out.mkdir(parents=True, exist_ok=True)
    statistics = ReceptionStatistics()
    with ProcessGraph(args.out / "log") as graph:
        graph.start("camera", "depthlm_ros.ros.tools.replay_camera", *replay_camera_options(args))
        graph.start("depth node", "depthlm_ros.ros.node", "--ros-args", "-p", f"model:={args.model}")
        listener = DepthListener(statistics.add, truth_topic="" if args.images else TRUTH_TOPIC)
        graph.add(listener)
        frame = receive_frames(graph, listener, statistics, args)
        results = [ask(graph, listener, question, uv_px) for question, uv_px in choose_questions(args, frame)]
        # The frame before the questions serves if a busy machine lost a message of every later frame.
        frame = listener.newest_frame_with(*PICTURE_FIELDS) or frame
    pictures = write_pictures(frame, args.out)
    print(format_table(frame, statistics, listener, results, pictures))
    unanswered = [result.question for result in results if not result.answered]
    if unanswered:
        raise SetupError(f"no answer to: {' '.join(unanswered)} (see the table and {args.out / 'log'}).")


def replay_camera_options(args: argparse.Namespace) -> list[str]:
    """Returns the options of the replay camera. Raises SetupError if there are images without a lens."""
    if args.images is None:
        return []
    missing = [name for name in LENS_OPTIONS if getattr(args, name) is None]
    if missing:
        names = ", ".join(name.upper() for name in missing)
        raise SetupError(
            f"{args.images} comes without {names}: give the camera's focal lengths and principal point in pixels, "
            "make demo IMAGES=folder FX=.. FY=.. CX=.. CY=.."
        )
    lens = [option for name in LENS_OPTIONS for option in (f"--{name}", str(getattr(args, name)))]
    return ["--images", str(args.images), *lens]


def receive_frames(
    graph: ProcessGraph, listener: DepthListener, statistics: ReceptionStatistics, args: argparse.Namespace
) -> ReceivedFrame:
    """Waits for the first image, the first depth with its cloud, and then for --frames depth images.

    Returns the newest complete frame. Raises SetupError if a step takes too long.
    """
    print_progress("waiting for the camera's first image (the very first start compiles the renderer) ...")
    graph.wait(lambda: listener.images > 0, "image from the camera", args.timeout)
    print_progress("waiting for the first depth and its cloud ...")
    graph.wait(lambda: listener.newest_frame_with(*PICTURE_FIELDS) is not None, "depth with its cloud", args.timeout)
    print_progress(f"receiving {args.frames} frames ...")
    first = listener.newest_frame_with(*PICTURE_FIELDS)
    assert first is not None
    statistics.clear()
    graph.wait(lambda: len(statistics.arrived_ns) >= max(args.frames, 2), f"{args.frames} frames", args.timeout)
    return listener.newest_frame_with(*PICTURE_FIELDS) or first


def choose_questions(args: argparse.Namespace, frame: ReceivedFrame) -> list[tuple[str, list[tuple[float, float]]]]:
    """Returns two questions with their pixels: about named objects in the room, about pixels in other images."""
    if args.images is None:
        return [(question, []) for question in ROOM_QUESTIONS]
    assert frame.depth_m is not None
    height, width = frame.depth_m.shape
    return [(PIXEL_QUESTION, [(width // 2, height // 2)]), (PIXEL_QUESTION, [(width // 2, height * 4 // 5)])]


def ask(
    graph: ProcessGraph, listener: DepthListener, question: str, uv_px: list[tuple[float, float]]
) -> QuestionResult:
    """Asks one question through the node's service. Raises SetupError if there is no response."""
    pixels = "".join(f" ({u:g}, {v:g})" for u, v in uv_px)
    print_progress(f"asking: {question}{pixels}")
    started_s = time.monotonic()
    response = graph.ask(listener, question, uv_px)
    seconds = time.monotonic() - started_s
    answered = response.status in ANSWERED_STATUSES
    text = response.answer if answered else f"none: {response.message or response.answer}"
    return QuestionResult(question + pixels, " ".join(text.split()), seconds, answered)


def write_pictures(frame: ReceivedFrame, folder: Path) -> list[Path]:
    """Writes the image, depth, exact depth if it is known, cloud, the cloud from the side, and a strip of the others.

    Returns the files.
    """
    assert frame.rgb is not None and frame.depth_m is not None and frame.cloud_m is not None
    range_m = depth_range_m(frame.depth_m if frame.true_depth_m is None else frame.true_depth_m)
    pictures = {"image": frame.rgb, "depth": depth_picture(frame.depth_m, range_m)}
    if frame.true_depth_m is not None:
        pictures["truth"] = depth_picture(frame.true_depth_m, range_m)
    pictures["cloud"] = cloud_picture(frame.cloud_m, frame.rgb)
    panels = list(pictures.items())
    pictures["side"] = cloud_picture(frame.cloud_m, frame.rgb, yaw_deg=90.0, pitch_deg=0.0)
    pictures["strip"] = side_by_side(panels, STRIP_HEIGHT_PX)
    (folder / "truth.png").unlink(missing_ok=True)  # an earlier run in the room may have written it
    for name, picture in pictures.items():
        write_rgb(folder / f"{name}.png", picture)
    return [folder / f"{name}.png" for name in pictures]


def format_table(
    frame: ReceivedFrame,
    statistics: ReceptionStatistics,
    listener: DepthListener,
    results: Sequence[QuestionResult],
    pictures: Sequence[Path],
) -> str:
    """Returns the results of the demo as aligned lines."""
    assert frame.depth_m is not None
    height, width = frame.depth_m.shape
    p50_s, p99_s = np.percentile(statistics.latency_s, (50, 99))
    rows = [
        ("frames", f"{len(statistics.arrived_ns)} depth images of {width} x {height}, {listener.clouds} clouds"),
        ("rate", f"{statistics.rate_hz:.1f} per second"),
        (
            "latency",
            f"p50 {1e3 * p50_s:.0f} ms, p99 {1e3 * p99_s:.0f} ms, from the image's stamp to its depth received",
        ),
        ("error", format_error(statistics.errors)),
    ]
    for result in results:
        rows.append(("question", result.question))
        rows.append(("answer", f"{result.text}   ({1e3 * result.seconds:.0f} ms)"))
    rows.append(("pictures", " ".join(str(path) for path in pictures)))
    return "\n".join(f"  {name:10}{text}" for name, text in rows)


def format_error(errors: Sequence[DepthScores]) -> str:
    """Returns the mean error over the frames whose exact depth is known."""
    if not errors:
        return "unknown: these images come without exact depth"
    absrel, delta1 = np.mean([(e.absrel, e.delta1) for e in errors], axis=0)
    return f"AbsRel {absrel:.3f}, delta1 {delta1:.3f} against the exact depth of {len(errors)} frames"


def print_progress(text: str) -> None:
    """Prints a line without delay."""
    print(f"demo: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
