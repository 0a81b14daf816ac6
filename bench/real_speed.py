# SPDX-License-Identifier: Apache-2.0
"""The speed part of bench/real.py: a peer to compare with, and times of frames and questions, measured in turns.

The peer is FastDepth (Wofk and others, "FastDepth: Fast Monocular Depth Estimation on Embedded Systems", ICRA 2019) as
an ONNX file: float32 (1, 3, 224, 224), red first, 0 to 1, in; float32 (1, 1, 224, 224), metres, out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

from depthlm_ros.core import Frame, Intrinsics, PointDepths, Question
from depthlm_ros.errors import SetupError
from depthlm_ros.geometry.pinhole import nearest_pixel
from depthlm_ros.model import Model, load_model
from depthlm_ros.model_files.checkpoint import find_model

PEER_NAME = "FastDepth"
CAMERA = Intrinsics(512.0, 512.0, 319.5, 239.5, 640, 480)
WARM_UPS = 5
QUESTIONS = 16
QUESTION_ROUNDS = 15
THINGS = ("table", "chair", "sofa", "bed", "lamp", "door", "window", "cabinet", "plant", "bin", "sink", "person", "cup",
          "box", "shelf", "ball")  # fmt: skip
# Run by Python in another checkout: for every line on stdin it looks once and prints the seconds.
OTHER_CODE = """
import inspect, sys, time, cv2, numpy as np
from depthlm_ros.core import Frame, Intrinsics
from depthlm_ros.model import load_model
cv2.setNumThreads(int(sys.argv[2]))
model = load_model(sys.argv[1], backend="onnxruntime", threads=int(sys.argv[2]))
rgb = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8).repeat(20, 0).repeat(20, 1)
frame = Frame(rgb, Intrinsics(512.0, 512.0, 319.5, 239.5, 640, 480))
# As in this checkout, without the standard deviation, which older ones do not tell.
options = {"with_std": False} if "with_std" in inspect.signature(model.look(frame).depth).parameters else {}
for _ in sys.stdin:
    began = time.perf_counter()
    model.look(frame).depth(**options)
    print(time.perf_counter() - began, flush=True)
