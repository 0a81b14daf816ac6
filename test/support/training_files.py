# SPDX-License-Identifier: Apache-2.0
"""Makes small random base checkpoints and small files of records, for the tests of fine-tuning."""

import json

import cv2
import numpy as np

from depthlm_ros.cli import main
from support.released_checkpoints import publish

WIDTH, HEIGHT = 96, 64
CAMERA = [1000.0, 1000.0, (WIDTH - 1) / 2, (HEIGHT - 1) / 2, WIDTH, HEIGHT]
# The most pixels of an image that the models see: few, so that a step is fast.
MOST_PIXELS = 128 * 96
ARCHITECTURES = {
    "depthlm-3b": "qwen2_5_vl",
    "depthlm-7b": "qwen2_5_vl",
    "depthlm-12b": "llava",
    "depthvlm-4b": "qwen3_vl",
    "vlm3-depth": "qwen3_vl",
    "vlm3-object": "qwen3_vl",
    "vlm3-corr": "qwen3_vl",
    "vlm3-pose": "qwen3_vl",
}


def make_base(folder, architecture, with_head=False):
    """Writes a base checkpoint whose processor makes small images, and returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    publish(folder, architecture, with_head)
    path = folder / "preprocessor_config.json"
    facts = json.loads(path.read_text())
    if "merge_size" in facts:
        facts["size"] = {"shortest_edge": 32 * 32, "longest_edge": MOST_PIXELS}
    path.write_text(json.dumps(facts))
    return folder


def write_image(path, seed=0, size=(WIDTH, HEIGHT)):
    rgb = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    cv2.imwrite(str(path), rgb)


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def point_line(name, count=12, seed=0, **changes):
    rng = np.random.default_rng(seed)
    uv = np.stack([rng.integers(6, WIDTH - 6, count), rng.integers(6, HEIGHT - 6, count)], axis=1)
    depth = rng.uniform(1, 5, count).round(3)
    line = {"image": name, "intrinsics": CAMERA, "pixel_coords": uv.tolist(), "depth": depth.tolist()}
    return line | changes


def depth_line(folder, name, seed=0):
    """Returns a line of DepthVLM's schema and writes its depth map, of half the image's size."""
    values = (np.random.default_rng(seed).uniform(1, 5, (HEIGHT // 2, WIDTH // 2)) * 1000).astype(np.uint16)
    cv2.imwrite(str(folder / f"depth_{name}"), values)
    return {
        "image": name,
        "depth_path": f"depth_{name}",
        "depth_scale": 1000,
        "original_rgb_size": [WIDTH, HEIGHT],
        "original_depth_size": [WIDTH // 2, HEIGHT // 2],
        "original_fx": 1000.0,
    }


def object_line(name, **changes):
    return {
        "image": name,
        "intrinsics": CAMERA,
        "bbox": [[10, 8, 50, 40], [60, 20, 90, 60], [10, 8, 50, 40]],
        "conversations": [
            {"from": "human", "value": "<image>\nIs <mask> <depth> taller than <mask> <depth>?"},
            {"from": "gpt", "value": "No, Region [0] is shorter than Region [1]."},
            {"from": "human", "value": "How wide is <mask> <depth>?"},
            {"from": "gpt", "value": "Region [0] is 0.52 meters wide."},
        ],
    } | changes


def pair_line(first, second, seed=0):
    rng = np.random.default_rng(seed)
    uv = np.stack([rng.integers(0, WIDTH, 12), rng.integers(0, HEIGHT, 12)], axis=1)
    c, s = np.cos(0.3), np.sin(0.3)
    return {
        "images": [first, second],
        "intrinsics": [CAMERA, CAMERA],
        "pixel_coords": uv.tolist(),
        "matched_coords": uv[::-1].tolist(),
        "rotation": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "translation": [0.5, 0.0, 0.2],
        "covisibility": 0.5,
    }


def write_data(folder, images=4):
    """Writes a file of each kind of record and returns their paths: points, dense, objects, pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{index}.png" for index in range(images)]
    for index, name in enumerate(names):
        write_image(folder / name, index)
    pairs = [pair_line(name, names[index - 1], index) for index, name in enumerate(names)]
    return {
        "points": write_lines(folder / "points.jsonl", [point_line(name, seed=i) for i, name in enumerate(names)]),
        "dense": write_lines(folder / "dense.jsonl", [depth_line(folder, name, i) for i, name in enumerate(names)]),
        "objects": write_lines(folder / "objects.jsonl", [object_line(name) for name in names]),
        "pairs": write_lines(folder / "pairs.jsonl", pairs),
    }


def finetune(recipe, data, model, out, *options, steps=10, **settings):
    """Runs `depthlm finetune` and returns its exit status. settings: train__batch=4 means train.batch=4."""
    small = {"train__batch": 2, "train__batch_per_device": 1, "train__workers": 0, "train__log_every": 1}
    given = [f"--set={key.replace('__', '.')}={value}" for key, value in (small | settings).items()]
    command = ["finetune", recipe, "--data", str(data), "--model", str(model), "--out", str(out), "--steps", str(steps)]
    return main([*command, *given, *options])
