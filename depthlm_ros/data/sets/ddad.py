"""DDAD: six cameras and the lidar of each sample, moved over the world from each one's own pose.

On disk (TRI's DGP format): ddad.json names the scenes of each split (0 train, 1 val, 2 test); SCENE/scene_*.json lists
samples and their data, each with its pose (sensor to world); SCENE/calibration/KEY.json the cameras; SCENE/rgb/,
SCENE/point_cloud/*.npz (array "data", x y z first).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.records import CAPS_M, NO_CAPS_M, BadRecord
from depthlm_ros.data.sets.folder import must_exist
from depthlm_ros.data.sets.lidar import depth_image, inverse, moved, rigid
from depthlm_ros.data.source_view import Choice, DataSet, Maker, View
from depthlm_ros.errors import UnknownName
from depthlm_ros.image_io import image_size

SPLITS = {"train": "0", "val": "1", "test": "2"}
CAMERAS = tuple(f"CAMERA_{n:02d}" for n in (1, 5, 6, 7, 8, 9))
LIDAR = "LIDAR"
INDEX = "ddad.json"


def items(root: Path, choice: Choice) -> Sequence[str]:
    """The scene files of a split, "val" where none is chosen."""
    split = choice.split or "val"
    if split not in SPLITS:
        raise UnknownName(f"split '{split}' of DDAD is unknown: choose one of {', '.join(SPLITS)}.")
    if not (root / INDEX).is_file():
        return []
    index = json.loads((root / INDEX).read_text(encoding="utf-8"))
    return sorted(index["scene_splits"].get(SPLITS[split], {}).get("filenames", []))


def views(root: Path, item: str, choice: Choice) -> Iterator[Maker]:
    """One view for each camera of each sample of a scene."""
    scene = _scene(must_exist(root / item, "scene"))
    for sample in scene["samples"]:
        found = {scene["data"][key]["id"]["name"].upper(): scene["data"][key] for key in sample["datum_keys"]}
        stamp = sample["id"]["timestamp"]
        for camera in CAMERAS:
            yield f"{stamp}/{camera}", partial(_view, root / item, sample, found, camera, choice)


def _view(scene: Path, sample: Mapping[str, Any], found: Mapping[str, Any], camera: str, choice: Choice) -> View:
    if camera not in found or LIDAR not in found:
        raise BadRecord("datum missing", f"{scene}: the sample lacks {camera} or {LIDAR}.")
    image, cloud = found[camera]["datum"]["image"], found[LIDAR]["datum"]["point_cloud"]
    path = must_exist(scene.parent / image["filename"], "image")
    intrinsics = _intrinsics(scene.parent / "calibration" / f"{sample['calibration_key']}.json", camera, path)
    with np.load(must_exist(scene.parent / cloud["filename"], "sweep"), allow_pickle=False) as file:
        points_m = file["data"][:, :3]
    points_m = moved(inverse(_rigid(image["pose"])) @ _rigid(cloud["pose"]), points_m)
    return View(
        key=f"{scene.parent.name}/{path.stem}_{camera}",
        image=path,
        intrinsics=intrinsics,
        depth_m=depth_image(points_m, intrinsics, cut=choice.as_released, last=choice.as_released),
        caps_m=NO_CAPS_M if choice.as_released and choice.format == "depthlm" else CAPS_M["ddad"],
        scene=scene.parent.name,
        camera=camera,
        split=choice.split or "val",
    )


@lru_cache(maxsize=1)
def _scene(path: Path) -> dict[str, Any]:
    scene = json.loads(path.read_text(encoding="utf-8"))
    return {"samples": scene["samples"], "data": {datum["key"]: datum for datum in scene["data"]}}


@lru_cache(maxsize=16)
def _calibration(path: Path) -> dict[str, Any]:
    table = json.loads(must_exist(path, "calibration").read_text(encoding="utf-8"))
    return dict(zip((name.upper() for name in table["names"]), table["intrinsics"], strict=True))


def _intrinsics(calibration: Path, camera: str, image: Path) -> Intrinsics:
    k = _calibration(calibration)[camera]
    return Intrinsics(k["fx"], k["fy"], k["cx"], k["cy"], *image_size(image))


def _rigid(pose: Mapping[str, Any]) -> np.ndarray:
    rotation, translation = pose["rotation"], pose["translation"]
    return rigid(np.array([rotation[q] for q in ("qw", "qx", "qy", "qz")]), [translation[axis] for axis in "xyz"])


SET = DataSet(
    name="ddad",
    title="DDAD",
    layout="ddad.json, SCENE/scene_*.json, SCENE/calibration/, SCENE/rgb/CAMERA_*/, SCENE/point_cloud/LIDAR/*.npz.",
    items=items,
    views=views,
    corrections=(
        "the nearest point of a pixel; the release (through DGP) keeps the last one written",
        "the pixel whose centre is nearest; the release cuts to whole pixels",
        "0.05 to 120 m; DepthLM's release has no cap",
    ),
    caps_m=CAPS_M["ddad"],
)
