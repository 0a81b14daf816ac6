# SPDX-License-Identifier: Apache-2.0
"""A simple room whose depth is computed exactly: a chequered floor 1.2 m below the camera, and a wall 5 m ahead."""

import json
from pathlib import Path

import cv2
import numpy as np

from depthlm_ros.core import Intrinsics

CAMERA = Intrinsics(280.0, 282.0, 161.0, 118.5, 320, 240)
FLOOR_M, WALL_M = 1.2, 5.0


def render_room(camera: Intrinsics = CAMERA, wall_m: float = WALL_M) -> tuple[np.ndarray, np.ndarray]:
    """Returns the image, uint8 (H, W, 3), and the exact z-depth in metres, float64 (H, W)."""
    u, v = np.meshgrid(np.arange(camera.width_px), np.arange(camera.height_px))
    x, y = (u - camera.cx_px) / camera.fx_px, (v - camera.cy_px) / camera.fy_px
    on_floor = y * wall_m > FLOOR_M
    depth_m = np.where(on_floor, FLOOR_M / np.where(on_floor, y, 1.0), wall_m)
    dark = (np.floor(2 * x * depth_m) + np.floor(2 * depth_m)) % 2
    floor, wall = np.array([200, 190, 170]) - 60 * dark[..., None], np.array([150, 170, 190])
    return np.where(on_floor[..., None], floor, wall).astype(np.uint8), depth_m


def write_labels(folder: Path, images: int = 2, points: int = 20, camera: Intrinsics = CAMERA) -> Path:
    """Writes rooms of different depths as PNG files, with exact labels at random pixels; returns the file of labels."""
    rng = np.random.default_rng(0)
    lines = []
    for i in range(images):
        rgb, depth_m = render_room(camera, WALL_M + i)
        cv2.imwrite(str(folder / f"room_{i}.png"), rgb[..., ::-1])
        uv = rng.integers(0, camera.size_px, (points, 2))
        record = {"image": f"room_{i}.png", "intrinsics": list(vars(camera).values()), "pixel_coords": uv.tolist()}
        lines.append(json.dumps(record | {"depth": depth_m[uv[:, 1], uv[:, 0]].tolist()}))
    path = folder / "labels.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
