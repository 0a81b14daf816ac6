# SPDX-License-Identifier: Apache-2.0
"""Compares what a range sensor measures with what the depth map tells at the same place (`range_ratios`)."""

from __future__ import annotations

import math

import cv2
import numpy as np

from depthlm_ros.core import DepthMap
from depthlm_ros.geometry.pinhole import nearest_pixel, pixels_inside, project

# Half a side of the square of pixels around a point. Where depths in it differ by more than this factor, an edge is
# near: the smallest error of the mounting or of the time would compare two different things.
HALF_PX, SAME_SURFACE = 2, 1.15
# A wide cone, such as that of an ultrasonic sensor, measures its nearest surface: this quantile of the depths in it.
NEAREST = 0.1
# Points nearer than this are on the camera or its mount.
LEAST_M = 0.05
# The most points of one message that are compared; pixels across a cone.
MOST_POINTS, CONE_PX = 400, 24


def range_ratios(depth: DepthMap, points_m: np.ndarray, cone_rad: float = 0.0) -> np.ndarray:
    """Returns float64 (M,): measured over told depth at those points (N, 3) that the camera sees.

    points_m: as measured, optical frame of the map, metres; those that are not finite do not count. cone_rad: full
    angle of the sensor's cone as seen from the camera; 0: a thin beam.
    """
    points_m = np.asarray(points_m, np.float64).reshape(-1, 3)
    points_m = points_m[np.isfinite(points_m).all(1) & (points_m[:, 2] >= LEAST_M)]
    uv_px = project(points_m, depth.intrinsics)
    inside = pixels_inside(uv_px, depth.intrinsics.size_px)
    points_m, uv_px = points_m[inside], uv_px[inside]
    few = slice(None, None, max(1, -(-len(points_m) // MOST_POINTS)))
    radius_px = max(depth.intrinsics.fx_px, depth.intrinsics.fy_px) * math.tan(min(cone_rad, 1.0) / 2)
    told = _at_beam if radius_px <= HALF_PX else _in_cone
    told_m = np.array([told(depth.depth_m, u, v, radius_px) for u, v in nearest_pixel(uv_px[few])])
    return points_m[few, 2][np.isfinite(told_m)] / told_m[np.isfinite(told_m)]


def _square(depth_m: np.ndarray, u: int, v: int, half_px: int, step: int = 1) -> np.ndarray:
    """Returns the depths (h, w) of the square around a pixel, as far as it is in the image."""
    return depth_m[max(v - half_px, 0) : v + half_px + 1 : step, max(u - half_px, 0) : u + half_px + 1 : step]


def _known(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values) & (values > 0)]


def _at_beam(depth_m: np.ndarray, u: int, v: int, _: float) -> float:
    """Returns the median depth around a pixel; NaN beside an edge, or where little is known."""
    square = _square(depth_m, u, v, HALF_PX)
    known = _known(square)
    if len(known) <= square.size / 2:
        return math.nan
    low, middle, high = np.quantile(known, (0.25, 0.5, 0.75))
    return float(middle) if high <= SAME_SURFACE * low else math.nan


def _in_cone(depth_m: np.ndarray, u: int, v: int, radius_px: float) -> float:
    """Returns the depth of the nearest surface in a disk of pixels, but for outliers; NaN where little is known."""
    half_px = round(radius_px)
    step = max(1, 2 * half_px // CONE_PX)
    square = np.ascontiguousarray(_square(depth_m, u, v, half_px, step), np.float32)
    share_known = np.isfinite(square).mean()
    # A median over neighbours, so that single wild pixels are not the nearest surface; it cannot hold NaN.
    smooth = (
        cv2.medianBlur(np.nan_to_num(square, nan=0.0, posinf=0.0, neginf=0.0), 5) if min(square.shape) > 4 else square
    )
    rows, columns = np.ogrid[: square.shape[0], : square.shape[1]]
    top, left = max(v - half_px, 0), max(u - half_px, 0)
    disk = ((rows * step + top - v) ** 2 + (columns * step + left - u) ** 2) <= radius_px**2
    known = _known(smooth[disk])
    return float(np.quantile(known, NEAREST)) if share_known > 0.5 and len(known) else math.nan
