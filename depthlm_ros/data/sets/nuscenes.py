"""nuScenes: six cameras and the top lidar of each key frame, each moved to the moment of the other.

On disk: v1.0-*/TABLE.json (plain lists of objects), samples/CAM_*/*.jpg, samples/LIDAR_TOP/*.pcd.bin (float32, five a
point, x y z first). Chain: lidar -> vehicle then -> world -> vehicle when the image was taken -> camera.

Splits: "train" (default) is v1.0-trainval without the ten scenes of v1.0-mini, "eval" is v1.0-mini, which is what the
paper evaluated (the authors in issue 17 of DepthLM's repository; the released script takes the end of trainval).
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

TABLES = ("scene", "sample", "sample_data", "calibrated_sensor", "ego_pose", "sensor")
CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT")
LIDAR = "LIDAR_TOP"
# The ten scenes of v1.0-mini, all of which are in v1.0-trainval too.
MINI = frozenset(f"scene-{n:04d}" for n in (61, 103, 553, 655, 757, 796, 916, 1077, 1094, 1100))
# The released evaluation script takes this share of all samples, the last ones.
RELEASED_EVAL = 0.05


def items(root: Path, choice: Choice) -> Sequence[str]:
    """The scenes of a split, in the order of the table."""
    tables = _tables(_version(root, choice))
    names = [scene["name"] for scene in tables["scene"].values()]
    if choice.split == "eval":
        return names if not choice.as_released else [name for name in names if _released_eval(tables, name)]
    return [name for name in names if name not in MINI]


def views(root: Path, item: str, choice: Choice) -> Iterator[Maker]:
    """One view for each camera of each key frame of a scene."""
    folder = _version(root, choice)
    tables = _tables(folder)
    token = next(s["token"] for s in tables["scene"].values() if s["name"] == item)
    samples = [s for s in tables["sample"].values() if s["scene_token"] == token]
    if choice.as_released and choice.split == "eval":
        samples = _released_eval(tables, item)
    for sample in sorted(samples, key=lambda sample: sample["timestamp"]):
        for camera in CAMERAS:
            yield f"{sample['timestamp']}/{camera}", partial(_view, root, folder, item, sample, camera, choice)


def _view(root: Path, folder: Path, scene: str, sample: Mapping[str, Any], camera: str, choice: Choice) -> View:
    tables, shots = _tables(folder), _key_frames(folder).get(sample["token"], {})
    if camera not in shots or LIDAR not in shots:
        raise BadRecord("key frame missing", f"sample {sample['token']} has no key frame of {camera} and {LIDAR}.")
    image, sweep = shots[camera], shots[LIDAR]
    mount = tables["calibrated_sensor"][image["calibrated_sensor_token"]]
    k = np.array(mount["camera_intrinsic"], np.float64)
    intrinsics = Intrinsics(k[0, 0], k[1, 1], k[0, 2], k[1, 2], int(image["width"]), int(image["height"]))
    points_m = moved(_camera_from_lidar(tables, image, sweep, choice.as_released), _points_m(root / sweep["filename"]))
    return View(
        key=f"{scene}/{sample['timestamp']}_{camera}",
        image=must_exist(root / image["filename"], "image"),
        intrinsics=intrinsics,
        depth_m=depth_image(points_m, intrinsics, cut=choice.as_released),
        caps_m=NO_CAPS_M if choice.as_released and choice.format == "depthlm" else CAPS_M["nuscenes"],
        scene=scene,
        camera=camera,
        split=choice.split or "train",
    )


def _camera_from_lidar(
    tables: Mapping[str, Any], image: Mapping[str, Any], sweep: Mapping[str, Any], as_released: bool
) -> np.ndarray:
    """(4, 4); as released the vehicle is taken to stand still between the two."""
    ego_from_lidar = _rigid(tables["calibrated_sensor"][sweep["calibrated_sensor_token"]])
    ego_from_camera = _rigid(tables["calibrated_sensor"][image["calibrated_sensor_token"]])
    if as_released:
        return inverse(ego_from_camera) @ ego_from_lidar
    world_from_then = _rigid(tables["ego_pose"][sweep["ego_pose_token"]])
    world_from_now = _rigid(tables["ego_pose"][image["ego_pose_token"]])
    return inverse(world_from_now @ ego_from_camera) @ world_from_then @ ego_from_lidar


def _rigid(row: Mapping[str, Any]) -> np.ndarray:
    return rigid(np.array(row["rotation"]), np.array(row["translation"]))


def _points_m(path: Path) -> np.ndarray:
    values = np.fromfile(must_exist(path, "sweep"), "<f4")
    if values.size % 5:
        raise BadRecord("sweep malformed", f"{path}: {values.size} numbers are no multiple of five.")
    return values.reshape(-1, 5)[:, :3]


def _version(root: Path, choice: Choice) -> Path:
    if choice.split not in ("", "train", "eval"):
        raise UnknownName(f"split '{choice.split}' of nuScenes is unknown: choose train or eval.")
    mini = choice.split == "eval" and not choice.as_released
    return root / ("v1.0-mini" if mini else "v1.0-trainval")


@lru_cache(maxsize=1)
def _tables(folder: Path) -> dict[str, dict[str, Any]]:
    """Table -> token -> row; empty if the folder is not there.

    Kept by each worker. Of trainval's millions of rows only those of the key frames and channels that are used are.
    """
    if not folder.is_dir():
        return {name: {} for name in TABLES}
    small = ("scene", "sample", "sensor", "calibrated_sensor")
    tables = {name: {row["token"]: row for row in _rows(folder / f"{name}.json")} for name in small}
    channels = {row["token"] for row in tables["sensor"].values() if row["channel"] in (LIDAR, *CAMERAS)}
    mounts = {token for token, row in tables["calibrated_sensor"].items() if row["sensor_token"] in channels}
    shots = (row for row in _rows(folder / "sample_data.json") if row["is_key_frame"])
    tables["sample_data"] = {row["token"]: row for row in shots if row["calibrated_sensor_token"] in mounts}
    poses = {row["ego_pose_token"] for row in tables["sample_data"].values()}
    tables["ego_pose"] = {row["token"]: row for row in _rows(folder / "ego_pose.json") if row["token"] in poses}
    return tables


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON list one by one: the list as a whole would take several times the file's gigabyte."""
    text = must_exist(path, "table").read_text(encoding="utf-8")
    decoder = json.JSONDecoder()
    place = text.find("{")
    while place >= 0:
        row, end = decoder.raw_decode(text, place)
        yield row
        place = text.find("{", end)


