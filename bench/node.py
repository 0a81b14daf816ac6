"""Measures the depth node: rate, latency, overhead, start, memory and questions. Ends with one JSON line.

A replay camera (640 x 480, 30 Hz) and the node run as separate processes; this process receives depth and cloud, as a
user's program does. Nothing fails on a slow machine: the table shows a limit beside each number. `make bench`, or

    . ./env.sh && python bench/node.py [--model tiny] [--seconds 15]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray

from depthlm_ros.core import Frame, Intrinsics
from depthlm_ros.errors import DepthLMError
from depthlm_ros.image_io import write_rgb
from depthlm_ros.model import load_model
from depthlm_ros.ros.tools.depth_listener import DepthListener, ReceptionStatistics
from depthlm_ros.ros.tools.process_graph import ProcessGraph

CAMERA = Intrinsics(512.0, 512.0, 319.5, 239.5, 640, 480)
CAMERA_HZ = 30.0
PICTURES = 12
WARM_UP_S = 3.0
TIMEOUT_S = 60.0
QUESTIONS = 16
ROUNDS = 15
IMPORT_ROUNDS = 5
# The work of the node itself on a frame, by the names of /diagnostics.
OUTSIDE_STAGES = ("decode", "rectify", "normalise", "depth", "messages", "publish")
IMPORT_CODE = (
    "import time, rclpy; begin = time.perf_counter(); import depthlm_ros.ros.node; print(time.perf_counter() - begin)"
)


@dataclass(frozen=True)
class BenchRow:
    """One measured number and its limit. key: its name in the JSON line. within: None if there is no limit."""

    key: str
    text: str
    value: float
    limit: str = ""
    within: bool | None = None


def main() -> int:
    """Runs the benchmark and returns the exit code: 0 if everything could be measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", help="name or folder of a model (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=15.0, help="duration of the measurement (default: %(default)g)"
    )
    args = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = [*measure_alone(args.model), *measure_graph(args.model, args.seconds, Path(folder))]
    except DepthLMError as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 1
    print(table(rows))
    machine = {"model": args.model, "cpus": len(os.sched_getaffinity(0)), "machine": platform.machine()}
    print(json.dumps(machine | {row.key: round(row.value, 4) for row in rows}))
    return 0


def measure_alone(model_name: str) -> list[BenchRow]:
    """Measures what needs no ROS graph: the import, and questions together with a frame."""
    print_progress("importing the node's module ...")
    import_s = statistics.median(import_seconds() for _ in range(IMPORT_ROUNDS))
    print_progress("questions together with a frame, in this process ...")
    frame_s, both_s, words_mb = question_costs(model_name)
    ratio = both_s / frame_s
    return [
        BenchRow("import_s", "import of depthlm_ros.ros.node beyond rclpy, s", import_s, "<= 0.7", import_s <= 0.7),
        BenchRow("frame_s", "frame of depth, s", frame_s),
        BenchRow("frame_and_questions_s", f"frame of depth and {QUESTIONS} point questions, s", both_s),
        BenchRow("words_memory_mb", "memory that the first questions add, MB", words_mb),
        BenchRow("questions_ratio", f"frame and {QUESTIONS} questions / frame", ratio, "<= 3", ratio <= 3),
    ]


def import_seconds() -> float:
    """Returns the import time of the node's module in a new process that has already imported rclpy."""
    done = subprocess.run([sys.executable, "-c", IMPORT_CODE], capture_output=True, text=True, check=True)
    return float(done.stdout)


def question_costs(model_name: str) -> tuple[float, float, float]:
    """Returns the median seconds of one look with its depth, and of the same with 16 point questions, in turns.

    The third number is the memory in MB that the first questions add to that of depth.
    """
    model = load_model(model_name)
    frame = Frame(pictures(1)[0], CAMERA)
    uv_px = np.random.default_rng(0).uniform((80, 60), (560, 420), (QUESTIONS, 2))

    def look() -> None:
        model.look(frame).depth(with_std=False)

    def look_and_ask() -> None:
        view = model.look(frame)
        view.depth(with_std=False)
        view.tell_depth_at(uv_px)

    for _ in range(ROUNDS):
        look()
    depth_mb = peak_memory_mb(os.getpid())
    look_and_ask()
    words_mb = peak_memory_mb(os.getpid()) - depth_mb
    pairs = [(seconds(look), seconds(look_and_ask)) for _ in range(ROUNDS)]
    frame_s, both_s = np.median(pairs, axis=0)
    return float(frame_s), float(both_s), words_mb


def seconds(work: Callable[[], None]) -> float:
    """Returns the duration of a call."""
    begin_s = time.perf_counter()
    work()
    return time.perf_counter() - begin_s


