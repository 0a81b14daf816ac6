"""Labelled photographs through the real graph: replay camera -> depth node -> this process, scored like `depthlm eval`.

Every image of the labels passes once through the topics, each with its own calibration; depth is read off the received
depth images at the labelled pixels. An image whose depth never arrives counts as wrong. Ends with one JSON line.

    . ./env.sh && python bench/replay_eval.py LABELS.jsonl [--model tiny] [--rate 4]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from depthlm_ros.data.read import RecordSet
from depthlm_ros.data.records import Record
from depthlm_ros.errors import DepthLMError
from depthlm_ros.eval.judges import read_records
from depthlm_ros.eval.report import Report, report
from depthlm_ros.image_io import read_rgb
from depthlm_ros.ros.tools.demo import Listener, Parts
from depthlm_ros.ros.tools.process_graph import Graph

START_S, LAST_S = 60.0, 5.0


class Collector:
    """Keeps the depth at the labelled pixels of each record, found by the pixels of the image it belongs to."""

    def __init__(self, labels: RecordSet) -> None:
        self._records: dict[bytes, list[Record]] = {}
        for record in labels.records:
            self._records.setdefault(fingerprint(read_rgb(record.image)), []).append(record)
        self.predicted_m: dict[str, np.ndarray] = {}
        self.latency_s: dict[str, float] = {}
        self.arrived_s: list[float] = []

    def take(self, parts: Parts) -> None:
        """The listener's callback."""
        self.arrived_s.append(time.monotonic())
        if parts.rgb is None or parts.depth_m is None:
            return
        for record in self._records.get(fingerprint(parts.rgb), []):
            u, v = np.rint(record.uv_px).astype(int).T
            self.predicted_m[record.where] = parts.depth_m[v, u].astype(np.float64)
            self.latency_s[record.where] = (parts.depth_arrived_ns - parts.stamp_ns) / 1e9

    @property
    def rate_hz(self) -> float:
        """Depth images per second between the first and the last."""
        if len(self.arrived_s) < 2:
            return float("nan")
        return (len(self.arrived_s) - 1) / (self.arrived_s[-1] - self.arrived_s[0])


def fingerprint(rgb: np.ndarray) -> bytes:
    """Tells images apart by their pixels."""
    return hashlib.blake2b(np.ascontiguousarray(rgb).tobytes(), digest_size=16).digest()


def run(args: argparse.Namespace, logs: Path) -> tuple[Report, Collector]:
    """Replay everything once and score what came back."""
    labels = read_records(args.labels)
    collector = Collector(labels)
    with Graph(logs) as graph:
        listener = Listener(collector.take, cloud=False)
        graph.add(listener)
        graph.start("depth node", "depthlm_ros.ros.node", "--ros-args", "-p", f"model:={args.model}")
        camera = graph.start(
            "camera",
            "depthlm_ros.ros.tools.replay_camera",
            *("--labels", str(args.labels), "--once", "--rate", str(args.rate), "--wait", str(START_S)),
        )
        longest_s = START_S + len(labels.records) / args.rate + 30.0
        graph.wait(lambda: camera.ended or len(collector.predicted_m) == len(labels.records), "end", longest_s)
        deadline_s = time.monotonic() + LAST_S
        all_there = len(labels.records)
        graph.wait(lambda: len(collector.predicted_m) == all_there or time.monotonic() > deadline_s, "end", 2 * LAST_S)
    return score_collected(labels, collector), collector


def score_collected(labels: RecordSet, collector: Collector) -> Report:
    """Scores of all records; one without a received depth has no prediction."""
    nothing = [np.full(len(record.depth_m), np.nan) for record in labels.records]
    wheres = [record.where for record in labels.records]
    predicted_m = [collector.predicted_m.get(where, none) for where, none in zip(wheres, nothing, strict=True)]
    seconds = list(collector.latency_s.values()) or [float("nan")]
    return report(predicted_m, [r.depth_m for r in labels.records], seconds, left_out=labels.problems)


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("labels", type=Path, help="labels in DepthLM's JSONL schema")
    parser.add_argument("--model", default="tiny", help="a model's name or its folder (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=4.0, help="images per second (default: %(default)s)")
    args = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as logs:
            scores, collector = run(args, Path(logs))
    except DepthLMError as exc:
        print(f"replay_eval: {exc}", file=sys.stderr)
        return 1
    print(scores.table())
    result = scores.as_dict() | {
        "model": args.model,
        "images_received": len(collector.predicted_m),
        "rate_hz": collector.rate_hz,
        "latency_s": scores.seconds_per_image,
    }
    print(json.dumps(result))
    return 0 if collector.predicted_m else 1


if __name__ == "__main__":
    sys.exit(main())