@lru_cache(maxsize=1)
def _key_frames(folder: Path) -> dict[str, dict[str, Any]]:
    """Sample -> channel -> its key frame."""
    tables = _tables(folder)
    frames: dict[str, dict[str, Any]] = {}
    for row in tables["sample_data"].values():
        mount = tables["calibrated_sensor"][row["calibrated_sensor_token"]]
        channel = tables["sensor"][mount["sensor_token"]]["channel"]
        frames.setdefault(row["sample_token"], {})[channel] = row
    return frames


def _released_eval(tables: Mapping[str, Any], scene_name: str) -> list[Any]:
    """The samples of a scene that are among the last five hundredths of the table."""
    samples = list(tables["sample"].values())
    first = len(samples) - int(len(samples) * RELEASED_EVAL)
    token = next(s["token"] for s in tables["scene"].values() if s["name"] == scene_name)
    return [sample for sample in samples[first:] if sample["scene_token"] == token]


SET = DataSet(
    name="nuscenes",
    title="nuScenes",
    layout="v1.0-trainval/ or, with --split eval, v1.0-mini/ (tables), samples/CAM_*/*.jpg, samples/LIDAR_TOP/*.bin.",
    items=items,
    views=views,
    corrections=(
        "the vehicle's motion between sweep and image is taken out; the release leaves it in",
        "the pixel whose centre is nearest; the release cuts to whole pixels",
        "eval is v1.0-mini, as the paper evaluated; the released script takes the last 5 % of trainval",
        "0.05 to 80 m; DepthLM's release has no cap",
    ),
    caps_m=CAPS_M["nuscenes"],
)
