"""Labels for evaluation that tests write and read: depth maps, questions, pairs, each of the room's image."""

import json
import math

import cv2
import numpy as np

from depthlm_ros.core import PointDepths
from depthlm_ros.data.depthfile import write_depth
from depthlm_ros.geometry.rotations import rotation_from_angles
from support.checkered_room import CAMERA, render_room

LENS = list(vars(CAMERA).values())
SAME = ([[8, 8]], [[8, 8]])


def told(depth_m, std_m=math.nan):
    """A prediction, as models give it."""
    depth_m = np.asarray(depth_m, np.float32)
    return PointDepths(np.zeros((len(depth_m), 2)), depth_m, np.broadcast_to(np.float32(std_m), depth_m.shape))


def write_lines(folder, *lines):
    path = folder / "labels.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return path


def write_maps(folder, depths_m, name="labels.jsonl", **more):
    """One record per depth map, all of the room's image; the maps may be of another size."""
    lines = []
    for index, depth_m in enumerate(depths_m):
        cv2.imwrite(str(folder / f"{index}.png"), render_room()[0][..., ::-1])
        write_depth(folder / f"{index}_depth.png", depth_m, 1000)
        height, width = np.shape(depth_m)
        line = {
            "image": f"{index}.png",
            "depth_path": f"{index}_depth.png",
            "depth_scale": 1000,
            "intrinsics": list(vars(CAMERA).values()),
            "original_rgb_size": list(CAMERA.size_px),
            "original_depth_size": [width, height],
            "original_fx": CAMERA.fx_px,
        }
        lines.append(json.dumps(line | more))
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def question(answer, unit="", category="", text="How far is it?", **more):
    line = {"image": "a.png", "intrinsics": LENS, "question": text, "answer": answer, "category": category}
    return line | ({"unit": unit} if unit else {}) | more


def pair(uv_px, matched_px, yaw_deg=0.0, translation=(0.0, 0.0, 1.0)):
    return {
        "images": ["a.png", "b.png"],
        "intrinsics": [LENS, LENS],
        "pixel_coords": uv_px,
        "matched_coords": matched_px,
        "rotation": rotation_from_angles(yaw_deg, 0, 0).tolist(),
        "translation": list(translation),
        "covisibility": 0.8,
    }
