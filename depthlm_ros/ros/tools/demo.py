"""The whole path as one command: a camera and the depth node as processes of their own, two questions, pictures.

`make demo`, or `python -m depthlm_ros.ros.tools.demo`. Without --images the camera moves through a
rendered room whose exact depth is known. Exit code 0 only if depth, cloud and both answers have arrived.

The other end of the topics: receives what the depth node publishes and pairs it, by stamp, with what went in.
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
from depthlm_ros.eval.metrics import Scores, score
from depthlm_ros.image_io import write_rgb
from depthlm_ros.ros.message_in import image_to_rgb
from depthlm_ros.ros.tools.process_graph import Graph
from depthlm_ros.srv import SpatialQuery
from depthlm_ros.visualization import cloud_picture, depth_picture, depth_range_m, strip

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


ROOM_QUESTIONS = ("How far is the red box?", "Which is closer, the blue ball or the red box?")
PIXEL_QUESTION = "How far is this point?"
TRUTH_TOPIC = "depth_truth/image"
# What the pictures show.
DRAWN = ("rgb", "depth_m", "cloud")
# "There is no red box" is an answer, too.
ANSWERED = (SpatialQuery.Response.OK, SpatialQuery.Response.NOT_FOUND)
# Error is measured on every n-th pixel of every n-th row.
TRUTH_STRIDE = 4


@dataclass
class Tally:
    """What has arrived so far. `take` is the listener's callback."""

    arrived_ns: list[int] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    errors: list[Scores] = field(default_factory=list)

    def take(self, parts: Parts) -> None:
        self.arrived_ns.append(parts.depth_arrived_ns)
        self.latency_s.append((parts.depth_arrived_ns - parts.stamp_ns) / 1e9)
        if parts.true_m is not None and parts.depth_m is not None:
            grid = slice(None, None, TRUTH_STRIDE)
            self.errors.append(score(parts.depth_m[grid, grid], parts.true_m[grid, grid]))

    def forget(self) -> None:
        """Begin again, so that the start of the processes is no part of rate and latency."""
        for kept in (self.arrived_ns, self.latency_s, self.errors):
            kept.clear()

    @property
    def rate_hz(self) -> float:
        """Frames per second between the first and the last arrival."""
        seconds = (self.arrived_ns[-1] - self.arrived_ns[0]) / 1e9
        return (len(self.arrived_ns) - 1) / seconds


@dataclass(frozen=True)
class Reply:
    """A question and how it ended. answered: the model replied, be it that the object is not there."""

    question: str
    text: str
    seconds: float
    answered: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    args = parser().parse_args(argv)
    try:
        return run(args)
    except KeyboardInterrupt:
        return 130
    except DepthLMError as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """The options of the demo."""
    options = argparse.ArgumentParser(prog="demo", description=__doc__.splitlines()[0])
    options.add_argument("--images", type=Path, help="folder of images, or a video; without it a rendered room")
    for name in ("fx", "fy", "cx", "cy"):
        options.add_argument(f"--{name}", type=float, help=f"{name} of those images, pixels")
    options.add_argument("--model", default="tiny", help="a model's name or its folder (default: %(default)s)")
    options.add_argument("--frames", type=int, default=60, help="depth images to wait for (default: %(default)s)")
    options.add_argument("--timeout", type=float, default=120.0, metavar="S", help="longest wait for any one thing")
    options.add_argument("--out", type=Path, default=Path("out"), help="folder of the pictures (default: %(default)s)")
    return options


def run(args: argparse.Namespace) -> int:
    """Camera, node, frames, questions, pictures, table."""
    args.out.mkdir(parents=True, exist_ok=True)
    tally = Tally()
    with Graph(args.out / "log") as graph:
        graph.start("camera", "depthlm_ros.ros.tools.replay_camera", *camera_options(args))
        graph.start("depth node", "depthlm_ros.ros.node", "--ros-args", "-p", f"model:={args.model}")
        listener = Listener(tally.take, truth_topic="" if args.images else TRUTH_TOPIC)
        graph.add(listener)
        receive(graph, listener, tally, args)
        whole = listener.newest(*DRAWN)
        replies = [ask(graph, listener, question, uv_px) for question, uv_px in questions(args, listener)]
        # While questions were answered, a busy machine may have lost a part of every later frame.
        frame = listener.newest(*DRAWN) or whole
    assert frame is not None  # receive() waited for it
    pictures = write_pictures(frame, args.out)
    print(table(frame, tally, listener, replies, pictures))
    unanswered = [reply.question for reply in replies if not reply.answered]
    if unanswered:
        raise SetupError(f"no answer to: {' '.join(unanswered)} (see the table and {args.out / 'log'}).")
    return 0


