# SPDX-License-Identifier: Apache-2.0
"""A folder of your own images with aligned depth, one camera for all of them, and their poses where they are known.

On disk: [SCENE/]rgb/NAME.{png,jpg}; depth/NAME.{png,npy}, along the optical axis (PNG: 16-bit millimetres; NPY:
metres); intrinsics.txt (3 x 3, of the rgb images); pose/NAME.txt (4 x 4, camera to world, x right, y down, z forward).
There are no released labels, and so no corrections.

This module also has the functions that find files in the folders of all data sets, always in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.depthfile import BadDepthMap, read_depth
from depthlm_ros.data.records import NO_CAPS_M, BadRecord, DepthFile
from depthlm_ros.data.source_view import DataSet, LazyView, ReadOptions, SourceView
from depthlm_ros.image_io import image_size

MILLIMETRES = 1000.0
# No view has its middle depth beyond this, metres; that of millimetres is beyond it, except very near.
FARTHEST_MIDDLE_M = 300.0
# What stands between the numbers of a matrix that was printed by numpy, Matlab or a spreadsheet, beside spaces.
BETWEEN_NUMBERS = str.maketrans(",;[]()\t", " " * 7)


def find_folders_with(root: Path, inner: str, split: str = "") -> list[str]:
    """Returns the folders that hold this file or folder, as sorted names relative to root.

    These are root itself ("."), the folders in it, or the folders of its splits. split: if given, only folders in the
    folder of this name.
    """
    if not split and (root / inner).exists():
        return ["."]
    starts = [root / split] if split else [root, *_list_folders(root)]
    found = {folder for start in starts for folder in _list_folders(start) if (folder / inner).exists()}
    return sorted(folder.relative_to(root).as_posix() for folder in found)


def list_files(folder: Path, *suffixes: str) -> list[Path]:
    """Returns the files with one of these suffixes (lower case, with dot), sorted; none without the folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)


def require_path(path: Path, kind: str) -> Path:
    """Returns the path. Raises BadRecord if it does not exist."""
    if not path.exists():
        raise BadRecord(f"{kind} missing", f"{path} does not exist.")
    return path


def _list_folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def items(root: Path, options: ReadOptions) -> Sequence[str]:
    """Returns the scenes: ROOT itself, or its folders."""
    return find_folders_with(root, "intrinsics.txt", options.split)


def views(root: Path, item: str, options: ReadOptions) -> Iterator[LazyView]:
    """Yields one view for each image of a scene."""
    scene = (root / item).resolve()
    for image in list_files(scene / "rgb", ".png", ".jpg", ".jpeg"):
        yield image.stem, partial(_load_view, scene, image, options)


def _load_view(scene: Path, image: Path, options: ReadOptions) -> SourceView:
    depth = next((path for path in list_files(scene / "depth", ".png", ".npy") if path.stem == image.stem), None)
    if depth is None:
        raise BadRecord("depth map missing", f"{scene / 'depth'} contains no depth map named {image.stem}.")
    file = DepthFile(depth, MILLIMETRES if depth.suffix.lower() == ".png" else 1.0)
    pose = scene / "pose" / f"{image.stem}.txt"
    return SourceView(
        key=f"{scene.name}/{image.stem}",
        image=image,
        intrinsics=_read_camera(scene / "intrinsics.txt", image_size(image)),
        depth_m=_read_metres(file),
        depth_file=file,
        scene=scene.name,
        split=options.split,
        pose=_read_matrix(pose, 4) if pose.exists() else None,
    )


def _read_metres(file: DepthFile) -> np.ndarray:
    """Returns float32 (h, w), metres. Raises BadDepthMap for a .npy file whose numbers can only be millimetres."""
    depth_m = read_depth(file)
    known_m = depth_m[np.isfinite(depth_m)]
    middle_m = float(np.median(known_m)) if known_m.size else 0.0
    if file.scale == 1.0 and middle_m > FARTHEST_MIDDLE_M:
        raise BadDepthMap(
            f"{file.path}: half of its depths are above {middle_m:.0f} m: a .npy file holds metres; divide millimetres "
            "by 1000, or write them as a 16-bit PNG."
        )
    return depth_m


def _read_camera(path: Path, size_px: tuple[int, int]) -> Intrinsics:
    k = _read_matrix(path, 3)
    return Intrinsics(k[0, 0], k[1, 1], k[0, 2], k[1, 2], *size_px)


def _read_matrix(path: Path, rows: int) -> np.ndarray:
    text = require_path(path, "matrix").read_text(encoding="utf-8", errors="replace")
    try:
        values = np.array(text.translate(BETWEEN_NUMBERS).split(), np.float64)
    except ValueError as exc:
        raise BadRecord("matrix malformed", f"{path}: expected {rows} x {rows} numbers ({exc}).") from exc
    if values.size != rows * rows:
        raise BadRecord("matrix malformed", f"{path}: the file holds {values.size} numbers, expected {rows} x {rows}.")
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
