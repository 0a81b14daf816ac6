"""Objects as points in space: the object in a box or at a pixel, how far it reaches, and where two are nearest.

`object_in_box` and `object_at_pixel` return a MeasuredObject. `ends_down` and `ends_across` return its two ends along a
direction, to the edges of its pixels. `nearest_points` returns the points at which two objects are nearest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from depthlm_ros.core import DepthMap, Intrinsics, Region
from depthlm_ros.geometry.pinhole import backproject, nearest_pixel
from depthlm_ros.measurement.segment import SegmentedObject, segment_object

# The distance is that of the nearest point after leaving out one point in this many: a few wild pixels do not shift it.
OUTLIERS = 500
# An object that ends at most this many pixels inside its box is as wide as its box: pixels at its rim are not sure.
RIM_PX = 3
# nearest_points compares all pairs of at most COARSE points of each set. It follows the best STARTS of them among at
# most FINE points, in at most ROUNDS rounds, and the best of these among all points.
COARSE, FINE, STARTS, ROUNDS = 256, 4096, 4, 8


@dataclass(frozen=True)
class MeasuredObject:
    """What is known of an object, metres in the optical frame; without points where its depth is unknown.

    points_m: float64 (N, 3), those that surely belong to it. nearest_m: (3,), NaN without points. spread_m: standard
    deviation of the depth around the nearest point. columns_px: its left and right end in the image. segment: its
    pixels, for an object in a box.
    """

    points_m: np.ndarray
    nearest_m: np.ndarray
    spread_m: float
    columns_px: tuple[float, float]
    segment: SegmentedObject | None = None

    @property
    def is_known(self) -> bool:
        """Whether it has points."""
        return len(self.points_m) > 0

    @property
    def distance_m(self) -> float:
        """Distance of its nearest point from the camera's centre; NaN without points."""
        return float(np.linalg.norm(self.nearest_m))

    def span_m(self, axis: np.ndarray) -> tuple[float, float]:
        """Returns the least and greatest coordinate of its points along a unit vector (3,)."""
        along = self.points_m @ axis
        return float(along.min()), float(along.max())


def object_in_box(depth: DepthMap, region: Region) -> MeasuredObject:
    """Returns the object in a box. Raises BadQuestion for a box without size or outside the image."""
    segment = segment_object(depth, region)
    left, _, right, _ = segment.box_px
    columns_px = (left - 0.5, right - 0.5)
    sure = segment.sure if segment.sure.any() else np.ones(len(segment.depth_m), bool)
    uv_px, depth_m, points_m = segment.uv_px[sure], segment.depth_m[sure], segment.points_m[sure]
    if not len(points_m):
        return MeasuredObject(points_m, np.full(3, np.nan), np.nan, columns_px, segment)
    rank = len(points_m) // OUTLIERS
    nearest = np.argpartition(np.einsum("ij,ij->i", points_m, points_m), rank)[rank]
    u, v = np.abs(uv_px - uv_px[nearest]).T
    spread_m = float(depth_m[(u <= segment.step_px) & (v <= segment.step_px)].std())
    return MeasuredObject(points_m, points_m[nearest], spread_m, columns_px, segment)


def object_at_pixel(depth: DepthMap, uv_px: np.ndarray) -> MeasuredObject:
    """Returns the surface seen at the pixel that contains (u, v), which must be inside the image."""
    ((u, v),) = nearest_pixel(uv_px)
    columns_px = (uv_px[0] - 0.5, uv_px[0] + 0.5)
    points_m = backproject(uv_px, _nan_where_unknown(depth.depth_m[v, u]), depth.intrinsics)
    if np.isnan(points_m).any():
        return MeasuredObject(points_m[:0], np.full(3, np.nan), np.nan, columns_px)
    around_m = _nan_where_unknown(depth.depth_m[max(0, v - 1) : v + 2, max(0, u - 1) : u + 2])
    return MeasuredObject(points_m, points_m[0], float(np.nanstd(around_m)), columns_px)


def _nan_where_unknown(depth_m: np.ndarray) -> np.ndarray:
    """Returns the depths as float64, NaN where there is no surface."""
    depth_m = np.asarray(depth_m, np.float64)
    return np.where(np.isfinite(depth_m) & (depth_m > 0), depth_m, np.nan)


