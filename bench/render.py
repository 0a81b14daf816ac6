"""How many pictures with questions one CPU core renders: each stage in milliseconds of CPU time per picture.

    python bench/render.py [--size 128 96] [--focal 96] [--scenes 60]

Ends with one JSON line. CPU time of this process is counted, not wall time: other work on the machine does not matter.
"""

from __future__ import annotations

import argparse
import json
import time

import cv2
import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.scenes.photo import photograph
from depthlm_ros.scenes.pose import sample_pose
from depthlm_ros.scenes.questions import ask_about
from depthlm_ros.scenes.render import render
from depthlm_ros.scenes.sample import sample_scene

VIEWS = 4


def measure(camera: Intrinsics, scenes: int, questions: int) -> dict[str, float]:
    """Milliseconds per picture of each stage, with VIEWS pictures of each scene."""
    spent = dict.fromkeys(("scene", "pose", "render", "photo", "questions"), 0.0)
    pictures = 0

    def timed(stage, function, *args):
        started = time.process_time()
        try:
            return function(*args)
        finally:
            spent[stage] += time.process_time() - started

    for index in range(-2, scenes):
        if index == 0:
            # Everything is compiled by now.
            spent, pictures = dict.fromkeys(spent, 0.0), 0
        rng = np.random.default_rng([11, index + 2])
        scene = timed("scene", sample_scene, rng)
        for _ in range(VIEWS):
            try:
                pose = timed("pose", sample_pose, rng, scene)
            except RuntimeError:
                continue  # A room too full for a camera: training takes another.
            rendered = timed("render", render, scene, pose, camera)
            timed("photo", photograph, rng, rendered)
            timed("questions", ask_about, rng, scene, rendered, camera, questions)
            pictures += 1
    return {stage: 1000 * seconds / pictures for stage, seconds in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 96), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--focal", type=float, default=96.0)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--questions", type=int, default=2)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    width, height = args.size
    camera = Intrinsics(args.focal, args.focal, (width - 1) / 2, (height - 1) / 2, width, height)
    stages = measure(camera, args.scenes, args.questions)
    for stage, ms in stages.items():
        print(f"{stage:>10} {ms:6.2f} ms")
    rate = 1000 / sum(stages.values())
    print(
        json.dumps(
            {"images_per_s": round(rate, 1), "size_px": args.size, **{k: round(v, 3) for k, v in stages.items()}}
        )
    )


if __name__ == "__main__":
    main()
