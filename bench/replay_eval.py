# SPDX-License-Identifier: Apache-2.0
"""Scores the depth node on labelled images as `depthlm eval` does: replay camera -> depth node -> this process.

Every image passes once through the topics, with its own calibration. The depth at the labelled pixels is taken from the
received depth images; an image whose depth never arrives counts as wrong. Ends with one JSON line.

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
from depthlm_ros.eval.judges import read_point_records
from depthlm_ros.eval.report import DepthReport, report_predictions
from depthlm_ros.image_io import read_rgb
from depthlm_ros.ros.tools.depth_listener import DepthListener, ReceivedFrame, ReceptionStatistics
from depthlm_ros.ros.tools.process_graph import ProcessGraph

# Longest wait for the start of the node, and for the last depth images after the camera has ended.
START_TIMEOUT_S, LAST_DEPTH_TIMEOUT_S = 60.0, 5.0


class Collector:
    """Collects the received depth at the labelled pixels of each record. It finds the record by the image's pixels."""

    def __init__(self, labels: RecordSet) -> None:
        self._records: dict[bytes, list[Record]] = {}
        for record in labels.records:
            self._records.setdefault(fingerprint(read_rgb(record.image)), []).append(record)
        self.predicted_m: dict[str, np.ndarray] = {}
        self.latency_s: dict[str, float] = {}
        self.statistics = ReceptionStatistics()

    def add(self, frame: ReceivedFrame) -> None:
        """Takes a frame whose depth has just arrived; the callback of DepthListener."""
        self.statistics.add(frame)
        if frame.rgb is None or frame.depth_m is None:
            return
        for record in self._records.get(fingerprint(frame.rgb), []):
            u, v = np.rint(record.uv_px).astype(int).T
            self.predicted_m[record.where] = frame.depth_m[v, u].astype(np.float64)
            self.latency_s[record.where] = (frame.depth_arrived_ns - frame.stamp_ns) / 1e9


def fingerprint(rgb: np.ndarray) -> bytes:
    """Returns a digest of an image's pixels."""
    return hashlib.blake2b(np.ascontiguousarray(rgb).tobytes(), digest_size=16).digest()


def run(args: argparse.Namespace, logs: Path) -> tuple[DepthReport, Collector]:
    """Replays every image once and scores the received depth."""
    labels = read_point_records(args.labels)
    collector = Collector(labels)
    with ProcessGraph(logs) as graph:
        listener = DepthListener(collector.add, cloud=False)
        graph.add(listener)
        graph.start("depth node", "depthlm_ros.ros.node", "--ros-args", "-p", f"model:={args.model}")
        camera = graph.start(
            "camera",
            "depthlm_ros.ros.tools.replay_camera",
            *("--labels", str(args.labels), "--once", "--rate", str(args.rate), "--wait", str(START_TIMEOUT_S)),
        )
        longest_s = START_TIMEOUT_S + len(labels.records) / args.rate + 30.0
        graph.wait(lambda: camera.ended or len(collector.predicted_m) == len(labels.records), "end", longest_s)
        deadline_s = time.monotonic() + LAST_DEPTH_TIMEOUT_S

        def is_finished() -> bool:
            return len(collector.predicted_m) == len(labels.records) or time.monotonic() > deadline_s

        graph.wait(is_finished, "end", 2 * LAST_DEPTH_TIMEOUT_S)
    return score_collected(labels, collector), collector


def score_collected(labels: RecordSet, collector: Collector) -> DepthReport:
    """Scores all records; a record whose depth was not received has no prediction."""
    unknown = [np.full(len(record.depth_m), np.nan) for record in labels.records]
    wheres = [record.where for record in labels.records]
    predicted_m = [collector.predicted_m.get(where, nan_m) for where, nan_m in zip(wheres, unknown, strict=True)]
    seconds = list(collector.latency_s.values()) or [float("nan")]
    return report_predictions(predicted_m, [r.depth_m for r in labels.records], seconds, left_out=labels.problems)


def main() -> int:
    """Runs the benchmark and returns the exit code: 1 if no depth was received."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("labels", type=Path, help="labels in DepthLM's JSONL schema")
    parser.add_argument("--model", default="tiny", help="name or folder of a model (default: %(default)s)")
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
        "rate_hz": collector.statistics.rate_hz,
        "latency_s": scores.seconds_per_image,
    }
    print(json.dumps(result))
    return 0 if collector.predicted_m else 1


if __name__ == "__main__":
    sys.exit(main())
