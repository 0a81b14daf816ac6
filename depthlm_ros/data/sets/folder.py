"""A folder of one's own: images with aligned depth, one camera for all, and poses where they are known.

On disk: [SCENE/]rgb/NAME.{png,jpg}, depth/NAME.{png,npy} (PNG: millimetres; NPY: metres), along the optical axis,
intrinsics.txt (3 x 3, of the rgb images), pose/NAME.txt (4 x 4, camera to world, x right, y down, z forward).

Finding things in the folders of data sets, always in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.depthfile import read_depth
from depthlm_ros.data.records import NO_CAPS_M, BadRecord, DepthFile
from depthlm_ros.data.source_view import Choice, DataSet, Maker, View
from depthlm_ros.image_io import image_size


def folders_with(root: Path, inner: str, split: str = "") -> list[str]:
    """Folders that hold this file or folder, relative to root: root itself ("."), its folders, or its splits' folders.

    split: only what lies in the folder of this name, if it is given.
    """
    if not split and (root / inner).exists():
        return ["."]
    starts = [root / split] if split else [root, *_folders(root)]
    found = {folder for start in starts for folder in _folders(start) if (folder / inner).exists()}
    return sorted(folder.relative_to(root).as_posix() for folder in found)


def files_in(folder: Path, *suffixes: str) -> list[Path]:
    """Files with one of these suffixes (lower case, with dot), by name; none if the folder is not there."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)


def one_file(folder: Path, *suffixes: str) -> Path:
    """The first file with one of these suffixes. Raises BadRecord if there is none."""
    found = files_in(folder, *suffixes)
    if not found:
        raise BadRecord("file missing", f"{folder} holds no file ending in {' or '.join(suffixes)}.")
    return found[0]


def must_exist(path: Path, kind: str) -> Path:
    """The path. Raises BadRecord if it does not exist."""
    if not path.exists():
        raise BadRecord(f"{kind} missing", f"{path} does not exist.")
    return path


def in_split(names: Iterable[str], split: str, splits: dict[str, str]) -> list[str]:
    """Those names that belong to a split, all if split is ""."""
    return [name for name in names if not split or splits.get(name) == split]


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


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
