# SPDX-License-Identifier: Apache-2.0
"""The scale of the depth by how far the camera moved: `motion_ratios` of two images and the motion between them.

Corners are followed from the first image into the second one (optical flow there and back: Lucas and Kanade 1981, as in
OpenCV) and triangulated with the motion that the odometry states, which makes their depths metric. Most corners must be
where that motion allows (on their epipolar lines): else the odometry, or its time, is wrong, and tells nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from depthlm_ros.core import DepthMap
from depthlm_ros.geometry.pinhole import nearest_pixel
from depthlm_ros.geometry.rotations import unit_vector

MOST_CORNERS, CORNER_QUALITY, CORNER_GAP_PX = 400, 0.01, 7
# A corner must be found again this near to where it came from.
MOST_RETURN_PX = 1.0
# A corner may be this far from its epipolar line, pixels; this share of all corners must be near theirs.
EPIPOLAR_PX, LEAST_AGREEING = 1.5, 0.5
# Fewer corners tell nothing; nor do those whose rays meet at a smaller angle: a tenth of a degree of wrong turn is then
# 5 % of the depth.
LEAST_CORNERS, LEAST_PARALLAX_DEG = 20, 2.0
# A shorter motion is lost in the errors of the odometry.
LEAST_MOTION_M = 0.05


@dataclass(frozen=True, eq=False)
class MovedCamera:
    """The pose of the second camera in the first one's optical frame. rotation: float64 (3, 3); shift_m: (3,)."""

    rotation: np.ndarray
    shift_m: np.ndarray

    @property
    def distance_m(self) -> float:
        """How far the camera has moved; NaN if it is not known."""
        return float(np.linalg.norm(self.shift_m))


def motion_ratios(first: DepthMap, first_grey: np.ndarray, second_grey: np.ndarray, moved: MovedCamera) -> np.ndarray:
    """Returns float64 (N,): measured over told depth at corners of the first image; none if the motion tells nothing.

    first: the depth of the first image. first_grey, second_grey: uint8 (H, W), of one camera. moved: by the odometry.
    """
    nothing = np.zeros(0)
    if not (moved.distance_m >= LEAST_MOTION_M and np.isfinite(moved.rotation).all()):
        return nothing
    first_px, second_px = follow_corners(first_grey, second_grey)
    if len(first_px) < LEAST_CORNERS:
        return nothing
    camera = first.intrinsics
    one, two = (_to_plane(px, camera.matrix) for px in (first_px, second_px))
    near = epipolar_distance(one, two, moved) <= EPIPOLAR_PX / math.sqrt(camera.fx_px * camera.fy_px)
    if near.mean() < LEAST_AGREEING:
        return nothing
    first_px = first_px[near]
    measured_m = triangulate_z(one[near], two[near], moved)
    u, v = nearest_pixel(first_px).T
    told_m = first.depth_m[v, u]
    known = np.isfinite(measured_m) & np.isfinite(told_m) & (told_m > 0)
    return measured_m[known] / told_m[known] if known.sum() >= LEAST_CORNERS else nothing


def follow_corners(first_grey: np.ndarray, second_grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns float64 (N, 2) twice: pixels of corners in the first image, and where they are in the second one."""
    nothing = np.zeros((0, 2))
    corners = cv2.goodFeaturesToTrack(first_grey, MOST_CORNERS, CORNER_QUALITY, CORNER_GAP_PX)
    if corners is None or first_grey.shape != second_grey.shape:
        return nothing, nothing
    there, found = map(np.asarray, cv2.calcOpticalFlowPyrLK(first_grey, second_grey, corners, None)[:2])
    back, returned = map(np.asarray, cv2.calcOpticalFlowPyrLK(second_grey, first_grey, there, None)[:2])
    height, width = first_grey.shape
    first_px, second_px = corners[:, 0].astype(np.float64), there[:, 0].astype(np.float64)
    gap_px = np.linalg.norm(back[:, 0] - corners[:, 0], axis=1)
    good = (found[:, 0] > 0) & (returned[:, 0] > 0) & (gap_px <= MOST_RETURN_PX)
    good &= ((second_px >= 0) & (second_px <= (width - 1, height - 1))).all(1)
    return first_px[good], second_px[good]


def epipolar_distance(one: np.ndarray, two: np.ndarray, moved: MovedCamera) -> np.ndarray:
    """Returns float64 (N,): how far points of the second camera are from the lines on which the first ones' must be.

    one, two: (N, 2), x / z and y / z. A line is the image of a ray of the first camera in the second one.
    """
    x, y, z = moved.rotation.T @ unit_vector(moved.shift_m)
    rays, others = (np.column_stack([each, np.ones(len(each))]) for each in (one, two))
    lines = np.cross((x, y, z), rays @ moved.rotation)
    length = np.linalg.norm(lines[:, :2], axis=1)
    return np.abs(np.einsum("ij,ij->i", lines, others)) / np.maximum(length, 1e-12)


def triangulate_z(one: np.ndarray, two: np.ndarray, moved: MovedCamera) -> np.ndarray:
    """Returns float64 (N,): z in the first camera where rays (N, 2), x / z and y / z, of two cameras are nearest.

    NaN where they meet behind a camera or at too small an angle.
    """
    rays, others = (np.column_stack([each, np.ones(len(each))]) for each in (one, two))
    others = others @ moved.rotation.T
    # The nearest points of two lines: z1 * ray - z2 * other = shift, in least squares.
    a, b, c = (np.einsum("ij,ij->i", x, y) for x, y in ((rays, rays), (rays, others), (others, others)))
    d, e = rays @ moved.shift_m, others @ moved.shift_m
    determinant = a * c - b * b
    sine = np.sqrt(np.maximum(determinant, 0) / (a * c))
    with np.errstate(divide="ignore", invalid="ignore"):
        z, z_other = (c * d - b * e) / determinant, (b * d - a * e) / determinant
    good = (sine >= math.sin(math.radians(LEAST_PARALLAX_DEG))) & (z > 0) & (z_other > 0)
    return np.where(good, z, np.nan)


def _to_plane(uv_px: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Returns float64 (N, 2): x / z and y / z of pixels."""
    return (uv_px - matrix[:2, 2]) / matrix[[0, 1], [0, 1]]