def ends_down(segment: SegmentedObject, down: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """Returns float64 (2, 3): topmost and lowest point of an object with at least one pixel. down: unit vector (3,).

    What stands on the object does not make it higher (SegmentedObject.bulk). At its foot every pixel counts, since the
    ground beside a foot is as low.
    """
    may_be_top = segment.bulk if segment.bulk.any() else np.ones_like(segment.bulk)
    return _ends_along(down, segment.points_m, segment.depth_m, may_be_top, segment.step_px, camera)


def ends_across(segment: SegmentedObject, across: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """Returns float64 (2, 3): leftmost and rightmost point along a unit vector (3,) of an object with >= 1 pixel.

    Where the object hardly misses a side of its box, one more pixel is added there, as deep as the object's end is.
    """
    sure = segment.sure if segment.sure.any() else np.ones_like(segment.sure)
    uv_px, depth_m, points_m = segment.uv_px[sure], segment.depth_m[sure], segment.points_m[sure]
    left, _, right, _ = segment.box_px
    columns = uv_px[:, 0]
    for end_px, side_px, short_px in (
        (columns.min(), left, columns.min() - left),
        (columns.max(), right - 1, right - 1 - columns.max()),
    ):
        if 0 < short_px <= RIM_PX * segment.step_px:
            end = np.flatnonzero(columns == end_px)
            middle = end[np.argsort(depth_m[end])[len(end) // 2]]
            added_m = backproject(np.array([side_px, uv_px[middle, 1]]), depth_m[middle], camera)
            points_m, depth_m = np.concatenate([points_m, added_m]), np.append(depth_m, depth_m[middle])
    return _ends_along(across, points_m, depth_m, np.ones(len(depth_m), bool), segment.step_px, camera)


def _ends_along(
    axis: np.ndarray,
    points_m: np.ndarray,
    depth_m: np.ndarray,
    may_be_low: np.ndarray,
    step_px: int,
    camera: Intrinsics,
) -> np.ndarray:
    """Returns float64 (2, 3): where points (N, 3) begin and end along a unit vector, to the edges of their pixels.

    may_be_low: bool (N,), which of them may be the beginning. step_px: the side of their pixels.
    """
    reach = abs(axis[0]) / camera.fx_px + abs(axis[1]) / camera.fy_px
    half_pixel_m = 0.5 * step_px * reach * depth_m
    along = points_m @ axis
    low = int(np.where(may_be_low, along - half_pixel_m, np.inf).argmin())
    high = int((along + half_pixel_m).argmax())
    return np.stack([points_m[low] - half_pixel_m[low] * axis, points_m[high] + half_pixel_m[high] * axis])


def nearest_points(one_m: np.ndarray, two_m: np.ndarray) -> np.ndarray:
    """Returns float64 (2, 3): a point of each of two non-empty sets (N, 3) and (M, 3), as near to each other as any.

    Starting from the nearest pairs of a sample, it alternates between the nearest point of the one set and of the other
    until they stay the same. For surfaces this ends at the nearest pair, or at one that is as near as the sample is
    dense.
    """
    coarse_one, coarse_two = _sample(one_m, COARSE), _sample(two_m, COARSE)
    apart = ((coarse_two**2).sum(1) - 2 * coarse_one @ coarse_two.T).min(1) + (coarse_one**2).sum(1)
    fine_one, fine_two = _sample(one_m, FINE), _sample(two_m, FINE)
    pairs = [_alternate(fine_one, fine_two, coarse_one[start]) for start in np.argsort(apart)[:STARTS]]
    nearest = min(pairs, key=lambda pair: float(np.linalg.norm(pair[1] - pair[0])))
    return _alternate(one_m, two_m, nearest[0])


def _alternate(one_m: np.ndarray, two_m: np.ndarray, start_m: np.ndarray) -> np.ndarray:
    """Returns float64 (2, 3): the pair at which the alternation from a starting point ends."""
    first, second = start_m, _nearest(two_m, start_m)
    for _ in range(ROUNDS):
        before = first, second
        first = _nearest(one_m, second)
        second = _nearest(two_m, first)
        if (first == before[0]).all() and (second == before[1]).all():
            break
    return np.stack([first, second])


def _nearest(points_m: np.ndarray, to_m: np.ndarray) -> np.ndarray:
    """Returns the point of (N, 3) that is nearest to a point (3,)."""
    apart = points_m - to_m
    return points_m[np.einsum("ij,ij->i", apart, apart).argmin()]


def _sample(points_m: np.ndarray, count: int) -> np.ndarray:
    """Returns at most so many of the points, evenly spread over their order."""
    return points_m[:: -(-len(points_m) // count)]
