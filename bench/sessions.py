# SPDX-License-Identifier: Apache-2.0
"""Measures what ONNX Runtime's settings do to the look of a bundle on a CPU: threads, spinning, optimised graphs.

  . ./env.sh && python bench/sessions.py [--model tiny] [--canvas 0] [--repeats 30] [--rate 15]

For each number of threads, the settings look in turns: as fast as they can (look_ms: the smallest; look_p50_ms), and at
the rate of a camera (cpu_share: CPU seconds per second, which spinning threads use up while they wait). A graph that is
"offline" was optimised before and written to a file, which is then loaded as it is. load_s: until the session is open,
the smallest of five.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort

from depthlm_ros.export.parity import sample_image
from depthlm_ros.model_files.bundle import find_bundle, load_bundle

LEVELS = {
    "off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
LOADS = 5


@dataclass(frozen=True)
class Setting:
    """How a session is opened. offline: level at which the graph was optimised before; "" for not before."""

    threads: int
    spins: bool = False
    level: str = "all"
    offline: str = ""

    @property
    def name(self) -> str:
        """For the table and the JSON line."""
        spins = "spinning" if self.spins else "waiting"
        level = f"{self.offline} offline" if self.offline else self.level
        return f"{self.threads} thread{'s' * (self.threads > 1)}, {spins}, {level}"


def settings(threads: int) -> list[Setting]:
    """Returns the settings that are compared; the first is the one of the package."""
    ours = Setting(threads)
    others = [replace(ours, level=level) for level in ("off", "basic", "extended")]
    others += [replace(ours, level="off", offline=level) for level in ("extended", "all")]
    # At the end: its threads go on for a while.
    return [ours, *others, *([replace(ours, spins=True)] if threads > 1 else [])]


def open_session(graph: Path, setting: Setting, written: Path | None = None) -> ort.InferenceSession:
    """Opens a graph on the CPU. written: where the optimised graph is kept."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # an optimised graph fits only this kind of processor, which is known here
    options.intra_op_num_threads = setting.threads
    options.graph_optimization_level = LEVELS[setting.level]
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(setting.spins)))
    if written is not None:
        options.optimized_model_filepath = str(written)
    return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def load_seconds(graph: Path, setting: Setting) -> float:
    """Returns the smallest time until a session is open."""
    took = []
    for _ in range(LOADS):
        began_s = time.perf_counter()
        open_session(graph, setting)
        took.append(time.perf_counter() - began_s)
    return min(took)


def cpu_share(session: ort.InferenceSession, feed: dict[str, np.ndarray], rate_hz: float, looks: int) -> float:
    """Returns the CPU seconds per second of looks at a rate."""
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    for number in range(looks):
        session.run(None, feed)
        time.sleep(max(0.0, began_s + (number + 1) / rate_hz - time.perf_counter()))
    return (time.process_time() - began_cpu_s) / (time.perf_counter() - began_s)


def compare(graph: Path, image: np.ndarray, threads: int, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measures the settings of one number of threads in turns, and prints a line for each."""
    with tempfile.TemporaryDirectory() as folder:
        graphs = {"": graph}
        for level in ("extended", "all"):
            graphs[level] = Path(folder) / f"{level}.onnx"
            open_session(graph, Setting(threads, level=level), graphs[level])
        chosen = settings(threads)
        sessions = [open_session(graphs[setting.offline], setting) for setting in chosen]
        feed = {sessions[0].get_inputs()[0].name: image}
        expected = sessions[0].run(None, feed)[0]
        took_s: list[list[float]] = [[] for _ in chosen]
        for _ in range(args.repeats):
            for session, taken in zip(sessions, took_s, strict=True):
                began_s = time.perf_counter()
                found = session.run(None, feed)[0]
                taken.append(time.perf_counter() - began_s)
                if not np.allclose(found, expected, rtol=1e-3):
                    raise SystemExit("the settings do not compute the same depth")
        results = {}
        for setting, session, taken in zip(chosen, sessions, took_s, strict=True):
            results[setting.name] = {
                "look_ms": round(1e3 * min(taken), 2),
                "look_p50_ms": round(1e3 * statistics.median(taken), 2),
                "load_s": round(load_seconds(graphs[setting.offline], setting), 3),
                "cpu_share": round(cpu_share(session, feed, args.rate, args.repeats), 3),
            }
            print(
                f"  {setting.name:38}",
                *(f"{key} {value:7.2f}" for key, value in results[setting.name].items()),
                flush=True,
            )
    return results


def main() -> None:
    """Compares the settings and prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="name or folder of a bundle (default: %(default)s)")
    parser.add_argument("--canvas", type=int, default=0, help="number of its canvas (default: %(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="(default: 1 2)")
    parser.add_argument("--repeats", type=int, default=30, help="looks with each setting (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=15.0, metavar="HZ", help="of the camera (default: %(default)g)")
    args = parser.parse_args()
    bundle = load_bundle(find_bundle(args.model))
    width, height = bundle.canvases_px[args.canvas]
    graph, image = bundle.folder / f"look_{width}x{height}.onnx", sample_image((width, height))
    results: dict[str, dict[str, float]] = {}
    for threads in args.threads:
        results |= compare(graph, image, threads, args)
    print(json.dumps({"canvas": [width, height], "onnxruntime": ort.__version__, "rate_hz": args.rate, **results}))


if __name__ == "__main__":
    main()
