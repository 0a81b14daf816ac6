# SPDX-License-Identifier: Apache-2.0
"""Measures the depth node: rate, latency, overhead, start, memory and questions. Ends with one JSON line.

A replay camera (640 x 480, 30 Hz) and the node run as separate processes; this process receives depth and cloud, as a
user's program does. Nothing fails on a slow machine: the table shows a limit beside each number. `make bench`, or

    . ./env.sh && python bench/node.py [--model tiny] [--seconds 15] [--against FOLDER] [--rounds 3]

With --against the node of another checkout, with that checkout's tiny, is measured in turns with this one's. Other load
of the machine then meets both alike, and the ratios (of the medians over the rounds) are worth more than the times.
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
from depthlm_ros.errors import DepthLMError, SetupError
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
NODE_MODULE = "depthlm_ros.ros.node"
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
        "--seconds", type=float, default=15.0, help="duration of each measurement (default: %(default)g)"
    )
    parser.add_argument("--against", type=Path, help="root of another checkout, whose node is measured in turns, too")
    parser.add_argument(
        "--rounds", type=int, default=3, help="measurements of each node with --against (default: %(default)s)"
    )
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds is {args.rounds}: it must be at least 1")
    try:
        rows = [*measure_alone(args.model), *measure_nodes(args.model, args.seconds, args.against, args.rounds)]
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
            values = {pair.key: pair.value for pair in status.values}
            if "look_ms" in values:  # of a node that has processed frames; others may be in this ROS domain
                self.diagnostics.append(values)

    def clear(self) -> None:
        """Starts again."""
        super().clear()
        self.diagnostics.clear()


def measure_nodes(model_name: str, measured_s: float, against: Path | None, rounds: int) -> list[BenchRow]:
    """Measures this node, and in turns that of another checkout if there is one. Raises SetupError."""
    if against is None:
        return graph_rows(measure_graph(model_name, measured_s))
    against = against.resolve()
    if not (against / "depthlm_ros").is_dir():
        raise SetupError(f"--against {against} has no folder depthlm_ros: give the root of a checkout.")
    ours, others = [], []
    for number in range(rounds):
        print_progress(f"round {number + 1} of {rounds}: this node, then the one of {against.name}")
        ours.append(measure_graph(model_name, measured_s))
        others.append(measure_graph(str(against / "engines" / "tiny"), measured_s, against))
    mine, other = ({key: statistics.median(one[key] for one in found) for key in found[0]} for found in (ours, others))
    return [*graph_rows(mine), *ratio_rows(mine, other)]


def measure_graph(model_name: str, measured_s: float, root: Path | None = None) -> dict[str, float]:
    """Measures a node with real topics: cold start, rate, latency, time outside the model, memory.

    root: of the checkout whose node it is; None for this one. Returns the numbers by their names in the JSON line.
    """
    with tempfile.TemporaryDirectory() as folder:
        return measure_in(Path(folder), model_name, measured_s, root)


def measure_in(folder: Path, model_name: str, measured_s: float, root: Path | None) -> dict[str, float]:
    """measure_graph, with its pictures and logs in a folder."""
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
        node = graph.start("depth node", NODE_MODULE, "--ros-args", "-p", f"model:={model_name}", root=root)
        graph.wait(lambda: bool(received.arrived_ns), "depth", TIMEOUT_S)
        start_s = time.monotonic() - node.started_s
        graph.spin(WARM_UP_S)
        print_progress(f"measuring for {measured_s:g} s ...")
        received.clear()
        graph.spin(measured_s)
        graph.wait(lambda: bool(received.diagnostics), "diagnostics", TIMEOUT_S)
        peak_mb = peak_memory_mb(node.pid)
    values = received.diagnostics[-1]
    p50_ms, p90_ms, p99_ms = 1e3 * np.percentile(received.latency_s, (50, 90, 99))
    return {
        "rate_hz": received.rate_hz,
        "model_p50_ms": float(values["look_ms"]),
        "outside_p50_ms": float(values["outside_ms"]),
        **{f"{stage}_ms": float(values[f"{stage}_ms"]) for stage in OUTSIDE_STAGES},
        "node_p50_ms": float(values["total_p50_ms"]),
        "node_p99_ms": float(values["total_p99_ms"]),
        "latency_p50_ms": float(p50_ms),
        "latency_p90_ms": float(p90_ms),
        "latency_p99_ms": float(p99_ms),
        "cold_start_s": start_s,
        "peak_memory_mb": peak_mb,
    }


def graph_rows(numbers: dict[str, float]) -> list[BenchRow]:
    """Returns the rows of the measurement with real topics."""
    allowed_ms = max(0.15 * numbers["model_p50_ms"], 6.0)
    texts = {
        "rate_hz": (f"dense frames/s, cloud subscribed, of {CAMERA_HZ:g}", ">= 8", numbers["rate_hz"] >= 8),
        "outside_p50_ms": (
            "outside the model, p50 ms",
            f"<= {allowed_ms:.1f}",
            numbers["outside_p50_ms"] <= allowed_ms,
        ),
        "cold_start_s": ("start of the node to its first depth, s", "<= 3", numbers["cold_start_s"] <= 3),
        "peak_memory_mb": ("peak resident memory of the node, MB", "<= 600", numbers["peak_memory_mb"] <= 600),
        "model_p50_ms": ("model, p50 ms",),
        "node_p50_ms": ("image received to all published, p50 ms",),
        "node_p99_ms": ("image received to all published, p99 ms",),
        **{f"{stage}_ms": (f"    {stage}, p50 ms",) for stage in OUTSIDE_STAGES},
        **{f"latency_p{part}_ms": (f"image stamp to depth received, p{part} ms",) for part in (50, 90, 99)},
    }
    share = numbers["outside_p50_ms"] / numbers["model_p50_ms"]
    rows = [BenchRow(key, texts[key][0], value, *texts[key][1:]) for key, value in numbers.items()]
    return [*rows, BenchRow("overhead_of_model", "outside the model / model", share)]


def ratio_rows(mine: dict[str, float], other: dict[str, float]) -> list[BenchRow]:
    """Returns the other node's numbers, and the ratios of this node's to them."""
    limits = {"outside_p50_ms": ("overhead_ratio", 0.5), "cold_start_s": ("cold_start_ratio", 1.0),
              "peak_memory_mb": ("memory_ratio", 1.0)}  # fmt: skip
    rows = [BenchRow(f"against_{key}", f"the other: {key}", value) for key, value in other.items()]
    for key, (name, limit) in limits.items():
        ratio = mine[key] / other[key]
        rows.append(BenchRow(name, f"{key}, this / the other", ratio, f"<= {limit:g}", ratio <= limit))
    return rows


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
