# SPDX-License-Identifier: Apache-2.0
"""Rotations and poses of cameras, in the optical frame: x right, y down, z forward, right-handed."""

from __future__ import annotations

import math

import numpy as np


def rotation_from_angles(yaw_deg: float, pitch_deg: float, roll_deg: float) -> np.ndarray:
    """Returns float64 (3, 3): R_y(yaw) R_x(pitch) R_z(roll), a camera turned about its own axes in this order.

    Positive angles turn right, look up, and bank to the right. R turns vectors of the turned camera into the first
    camera. VLM3 also says that "image content rotates clockwise" for a positive roll. This contradicts the axis that it
    names (content turns the other way when the camera banks); the axis is used here, and its published sample angles
    agree with it.
    """
    yaw, pitch, roll = (math.radians(angle) for angle in (yaw_deg, pitch_deg, roll_deg))
    about_y = [[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]]
    about_x = [[1, 0, 0], [0, math.cos(pitch), -math.sin(pitch)], [0, math.sin(pitch), math.cos(pitch)]]
    about_z = [[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1]]
    return np.array(about_y, float) @ np.array(about_x, float) @ np.array(about_z, float)


def angles_from_rotation(rotation: np.ndarray) -> tuple[float, float, float]:
    """Returns (yaw, pitch, roll) in degrees: the inverse of rotation_from_angles, with a pitch within +-90."""
    pitch = math.asin(float(np.clip(-rotation[1, 2], -1.0, 1.0)))
    yaw = math.atan2(rotation[0, 2], rotation[2, 2])
    roll = math.atan2(rotation[1, 0], rotation[1, 1])
    return math.degrees(yaw), math.degrees(pitch), math.degrees(roll)


def rotation_angle_deg(rotation: np.ndarray) -> float:
    """Returns the angle in [0, 180] by which a rotation (3, 3) turns about its axis.

    tan = |2 sin| / (2 cos), from the skew part and the trace. This is exact near 0 and 180 too, unlike the arc cosine
    of the trace.
    """
    skew = rotation - rotation.T
    sine2 = math.hypot(skew[2, 1], skew[0, 2], skew[1, 0])
    return math.degrees(math.atan2(sine2, float(np.trace(rotation)) - 1.0))


def unit_vector(vector: np.ndarray) -> np.ndarray:
    """Returns float64 (3,): the vector with length 1; NaN if it has no direction (zero, or not finite)."""
    vector = np.asarray(vector, np.float64)
    length = float(np.linalg.norm(vector))
    return vector / length if math.isfinite(length) and length > 0 else np.full(3, np.nan)


def view_matrix(rotation: np.ndarray, translation_m: np.ndarray) -> np.ndarray:
    """Returns float64 (3, 4): [R^T | -R^T C], OpenCV's extrinsics of camera 2 with camera 1 as the world.

    rotation R (3, 3) and translation_m C (3,) are the pose of camera 2 in camera 1: x2 = R^T (x1 - C).
    """
    return np.column_stack([rotation.T, -rotation.T @ translation_m])


def quaternion_xyzw(rotation: np.ndarray) -> np.ndarray:
    """Returns float64 (4,): unit quaternion (x, y, z, w) with w >= 0 of a rotation (3, 3), as in geometry_msgs.

    It is the eigenvector of the largest eigenvalue of the symmetric matrix of Bar-Itzhack, "New method for extracting
    the quaternion from a rotation matrix", 2000: stable for every angle, 180 degrees included.
    """
    r = rotation
    k = np.array(
        [
            [r[0, 0] - r[1, 1] - r[2, 2], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0], r[2, 1] - r[1, 2]],
            [r[0, 1] + r[1, 0], r[1, 1] - r[0, 0] - r[2, 2], r[1, 2] + r[2, 1], r[0, 2] - r[2, 0]],
            [r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], r[2, 2] - r[0, 0] - r[1, 1], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], r[0, 0] + r[1, 1] + r[2, 2]],
        ]
    )
    largest = np.linalg.eigh(k)[1][:, -1]
    return largest if largest[3] >= 0 else -largest
