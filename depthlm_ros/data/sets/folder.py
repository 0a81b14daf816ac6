"""A folder of one's own: images with aligned depth, one camera for all, and poses where they are known.

On disk: [SCENE/]rgb/NAME.{png,jpg}, depth/NAME.{png,npy} (PNG: millimetres; NPY: metres), along the optical axis,
intrinsics.txt (3 x 3, of the rgb images), pose/NAME.txt (4 x 4, camera to world, x right, y down, z forward).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.caps import NO_CAPS_M
from depthlm_ros.data.depthfile import read_depth
from depthlm_ros.data.problems import BadRecord
from depthlm_ros.data.records import DepthFile
from depthlm_ros.data.sets.folders import files_in, folders_with, must_exist
from depthlm_ros.data.view import Choice, DataSet, Maker, View
from depthlm_ros.image_io import image_size

MILLIMETRES = 1000.0


def items(root: Path, choice: Choice) -> Sequence[str]:
    """The scenes: ROOT itself, or its folders."""
    return folders_with(root, "intrinsics.txt", choice.split)


def views(root: Path, item: str, choice: Choice) -> Iterator[Maker]:
    scene = (root / item).resolve()
    for image in files_in(scene / "rgb", ".png", ".jpg", ".jpeg"):
        yield image.stem, partial(_view, scene, image, choice)


def _view(scene: Path, image: Path, choice: Choice) -> View:
    depth = next((path for path in files_in(scene / "depth", ".png", ".npy") if path.stem == image.stem), None)
    if depth is None:
        raise BadRecord("depth map missing", f"{scene / 'depth'} holds no depth map named {image.stem}.")
    file = DepthFile(depth, MILLIMETRES if depth.suffix.lower() == ".png" else 1.0)
    pose = scene / "pose" / f"{image.stem}.txt"
    return View(
        key=f"{scene.name}/{image.stem}",
        image=image,
        intrinsics=_camera(scene / "intrinsics.txt", image_size(image)),
        depth_m=read_depth(file),
        depth_file=file,
        scene=scene.name,
        split=choice.split,
        pose=_matrix(pose, 4) if pose.exists() else None,
    )


def _camera(path: Path, size_px: tuple[int, int]) -> Intrinsics:
    k = _matrix(path, 3)
    return Intrinsics(k[0, 0], k[1, 1], k[0, 2], k[1, 2], *size_px)


def _matrix(path: Path, rows: int) -> np.ndarray:
    values = np.array(must_exist(path, "matrix").read_text(encoding="utf-8").split(), np.float64)
    if values.size != rows * rows:
        raise BadRecord("matrix malformed", f"{path}: {values.size} numbers, expected {rows} x {rows}.")
    return values.reshape(rows, rows)


SET = DataSet(
    name="folder",
    title="a folder of images with depth",
    layout="[SCENE/]rgb/, depth/, intrinsics.txt and, for pairs, pose/.",
    items=items,
    views=views,
    corrections=(),
    caps_m=NO_CAPS_M,
    depth_scale=MILLIMETRES,
)