"""


class FastDepth:
    """The peer. Its depth is for a camera of NYU Depth v2; other cameras need the focal rule of `depth_m`."""

    SIZE_PX = 224
    NEAR_M, FAR_M = 0.2, 20.0
    # fx / width of the camera that it was trained on.
    FOCAL_SHARE = 0.888

    def __init__(self, path: Path, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as backends/onnx_runtime.py
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def depth_m(self, frame: Frame) -> np.ndarray:
        """Returns float32 (H, W): z in metres at the size of the frame."""
        side = self.SIZE_PX
        squeezed = cv2.resize(frame.rgb, (side, side), interpolation=cv2.INTER_AREA)
        rgb = np.ascontiguousarray(np.moveaxis(squeezed, 2, 0)[None], np.float32) / np.float32(255)
        (depth_m,) = self._session.run(["depth_m"], {"rgb": rgb})
        camera = frame.intrinsics
        scale = np.float32(camera.fx_px / camera.width_px / self.FOCAL_SHARE)
        return cv2.resize(np.clip(depth_m[0, 0], self.NEAR_M, self.FAR_M) * scale, camera.size_px)

    def predict(self, frame: Frame, uv_px: np.ndarray) -> PointDepths:
        """Returns the depth at pixels (N, 2), without a deviation; a predictor of eval/judges.py."""
        u, v = nearest_pixel(uv_px).T
        depth_m = self.depth_m(frame)[v, u]
        return PointDepths(uv_px, depth_m, np.full(len(depth_m), np.nan, np.float32))


@dataclass(frozen=True)
class Latency:
    """Median and quartiles of the times of one kind of work, in milliseconds."""

    median_ms: float
    lower_ms: float
    upper_ms: float


class OtherCheckout:
    """A model that the code of another checkout runs, in a process of its own. Close it at the end."""

    def __init__(self, folder: Path, model: str, threads: int) -> None:
        if not (folder / "depthlm_ros").is_dir():
            raise SetupError(f"--against {folder} has no folder depthlm_ros: give the root of a checkout.")
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-c", OTHER_CODE, model, str(threads)],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def look_seconds(self) -> float:
        """Returns the seconds of one look with its depth map. Raises SetupError if the process has ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write("look\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        if not (line := self._process.stdout.readline()):
            raise SetupError(f"the model of {self._folder} did not run: its message is above.")
        return float(line)

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def measure_latency(
    names: Sequence[str], peer: Path | None, against: Path | None, threads: int, rounds: int
) -> dict[str, Latency]:
    """Returns the times from a uint8 picture of 640 x 480 to a depth map of that size, measured in turns.

    names: models. peer: file of FastDepth. against: root of another checkout, whose "tiny" is timed.
    """
    frame = Frame(picture(), CAMERA)
    looks: dict[str, Callable[[], float]] = {}
    with ExitStack() as stack:
        stack.callback(cv2.setNumThreads, cv2.getNumThreads())
        cv2.setNumThreads(threads)
        for name in names:
            looks[name] = timed_look(load_model(name, backend="onnxruntime", threads=threads), frame)
        if peer:
            net = FastDepth(peer, threads)
            looks[PEER_NAME] = timed(lambda: net.depth_m(frame))
        if against:
            other = OtherCheckout(against, str(against / "engines" / "tiny"), threads)
            stack.callback(other.close)
            looks[f"tiny of {against.name}"] = other.look_seconds
        return time_in_turns(looks, rounds)


def measure_questions(model: Model) -> dict[str, float]:
    """Returns the time of a frame with 16 questions over that of the frame alone, measured in turns.

    pixels: about the depth of pixels, in words. things: about the distances of things. Both are asked in one batch.
    """
    frame = Frame(picture(), CAMERA)
    uv_px = np.random.default_rng(0).uniform((80, 60), (560, 420), (QUESTIONS, 2))
    questions = [Question(f"How far is the {thing}?") for thing in THINGS]

    def look_and_ask_pixels() -> None:
        view = model.look(frame)
        view.depth(with_std=False)
        view.tell_depth_at(uv_px)

    def look_and_ask_things() -> None:
        view = model.look(frame)
        view.depth(with_std=False)
        view.ask_all(questions)

    works = {
        "frame": timed_look(model, frame),
        "pixels": timed(look_and_ask_pixels),
        "things": timed(look_and_ask_things),
    }
    times = time_in_turns(works, QUESTION_ROUNDS)
    return {
        "frame_ms": times["frame"].median_ms,
        "pixels_ratio": times["pixels"].median_ms / times["frame"].median_ms,
        "things_ratio": times["things"].median_ms / times["frame"].median_ms,
    }


def time_in_turns(works: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Latency]:
    """Runs each work once a round, so that other load of the machine meets all alike. Each returns its seconds."""
    for work in works.values():
        for _ in range(WARM_UPS):
            work()
    seconds = np.array([[work() for work in works.values()] for _ in range(rounds)])
    lower, median, upper = 1e3 * np.percentile(seconds, (25, 50, 75), axis=0)
    return {name: Latency(*each) for name, *each in zip(works, median, lower, upper, strict=True)}


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """Returns a function that does the work and returns its seconds."""

    def run() -> float:
        began_s = time.perf_counter()
        work()
        return time.perf_counter() - began_s

    return run


def timed_look(model: Model, frame: Frame) -> Callable[[], float]:
    """Returns a function that looks once with the depth map, and returns its seconds."""
    return timed(lambda: model.look(frame).depth(with_std=False))


def picture() -> np.ndarray:
    """Returns coarse coloured noise, uint8 (480, 640, 3): the cost does not depend on what an image shows."""
    return np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8).repeat(20, 0).repeat(20, 1)


def size_mb(name: str) -> float:
    """Returns the size of the files of a model, in MB."""
    return sum(path.stat().st_size for path in find_model(name).folder.rglob("*") if path.is_file()) / 1e6
