# SPDX-License-Identifier: Apache-2.0
"""Waymo Open Dataset, Perception, Parquet format (v2): five cameras and the first return of the top lidar.

On disk: [training|validation|testing/]COMPONENT/SEGMENT.parquet with the columns of Waymo's v2 components. The TFRecord
files of v1 are not read. Camera frames are x forward, y left, z up. Pixel 0 begins at the edge of the image, so that
principal points are half a pixel less here.

A range image (64, 2650, 4) holds metres along the beam in its first channel. The formulas for its points are those of
Waymo's own range_image_utils (waymo-open-dataset), in numpy: the azimuth of column i is
((W - i - 0.5) / W * 2 - 1) pi - yaw of the lidar, the inclination of a row comes from the calibration, from the last
row up, and each beam has the vehicle's pose of its own time. The table lidar_camera_projection holds the pixels of the
points in the distorted images, as whole numbers.

Splits: training, validation and testing are folders; without --split all of them are read.

Defects of the release, which --as-released reproduces: it moves points by the inverse of the undistortion, labels
distance along the ray, cuts points of shrunk images to whole pixels, and has no limits of depth (DepthLM).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.records import CAPS_M, NO_CAPS_M, RANGE, BadRecord, Z, z_from_depth
from depthlm_ros.data.sets.arrow import Row, iter_parquet_rows
from depthlm_ros.data.sets.lidar import OPTICAL_FROM_FORWARD, invert_rigid, transform_points, z_buffer
from depthlm_ros.data.source_view import DataSet, LazyView, ReadOptions, SourceView

# Number of the top lidar in Waymo's tables.
TOP_LIDAR = 1
CAMERAS = {1: "FRONT", 2: "FRONT_LEFT", 3: "FRONT_RIGHT", 4: "SIDE_LEFT", 5: "SIDE_RIGHT"}
STAMP, LASER, CAMERA = "key.frame_timestamp_micros", "key.laser_name", "key.camera_name"
LENS = ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")
LIDAR_PARTS = {
    "lidar": "[LiDARComponent].range_image_return1",
    "lidar_camera_projection": "[LiDARCameraProjectionComponent].range_image_return1",
    "lidar_pose": "[LiDARPoseComponent].range_image_return1",
}


def points_in_vehicle(
    range_m: np.ndarray,
    vehicle_from_lidar: np.ndarray,
    inclinations_rad: np.ndarray | None,
    inclination_span_rad: tuple[float, float],
    pixel_poses: np.ndarray,
    world_from_vehicle: np.ndarray,
) -> np.ndarray:
    """Returns float64 (H, W, 3): the points of a range image in the vehicle's frame at the time of the sweep.

    range_m: (H, W), metres; where it is not positive the point has no meaning. vehicle_from_lidar, world_from_vehicle:
    (4, 4). inclinations_rad: (H,) from the lowest beam up; None for beams that are evenly spread over
    inclination_span_rad. pixel_poses: (H, W, 6), roll, pitch, yaw, x, y, z of the vehicle in the world when each beam
    was sent.
    """
    height, width = range_m.shape
    inclination = _inclinations(inclinations_rad, inclination_span_rad, height)[:, None]
    yaw = math.atan2(vehicle_from_lidar[1, 0], vehicle_from_lidar[0, 0])
    azimuth = ((np.arange(width, 0, -1) - 0.5) / width * 2.0 - 1.0) * math.pi - yaw
    flat = np.cos(inclination)
    beams = np.stack(np.broadcast_arrays(np.cos(azimuth) * flat, np.sin(azimuth) * flat, np.sin(inclination)), axis=-1)
    points = beams * range_m[..., None].astype(np.float64)
    points = points @ vehicle_from_lidar[:3, :3].T + vehicle_from_lidar[:3, 3]
    in_world = np.einsum("hwij,hwj->hwi", _rotations(pixel_poses[..., :3].astype(np.float64)), points)
    in_world += pixel_poses[..., 3:]
    vehicle_from_world = invert_rigid(world_from_vehicle)
    return in_world @ vehicle_from_world[:3, :3].T + vehicle_from_world[:3, 3]


def _inclinations(values: np.ndarray | None, span_rad: tuple[float, float], height: int) -> np.ndarray:
    """Returns float64 (H,): inclinations from the highest beam, which is the first row, down."""
    if values is None or len(values) == 0:
        low, high = span_rad
        values = (0.5 + np.arange(height)) / height * (high - low) + low
    return np.asarray(values, np.float64)[::-1]


def _rotations(roll_pitch_yaw_rad: np.ndarray) -> np.ndarray:
    """Returns (..., 3, 3): R_z(yaw) R_y(pitch) R_x(roll) of angles (..., 3)."""
    (sr, sp, sy), (cr, cp, cy) = (np.moveaxis(f(roll_pitch_yaw_rad), -1, 0) for f in (np.sin, np.cos))
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def items(root: Path, options: ReadOptions) -> Sequence[str]:
    """Returns the segments: [SPLIT/]SEGMENT."""
    starts = [root / options.split] if options.split else [root, *sorted(p for p in root.iterdir() if p.is_dir())]
    found = [path for start in starts for path in sorted((start / "camera_image").glob("*.parquet"))]
    return [(path.parents[1] / path.stem).relative_to(root).as_posix() for path in found]


def views(root: Path, item: str, options: ReadOptions) -> Iterator[LazyView]:
    """Yields one view for each image of a segment."""
    segment = _Segment((root / item).parent, Path(item).name)
    images = segment.read_images()
    for stamp, parts in segment.iter_sweeps():
        compute_cloud = lru_cache(maxsize=1)(partial(segment.compute_cloud, stamp, parts))
        for camera, jpeg in sorted(images.pop(stamp, {}).items()):
            yield _view_name(stamp, camera), partial(_load_view, segment, stamp, camera, jpeg, compute_cloud, options)
    for stamp in sorted(images):
        for camera in sorted(images[stamp]):
            yield _view_name(stamp, camera), partial(_raise_missing_sweep, stamp)


def _view_name(stamp: int, camera: int) -> str:
    return f"{stamp}_{CAMERAS.get(camera, camera)}"


def _raise_missing_sweep(stamp: int) -> SourceView:
    raise BadRecord("sweep missing", f"the tables of the top lidar have no sweep at {stamp} us.")


class _Segment:
    """The tables of one segment. The large tables of the lidar are read row by row."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.cameras = {row[CAMERA]: row for row in self._rows("camera_calibration", CAMERA, *_camera_columns())}
        lasers = {row[LASER]: row for row in self._rows("lidar_calibration", LASER, *_laser_columns())}
        pose = "[VehiclePoseComponent].world_from_vehicle"
        poses = self._rows("vehicle_pose", STAMP, f"{pose}.transform")
        self.world_from_vehicle = {row[STAMP]: _parse_matrix(row, pose) for row in poses}
        if TOP_LIDAR not in lasers:
            raise BadRecord("calibration missing", f"{folder}: {name} has no calibration of the top lidar.")
        self.top = lasers[TOP_LIDAR]

    def read_images(self) -> dict[int, dict[int, bytes]]:
        """Returns {time in microseconds: {camera: bytes of a JPEG file}}."""
        found: dict[int, dict[int, bytes]] = {}
        for row in self._rows("camera_image", STAMP, CAMERA, "[CameraImageComponent].image"):
            found.setdefault(row[STAMP], {})[row[CAMERA]] = row["[CameraImageComponent].image"]
        return found

    def iter_sweeps(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Yields the time and the range images of each sweep of the top lidar that all three tables contain."""
        streams = {part: self._top_rows(part, column) for part, column in LIDAR_PARTS.items()}
        incomplete: dict[int, dict[str, np.ndarray]] = {}
        while streams:
            for part in list(streams):
                row = next(streams[part], None)
                if row is None:
                    del streams[part]
                    continue
                stamp, values = row
                incomplete.setdefault(stamp, {})[part] = values
                if len(incomplete[stamp]) == len(LIDAR_PARTS):
                    yield stamp, incomplete.pop(stamp)

    def compute_cloud(self, stamp: int, parts: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the points (N, 3) of a sweep in the vehicle's frame, and their pixels in images (N, 6)."""
        if stamp not in self.world_from_vehicle:
            raise BadRecord("pose missing", f"{self.name} has no pose of the vehicle at {stamp} us.")
        component = "[LiDARCalibrationComponent]"
        points_m = points_in_vehicle(
            parts["lidar"][..., 0],
            _parse_matrix(self.top, f"{component}.extrinsic"),
            self.top[f"{component}.beam_inclination.values"],
            (self.top[f"{component}.beam_inclination.min"], self.top[f"{component}.beam_inclination.max"]),
            parts["lidar_pose"],
            self.world_from_vehicle[stamp],
        )
        hit = parts["lidar"][..., 0] > 0
        return points_m[hit], parts["lidar_camera_projection"][hit]

    def _top_rows(self, part: str, column: str) -> Iterator[tuple[int, np.ndarray]]:
        for row in self._rows(part, STAMP, LASER, f"{column}.values", f"{column}.shape"):
            if row[LASER] == TOP_LIDAR:
                shape = [int(n) for n in row[f"{column}.shape"]]
                yield row[STAMP], np.asarray(row[f"{column}.values"]).reshape(shape)

    def _rows(self, component: str, *columns: str) -> Iterator[Row]:
        return iter_parquet_rows(self.folder / component / f"{self.name}.parquet", columns)


def _load_view(
    segment: _Segment,
    stamp: int,
    camera: int,
    jpeg: bytes,
    compute_cloud: Callable[[], tuple[np.ndarray, np.ndarray]],
    options: ReadOptions,
) -> SourceView:
    if camera not in segment.cameras:
        raise BadRecord("calibration missing", f"{segment.name} has no calibration of camera {camera}.")
    row = segment.cameras[camera]
    lens, distortion, intrinsics = _parse_lens(row)
    size_px = intrinsics.size_px
    map_x, map_y = cv2.initUndistortRectifyMap(lens, distortion, None, intrinsics.matrix, size_px, cv2.CV_32FC1)
    points_m, projections = compute_cloud()
    uv_px, seen = _find_pixels(projections, camera)
    optical_from_vehicle = OPTICAL_FROM_FORWARD @ invert_rigid(
        _parse_matrix(row, "[CameraCalibrationComponent].extrinsic")
    )
    camera_m = transform_points(optical_from_vehicle, points_m[seen])
    ahead = camera_m[:, 2] > 0
    uv_px, z_m = uv_px[ahead], camera_m[ahead, 2]
    if options.as_released:
        uv_px = np.rint(_through_inverse_maps(uv_px, map_x, map_y))
        # The released label is the distance of the point; this is its z at the pixel that the release gives it.
        z_m = z_from_depth(RANGE, np.linalg.norm(camera_m[ahead], axis=1), uv_px, intrinsics)
    elif len(uv_px):
        uv_px = np.rint(cv2.undistortPoints(uv_px[:, None], lens, distortion, P=intrinsics.matrix)[:, 0])
    return SourceView(
        key=f"{segment.name}/{_view_name(stamp, camera)}",
        image=cv2.remap(_decode_jpeg(jpeg, segment.name), map_x, map_y, interpolation=cv2.INTER_LINEAR),
        intrinsics=intrinsics,
        depth_m=z_buffer(uv_px, z_m, size_px),
        label=RANGE if options.as_released else Z,
        caps_m=NO_CAPS_M if options.as_released and options.format == "depthlm" else CAPS_M["waymo"],
        scene=segment.name,
        camera=CAMERAS.get(camera, str(camera)),
        split=segment.folder.name,
        truncate=options.as_released,
    )


def _parse_lens(row: Row) -> tuple[np.ndarray, np.ndarray, Intrinsics]:
    """Returns the camera matrix (3, 3) and distortion (5,) of an image, and the camera of the undistorted image.

    The latter has the same focal lengths and its principal point in the middle, as in the release.
    """
    values = {name: float(row[f"[CameraCalibrationComponent].intrinsic.{name}"]) for name in LENS}
    width, height = (int(row[f"[CameraCalibrationComponent].{name}"]) for name in ("width", "height"))
    lens = np.array([[values["f_u"], 0, values["c_u"] - 0.5], [0, values["f_v"], values["c_v"] - 0.5], [0, 0, 1]])
    distortion = np.array([values[name] for name in ("k1", "k2", "p1", "p2", "k3")])
    middle = (width - 1) / 2, (height - 1) / 2
    return lens, distortion, Intrinsics(values["f_u"], values["f_v"], *middle, width, height)


def _find_pixels(projections: np.ndarray, camera: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels (M, 2) of the points that a camera sees, and bool (N,), which of the N points they are.

    projections: (N, 6), camera, column and row of up to two cameras that see each point.
    """
    first, second = projections[:, 0] == camera, projections[:, 3] == camera
    uv_px = np.where(first[:, None], projections[:, 1:3], projections[:, 4:6]).astype(np.float64)
    seen = first | second
    return uv_px[seen], seen


def _through_inverse_maps(uv_px: np.ndarray, map_x: np.ndarray, map_y: np.ndarray) -> np.ndarray:
    """Returns pixels as the release computes them.

    The maps state where an undistorted pixel comes from, but the release uses them to find where a distorted pixel
    goes.
    """
    height, width = map_x.shape
    u, v = np.clip(uv_px.astype(np.int64), 0, [width - 1, height - 1]).T
    return np.stack([map_x[v, u], map_y[v, u]], axis=1)


def _decode_jpeg(jpeg: bytes, name: str) -> np.ndarray:
    bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None
    if bgr is None:
        raise BadRecord("image unusable", f"{name}: {len(jpeg or b'')} bytes that are not a JPEG image.")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _parse_matrix(row: Row, column: str) -> np.ndarray:
    return np.asarray(row[f"{column}.transform"], np.float64).reshape(4, 4)


def _camera_columns() -> list[str]:
    component = "[CameraCalibrationComponent]"
    return [
        *(f"{component}.intrinsic.{name}" for name in LENS),
        *(f"{component}.{name}" for name in ("extrinsic.transform", "width", "height")),
    ]


def _laser_columns() -> list[str]:
    names = ("extrinsic.transform", "beam_inclination.min", "beam_inclination.max", "beam_inclination.values")
    return [f"[LiDARCalibrationComponent].{name}" for name in names]


SET = DataSet(
    name="waymo",
    title="Waymo Open Dataset (Perception, Parquet v2)",
    layout="[training|validation|testing/]{camera_image,camera_calibration,lidar,lidar_calibration,"
    "lidar_camera_projection,lidar_pose,vehicle_pose}/SEGMENT.parquet.",
    items=items,
    views=views,
    corrections=(
        "pixels of points are undistorted by the lens model; the release uses the inverse map",
        "labels are z; the release labels distance along the ray, and DepthVLM's files call it z_depth",
        "points of shrunk images stay exact; the release cuts them to whole pixels",
        "depth is limited to 0.05 to 70 m; DepthLM's release has no limit",
    ),
    caps_m=CAPS_M["waymo"],
    focal_px=1000.0,
)
