"""ScanNet++, the iPhone's recordings, with the scanner's depth and the phone's own poses.

On disk, as the data set's own prepare_iphone_data.py leaves it: [data/]SCENE/iphone/rgb/frame_NNNNNN.jpg (1920 x 1440),
depth/frame_NNNNNN.png (256 x 192, millimetres along the optical axis), rgb_masks/frame_NNNNNN.png (0: a person),
pose_intrinsic_imu.json (per frame: intrinsic, aligned_pose: camera in OpenCV's axes to world).

Splits: where ROOT holds splits/NAME.txt with scene names, --split NAME chooses it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.depthfile import read_depth
from depthlm_ros.data.records import CAPS_M, MIXED, NO_CAPS_M, BadRecord, DepthFile, Z
from depthlm_ros.data.sets.folder import files_in, folders_with, must_exist
from depthlm_ros.data.source_view import Choice, DataSet, Maker, View
from depthlm_ros.image_io import image_size, read_rgb

EVERY = 10
POSES = "iphone/pose_intrinsic_imu.json"
MILLIMETRES = 1000.0
# The released script's one camera for all phones, of images shrunk to 1280 x 960.
RELEASED = Intrinsics(951.625, 951.625, 640.0, 480.0, 1280, 960)


def items(root: Path, choice: Choice) -> Sequence[str]:
    """The scenes."""
    base = "data" if (root / "data").is_dir() else "."
    scenes = [f"{base}/{name}" if base != "." else name for name in folders_with(root / base, POSES)]
    listed = root / "splits" / f"{choice.split}.txt"
    if not choice.split:
        return scenes
    wanted = set(must_exist(listed, "split").read_text(encoding="utf-8").split())
    return [scene for scene in scenes if Path(scene).name in wanted]


def views(root: Path, item: str, choice: Choice) -> Iterator[Maker]:
    """One view for every tenth frame of a scene."""
    folder = (root / item / "iphone").resolve()
    for image in files_in(folder / "rgb", ".jpg", ".png")[::EVERY]:
        yield image.stem, partial(_view, folder, image, choice)


def _view(folder: Path, image: Path, choice: Choice) -> View:
    frame = _frames(folder).get(image.stem)
    if frame is None:
        raise BadRecord("camera missing", f"{folder / 'pose_intrinsic_imu.json'} does not know {image.stem}.")
    mask = folder / "rgb_masks" / f"{image.stem}.png"
    released = choice.as_released and choice.format == "depthlm"
    caps_m = NO_CAPS_M if released else CAPS_M["scannetpp"]
    path = must_exist(folder / "depth" / f"{image.stem}.png", "depth map")
    file = DepthFile(path, MILLIMETRES, masks=(mask,) if mask.exists() else (), caps_m=caps_m)
    return View(
        key=f"{folder.parent.name}/{image.stem}",
        image=cv2.resize(read_rgb(image), RELEASED.size_px, interpolation=cv2.INTER_AREA) if released else image,
        intrinsics=RELEASED if released else _camera(frame, image),
        depth_m=read_depth(file),
        depth_file=file,
        label=MIXED if released else Z,
        caps_m=caps_m,
        scene=folder.parent.name,
        camera="iphone",
        split=choice.split,
        pose=np.array(frame["aligned_pose"], np.float64).reshape(4, 4) if "aligned_pose" in frame else None,
    )


def _camera(frame: dict[str, Any], image: Path) -> Intrinsics:
    k = np.array(frame["intrinsic"], np.float64).reshape(3, 3)
    return Intrinsics(k[0, 0], k[1, 1], k[0, 2], k[1, 2], *image_size(image))


@lru_cache(maxsize=1)
def _frames(folder: Path) -> dict[str, dict[str, Any]]:
    return json.loads(must_exist(folder / "pose_intrinsic_imu.json", "poses").read_text(encoding="utf-8"))


SET = DataSet(
    name="scannetpp",
    title="ScanNet++ (iPhone)",
    layout="[data/]SCENE/iphone/{rgb,depth}/frame_*.{jpg,png} and pose_intrinsic_imu.json.",
    items=items,
    views=views,
    corrections=(
        "z; DepthLM's release labels sqrt(x^2 + y^2 + z^2) with x, y at z = 1, neither z nor range",
        "each frame's own camera; DepthLM's release gives all of them fx = fy = 951.625",
        "images and depth maps are paired by name; DepthLM's release pairs unsorted listings",
        "0.001 to 10 m; DepthLM's release has no cap",
    ),
    caps_m=CAPS_M["scannetpp"],
    depth_scale=MILLIMETRES,
)
