"""Argoverse 2, sensor data set: seven ring cameras, the lidar sweep nearest in time moved to the image's moment.

On disk: LOG/calibration/{intrinsics,egovehicle_SE3_sensor}.feather, LOG/city_SE3_egovehicle.feather,
LOG/sensors/cameras/NAME/STAMP_NS.jpg, LOG/sensors/lidar/STAMP_NS.feather (the av2 package's data loader). Camera
frames are optical; images come without distortion.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.records import CAPS_M, NO_CAPS_M, RANGE, BadRecord, Z
from depthlm_ros.data.sets.arrow import feather
from depthlm_ros.data.sets.folder import folders_with
from depthlm_ros.data.sets.lidar import depth_image, inverse, moved, rigid
from depthlm_ros.data.source_view import Choice, DataSet, Maker, View

CAMERAS = tuple(
    f"ring_{name}"
    for name in ("front_center", "front_left", "front_right", "rear_left", "rear_right", "side_left", "side_right")
)
POSE = ("qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m")
PINHOLE = ("fx_px", "fy_px", "cx_px", "cy_px", "width_px", "height_px")
# The released script ends after so many drives.
RELEASED_DRIVES = 2


def items(root: Path, choice: Choice) -> Sequence[str]:
    """The drives: ROOT itself, its folders, or those of its splits train, val, test."""
    found = folders_with(root, "calibration/intrinsics.feather", choice.split)
    return found[:RELEASED_DRIVES] if choice.as_released else found


def views(root: Path, item: str, choice: Choice) -> Iterator[Maker]:
    """One view for each image of each ring camera."""
    log = (root / item).resolve()
    for camera in CAMERAS:
        for image in sorted((log / "sensors" / "cameras" / camera).glob("*.jpg"), key=lambda path: int(path.stem)):
            yield f"{camera}/{image.stem}", partial(_view, log, camera, image, choice)


def _view(log: Path, camera: str, image: Path, choice: Choice) -> View:
    cameras, poses = _calibration(log)
    if camera not in cameras:
        raise BadRecord("camera missing", f"{log / 'calibration'} does not know the camera {camera}.")
    intrinsics, ego_from_camera = cameras[camera]
    image_ns = int(image.stem)
    sweep = _nearest_sweep(log, image_ns)
    xyz = feather(sweep, ("x", "y", "z"))
    points_m = np.stack([xyz[axis].astype(np.float64) for axis in "xyz"], axis=1)
    ego_from_sweep = inverse(_pose(poses, image_ns, log)) @ _pose(poses, int(sweep.stem), log)
    points_m = moved(inverse(ego_from_camera) @ ego_from_sweep, points_m)
    return View(
        key=f"{log.name}/{image_ns}_{camera}",
        image=image,
        intrinsics=intrinsics,
        depth_m=depth_image(points_m, intrinsics, last=choice.as_released),
        label=RANGE if choice.as_released else Z,
        caps_m=NO_CAPS_M if choice.as_released and choice.format == "depthlm" else CAPS_M["argoverse"],
        scene=log.name,
        camera=camera,
        split=log.parent.name if log.parent.name in ("train", "val", "test") else "",
        truncate=choice.as_released,
    )


@lru_cache(maxsize=2)
def _calibration(log: Path) -> tuple[dict[str, tuple[Intrinsics, np.ndarray]], dict[int, np.ndarray]]:
    """Camera -> (intrinsics, ego from camera); moment in nanoseconds -> city from ego."""
    pinholes = feather(log / "calibration" / "intrinsics.feather", ("sensor_name", *PINHOLE))
    mounts = feather(log / "calibration" / "egovehicle_SE3_sensor.feather", ("sensor_name", *POSE))
    where = {name: _rigid(mounts, row) for row, name in enumerate(mounts["sensor_name"])}
    cameras = {}
    for row, name in enumerate(pinholes["sensor_name"]):
        fx, fy, cx, cy, width, height = (pinholes[column][row] for column in PINHOLE)
        if name in where:
            pinhole = Intrinsics(float(fx), float(fy), float(cx), float(cy), int(width), int(height))
            cameras[name] = pinhole, where[name]
    poses = feather(log / "city_SE3_egovehicle.feather", ("timestamp_ns", *POSE))
    return cameras, {int(ns): _rigid(poses, row) for row, ns in enumerate(poses["timestamp_ns"])}


def _rigid(table: dict[str, np.ndarray], row: int) -> np.ndarray:
    values = [float(table[column][row]) for column in POSE]
    return rigid(np.array(values[:4]), np.array(values[4:]))


def _pose(poses: dict[int, np.ndarray], stamp_ns: int, log: Path) -> np.ndarray:
    if stamp_ns not in poses:
        raise BadRecord("pose missing", f"{log / 'city_SE3_egovehicle.feather'} has no pose at {stamp_ns} ns.")
    return poses[stamp_ns]


def _nearest_sweep(log: Path, image_ns: int) -> Path:
    sweeps = _sweeps(log)
    if not sweeps:
        raise BadRecord("sweep missing", f"{log / 'sensors' / 'lidar'} holds no sweep.")
    return sweeps[min(sweeps, key=lambda ns: abs(ns - image_ns))]


@lru_cache(maxsize=2)
def _sweeps(log: Path) -> dict[int, Path]:
    return {int(path.stem): path for path in sorted((log / "sensors" / "lidar").glob("*.feather"))}


SET = DataSet(
    name="argoverse2",
    title="Argoverse 2 (sensor data set)",
    layout="[train|val|test/]LOG/calibration/intrinsics.feather, LOG/sensors/cameras/ring_*/*.jpg, LOG/sensors/lidar/.",
    items=items,
    views=views,
    corrections=(
        "all drives; the release ends after two (folders[:2])",
        "z; the release labels distance along the ray, and DepthVLM's files call it z_depth",
        "the nearest point of a pixel; the release takes whichever was drawn",
        "points of shrunk images stay exact; the release cuts them to whole pixels",
        "0.05 to 120 m; DepthLM's release has no cap",
    ),
    caps_m=CAPS_M["argoverse"],
    focal_px=1000.0,
)
