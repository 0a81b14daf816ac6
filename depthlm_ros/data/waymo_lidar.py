"""Points from Waymo's range images, by the formulas of Waymo's own range_image_utils (waymo-open-dataset), in numpy."""

from __future__ import annotations

import math

import numpy as np

from depthlm_ros.data.lidar import inverse


def points_in_vehicle(
    range_m: np.ndarray,
    vehicle_from_lidar: np.ndarray,
    inclinations_rad: np.ndarray | None,
    inclination_span_rad: tuple[float, float],
    pixel_poses: np.ndarray,
    world_from_vehicle: np.ndarray,
) -> np.ndarray:
    """float64 (H, W, 3): the points of a range image (H, W), metres, in the vehicle's frame at the sweep's moment.

    vehicle_from_lidar, world_from_vehicle: (4, 4). inclinations_rad: (H,) from the lowest beam up, None: evenly over
    inclination_span_rad. pixel_poses: (H, W, 6), roll, pitch, yaw, x, y, z of the vehicle in the world as each beam
    was sent. Where range_m is not positive the point means nothing.
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
    vehicle_from_world = inverse(world_from_vehicle)
    return in_world @ vehicle_from_world[:3, :3].T + vehicle_from_world[:3, 3]


def _inclinations(values: np.ndarray | None, span_rad: tuple[float, float], height: int) -> np.ndarray:
    """(H,), from the highest beam, which is the first row, down."""
    if values is None or len(values) == 0:
        low, high = span_rad
        values = (0.5 + np.arange(height)) / height * (high - low) + low
    return np.asarray(values, np.float64)[::-1]


def _rotations(roll_pitch_yaw_rad: np.ndarray) -> np.ndarray:
    """(..., 3, 3): R_z(yaw) R_y(pitch) R_x(roll) of angles (..., 3)."""
    (sr, sp, sy), (cr, cp, cy) = (np.moveaxis(f(roll_pitch_yaw_rad), -1, 0) for f in (np.sin, np.cos))
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
