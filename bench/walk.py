# SPDX-License-Identifier: Apache-2.0
"""How far a reader walks through the package: files, functions and moves on three paths. Ends with one JSON line.

The paths are one image through the node to its cloud, one question in words to its answer, and `depthlm depth`. Each
runs several times after a warm-up, all in this process; the run with the smallest counts is told.

    . ./env.sh && python bench/walk.py [--model tiny] [--runs 3] [--list]

A function counts if its code lies in the package's folder; generated messages and other packages do not count. Lambdas,
comprehensions and generator expressions count as part of the function that they stand in. What Python generates, such
as a dataclass's __init__, lies in no file. Functions are told apart by file, qualified name and first line.

A move is a call in another file than the call before; a generator that goes on is called again. Threads are read one
after another, each to its end, in the order of their first calls, so that it does not matter how they take turns.

A path begins with what this process sends. It ends shortly after the output has arrived, so that what the node's
threads note about a frame or a question counts too. Each run begins just after a message on /diagnostics, which are a
second apart: the work on the next one is not in it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import groupby
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, RegionOfInterest
from std_msgs.msg import Header

import depthlm_ros
from depthlm_ros.cli import main as depthlm
from depthlm_ros.ros.node import DepthNode
from depthlm_ros.ros.ros_process import Spinner
from depthlm_ros.srv import SpatialQuery

PACKAGE = Path(depthlm_ros.__file__).parent
GENERATED = ("msg", "srv")
WIDTH_PX, HEIGHT_PX, FOCAL_PX = 160, 120, 150.0
CX_PX, CY_PX = (WIDTH_PX - 1) / 2, (HEIGHT_PX - 1) / 2
# The red box of the picture. It is marked and not named: the reply is then short, for it does not say where the box is.
BOX_PX = RegionOfInterest(x_offset=53, y_offset=40, width=53, height=40)
QUESTION = "How far is this?"
PATHS = {"image": "image to cloud", "question": "spatial_query to response", "command": "depthlm depth"}
THREADS = 8
WARM_UP_FRAMES = 4
TIMEOUT_S = 60.0
# How long a calibration may take to arrive before its image, and a thread to finish after what it has sent.
ARRIVAL_S, SETTLE_S = 0.15, 0.1


class Call(NamedTuple):
    """A function that was called. file: its path within the package."""

    file: str
    function: str
    line: int


class Counts(NamedTuple):
    """How far one walk is."""

    files: int
    functions: int
    moves: int


Walk = list[Call]


class Recorder:
    """Sees the calls in this thread and in all threads that start later; keeps those of a `walk`."""

    def __init__(self) -> None:
        self._is_on = False
        self._threads: dict[int, list[Call]] = {}
        threading.setprofile(self._note)
        sys.setprofile(self._note)

    def walk(self, path: Callable[[], object]) -> Walk:
        """The calls of the package's functions while `path` runs, one thread after another."""
        self._threads = {}
        self._is_on = True
        try:
            path()
        finally:
            self._is_on = False
        return [call for calls in self._threads.values() for call in calls]

    def close(self) -> None:
        """See no more calls."""
        sys.setprofile(None)
        threading.setprofile(None)

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        if self._is_on and event == "call" and (call := call_of(frame.f_code)):
            self._threads.setdefault(threading.get_ident(), []).append(call)


def call_of(code: CodeType) -> Call | None:
    """The call of a function of the package; None for other code."""
    if code.co_name.startswith("<") or not code.co_filename.startswith(f"{PACKAGE}{os.sep}"):
        return None
    file = Path(code.co_filename).relative_to(PACKAGE)
    # Python 3.10 has no qualified names.
    call = Call(file.as_posix(), getattr(code, "co_qualname", code.co_name), code.co_firstlineno)
    return None if file.parts[0] in GENERATED else call


def stretches(walk: Walk) -> list[tuple[str, list[Call]]]:
    """Each file that the reader opens, with what is called there before the next one."""
    return [(file, list(calls)) for file, calls in groupby(walk, lambda call: call.file)]


