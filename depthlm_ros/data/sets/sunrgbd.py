"""SUN RGB-D without its NYUv2 (nyuv2.py); filled depth, as both releases take it. See sun.py for what is on disk.

What SUN RGB-D and the NYUv2 inside it share: one folder for each image.

On disk: SUNRGBD/SENSOR/.../SCENE/image/*.jpg, depth/*.png (raw), depth_bfx/*.png (filled), intrinsics.txt (3 x 3).
The PNG holds millimetres whose 16 bits are rotated left by three: metres = ((v >> 3) | (v << 13)) / 1000 (read3dPoints
of the data set's toolbox). v / 8000 is the same up to 8.191 m and wrong beyond; v / 10000 is 0.8 times the truth.

NYUv2, as it is inside SUN RGB-D (kv1/NYUdata); raw depth, as in DepthLM's release. See sun.py for what is on disk.

DepthVLM takes the filled depth_bfx; so does --as-released with its format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.depthfile import read_depth
from depthlm_ros.data.records import CAPS_M, RANGE, ROTATED_16, BadRecord, DepthFile, Z
from depthlm_ros.data.sets.folder import must_exist, one_file
from depthlm_ros.data.source_view import Choice, DataSet, Maker, View
from depthlm_ros.image_io import image_size

MILLIMETRES = 1000.0
RELEASED_SCALE = {"depthlm": 10000.0, "depthvlm": 8000.0}
RELEASED_M = (0.005, 25.0)
PICTURES = (".jpg", ".jpeg", ".png")
CORRECTIONS = (
    "the bits of the PNG are rotated back; DepthLM divides by 10000 (0.8 times the truth), DepthVLM by 8000 (wrong "
    "beyond 8.19 m)",
    "z; DepthLM's release labels distance along the ray",
)


def scenes(base: Path) -> list[Path]:
    """Every folder below that holds an image/, by name."""
    return sorted(path.parent for path in base.rglob("image") if path.is_dir())


def _scene_views(scene: Path, key: str, depth: str, caps_m: tuple[float, float], choice: Choice) -> Iterator[Maker]:
    """The one view of a scene. depth: which of its depth folders."""
    yield scene.name, partial(_view, scene, key, depth, caps_m, choice)


def _view(scene: Path, key: str, depth: str, caps_m: tuple[float, float], choice: Choice) -> View:
    image = one_file(scene / "image", *PICTURES)
    released = choice.as_released and choice.format == "depthlm"
    caps_m = RELEASED_M if released else caps_m
    path = one_file(scene / depth, ".png")
    file = DepthFile(path, MILLIMETRES, format=ROTATED_16, caps_m=caps_m)
    if choice.as_released:
        file = DepthFile(path, RELEASED_SCALE[choice.format], caps_m=caps_m)
    return View(
        key=key,
        image=image,
        intrinsics=_camera(scene / "intrinsics.txt", image_size(image)),
        depth_m=read_depth(file),
        depth_file=file,
        label=RANGE if released else Z,
        caps_m=caps_m,
        scene=scene.name,
    )


def _camera(path: Path, size_px: tuple[int, int]) -> Intrinsics:
    k = np.array(must_exist(path, "calibration").read_text(encoding="utf-8").split(), np.float64)
    if k.size != 9:
        raise BadRecord("calibration malformed", f"{path}: {k.size} numbers, expected the 9 of a 3 x 3 matrix.")
    return Intrinsics(k[0], k[4], k[2], k[5], *size_px)


def _sunrgbd_items(root: Path, choice: Choice) -> Sequence[str]:
    """The scenes."""
    found = (path.relative_to(root).as_posix() for path in scenes(root / "SUNRGBD"))
    return [name for name in found if "/NYUdata/" not in name]


def _sunrgbd_views(root: Path, item: str, choice: Choice) -> Iterator[Maker]:
    key = item.removeprefix("SUNRGBD/")
    return _scene_views(root / item, key, "depth_bfx", CAPS_M["sunrgbd"], choice)


SUNRGBD = DataSet(
    name="sunrgbd",
    title="SUN RGB-D",
    layout="SUNRGBD/{kv1,kv2,realsense,xtion}/.../SCENE/{image,depth_bfx}/ and intrinsics.txt.",
    items=_sunrgbd_items,
    views=_sunrgbd_views,
    corrections=(*CORRECTIONS, "0.005 to 8 m, as far as the sensors reach; DepthLM's release takes up to 25 m"),
    caps_m=CAPS_M["sunrgbd"],
)

NYUV2_FOLDER = Path("SUNRGBD") / "kv1" / "NYUdata"


def _nyuv2_items(root: Path, choice: Choice) -> Sequence[str]:
    """The scenes."""
    return [path.relative_to(root).as_posix() for path in scenes(root / NYUV2_FOLDER)]


def _nyuv2_views(root: Path, item: str, choice: Choice) -> Iterator[Maker]:
    filled = choice.as_released and choice.format == "depthvlm"
    return _scene_views(root / item, Path(item).name, "depth_bfx" if filled else "depth", CAPS_M["nyuv2"], choice)


NYUV2 = DataSet(
    name="nyuv2",
    title="NYUv2 (inside SUN RGB-D)",
    layout="SUNRGBD/kv1/NYUdata/NYU*/{image,depth}/ and intrinsics.txt.",
    items=_nyuv2_items,
    views=_nyuv2_views,
    corrections=(*CORRECTIONS, "0.005 to 10 m; DepthLM's release takes up to 25 m"),
    caps_m=CAPS_M["nyuv2"],
)