@dataclass
class NodeStatistics(ReceptionStatistics):
    """Received frames, and the values of each message on /diagnostics."""

    diagnostics: list[dict[str, str]] = field(default_factory=list)

    def add_diagnostics(self, message: DiagnosticArray) -> None:
        """Stores the values of a message; the callback of /diagnostics."""
        for status in message.status:
            self.diagnostics.append({pair.key: pair.value for pair in status.values})

    def clear(self) -> None:
        """Starts again."""
        super().clear()
        self.diagnostics.clear()


def measure_graph(model_name: str, measured_s: float, folder: Path) -> list[BenchRow]:
    """Measures the node with real topics: cold start, rate, latency, time outside the model, memory."""
    for number, rgb in enumerate(pictures(PICTURES)):
        write_rgb(folder / f"{number:02d}.bmp", rgb)
    lens = ("--fx", CAMERA.fx_px, "--fy", CAMERA.fy_px, "--cx", CAMERA.cx_px, "--cy", CAMERA.cy_px)
    received = NodeStatistics()
    with ProcessGraph(folder) as graph:
        listener = DepthListener(received.add)
        listener.create_subscription(DiagnosticArray, "/diagnostics", received.add_diagnostics, 10)
        graph.add(listener)
        print_progress("starting camera and node ...")
        graph.start(
            "camera",
            "depthlm_ros.ros.tools.replay_camera",
            "--images",
            str(folder),
            "--rate",
            str(CAMERA_HZ),
            *map(str, lens),
        )
        graph.wait(lambda: listener.images > 0, "image from the camera", TIMEOUT_S)
        node = graph.start("depth node", "depthlm_ros.ros.node", "--ros-args", "-p", f"model:={model_name}")
        graph.wait(lambda: bool(received.arrived_ns), "depth", TIMEOUT_S)
        start_s = time.monotonic() - node.started_s
        graph.spin(WARM_UP_S)
        print_progress(f"measuring for {measured_s:g} s ...")
        received.clear()
        graph.spin(measured_s)
        graph.wait(lambda: bool(received.diagnostics), "diagnostics", TIMEOUT_S)
        peak_mb = peak_memory_mb(node.pid)
    return graph_rows(received, start_s, peak_mb)


def graph_rows(received: NodeStatistics, start_s: float, peak_mb: float) -> list[BenchRow]:
    """Returns the rows of the measurement with real topics."""
    rate_hz = received.rate_hz
    p50_s, p99_s = np.percentile(received.latency_s, (50, 99))
    values = received.diagnostics[-1]
    model_ms, outside_ms = float(values["look_ms"]), float(values["outside_ms"])
    allowed_ms = max(0.15 * model_ms, 6.0)
    stage_rows = [
        BenchRow(f"{stage}_ms", f"    {stage}, p50 ms", float(values[f"{stage}_ms"])) for stage in OUTSIDE_STAGES
    ]
    return [
        BenchRow("rate_hz", f"dense frames/s, cloud subscribed, of {CAMERA_HZ:g}", rate_hz, ">= 8", rate_hz >= 8),
        BenchRow("model_p50_ms", "model, p50 ms", model_ms),
        BenchRow(
            "outside_p50_ms", "outside the model, p50 ms", outside_ms, f"<= {allowed_ms:.1f}", outside_ms <= allowed_ms
        ),
        *stage_rows,
        BenchRow("node_p50_ms", "image received to all published, p50 ms", float(values["total_p50_ms"])),
        BenchRow("node_p99_ms", "image received to all published, p99 ms", float(values["total_p99_ms"])),
        BenchRow("latency_p50_ms", "image stamp to depth received, p50 ms", 1e3 * p50_s),
        BenchRow("latency_p99_ms", "image stamp to depth received, p99 ms", 1e3 * p99_s),
        BenchRow("cold_start_s", "start of the node to its first depth, s", start_s, "<= 3", start_s <= 3),
        BenchRow("peak_memory_mb", "peak resident memory of the node, MB", peak_mb, "<= 600", peak_mb <= 600),
    ]


def peak_memory_mb(pid: int) -> float:
    """Returns the peak resident memory (VmHWM) of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def pictures(count: int) -> list[np.ndarray]:
    """Returns coarse coloured noise, uint8 (480, 640, 3) each: the cost does not depend on what an image shows."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (count, CAMERA.height_px // 20, CAMERA.width_px // 20, 3), dtype=np.uint8)
    return list(coarse.repeat(20, axis=1).repeat(20, axis=2))


def table(rows: list[BenchRow]) -> str:
    """Returns aligned lines: the number, its value, its limit, and whether the limit is kept."""
    marks = {None: "", True: "kept", False: "NOT KEPT"}
    return "\n".join(f"  {r.text:52} {r.value:9.3f}   {r.limit:8} {marks[r.within]}".rstrip() for r in rows)


def print_progress(text: str) -> None:
    """Prints a line without delay."""
    print(f"bench: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
