# SPDX-License-Identifier: Apache-2.0
"""How many pictures `depthlm label` labels in a second, for several numbers of workers. Ends with one JSON line.

    . ./env.sh && python bench/label.py [--model tiny] [--workers 1 2 4] [--pictures 64] [--ray [ADDRESS]]

The pictures are smooth noise of 640 x 480 pixels, or those of --source. Each run labels all of them into its folder,
with the depth map, its standard deviation and 100 points, and writes the files, as the command does. The time to the
first label (processes start, weights are loaded) is told by itself; the rate is that of the others.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import cv2
import numpy as np

from depthlm_ros.cli import build_parser
from depthlm_ros.cli.label import make_labeller, parse_workers
from depthlm_ros.data.labelling import keep_files, label_record
from depthlm_ros.data.picture_source import PictureList, list_pictures
from depthlm_ros.data.worker_pool import map_in_order
from depthlm_ros.file_io import JsonObject


class Run(TypedDict):
    """One number of workers. first_s: seconds to the first label. failed: pictures without labels."""

    workers: int
    pictures_per_s: float
    first_s: float
    failed: int


def main(argv: Sequence[str] | None = None) -> None:
    """Measures the rate for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, metavar="SOURCE", help="pictures, as `depthlm label` takes them")
    parser.add_argument("--pictures", type=int, default=64, help="number of made pictures (default: %(default)s)")
    parser.add_argument("--model", default="tiny", help="name, NAME=FOLDER or folder (default: %(default)s)")
    parser.add_argument("--backend", default="auto", help="what runs the model (default: %(default)s)")
    parser.add_argument("--device", default="", help="cpu, cuda or cuda:0,cuda:1 (default: the best)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="numbers of workers (default: 1 2 4)")
    parser.add_argument("--ray", nargs="?", const="auto", default="", metavar="ADDRESS", help="on a Ray cluster")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        source = args.source or _write_noise(Path(folder) / "pictures", args.pictures)
        listed = list_pictures(source)
        runs = [_measure(args, source, listed, count, Path(folder) / f"labels-{count}") for count in args.workers]
    facts: JsonObject = {"model": args.model, "pictures": len(listed.pictures), "cores": os.cpu_count() or 0}
    print(json.dumps({**facts, "ray": bool(args.ray), "runs": runs}))


def _measure(args: argparse.Namespace, source: Path, listed: PictureList, count: int, out: Path) -> Run:
    """Labels all pictures with so many workers."""
    words = ["label", str(source), "--out", str(out), "--model", args.model, "--backend", args.backend]
    words += ["--device", args.device, "--fx-over-width", "0.888", "--workers", str(count)]
    options = build_parser("label").parse_args([*words, *(["--ray", args.ray] if args.ray else [])])
    workers = parse_workers(options, (source,))
    labeller = make_labeller(options, listed, workers)
    times_s, failed, started_s = [], 0, time.perf_counter()
    for outcome in map_in_order(label_record(labeller), list(listed.pictures), workers):
        failed += outcome.result is None or not keep_files(out, outcome.result).lines
        times_s.append(time.perf_counter() - started_s)
    rate = (len(times_s) - 1) / (times_s[-1] - times_s[0]) if len(times_s) > 1 else float("nan")
    print(f"{count:4} workers: {rate:8.1f} pictures/s, first label after {times_s[0]:.1f} s", file=sys.stderr)
    return Run(workers=count, pictures_per_s=round(rate, 2), first_s=round(times_s[0], 2), failed=failed)


def _write_noise(folder: Path, count: int) -> Path:
    """Writes JPEG files of smooth noise, 640 x 480."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        noise = cv2.resize(rng.integers(0, 256, (24, 32, 3), np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number:05}.jpg"), noise)
    return folder


if __name__ == "__main__":
    main()