def counts_of(walk: Walk) -> Counts:
    """Files, functions and moves of a walk."""
    return Counts(len({call.file for call in walk}), len(set(walk)), len(stretches(walk)) - 1)


class Stage:
    """The node, and a camera and a receiver around it. The node spins in its own threads, the others in `wait`."""

    def __init__(self, model_name: str) -> None:
        self._rig = rclpy.create_node("walk")
        self._arrived: dict[type, list[Any]] = {}
        for kind, topic in ((PointCloud2, "depth/points"), (Image, "depth/image"), (DiagnosticArray, "/diagnostics")):
            self._arrived[kind] = []
            self._rig.create_subscription(kind, topic, self._arrived[kind].append, 5)
        self._images = self._rig.create_publisher(Image, "image", 5)
        self._infos = self._rig.create_publisher(CameraInfo, "camera_info", 5)
        self._client: Any = self._rig.create_client(SpatialQuery, "spatial_query")
        self._rig_executor = SingleThreadedExecutor()
        self._rig_executor.add_node(self._rig)
        self._node = DepthNode(parameter_overrides=[rclpy.Parameter("model", value=model_name)])
        self._executor = MultiThreadedExecutor(THREADS)
        self._executor.add_node(self._node)
        self._spinner = Spinner(self._executor, lambda reason, message: print(f"walk: {reason}: {message}"))

    def __enter__(self) -> Stage:
        self._spinner.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._node.trigger_shutdown()
        self._spinner.end()
        self._rig_executor.shutdown()
        self._node.destroy_node()
        self._rig.destroy_node()

    def wait(self, until: Callable[[], bool], what: str) -> None:
        """Take messages until it is so. Ends the process if that takes too long."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while not until():
            self._rig_executor.spin_once(timeout_sec=0.02)
            if time.monotonic() > deadline_s:
                sys.exit(f"walk: no {what} within {TIMEOUT_S:g} s.")

    def spin(self, seconds: float) -> None:
        """Take messages for so long."""
        end_s = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() >= end_s, "end")

    def has(self, *kinds: type) -> bool:
        """Whether messages of all these kinds have arrived since `prepare`."""
        return all(self._arrived[kind] for kind in kinds)

    def prepare(self) -> Image:
        """Wait for diagnostics, and send the calibration of the image that this returns."""
        self._arrived[DiagnosticArray].clear()
        self.wait(lambda: self.has(DiagnosticArray), "diagnostics")
        header = Header(frame_id="camera", stamp=self._rig.get_clock().now().to_msg())
        self._infos.publish(calibration(header))
        self.spin(ARRIVAL_S)
        self._arrived[PointCloud2].clear()
        self._arrived[Image].clear()
        return image_message(header)

    def start(self) -> None:
        """Activate the node and warm it up. The first images are lost until the topics are matched."""
        for step in (self._node.trigger_configure, self._node.trigger_activate):
            if step() != TransitionCallbackReturn.SUCCESS:
                sys.exit("walk: the node cannot start; its log says why.")
        for _ in range(WARM_UP_FRAMES):
            self._images.publish(self.prepare())
        self.show(self.prepare())
        self.wait(self._client.service_is_ready, "service spatial_query")
        if not self.ask().measurements:
            sys.exit(f"walk: the answer to {QUESTION!r} holds no measurement: this path would be too short.")

    def show(self, image: Image) -> None:
        """Publish an image, and wait for its depth and its cloud."""
        self._images.publish(image)
        self.wait(lambda: self.has(PointCloud2, Image), "cloud and depth")
        self.spin(SETTLE_S)

    def ask(self) -> SpatialQuery.Response:
        """Ask about the box, and wait for the answer."""
        future = self._client.call_async(SpatialQuery.Request(question=QUESTION, regions=[BOX_PX]))
        self.wait(future.done, "answer")
        self.spin(SETTLE_S)
        return future.result()


def picture() -> np.ndarray:
    """A red box before a grey wall, uint8 (H, W, 3)."""
    rgb = np.full((HEIGHT_PX, WIDTH_PX, 3), 128, np.uint8)
    rows = slice(BOX_PX.y_offset, BOX_PX.y_offset + BOX_PX.height)
    rgb[rows, BOX_PX.x_offset : BOX_PX.x_offset + BOX_PX.width] = (220, 30, 30)
    return rgb


def image_message(header: Header) -> Image:
    """The picture as a message."""
    data = picture().tobytes()
    return Image(header=header, height=HEIGHT_PX, width=WIDTH_PX, encoding="rgb8", step=3 * WIDTH_PX, data=data)


def calibration(header: Header) -> CameraInfo:
    """A lens without distortion."""
    p = [FOCAL_PX, 0.0, CX_PX, 0.0, 0.0, FOCAL_PX, CY_PX, 0.0, 0.0, 0.0, 1.0, 0.0]
    k, r = np.reshape(p, (3, 4))[:, :3].ravel(), np.eye(3).ravel()
    size = {"height": HEIGHT_PX, "width": WIDTH_PX}
    return CameraInfo(header=header, distortion_model="plumb_bob", d=[0.0] * 5, k=k, r=r, p=p, **size)


def node_walks(recorder: Recorder, model_name: str, runs: int) -> dict[str, list[Walk]]:
    """The walks of images and of questions."""
    with Stage(model_name) as stage:
        stage.start()
        walks: dict[str, list[Walk]] = {"image": [], "question": []}
        for _ in range(runs):
            walks["image"].append(recorder.walk(partial(stage.show, stage.prepare())))
        for _ in range(runs):
            stage.prepare()
            walks["question"].append(recorder.walk(stage.ask))
    return walks


def command_walks(recorder: Recorder, model_name: str, runs: int) -> dict[str, list[Walk]]:
    """The walks of `depthlm depth`."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "picture.png"
        cv2.imwrite(str(file), picture()[..., ::-1])
        lens = [str(number) for number in (FOCAL_PX, FOCAL_PX, CX_PX, CY_PX)]
        argv = ["depth", str(file), "--intrinsics", *lens, "--model", model_name, "--out", f"{folder}/depth.npy"]
        run_command(argv)
        return {"command": [recorder.walk(partial(run_command, argv)) for _ in range(runs)]}


