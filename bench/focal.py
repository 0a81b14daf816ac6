# SPDX-License-Identifier: Apache-2.0
"""Measures how well a focal length is estimated from the lines of one image (geometry/focal_estimation.py).

The images are rendered rooms with random fields of view, and labelled images of known focal length.

    . ./env.sh && python bench/focal.py [--images 100] [--labels LABELS.jsonl]

Errors are |ln(estimate / truth)|. For comparison there are the errors of assuming 60 degrees for the same images. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.eval.judges import read_point_records
from depthlm_ros.geometry.focal_estimation import focal_from_lines
from depthlm_ros.image_io import read_rgb
from depthlm_ros.scenes.camera.photo import photograph
from depthlm_ros.scenes.camera.viewpoints import sample_pose
from depthlm_ros.scenes.renderer.render import render
from depthlm_ros.scenes.world.sample import sample_scene

SIZE_PX, FOV_DEG = (640, 480), (45.0, 90.0)
ASSUMED_FOCAL = 0.5 / math.tan(math.radians(30))

# An image, uint8 (H, W, 3), and its focal length in longer sides.
Case = tuple[np.ndarray, float]


def rendered_cases(count: int) -> Iterator[Case]:
    """Yields rendered rooms."""
    width, height = SIZE_PX
    for index in range(count):
        rng = np.random.default_rng([4711, index])
        focal_px = width / 2 / math.tan(math.radians(rng.uniform(*FOV_DEG)) / 2)
        camera = Intrinsics(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2, width, height)
        scene = sample_scene(rng)
        yield photograph(rng, render(scene, sample_pose(rng, scene), camera)), focal_px / width


def labelled_cases(path: Path) -> Iterator[Case]:
    """Yields the images of a file of labels."""
    for record in read_point_records(path).records:
        yield read_rgb(record.image), record.intrinsics.fx_px / max(record.intrinsics.size_px)


def measure_errors(cases: Iterator[Case]) -> dict[str, float]:
    """Returns the share of the images with an estimate, and the errors of these."""
    errors, assumed, seconds = [], [], []
    for rgb, truth in cases:
        began_s = time.perf_counter()
        estimate_px = focal_from_lines(rgb)
        seconds.append(time.perf_counter() - began_s)
        if estimate_px is not None:
            errors.append(abs(math.log(estimate_px / max(rgb.shape[:2]) / truth)))
            assumed.append(abs(math.log(ASSUMED_FOCAL / truth)))
    return {
        "images": len(seconds),
        "estimated": len(errors) / len(seconds),
        "median_error": float(np.median(errors)),
        "error_90": float(np.quantile(errors, 0.9)),
        "median_error_assumed": float(np.median(assumed)),
        "seconds_per_image": float(np.median(seconds)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100, help="number of rendered images (default: %(default)s)")
    parser.add_argument("--labels", type=Path, help="also measure on these labelled images")
    args = parser.parse_args()
    results = {"rendered": measure_errors(rendered_cases(args.images))}
    if args.labels:
        results["labelled"] = measure_errors(labelled_cases(args.labels))
    for name, scores in results.items():
        print(f"{name}: {', '.join(f'{key} {value:.3g}' for key, value in scores.items())}")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
