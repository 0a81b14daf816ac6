# SPDX-License-Identifier: Apache-2.0
"""Argoverse 2, sensor data set: seven ring cameras and, for each image, the lidar sweep that is nearest in time.

On disk: LOG/calibration/{intrinsics,egovehicle_SE3_sensor}.feather, LOG/city_SE3_egovehicle.feather,
LOG/sensors/cameras/NAME/STAMP_NS.jpg, LOG/sensors/lidar/STAMP_NS.feather (as the av2 package's data loader reads them).
Camera frames are optical, and images have no distortion. Points are moved to the time of the image by the poses of the
vehicle.

Splits: train, val and test are folders of LOG folders; without --split all of them are read.

Defects of the release, which --as-released reproduces: it ends after two drives, labels distance along the ray, keeps
any point of a pixel, cuts points of shrunk images to whole pixels, and has no limits of depth (DepthLM).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.records import CAPS_M, NO_CAPS_M, RANGE, BadRecord, Z
from depthlm_ros.data.sets.arrow import read_feather
from depthlm_ros.data.sets.folder import find_folders_with
from depthlm_ros.data.sets.lidar import invert_rigid, project_to_depth, rigid_transform, transform_points
from depthlm_ros.data.source_view import DataSet, LazyView, ReadOptions, SourceView

CAMERAS = tuple(
    f"ring_{name}"
    for name in ("front_center", "front_left", "front_right", "rear_left", "rear_right", "side_left", "side_right")
)
POSE = ("qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m")
PINHOLE = ("fx_px", "fy_px", "cx_px", "cy_px", "width_px", "height_px")
# The released script ends after this many drives.
RELEASED_DRIVES = 2


def items(root: Path, options: ReadOptions) -> Sequence[str]:
    """Returns the drives: ROOT itself, its folders, or the folders of its splits train, val and test."""
    found = find_folders_with(root, "calibration/intrinsics.feather", options.split)
    return found[:RELEASED_DRIVES] if options.as_released else found


def views(root: Path, item: str, options: ReadOptions) -> Iterator[LazyView]:
    """Yields one view for each image of each ring camera."""
    log = (root / item).resolve()
    for camera in CAMERAS:
        for image in sorted((log / "sensors" / "cameras" / camera).glob("*.jpg"), key=lambda path: int(path.stem)):
            yield f"{camera}/{image.stem}", partial(_load_view, log, camera, image, options)


def _load_view(log: Path, camera: str, image: Path, options: ReadOptions) -> SourceView:
    cameras, poses = _read_calibration(log)
    if camera not in cameras:
        raise BadRecord("camera missing", f"{log / 'calibration'} has no camera {camera}.")
    intrinsics, ego_from_camera = cameras[camera]
    image_ns = int(image.stem)
    sweep = _find_nearest_sweep(log, image_ns)
    xyz = read_feather(sweep, ("x", "y", "z"))
    points_m = np.stack([xyz[axis].astype(np.float64) for axis in "xyz"], axis=1)
    ego_from_sweep = invert_rigid(_ego_pose(poses, image_ns, log)) @ _ego_pose(poses, int(sweep.stem), log)
    points_m = transform_points(invert_rigid(ego_from_camera) @ ego_from_sweep, points_m)
    return SourceView(
        key=f"{log.name}/{image_ns}_{camera}",
        image=image,
        intrinsics=intrinsics,
        depth_m=project_to_depth(points_m, intrinsics, last=options.as_released),
        label=RANGE if options.as_released else Z,
        caps_m=NO_CAPS_M if options.as_released and options.format == "depthlm" else CAPS_M["argoverse"],
        scene=log.name,
        camera=camera,
        split=log.parent.name if log.parent.name in ("train", "val", "test") else "",
        truncate=options.as_released,
    )


@lru_cache(maxsize=2)
def _read_calibration(log: Path) -> tuple[dict[str, tuple[Intrinsics, np.ndarray]], dict[int, np.ndarray]]:
    """Returns {camera: (intrinsics, ego from camera)} and {time in nanoseconds: city from ego}."""
    pinholes = read_feather(log / "calibration" / "intrinsics.feather", ("sensor_name", *PINHOLE))
    mounts = read_feather(log / "calibration" / "egovehicle_SE3_sensor.feather", ("sensor_name", *POSE))
    ego_from_camera = {name: _row_transform(mounts, row) for row, name in enumerate(mounts["sensor_name"])}
    cameras = {}
    for row, name in enumerate(pinholes["sensor_name"]):
        fx, fy, cx, cy, width, height = (pinholes[column][row] for column in PINHOLE)
        if name in ego_from_camera:
            pinhole = Intrinsics(float(fx), float(fy), float(cx), float(cy), int(width), int(height))
            cameras[name] = pinhole, ego_from_camera[name]
    poses = read_feather(log / "city_SE3_egovehicle.feather", ("timestamp_ns", *POSE))
    return cameras, {int(ns): _row_transform(poses, row) for row, ns in enumerate(poses["timestamp_ns"])}


def _row_transform(table: dict[str, np.ndarray], row: int) -> np.ndarray:
    values = [float(table[column][row]) for column in POSE]
    return rigid_transform(np.array(values[:4]), np.array(values[4:]))


def _ego_pose(poses: dict[int, np.ndarray], stamp_ns: int, log: Path) -> np.ndarray:
    if stamp_ns not in poses:
        raise BadRecord("pose missing", f"{log / 'city_SE3_egovehicle.feather'} has no pose at {stamp_ns} ns.")
    return poses[stamp_ns]


def _find_nearest_sweep(log: Path, image_ns: int) -> Path:
    sweeps = _list_sweeps(log)
    if not sweeps:
        raise BadRecord("sweep missing", f"{log / 'sensors' / 'lidar'} contains no sweep.")
    return sweeps[min(sweeps, key=lambda ns: abs(ns - image_ns))]


@lru_cache(maxsize=2)
def _list_sweeps(log: Path) -> dict[int, Path]:
    return {int(path.stem): path for path in sorted((log / "sensors" / "lidar").glob("*.feather"))}


SET = DataSet(
    name="argoverse2",
    title="Argoverse 2 (sensor data set)",
    layout="[train|val|test/]LOG/calibration/intrinsics.feather, LOG/sensors/cameras/ring_*/*.jpg, LOG/sensors/lidar/.",
    items=items,
    views=views,
    corrections=(
        "all drives are read; the release ends after two (folders[:2])",
        "labels are z; the release labels distance along the ray, and DepthVLM's files call it z_depth",
        "a pixel gets its nearest point; the release takes any point of it",
        "points of shrunk images stay exact; the release cuts them to whole pixels",
        "depth is limited to 0.05 to 120 m; DepthLM's release has no limit",
    ),
    caps_m=CAPS_M["argoverse"],
    focal_px=1000.0,
)