def run_command(argv: list[str]) -> None:
    """Run `depthlm` without its output. Ends the process if it fails."""
    with contextlib.redirect_stdout(io.StringIO()):
        code = depthlm(argv)
    if code:
        sys.exit(f"walk: depthlm {argv[0]} ended with exit code {code}.")


def told(walk: Walk) -> str:
    """The walk in lines, one for each stretch: its file, and its functions with how often each is called."""
    lines = []
    for number, (file, calls) in enumerate(stretches(walk)):
        times = Counter(call.function for call in calls)
        names = ", ".join(name if count == 1 else f"{name} x{count}" for name, count in times.items())
        lines.append(f"    {number:4}  {file:28} {names}")
    return "\n".join(lines)


def report(path: str, walks: list[Walk], with_list: bool) -> dict[str, int]:
    """Print the smallest walk of a path; its counts by name."""
    walk = min(walks, key=counts_of)
    counts = counts_of(walk)
    runs = ", ".join("/".join(map(str, counts_of(one))) for one in walks)
    figures = f"{counts.files:3} files {counts.functions:4} functions {counts.moves:4} moves"
    print(f"{PATHS[path]:26} {figures}  (runs: {runs})")
    if with_list:
        print(told(walk))
    return {f"{path}_{name}": count for name, count in counts._asdict().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="a model's name or its folder (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="traced runs of each path (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="also tell the functions, in the order of their calls")
    args = parser.parse_args()
    if args.runs < 1:
        parser.error(f"--runs is {args.runs}: give at least 1.")
    os.environ.setdefault("ROS_DOMAIN_ID", str(os.getpid() % 90 + 10))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    recorder = Recorder()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    walks = node_walks(recorder, args.model, args.runs)
    rclpy.try_shutdown()
    walks |= command_walks(recorder, args.model, args.runs)
    recorder.close()
    figures = [report(path, walks[path], args.list) for path in PATHS]
    print(json.dumps({"model": args.model} | {key: value for one in figures for key, value in one.items()}))


if __name__ == "__main__":
    main()
