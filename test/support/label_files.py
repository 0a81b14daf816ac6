# SPDX-License-Identifier: Apache-2.0
"""Writes labels for tests of evaluation: depth maps, questions and pairs, all with the image of the checkered room."""

import json
import math

import cv2
import numpy as np

from depthlm_ros.core import PointDepths
from depthlm_ros.data.depthfile import write_depth
from depthlm_ros.geometry.rotations import rotation_from_angles
from support.checkered_room import CAMERA, render_room

CAMERA_NUMBERS = list(vars(CAMERA).values())
SAME_PIXELS = ([[8, 8]], [[8, 8]])


def make_prediction(depth_m, std_m=math.nan):
    """Returns a prediction as models return it."""
    depth_m = np.asarray(depth_m, np.float32)
    return PointDepths(np.zeros((len(depth_m), 2)), depth_m, np.broadcast_to(np.float32(std_m), depth_m.shape))


def write_lines(folder, *lines):
    """Writes labels.jsonl with one JSON object per line and returns its path."""
    path = folder / "labels.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return path


def write_maps(folder, depths_m, name="labels.jsonl", **more):
    """Writes one record per depth map, each with the image of the room; the maps may have another size.

    more: further keys of every line. Returns the path of the file.
    """
    lines = []
    for index, depth_m in enumerate(depths_m):
        cv2.imwrite(str(folder / f"{index}.png"), render_room()[0][..., ::-1])
        write_depth(folder / f"{index}_depth.png", depth_m, 1000)
        height, width = np.shape(depth_m)
        line = {
            "image": f"{index}.png",
            "depth_path": f"{index}_depth.png",
            "depth_scale": 1000,
            "intrinsics": CAMERA_NUMBERS,
            "original_rgb_size": list(CAMERA.size_px),
            "original_depth_size": [width, height],
            "original_fx": CAMERA.fx_px,
        }
        lines.append(json.dumps(line | more))
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def make_question_line(answer, unit="", category="", text="How far is it?", **more):
    """Returns the fields of a question of eval/object_questions.py."""
    line = {"image": "a.png", "intrinsics": CAMERA_NUMBERS, "question": text, "answer": answer, "category": category}
    return line | ({"unit": unit} if unit else {}) | more


def make_pair_line(uv_px, matched_px, yaw_deg=0.0, translation=(0.0, 0.0, 1.0)):
    """Returns the fields of a pair of views."""
    return {
        "images": ["a.png", "b.png"],
        "intrinsics": [CAMERA_NUMBERS, CAMERA_NUMBERS],
        "pixel_coords": uv_px,
        "matched_coords": matched_px,
        "rotation": rotation_from_angles(yaw_deg, 0, 0).tolist(),
        "translation": list(translation),
        "covisibility": 0.8,
    }
