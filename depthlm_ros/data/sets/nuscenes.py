# SPDX-License-Identifier: Apache-2.0
"""nuScenes: six cameras and the top lidar of each key frame, with points corrected for the vehicle's motion.

On disk: v1.0-*/TABLE.json (lists of objects), samples/CAM_*/*.jpg, samples/LIDAR_TOP/*.pcd.bin (float32, five numbers
per point, x y z first). Points go from the lidar to the vehicle at the time of the sweep, to the world, to the vehicle
at the time of the image, to the camera.

Splits: "train" (default) is v1.0-trainval without the ten scenes of v1.0-mini. "eval" is v1.0-mini, which the paper
evaluated (the authors in issue 17 of DepthLM's repository).

Defects of the release, which --as-released reproduces: it ignores the vehicle's motion, rounds pixels down, evaluates
the last 5 % of trainval instead of v1.0-mini, and has no limits of depth (DepthLM).
"""

from __future__ import annotations

import json
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

# A row of a table: an object of its JSON list.
Row: TypeAlias = dict[str, Any]
TABLES = ("scene", "sample", "sample_data", "calibrated_sensor", "ego_pose", "sensor")
CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT")
LIDAR = "LIDAR_TOP"
# The ten scenes of v1.0-mini, which are also in v1.0-trainval.
MINI = frozenset(f"scene-{n:04d}" for n in (61, 103, 553, 655, 757, 796, 916, 1077, 1094, 1100))
# The released evaluation script uses this last share of all samples.
RELEASED_EVAL_SHARE = 0.05


def items(root: Path, options: ReadOptions) -> Sequence[str]:
    """Returns the scenes of a split, in the order of the table."""
    tables = _read_tables(_version_folder(root, options))
    names = [scene["name"] for scene in tables["scene"].values()]
    if options.split == "eval":
        return names if not options.as_released else [name for name in names if _released_eval_samples(tables, name)]
    return [name for name in names if name not in MINI]


def views(root: Path, item: str, options: ReadOptions) -> Iterator[LazyView]:
    """Yields one view for each camera of each key frame of a scene."""
    folder = _version_folder(root, options)
    tables = _read_tables(folder)
    token = next(s["token"] for s in tables["scene"].values() if s["name"] == item)
    samples = [s for s in tables["sample"].values() if s["scene_token"] == token]
    if options.as_released and options.split == "eval":
        samples = _released_eval_samples(tables, item)
    for sample in sorted(samples, key=lambda sample: sample["timestamp"]):
        for camera in CAMERAS:
            yield f"{sample['timestamp']}/{camera}", partial(_load_view, root, folder, item, sample, camera, options)


def _load_view(root: Path, folder: Path, scene: str, sample: Row, camera: str, options: ReadOptions) -> SourceView:
    tables, key_frames = _read_tables(folder), _find_key_frames(folder).get(sample["token"], {})
    if camera not in key_frames or LIDAR not in key_frames:
        raise BadRecord("key frame missing", f"sample {sample['token']} has no key frame of {camera} and {LIDAR}.")
    image, sweep = key_frames[camera], key_frames[LIDAR]
    mount = tables["calibrated_sensor"][image["calibrated_sensor_token"]]
    k = np.array(mount["camera_intrinsic"], np.float64)
    intrinsics = Intrinsics(k[0, 0], k[1, 1], k[0, 2], k[1, 2], int(image["width"]), int(image["height"]))
    points_m = transform_points(
        _camera_from_lidar(tables, image, sweep, options.as_released), _read_sweep_m(root / sweep["filename"])
    )
    return SourceView(
        key=f"{scene}/{sample['timestamp']}_{camera}",
        image=require_path(root / image["filename"], "image"),
        intrinsics=intrinsics,
        depth_m=project_to_depth(points_m, intrinsics, cut=options.as_released),
        caps_m=NO_CAPS_M if options.as_released and options.format == "depthlm" else CAPS_M["nuscenes"],
        scene=scene,
        camera=camera,
        split=options.split or "train",
    )


def _camera_from_lidar(
    tables: Mapping[str, Mapping[str, Row]], image: Row, sweep: Row, as_released: bool
) -> np.ndarray:
    """Returns float64 (4, 4). The release assumes that the vehicle stands still between sweep and image."""
    ego_from_lidar = _row_transform(tables["calibrated_sensor"][sweep["calibrated_sensor_token"]])
    ego_from_camera = _row_transform(tables["calibrated_sensor"][image["calibrated_sensor_token"]])
    if as_released:
        return invert_rigid(ego_from_camera) @ ego_from_lidar
    world_from_ego_at_sweep = _row_transform(tables["ego_pose"][sweep["ego_pose_token"]])
    world_from_ego_at_image = _row_transform(tables["ego_pose"][image["ego_pose_token"]])
    return invert_rigid(world_from_ego_at_image @ ego_from_camera) @ world_from_ego_at_sweep @ ego_from_lidar


