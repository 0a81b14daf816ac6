"""How many pictures with questions one CPU core renders: each stage in milliseconds of CPU time per picture.

    python bench/render.py [--size 128 96] [--focal 96] [--scenes 60] [--device cpu]

Ends with one JSON line. CPU time of this process is counted, not wall time: other work on the machine does not matter.
With --device cuda the stage "render" is wall time per picture on the GPU, packing and copies included, in batches of
--batch pictures; the other stages stay on the CPU, and cores_to_feed says how many cores they keep busy at its pace.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import suppress

import cv2
import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import SetupError
from depthlm_ros.scenes.camera.photo import photograph
from depthlm_ros.scenes.camera.viewpoints import sample_pose
from depthlm_ros.scenes.questions.generate import ask_about
from depthlm_ros.scenes.renderer.batch import Shot
from depthlm_ros.scenes.renderer.gpu import render_batch
from depthlm_ros.scenes.renderer.render import render
from depthlm_ros.scenes.world.sample import sample_scene

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


def measure_gpu(camera: Intrinsics, scenes: int, batch: int) -> float:
    """Milliseconds per picture on the GPU, with VIEWS pictures of each scene."""
    shots: list[Shot] = []
    for index in range(scenes):
        rng = np.random.default_rng([11, index])
        scene = sample_scene(rng)
        with suppress(RuntimeError):  # A room too full for a camera.
            shots += [Shot(scene, sample_pose(rng, scene)) for _ in range(VIEWS)]
    batches = [shots[first : first + batch] for first in range(0, len(shots), batch)]
    render_batch(batches[0], camera)  # Compiles the kernels.
    started = time.perf_counter()
    for some in batches:
        render_batch(some, camera)
    return 1000 * (time.perf_counter() - started) / len(shots)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 96), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--focal", type=float, default=96.0)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--questions", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=128, help="pictures that a GPU renders together")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    width, height = args.size
    camera = Intrinsics(args.focal, args.focal, (width - 1) / 2, (height - 1) / 2, width, height)
    if args.device == "cuda":
        try:
            on_gpu = measure_gpu(camera, args.scenes, args.batch)
        except SetupError as exc:
            sys.exit(f"not measured: {exc}")
    stages = measure(camera, args.scenes, args.questions)
    pace = {"images_per_s": 1000 / sum(stages.values())}
    if args.device == "cuda":
        rest = sum(stages.values()) - stages["render"]
        stages["render"] = on_gpu
        pace = {"images_per_s": 1000 / on_gpu, "cores_to_feed": rest / on_gpu}
    for stage, ms in stages.items():
        print(f"{stage:>10} {ms:6.2f} ms")
    measured = {**{k: round(v, 1) for k, v in pace.items()}, **{k: round(v, 3) for k, v in stages.items()}}
    print(json.dumps({"device": args.device, "size_px": args.size, **measured}))


if __name__ == "__main__":
    main()
