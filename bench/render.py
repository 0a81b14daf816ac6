# SPDX-License-Identifier: Apache-2.0
"""Measures how many pictures with questions one CPU core renders: CPU time per picture of each stage, in milliseconds.

    python bench/render.py [--size 128 96] [--focal 96] [--scenes 60]

CPU time of this process is counted, not wall time, so other programs on the machine do not change the result. Ends with
one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time

import cv2
import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.geometry.pinhole import centred_camera
from depthlm_ros.scenes.camera.photo import photograph
from depthlm_ros.scenes.camera.viewpoints import sample_pose
from depthlm_ros.scenes.questions.generate import sample_questions
from depthlm_ros.scenes.renderer.render import render
from depthlm_ros.scenes.world.sample import sample_scene

VIEWS_PER_SCENE = 4
# The first scenes compile the kernels and are not counted.
WARM_UP_SCENES = 2


def measure(camera: Intrinsics, scenes: int, questions: int) -> dict[str, float]:
    """Returns milliseconds per picture of each stage, with VIEWS_PER_SCENE pictures of each scene."""
    spent = dict.fromkeys(("scene", "pose", "render", "photo", "questions"), 0.0)
    pictures = 0

    def timed(stage, function, *args):
        started_s = time.process_time()
        try:
            return function(*args)
        finally:
            spent[stage] += time.process_time() - started_s

    for index in range(-WARM_UP_SCENES, scenes):
        if index == 0:
            spent, pictures = dict.fromkeys(spent, 0.0), 0
        rng = np.random.default_rng([11, index + WARM_UP_SCENES])
        scene = timed("scene", sample_scene, rng)
        for _ in range(VIEWS_PER_SCENE):
            try:
                pose = timed("pose", sample_pose, rng, scene)
            except RuntimeError:
                continue  # The room is too full for a camera; training takes another one.
            rendered = timed("render", render, scene, pose, camera)
            timed("photo", photograph, rng, rendered)
            timed("questions", sample_questions, rng, scene, rendered, camera, questions)
            pictures += 1
    return {stage: 1000 * seconds / pictures for stage, seconds in spent.items()}


def main() -> None:
    """Measures all stages and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 96), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--focal", type=float, default=96.0)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--questions", type=int, default=2)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    width, height = args.size
    camera = centred_camera((width, height), args.focal)
    stages = measure(camera, args.scenes, args.questions)
    speed = {"images_per_s": 1000 / sum(stages.values())}
    for stage, ms in stages.items():
        print(f"{stage:>10} {ms:6.2f} ms")
    measured = {**{k: round(v, 1) for k, v in speed.items()}, **{k: round(v, 3) for k, v in stages.items()}}
    print(json.dumps({"size_px": args.size, **measured}))


if __name__ == "__main__":
    main()
