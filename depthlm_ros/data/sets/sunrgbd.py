# SPDX-License-Identifier: Apache-2.0
"""SUN RGB-D without the NYUv2 inside it (SUNRGBD), and that NYUv2 (NYUV2).

On disk: SUNRGBD/SENSOR/.../SCENE/image/*.jpg, depth/*.png (raw), depth_bfx/*.png (filled), intrinsics.txt (3 x 3).
NYUv2 is in SUNRGBD/kv1/NYUdata. Neither has splits. A PNG holds millimetres whose 16 bits are rotated left by three:
metres = ((v >> 3) | (v << 13)) / 1000 (read3dPoints of the data set's toolbox).

Defects of the releases, which --as-released reproduces: DepthLM divides the PNG values by 10000, which gives 0.8 times
the true depth, and labels distance along the ray. DepthVLM divides by 8000, which is right up to 8.191 m and wrong
beyond. SUN RGB-D uses the filled depth, as both releases do. NYUv2 uses the raw depth, as DepthLM's release does;
--as-released with DepthVLM's format uses the filled depth, as DepthVLM does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.depthfile import read_depth
from depthlm_ros.data.records import CAPS_M, RANGE, ROTATED_16, BadRecord, DepthFile, Z
from depthlm_ros.data.sets.folder import list_files, require_path
from depthlm_ros.data.source_view import DataSet, LazyView, ReadOptions, SourceView
from depthlm_ros.image_io import image_size

MILLIMETRES = 1000.0
RELEASED_SCALE = {"depthlm": 10000.0, "depthvlm": 8000.0}
RELEASED_M = (0.005, 25.0)
PICTURES = (".jpg", ".jpeg", ".png")
CORRECTIONS = (
    "the bits of the PNG are rotated back; DepthLM divides by 10000 (0.8 times the truth), DepthVLM by 8000 (wrong "
    "beyond 8.19 m)",
    "labels are z; DepthLM's release labels distance along the ray",
)


def find_one_file(folder: Path, *suffixes: str) -> Path:
    """Returns the first file with one of these suffixes. Raises BadRecord if there is none."""
    found = list_files(folder, *suffixes)
    if not found:
        raise BadRecord("file missing", f"{folder} contains no file ending in {' or '.join(suffixes)}.")
    return found[0]


def find_scenes(base: Path) -> list[Path]:
    """Returns all folders below `base` that contain a folder image/, sorted."""
    return sorted(path.parent for path in base.rglob("image") if path.is_dir())


def _scene_views(
    scene: Path, key: str, depth_folder: str, caps_m: tuple[float, float], options: ReadOptions
) -> Iterator[LazyView]:
    """Yields the one view of a scene. depth_folder: which of its folders of depth maps is read."""
    yield scene.name, partial(_load_view, scene, key, depth_folder, caps_m, options)


def _load_view(
    scene: Path, key: str, depth_folder: str, caps_m: tuple[float, float], options: ReadOptions
) -> SourceView:
    image = find_one_file(scene / "image", *PICTURES)
    released = options.as_released and options.format == "depthlm"
    caps_m = RELEASED_M if released else caps_m
    path = find_one_file(scene / depth_folder, ".png")
    file = DepthFile(path, MILLIMETRES, format=ROTATED_16, caps_m=caps_m)
    if options.as_released:
        file = DepthFile(path, RELEASED_SCALE[options.format], caps_m=caps_m)
    return SourceView(
        key=key,
        image=image,
        intrinsics=_read_camera(scene / "intrinsics.txt", image_size(image)),
        depth_m=read_depth(file),
        depth_file=file,
        label=RANGE if released else Z,
        caps_m=caps_m,
        scene=scene.name,
    )


def _read_camera(path: Path, size_px: tuple[int, int]) -> Intrinsics:
    k = np.array(require_path(path, "calibration").read_text(encoding="utf-8").split(), np.float64)
    if k.size != 9:
        raise BadRecord(
            "calibration malformed", f"{path}: the file holds {k.size} numbers, expected the 9 of a 3 x 3 matrix."
        )
    return Intrinsics(k[0], k[4], k[2], k[5], *size_px)


def _sunrgbd_items(root: Path, options: ReadOptions) -> Sequence[str]:
    """Returns the scenes."""
    found = (path.relative_to(root).as_posix() for path in find_scenes(root / "SUNRGBD"))
    return [name for name in found if "/NYUdata/" not in name]


def _sunrgbd_views(root: Path, item: str, options: ReadOptions) -> Iterator[LazyView]:
    key = item.removeprefix("SUNRGBD/")
    return _scene_views(root / item, key, "depth_bfx", CAPS_M["sunrgbd"], options)


SUNRGBD = DataSet(
    name="sunrgbd",
    title="SUN RGB-D",
    layout="SUNRGBD/{kv1,kv2,realsense,xtion}/.../SCENE/{image,depth_bfx}/ and intrinsics.txt.",
    items=_sunrgbd_items,
    views=_sunrgbd_views,
    corrections=(
        *CORRECTIONS,
        "depth is limited to 0.005 to 8 m, the reach of the sensors; DepthLM's release goes up to 25 m",
    ),
    caps_m=CAPS_M["sunrgbd"],
)

NYUV2_FOLDER = Path("SUNRGBD") / "kv1" / "NYUdata"


def _nyuv2_items(root: Path, options: ReadOptions) -> Sequence[str]:
    """Returns the scenes."""
    return [path.relative_to(root).as_posix() for path in find_scenes(root / NYUV2_FOLDER)]


def _nyuv2_views(root: Path, item: str, options: ReadOptions) -> Iterator[LazyView]:
    filled = options.as_released and options.format == "depthvlm"
    return _scene_views(root / item, Path(item).name, "depth_bfx" if filled else "depth", CAPS_M["nyuv2"], options)


NYUV2 = DataSet(
    name="nyuv2",
    title="NYUv2 (inside SUN RGB-D)",
    layout="SUNRGBD/kv1/NYUdata/NYU*/{image,depth}/ and intrinsics.txt.",
    items=_nyuv2_items,
    views=_nyuv2_views,
    corrections=(*CORRECTIONS, "depth is limited to 0.005 to 10 m; DepthLM's release goes up to 25 m"),
    caps_m=CAPS_M["nyuv2"],
)
