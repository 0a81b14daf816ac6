# SPDX-License-Identifier: Apache-2.0
"""Draws the picture at the top of the README: a real room, its depth, its cloud, and a question with the true answer.

    . ./env.sh && python bench/readme_picture.py ../shared/data/real_frames hololens_dvmvs/00065.jpg \\
        --thing table --box 30 195 520 300 --out docs/room.png

The folder is one of data/sensor_frames.py. The true answer is the median distance that the depth sensor measured in
--box (left, top, right, bottom, pixels), which was drawn by hand around the thing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

from depthlm_ros.core import Answer, Frame, Intrinsics
from depthlm_ros.data.records import Record
from depthlm_ros.data.sensor_frames import EVALUATE, read_sensor_frames
from depthlm_ros.errors import BadInput, DepthLMError
from depthlm_ros.eval.judges import read_true_map
from depthlm_ros.geometry.pinhole import range_from_z
from depthlm_ros.geometry.point_cloud import CloudBuilder
from depthlm_ros.image_io import read_rgb, write_rgb
from depthlm_ros.model import load_model
from depthlm_ros.visualization import BACKGROUND_RGB, cloud_picture, depth_picture, draw_text, side_by_side

HEIGHT_PX, FOOT_PX = 300, 34
BOX_RGB = (255, 210, 60)


def find_record(folder: Path, image: str) -> Record:
    """Returns the frame of this image. Raises BadInput if the folder has no such frame for evaluation."""
    for frame in read_sensor_frames(folder, EVALUATE, []):
        if frame.record.image == folder / image:
            return frame.record
    raise BadInput(f"{image} is not an image for evaluation of {folder}/labels.jsonl: name one as it stands there.")


def median_range(true_m: np.ndarray, camera: Intrinsics, box_px: list[float]) -> float:
    """Returns the median distance, metres, of the known pixels in a box of the image. true_m: (h, w), its depth.

    Raises BadInput for a box that is not inside the image, and for one without known depth.
    """
    (left, top, right, bottom), (width, height) = box_px, camera.size_px
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise BadInput(f"--box {box_px} is not inside the {width} x {height} image: LEFT < RIGHT, TOP < BOTTOM.")
    full_m = cv2.resize(true_m, camera.size_px, interpolation=cv2.INTER_NEAREST)
    left, top, right, bottom = (round(edge) for edge in box_px)
    v, u = np.nonzero(np.isfinite(full_m[top:bottom, left:right]))
    if not len(v):
        raise BadInput(f"--box {box_px} has no pixel whose depth the sensor knows: draw another one.")
    uv_px = np.stack([u + left, v + top], axis=1)
    return float(np.median(range_from_z(uv_px, full_m[v + top, u + left], camera)))


def draw_answer(rgb: np.ndarray, answer: Answer) -> np.ndarray:
    """Returns a copy of the image with the regions of the answer."""
    drawn = rgb.copy()
    for region in answer.regions:
        low = (round(region.x_px), round(region.y_px))
        high = (round(region.x_px + region.width_px), round(region.y_px + region.height_px))
        cv2.rectangle(drawn, low, high, BOX_RGB, 3, cv2.LINE_AA)
    return drawn


def main() -> int:
    """Draws the picture and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("image", help="an image of the folder, as labels.jsonl names it")
    parser.add_argument("--thing", required=True)
    parser.add_argument("--box", type=float, nargs=4, required=True, metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"))
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--out", type=Path, default=Path("docs/room.png"))
    args = parser.parse_args()
    try:
        draw(args)
    except DepthLMError as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 1
    return 0


def draw(args: argparse.Namespace) -> None:
    """Writes the picture. Raises DepthLMError."""
    record = find_record(args.folder, args.image)
    rgb, camera = read_rgb(record.image), record.intrinsics
    view = load_model(args.model).look(Frame(rgb, camera))
    depth_m, answer = view.depth().depth_m, view.ask(f"How far is the {args.thing}?")
    true_m = median_range(read_true_map(record), camera, args.box)
    panels = [
        ("camera", draw_answer(rgb, answer)),
        ("depth", depth_picture(depth_m)),
        (
            "point cloud",
            cloud_picture(CloudBuilder(camera).build(depth_m, rgb)[..., :3], rgb, yaw_deg=25.0, pitch_deg=18.0),
        ),
    ]
    text = f'"How far is the {args.thing}?"   {answer.text}   Depth sensor: {true_m:.2f} m.'
    picture = side_by_side(panels, HEIGHT_PX)
    foot = np.full((FOOT_PX, picture.shape[1], 3), BACKGROUND_RGB, np.uint8)
    draw_text(foot, text, (8, 23), 0.6)
    write_rgb(args.out, np.vstack([picture, foot]))
    print(f"{text} (one standard deviation: {answer.std:.2f} m)")


if __name__ == "__main__":
    sys.exit(main())