def camera_options(args: argparse.Namespace) -> list[str]:
    """What the replay camera is told. Raises SetupError if a folder comes without its focal lengths."""
    if args.images is None:
        return []
    missing = [name for name in ("fx", "fy", "cx", "cy") if getattr(args, name) is None]
    if missing:
        names = ", ".join(name.upper() for name in missing)
        raise SetupError(
            f"{args.images} comes without {names}: give the camera's focal lengths and principal point in pixels, "
            "make demo IMAGES=folder FX=.. FY=.. CX=.. CY=.."
        )
    intrinsics = [option for name in ("fx", "fy", "cx", "cy") for option in (f"--{name}", str(getattr(args, name)))]
    return ["--images", str(args.images), *intrinsics]


def receive(graph: Graph, listener: Listener, tally: Tally, args: argparse.Namespace) -> None:
    """Wait for the camera, the first depth, its cloud, and then for the wanted number of frames."""
    say("waiting for the camera's first image (the very first start compiles the renderer) ...")
    graph.wait(lambda: listener.images > 0, "image from the camera", args.timeout)
    say("waiting for the first depth and its cloud ...")
    graph.wait(lambda: listener.newest(*DRAWN) is not None, "depth with its cloud", args.timeout)
    say(f"receiving {args.frames} frames ...")
    tally.forget()
    graph.wait(lambda: len(tally.arrived_ns) >= max(args.frames, 2), f"{args.frames} frames", args.timeout)


def questions(args: argparse.Namespace, listener: Listener) -> list[tuple[str, list[tuple[float, float]]]]:
    """Two questions, with the pixels they are about: by name in the known room, by pixel in unknown images."""
    if args.images is None:
        return [(question, []) for question in ROOM_QUESTIONS]
    frame = listener.newest("depth_m")
    assert frame is not None and frame.depth_m is not None  # receive() waited for it
    height, width = frame.depth_m.shape
    return [(PIXEL_QUESTION, [(width // 2, height // 2)]), (PIXEL_QUESTION, [(width // 2, height * 4 // 5)])]


def ask(graph: Graph, listener: Listener, question: str, uv_px: list[tuple[float, float]]) -> Reply:
    """Ask through the node's service."""
    about = "".join(f" ({u:g}, {v:g})" for u, v in uv_px)
    say(f"asking: {question}{about}")
    asked_s = time.monotonic()
    response = graph.ask(listener, question, uv_px)
    seconds = time.monotonic() - asked_s
    answered = response.status in ANSWERED
    text = " ".join((response.answer if answered else f"none: {response.message or response.answer}").split())
    return Reply(question + about, text, seconds, answered)


def write_pictures(frame: Parts, folder: Path) -> list[Path]:
    """Image, depth in colours, cloud from the side and above, and a strip of all; with truth, that too."""
    assert frame.rgb is not None and frame.depth_m is not None and frame.cloud is not None
    range_m = depth_range_m(frame.depth_m if frame.true_m is None else frame.true_m)
    titled = {"image": frame.rgb, "depth": depth_picture(frame.depth_m, range_m)}
    if frame.true_m is not None:
        titled["truth"] = depth_picture(frame.true_m, range_m)
    titled["cloud"] = cloud_picture(frame.cloud, frame.rgb)
    titled["side"] = cloud_picture(frame.cloud, frame.rgb, yaw_deg=90.0, pitch_deg=0.0)
    titled["strip"] = strip([(name, titled[name]) for name in titled if name != "side"], 360)
    (folder / "truth.png").unlink(missing_ok=True)  # of an earlier run in the room
    for name, picture in titled.items():
        write_rgb(folder / f"{name}.png", picture)
    return [folder / f"{name}.png" for name in titled]


def table(frame: Parts, tally: Tally, listener: Listener, replies: Sequence[Reply], pictures: Sequence[Path]) -> str:
    """What happened, in aligned lines."""
    assert frame.depth_m is not None
    height, width = frame.depth_m.shape
    p50_s, p99_s = np.percentile(tally.latency_s, (50, 99))
    rows = [
        ("frames", f"{len(tally.arrived_ns)} depth images of {width} x {height}, {listener.clouds} clouds"),
        ("rate", f"{tally.rate_hz:.1f} per second"),
        (
            "latency",
            f"p50 {1e3 * p50_s:.0f} ms, p99 {1e3 * p99_s:.0f} ms, from the image's stamp to its depth received",
        ),
        ("error", error_text(tally.errors)),
    ]
    for reply in replies:
        rows.append(("question", reply.question))
        rows.append(("answer", f"{reply.text}   ({1e3 * reply.seconds:.0f} ms)"))
    rows.append(("pictures", " ".join(str(path) for path in pictures)))
    return "\n".join(f"  {name:10}{text}" for name, text in rows)


def error_text(errors: Sequence[Scores]) -> str:
    """Mean over the frames whose exact depth is known."""
    if not errors:
        return "unknown: these images come without exact depth"
    absrel, delta1 = np.mean([(e.absrel, e.delta1) for e in errors], axis=0)
    return f"AbsRel {absrel:.3f}, delta1 {delta1:.3f} against the exact depth of {len(errors)} frames"


def say(text: str) -> None:
    """Progress, at once."""
    print(f"demo: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