def _row_transform(row: Row) -> np.ndarray:
    return rigid_transform(np.array(row["rotation"]), np.array(row["translation"]))


def _read_sweep_m(path: Path) -> np.ndarray:
    values = np.fromfile(require_path(path, "sweep"), "<f4")
    if values.size % 5:
        raise BadRecord("sweep malformed", f"{path}: {values.size} numbers, which is not a multiple of five.")
    return values.reshape(-1, 5)[:, :3]


def _version_folder(root: Path, options: ReadOptions) -> Path:
    if options.split not in ("", "train", "eval"):
        raise UnknownName(f"split '{options.split}' of nuScenes is unknown: choose train or eval.")
    mini = options.split == "eval" and not options.as_released
    return root / ("v1.0-mini" if mini else "v1.0-trainval")


@lru_cache(maxsize=1)
def _read_tables(folder: Path) -> dict[str, dict[str, Row]]:
    """Returns {table: {token: row}}, with empty tables if the folder does not exist.

    Each worker keeps them in memory. Of the millions of rows of trainval only those of the key frames and channels that
    are used are kept.
    """
    if not folder.is_dir():
        return {name: {} for name in TABLES}
    small = ("scene", "sample", "sensor", "calibrated_sensor")
    tables = {name: {row["token"]: row for row in _iter_rows(folder / f"{name}.json")} for name in small}
    channels = {row["token"] for row in tables["sensor"].values() if row["channel"] in (LIDAR, *CAMERAS)}
    mounts = {token for token, row in tables["calibrated_sensor"].items() if row["sensor_token"] in channels}
    key_frames = (row for row in _iter_rows(folder / "sample_data.json") if row["is_key_frame"])
    tables["sample_data"] = {row["token"]: row for row in key_frames if row["calibrated_sensor_token"] in mounts}
    poses = {row["ego_pose_token"] for row in tables["sample_data"].values()}
    tables["ego_pose"] = {row["token"]: row for row in _iter_rows(folder / "ego_pose.json") if row["token"] in poses}
    return tables


def _iter_rows(path: Path) -> Iterator[Row]:
    """Yields the objects of a JSON list one by one.

    The whole list would take several times the memory of the file, which has a gigabyte.
    """
    text = require_path(path, "table").read_text(encoding="utf-8")
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        row, end = decoder.raw_decode(text, start)
        yield row
        start = text.find("{", end)


@lru_cache(maxsize=1)
def _find_key_frames(folder: Path) -> dict[str, dict[str, Row]]:
    """Returns {token of a sample: {channel: row of its key frame}}."""
    tables = _read_tables(folder)
    frames: dict[str, dict[str, Row]] = {}
    for row in tables["sample_data"].values():
        mount = tables["calibrated_sensor"][row["calibrated_sensor_token"]]
        channel = tables["sensor"][mount["sensor_token"]]["channel"]
        frames.setdefault(row["sample_token"], {})[channel] = row
    return frames


def _released_eval_samples(tables: Mapping[str, Mapping[str, Row]], scene_name: str) -> list[Row]:
    """Returns the samples of a scene that are among the last RELEASED_EVAL_SHARE of the table."""
    samples = list(tables["sample"].values())
    first = len(samples) - int(len(samples) * RELEASED_EVAL_SHARE)
    token = next(s["token"] for s in tables["scene"].values() if s["name"] == scene_name)
    return [sample for sample in samples[first:] if sample["scene_token"] == token]


SET = DataSet(
    name="nuscenes",
    title="nuScenes",
    layout="v1.0-trainval/ or, with --split eval, v1.0-mini/ (tables), samples/CAM_*/*.jpg, samples/LIDAR_TOP/*.bin.",
    items=items,
    views=views,
    corrections=(
        "points are corrected for the vehicle's motion between sweep and image; the release ignores the motion",
        "a point belongs to the pixel whose centre is nearest; the release rounds pixels down",
        "the split eval is v1.0-mini, as in the paper; the released script uses the last 5 % of trainval",
        "depth is limited to 0.05 to 80 m; DepthLM's release has no limit",
    ),
    caps_m=CAPS_M["nuscenes"],
)
