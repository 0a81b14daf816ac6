# SPDX-License-Identifier: Apache-2.0
"""ScanNet++: the recordings of the iPhone, with the phone's depth and poses.

On disk, as the data set's own prepare_iphone_data.py leaves it: [data/]SCENE/iphone/rgb/frame_NNNNNN.jpg (1920 x 1440),
depth/frame_NNNNNN.png (256 x 192, millimetres along the optical axis), rgb_masks/frame_NNNNNN.png (0 on a person) and
pose_intrinsic_imu.json (per frame: intrinsic, and aligned_pose, which is camera to world with OpenCV's axes).

Splits: --split NAME uses the scenes that ROOT/splits/NAME.txt names.

Defects of DepthLM's release, which --as-released reproduces: it labels a mixture of z and range, uses one camera for
all frames, and has no limits of depth. Its pairing of images and depth maps from unsorted listings is not reproduced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.depthfile import read_depth
from depthlm_ros.data.records import CAPS_M, MIXED, NO_CAPS_M, BadRecord, DepthFile, Z
from depthlm_ros.data.sets.folder import find_folders_with, list_files, require_path
from depthlm_ros.data.source_view import DataSet, LazyView, ReadOptions, SourceView
from depthlm_ros.file_io import parse_json
from depthlm_ros.image_io import image_size, read_rgb

# Every tenth frame is used.
FRAME_STEP = 10
POSES = "iphone/pose_intrinsic_imu.json"
MILLIMETRES = 1000.0
# The released script uses one camera for all phones, for images that are shrunk to 1280 x 960.
RELEASED = Intrinsics(951.625, 951.625, 640.0, 480.0, 1280, 960)


def items(root: Path, options: ReadOptions) -> Sequence[str]:
    """Returns the scenes, of one split if it is chosen."""
    base = "data" if (root / "data").is_dir() else "."
    scenes = [f"{base}/{name}" if base != "." else name for name in find_folders_with(root / base, POSES)]
    listed = root / "splits" / f"{options.split}.txt"
    if not options.split:
        return scenes
    wanted = set(require_path(listed, "split").read_text(encoding="utf-8").split())
    return [scene for scene in scenes if Path(scene).name in wanted]


def views(root: Path, item: str, options: ReadOptions) -> Iterator[LazyView]:
    """Yields one view for every tenth frame of a scene."""
    folder = (root / item / "iphone").resolve()
    for image in list_files(folder / "rgb", ".jpg", ".png")[::FRAME_STEP]:
        yield image.stem, partial(_load_view, folder, image, options)


def _load_view(folder: Path, image: Path, options: ReadOptions) -> SourceView:
    frame = _read_frames(folder).get(image.stem)
    if frame is None:
        raise BadRecord("camera missing", f"{folder / 'pose_intrinsic_imu.json'} has no frame {image.stem}.")
    mask = folder / "rgb_masks" / f"{image.stem}.png"
    released = options.as_released and options.format == "depthlm"
    caps_m = NO_CAPS_M if released else CAPS_M["scannetpp"]
    path = require_path(folder / "depth" / f"{image.stem}.png", "depth map")
    file = DepthFile(path, MILLIMETRES, masks=(mask,) if mask.exists() else (), caps_m=caps_m)
    return SourceView(
        key=f"{folder.parent.name}/{image.stem}",
        image=cv2.resize(read_rgb(image), RELEASED.size_px, interpolation=cv2.INTER_AREA) if released else image,
        intrinsics=RELEASED if released else _camera(frame, image),
        depth_m=read_depth(file),
        depth_file=file,
        label=MIXED if released else Z,
        caps_m=caps_m,
        scene=folder.parent.name,
        camera="iphone",
        split=options.split,
        pose=np.array(frame["aligned_pose"], np.float64).reshape(4, 4) if "aligned_pose" in frame else None,
    )


def _camera(frame: Mapping[str, list], image: Path) -> Intrinsics:
    k = np.array(frame["intrinsic"], np.float64).reshape(3, 3)
    return Intrinsics(k[0, 0], k[1, 1], k[0, 2], k[1, 2], *image_size(image))


@lru_cache(maxsize=1)
def _read_frames(folder: Path) -> dict[str, dict[str, list]]:
    """Returns {frame: its entries in the file of poses}."""
    frames: dict[str, dict[str, list]] = parse_json(
        require_path(folder / "pose_intrinsic_imu.json", "poses").read_text(encoding="utf-8")
    )
    return frames


SET = DataSet(
    name="scannetpp",
    title="ScanNet++ (iPhone)",
    layout="[data/]SCENE/iphone/{rgb,depth}/frame_*.{jpg,png} and pose_intrinsic_imu.json.",
    items=items,
    views=views,
    corrections=(
        "labels are z; DepthLM's release labels sqrt(x^2 + y^2 + z^2) with x, y at z = 1, neither z nor range",
        "each frame has its own camera; DepthLM's release gives all of them fx = fy = 951.625",
        "images and depth maps are paired by name; DepthLM's release pairs unsorted listings",
        "depth is limited to 0.001 to 10 m; DepthLM's release has no limit",
    ),
    caps_m=CAPS_M["scannetpp"],
    depth_scale=MILLIMETRES,
)
