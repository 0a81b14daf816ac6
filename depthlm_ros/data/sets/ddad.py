# SPDX-License-Identifier: Apache-2.0
"""DDAD: six cameras and the lidar of each sample; points go through the world by the pose of each sensor.

On disk (TRI's DGP format): ddad.json names the scene files of each split; SCENE/scene_*.json lists samples and their
data, each with its pose (sensor to world); SCENE/calibration/KEY.json holds the cameras; images are in SCENE/rgb/, and
sweeps in SCENE/point_cloud/*.npz (array "data", x y z first).

Splits: train, val (default) and test, which ddad.json calls 0, 1 and 2.

Defects of the release, which --as-released reproduces: of the points in one pixel it keeps the last one, it rounds
pixels down, and it has no limits of depth (DepthLM).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.records import CAPS_M, NO_CAPS_M, BadRecord
from depthlm_ros.data.sets.folder import require_path
from depthlm_ros.data.sets.lidar import invert_rigid, project_to_depth, rigid_transform, transform_points
from depthlm_ros.data.source_view import DataSet, LazyView, ReadOptions, SourceView
from depthlm_ros.errors import UnknownName
from depthlm_ros.file_io import parse_json
from depthlm_ros.image_io import image_size

# A part of the JSON files.
JsonPart: TypeAlias = Mapping[str, Any]
SPLITS = {"train": "0", "val": "1", "test": "2"}
CAMERAS = tuple(f"CAMERA_{n:02d}" for n in (1, 5, 6, 7, 8, 9))
LIDAR = "LIDAR"
INDEX = "ddad.json"


def items(root: Path, options: ReadOptions) -> Sequence[str]:
    """Returns the scene files of a split, by default of "val"."""
    split = options.split or "val"
    if split not in SPLITS:
        raise UnknownName(f"split '{split}' of DDAD is unknown: choose one of {', '.join(SPLITS)}.")
    if not (root / INDEX).is_file():
        return []
    index = parse_json((root / INDEX).read_text(encoding="utf-8"))
    return sorted(index["scene_splits"].get(SPLITS[split], {}).get("filenames", []))


def views(root: Path, item: str, options: ReadOptions) -> Iterator[LazyView]:
    """Yields one view for each camera of each sample of a scene."""
    scene = _read_scene(require_path(root / item, "scene"))
    for sample in scene["samples"]:
        data = {scene["data"][key]["id"]["name"].upper(): scene["data"][key] for key in sample["datum_keys"]}
        stamp = sample["id"]["timestamp"]
        for camera in CAMERAS:
            yield f"{stamp}/{camera}", partial(_load_view, root / item, sample, data, camera, options)


def _load_view(scene: Path, sample: JsonPart, data: JsonPart, camera: str, options: ReadOptions) -> SourceView:
    if camera not in data or LIDAR not in data:
        raise BadRecord("datum missing", f"{scene}: the sample lacks {camera} or {LIDAR}.")
    image, cloud = data[camera]["datum"]["image"], data[LIDAR]["datum"]["point_cloud"]
    path = require_path(scene.parent / image["filename"], "image")
    intrinsics = _intrinsics(scene.parent / "calibration" / f"{sample['calibration_key']}.json", camera, path)
    with np.load(require_path(scene.parent / cloud["filename"], "sweep"), allow_pickle=False) as file:
        points_m = file["data"][:, :3]
    points_m = transform_points(invert_rigid(_pose_transform(image["pose"])) @ _pose_transform(cloud["pose"]), points_m)
    return SourceView(
        key=f"{scene.parent.name}/{path.stem}_{camera}",
        image=path,
        intrinsics=intrinsics,
        depth_m=project_to_depth(points_m, intrinsics, cut=options.as_released, last=options.as_released),
        caps_m=NO_CAPS_M if options.as_released and options.format == "depthlm" else CAPS_M["ddad"],
        scene=scene.parent.name,
        camera=camera,
        split=options.split or "val",
    )


@lru_cache(maxsize=1)
def _read_scene(path: Path) -> JsonPart:
    """Returns {"samples": list of samples, "data": {key: datum}}."""
    scene = parse_json(path.read_text(encoding="utf-8"))
    return {"samples": scene["samples"], "data": {datum["key"]: datum for datum in scene["data"]}}


@lru_cache(maxsize=16)
def _read_calibration(path: Path) -> JsonPart:
    """Returns {camera: its intrinsics}."""
    table = parse_json(require_path(path, "calibration").read_text(encoding="utf-8"))
    return dict(zip((name.upper() for name in table["names"]), table["intrinsics"], strict=True))


def _intrinsics(calibration: Path, camera: str, image: Path) -> Intrinsics:
    k = _read_calibration(calibration)[camera]
    return Intrinsics(k["fx"], k["fy"], k["cx"], k["cy"], *image_size(image))


def _pose_transform(pose: JsonPart) -> np.ndarray:
    rotation, translation = pose["rotation"], pose["translation"]
    return rigid_transform(
        np.array([rotation[q] for q in ("qw", "qx", "qy", "qz")]), [translation[axis] for axis in "xyz"]
    )


SET = DataSet(
    name="ddad",
    title="DDAD",
    layout="ddad.json, SCENE/scene_*.json, SCENE/calibration/, SCENE/rgb/CAMERA_*/, SCENE/point_cloud/LIDAR/*.npz.",
    items=items,
    views=views,
    corrections=(
        "a pixel gets its nearest point; the release (through DGP) keeps the last one written",
        "a point belongs to the pixel whose centre is nearest; the release rounds pixels down",
        "depth is limited to 0.05 to 120 m; DepthLM's release has no limit",
    ),
    caps_m=CAPS_M["ddad"],
)
