# SPDX-License-Identifier: Apache-2.0
"""How high the camera stands above the floor, as the depth map tells it (`floor_heights`).

With gravity known, every point has a height below the camera. A floor is a peak among these heights, the lowest one:
tables lie above it, walls have no peak, and nothing lies below it. A map at a wrong scale shows the floor at a wrong
height, by that factor. Gravity must come from the robot: learned maps are too wavy to tell it well enough.
"""

from __future__ import annotations

import math

import numpy as np

from depthlm_ros.core import DepthMap, Intrinsics
from depthlm_ros.geometry.pinhole import rays
from depthlm_ros.geometry.rotations import unit_vector
from depthlm_ros.measurement.extents import surface_normals

# The map is reduced to about so many columns, by medians of blocks of pixels: outliers vanish, planes stay planes. Of
# a side of a block at most so many pixels are used.
COLUMNS, SAMPLED_PX = 64, 4
# Rays less steep than this say little: a degree of wrong pitch there is a large error of height.
LEAST_SLOPE_DEG = 8.0
# A surface is level if its normal is within this angle of the vertical: learned depth bends floors a little.
LEVEL_DEG = 20.0
# Heights within this factor belong to one floor. The floor must have this share of all level blocks, and so many.
SAME_FLOOR, LEAST_SHARE, LEAST_BLOCKS = 1.12, 0.1, 25
# If a larger share of all blocks lies lower than this many times the height, it is a table. If the mean normal is off
# the vertical by more than this angle, the gravity is not that of the camera.
BELOW, MOST_BELOW, MOST_TILT_DEG = 1.25, 0.06, 10.0


def floor_heights(depth: DepthMap, down: np.ndarray) -> np.ndarray:
    """Returns float64 (N,): the camera's height in metres by each block of the map that shows the floor.

    None of them if no floor is seen. down: unit vector along gravity in the optical frame, float64 (3,). A table that
    fills the image is taken for the floor.
    """
    depth_m, camera = reduced_map(depth)
    if min(depth_m.shape) < 3:
        return np.zeros(0)
    normals = surface_normals(1.0 / depth_m, camera)
    to_pixels = rays(camera)[1:-1, 1:-1].astype(np.float64)
    slope = to_pixels @ down
    steep = slope >= math.sin(math.radians(LEAST_SLOPE_DEG)) * np.linalg.norm(to_pixels, axis=-1)
    cosine = normals @ down
    level = np.abs(cosine) >= math.cos(math.radians(LEVEL_DEG))  # False for NaN
    heights_m = depth_m[1:-1, 1:-1] * slope
    floor_m = np.exp(_lowest_peak(np.log(heights_m[steep & level])))
    if not len(floor_m):
        return floor_m
    with np.errstate(invalid="ignore"):
        is_floor = steep & level & (heights_m >= floor_m[0]) & (heights_m <= floor_m[-1])
        below = (heights_m[steep] > BELOW * np.median(floor_m)).mean()
    normal = np.mean(normals[is_floor] * np.sign(cosine[is_floor])[:, None], axis=0)
    tilt_deg = math.degrees(math.acos(min(float(unit_vector(normal) @ down), 1.0)))
    return floor_m if below <= MOST_BELOW and tilt_deg <= MOST_TILT_DEG else floor_m[:0]


def height_ratios(depth: DepthMap, height_m: float, down: np.ndarray) -> np.ndarray:
    """Returns float64 (N,): ratios of measured to told depth by the camera's true height above the floor, metres."""
    return height_m / floor_heights(depth, down)


def reduced_map(depth: DepthMap) -> tuple[np.ndarray, Intrinsics]:
    """Returns z-depth float64 (h, w), the median of each block of pixels (NaN where most are unknown), and its camera.

    The median of 1 / z is taken, which is linear on a plane. Of a large block only some pixels are used.
    """
    height, width = depth.depth_m.shape
    side = max(1, round(width / COLUMNS))
    h, w = max(height // side, 1), max(width // side, 1)
    side_v, side_u = min(side, height), min(side, width)
    blocks = depth.depth_m[: h * side_v, : w * side_u].reshape(h, side_v, w, side_u)
    picks_v, picks_u = _picks(side_v), _picks(side_u)
    chosen = blocks[:, picks_v][..., picks_u].transpose(0, 2, 1, 3).reshape(h, w, -1).astype(np.float64)
    known = np.isfinite(chosen) & (chosen > 0)
    inverse = np.divide(1.0, chosen, out=np.full(chosen.shape, np.inf), where=known)
    inverse.sort(axis=-1)  # the unknown ones come last
    count = known.sum(-1)
    middle = [
        np.take_along_axis(inverse, np.maximum(at, 0)[..., None], -1)[..., 0] for at in ((count - 1) // 2, count // 2)
    ]
    enough = count > chosen.shape[-1] / 2
    median = np.where(enough, (middle[0] + np.where(enough, middle[1], 0.0)) / 2, np.nan)
    camera = depth.intrinsics
    offset_u, offset_v = picks_u.mean(), picks_v.mean()
    reduced = Intrinsics(
        camera.fx_px / side_u,
        camera.fy_px / side_v,
        (camera.cx_px - offset_u) / side_u,
        (camera.cy_px - offset_v) / side_v,
        w,
        h,
    )
    return 1.0 / median, reduced


def _picks(side: int) -> np.ndarray:
    """Returns at most SAMPLED_PX positions, evenly spread over a side."""
    count = min(side, SAMPLED_PX)
    return ((np.arange(count) + 0.5) * side / count).astype(int)


def _lowest_peak(logs: np.ndarray) -> np.ndarray:
    """Returns, of logarithms of heights (N,), those of the lowest floor; none without one.

    A window of the width of SAME_FLOOR slides over the sorted heights. Peaks are where it holds the most; the lowest
    one with a fair share of all is the floor.
    """
    logs = np.sort(logs)
    if len(logs) < LEAST_BLOCKS:
        return logs[:0]
    first = np.searchsorted(logs, logs - math.log(SAME_FLOOR))
    counts = np.arange(len(logs)) - first + 1
    least = max(LEAST_BLOCKS, LEAST_SHARE * len(logs))
    enough = np.flatnonzero(counts >= least)
    if not len(enough):
        return logs[:0]
    # From the lowest window that holds enough, upwards to the best one that overlaps with it.
    lowest = enough[-1]
    overlapping = enough[enough >= first[lowest]]
    best = overlapping[counts[overlapping].argmax()]
    return logs[first[best] : best + 1]
