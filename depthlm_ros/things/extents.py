"""How far the thing in a box reaches along a direction, to the edges of its pixels."""

from __future__ import annotations

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.geometry.pinhole import backproject
from depthlm_ros.things.outline import Outline

# A thing that ends at most so many pixels inside its box is as wide as its box: pixels at its rim are not sure.
RIM_PX = 3


def ends_down(outline: Outline, down: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """float64 (2, 3): topmost and lowest point of a thing with at least one pixel. down: unit vector (3,).

    What stands on it does not make it higher (Outline.bulk); at its foot every pixel counts, since the ground beside a
    foot is as low.
    """
    points_m = backproject(outline.uv_px, outline.depth_m, camera)
    half_m = _half_pixel(outline.depth_m, outline.step_px, down, camera)
    low, high = points_m @ down - half_m, points_m @ down + half_m
    if outline.bulk.any():
        low = np.where(outline.bulk, low, np.inf)
    return _ends(points_m, half_m, down, int(low.argmin()), int(high.argmax()))


def ends_across(outline: Outline, across: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """float64 (2, 3): leftmost and rightmost point along a unit vector (3,) of a thing with at least one pixel."""
    sure = outline.sure if outline.sure.any() else np.ones_like(outline.sure)
    uv_px, depth_m = _to_the_box(outline, outline.uv_px[sure], outline.depth_m[sure])
    points_m = backproject(uv_px, depth_m, camera)
    half_m = _half_pixel(depth_m, outline.step_px, across, camera)
    along = points_m @ across
    return _ends(points_m, half_m, across, int((along - half_m).argmin()), int((along + half_m).argmax()))


def _to_the_box(outline: Outline, uv_px: np.ndarray, depth_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and their depths, with one more at each side of the box that is hardly missed: as deep as the end is."""
    left, _, right, _ = outline.box_px
    rim_px = RIM_PX * outline.step_px
    columns = uv_px[:, 0]
    for end_px, side_px, short_px in (
        (columns.min(), left, columns.min() - left),
        (columns.max(), right - 1, right - 1 - columns.max()),
    ):
        if 0 < short_px <= rim_px:
            end = np.flatnonzero(columns == end_px)
            middle = end[np.argsort(depth_m[end])[len(end) // 2]]
            uv_px = np.concatenate([uv_px, [[side_px, uv_px[middle, 1]]]])
            depth_m = np.append(depth_m, depth_m[middle])
    return uv_px, depth_m


def _half_pixel(depth_m: np.ndarray, step_px: int, axis: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """float64 (N,): how far half a pixel reaches along a unit vector at these depths, metres."""
    reach = abs(axis[0]) / camera.fx_px + abs(axis[1]) / camera.fy_px
    return 0.5 * step_px * reach * depth_m


def _ends(points_m: np.ndarray, half_m: np.ndarray, axis: np.ndarray, low: int, high: int) -> np.ndarray:
    return np.stack([points_m[low] - half_m[low] * axis, points_m[high] + half_m[high] * axis])
