# SPDX-License-Identifier: Apache-2.0
"""Objects as points in space: the object in a box or at a pixel, how far it reaches, and where two are nearest.

`object_in_box` and `object_at_pixel` return a MeasuredObject. `ends_down` and `ends_across` return its two ends along a
direction, to the edges of its pixels. `nearest_points` returns the points at which two objects are nearest.
`estimate_down` finds which way is down: floors, walls, table tops and boxes agree about it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from depthlm_ros.core import DepthMap, Intrinsics, Region
from depthlm_ros.geometry.pinhole import backproject, nearest_pixel
from depthlm_ros.measurement.segment import SegmentedObject, segment_object

# The nearest point is sought after leaving out one point in this many: a few wild pixels do not shift it.
OUTLIERS = 500
# An object that ends at most this many pixels inside its box is as wide as its box: pixels at its rim are not sure.
RIM_PX = 3
# nearest_points compares all pairs of at most COARSE points of each set. It follows the best STARTS of them among at
# most FINE points, in at most ROUNDS rounds, and the best of these among all points.
COARSE, FINE, STARTS, ROUNDS = 256, 4096, 4, 8


@dataclass(frozen=True)
class SurfacePoint:
    """A point (3,) of an object, metres; NaN if unknown. spread_m: standard deviation of the depth around it."""

    point_m: np.ndarray
    spread_m: float

    @property
    def distance_m(self) -> float:
        """Its distance from the camera's centre."""
        return float(np.linalg.norm(self.point_m))


UNKNOWN_POINT = SurfacePoint(np.full(3, np.nan), np.nan)


@dataclass(frozen=True)
class MeasuredObject:
    """What is known of an object, metres in the optical frame; without points where its depth is unknown.

    points_m: float64 (N, 3), those that surely belong to it. middle: the point of median distance. nearest: the nearest
    one but for outliers. relative_std: standard deviation of its depths over depth, of one error that all its points
    share; NaN if unknown. columns_px: its left and right end in the image. segment: its pixels, for an object in a box.
    """

    points_m: np.ndarray
    middle: SurfacePoint
    nearest: SurfacePoint
    relative_std: float
    columns_px: tuple[float, float]
    segment: SegmentedObject | None = None

    @property
    def is_known(self) -> bool:
        """Whether it has points."""
        return len(self.points_m) > 0

    def span_m(self, axis: np.ndarray) -> tuple[float, float]:
        """Returns the least and greatest coordinate of its points along a unit vector (3,)."""
        along = self.points_m @ axis
        return float(along.min()), float(along.max())


def object_in_box(depth: DepthMap, region: Region, relative_std: float) -> MeasuredObject:
    """Returns the object in a box. Raises BadQuestion for a box without size or outside the image.

    relative_std: of a map without std_m. Otherwise it is the median over the object's pixels.
    """
    segment = segment_object(depth, region)
    left, _, right, _ = segment.box_px
    columns_px = (left - 0.5, right - 0.5)
    sure = segment.sure if segment.sure.any() else np.ones(len(segment.depth_m), bool)
    uv_px, depth_m, points_m = segment.uv_px[sure], segment.depth_m[sure], segment.points_m[sure]
    if not len(points_m):
        return MeasuredObject(points_m, UNKNOWN_POINT, UNKNOWN_POINT, np.nan, columns_px, segment)
    ranks = (len(points_m) // 2, len(points_m) // OUTLIERS)
    order = np.argpartition(np.einsum("ij,ij->i", points_m, points_m), ranks)
    middle, nearest = (_surface_point(order[rank], uv_px, depth_m, points_m, segment.step_px) for rank in ranks)
    relative_std = _median_relative_std(depth, uv_px, relative_std)
    return MeasuredObject(points_m, middle, nearest, relative_std, columns_px, segment)


def _surface_point(
    index: int, uv_px: np.ndarray, depth_m: np.ndarray, points_m: np.ndarray, step_px: float
) -> SurfacePoint:
    """Returns one of N points, with the spread of the depths (N,) at the pixels (N, 2) around its own."""
    u, v = np.abs(uv_px - uv_px[index]).T
    return SurfacePoint(points_m[index], float(depth_m[(u <= step_px) & (v <= step_px)].std()))


def object_at_pixel(depth: DepthMap, uv_px: np.ndarray, relative_std: float) -> MeasuredObject:
    """Returns the surface seen at the pixel that contains (u, v), which must be inside the image.

    relative_std: of a map without std_m.
    """
    ((u, v),) = nearest_pixel(uv_px)
    columns_px = (uv_px[0] - 0.5, uv_px[0] + 0.5)
    points_m = backproject(uv_px, _nan_where_unknown(depth.depth_m[v, u]), depth.intrinsics)
    if np.isnan(points_m).any():
        return MeasuredObject(points_m[:0], UNKNOWN_POINT, UNKNOWN_POINT, np.nan, columns_px)
    around_m = _nan_where_unknown(depth.depth_m[max(0, v - 1) : v + 2, max(0, u - 1) : u + 2])
    relative_std = _median_relative_std(depth, uv_px[None], relative_std)
    point = SurfacePoint(points_m[0], float(np.nanstd(around_m)))
    return MeasuredObject(points_m, point, point, relative_std, columns_px)


def _median_relative_std(depth: DepthMap, uv_px: np.ndarray, otherwise: float) -> float:
    """Returns the median of std_m / depth_m over pixels (N, 2) of known depth, `otherwise` for a map without std_m."""
    if depth.std_m is None:
        return otherwise
    u, v = nearest_pixel(uv_px).T
    return float(np.median(depth.std_m[v, u].astype(np.float64) / depth.depth_m[v, u]))


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


BLOCK_PX = 8
# Within how many degrees a surface counts as horizontal or vertical, round by round.
TOLERANCES_DEG = (45.0, 45.0, 45.0, 15.0, 15.0, 15.0, 5.0, 5.0, 2.0, 2.0)
# If not more than this share of the surfaces is horizontal or vertical in the end, they say nothing.
AGREE, AGREE_DEG = 0.3, 5.0
# Weight of the camera's own down, for each surface.
PRIOR_WEIGHT = 1e-4
CAMERA_DOWN = (0.0, 1.0, 0.0)


def estimate_down(depth: DepthMap) -> np.ndarray:
    """Returns float64 (3,): the unit vector along gravity in the optical frame.

    It is the direction to which the most surfaces are parallel or perpendicular, starting from the camera's own down,
    for a camera that is held upright within about 35 degrees (Gupta, Arbelaez, Malik: Perceptual Organization and
    Recognition of Indoor Scenes from RGB-D Images, CVPR 2013, section 3.1, with a last, narrower round). It is the
    camera's own down where the surfaces do not agree.
    """
    return down_of_normals(_normals(depth))


def down_of_normals(normals: np.ndarray) -> np.ndarray:
    """Returns float64 (3,): the direction of gravity by unit normals (N, 3) of surfaces (estimate_down)."""
    down = np.array(CAMERA_DOWN)
    if len(normals) < 3:
        return down
    # Where all surfaces are alike, such as a wall seen from the front, many directions fit: this prefers the camera's.
    prior = PRIOR_WEIGHT * len(normals) * (np.eye(3) - np.outer(down, down))
    for tolerance_deg in TOLERANCES_DEG:
        flat, upright = _aligned(normals, down, tolerance_deg)
        # Least squares: normals of upright surfaces have no part along it, those of flat surfaces no part across it.
        down = np.linalg.eigh(upright.T @ upright - flat.T @ flat + prior)[1][:, 0]
        down *= math.copysign(1.0, down[1])
    flat, upright = _aligned(normals, down, AGREE_DEG)
    return down if len(flat) + len(upright) > AGREE * len(normals) else np.array(CAMERA_DOWN)


def _aligned(normals: np.ndarray, down: np.ndarray, tolerance_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns those of the normals (N, 3) that are along a direction, and those that are across it."""
    cosine = np.abs(normals @ down)
    return (
        normals[cosine > math.cos(math.radians(tolerance_deg))],
        normals[cosine < math.sin(math.radians(tolerance_deg))],
    )


def _normals(depth: DepthMap) -> np.ndarray:
    """Returns float64 (N, 3): unit normals of the surfaces at blocks of BLOCK_PX x BLOCK_PX pixels."""
    height, width = (size // BLOCK_PX for size in depth.depth_m.shape)
    if min(height, width) < 3:
        return np.zeros((0, 3))
    depth_m = depth.depth_m[: height * BLOCK_PX, : width * BLOCK_PX]
    known = np.isfinite(depth_m) & (depth_m > 0)
    inverse = np.divide(1, depth_m, out=np.zeros(depth_m.shape, np.float32), where=known)
    share, block = (
        cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).astype(np.float64)
        for image in (known.astype(np.float32), inverse)
    )
    block = np.divide(block, share, out=np.full(block.shape, np.nan), where=share > 0.5)
    camera, size = depth.intrinsics, float(BLOCK_PX)
    centre_px = ((camera.cx_px + 0.5) / size - 0.5, (camera.cy_px + 0.5) / size - 0.5)
    of_blocks = Intrinsics(camera.fx_px / size, camera.fy_px / size, *centre_px, width, height)
    normals = surface_normals(block, of_blocks).reshape(-1, 3)
    return normals[np.isfinite(normals).all(1)]


def surface_normals(inverse: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """Returns float64 (h - 2, w - 2, 3): unit normals at the inner pixels of a map of 1 / z (h, w); NaN where unknown.

    1 / z = a u + b v + c on a plane, and then (a fx, b fy, a cx + b cy + c) is its normal over its distance (see
    surface_patches.py).
    """
    height, width = inverse.shape
    a = (inverse[1:-1, 2:] - inverse[1:-1, :-2]) / 2
    b = (inverse[2:, 1:-1] - inverse[:-2, 1:-1]) / 2
    u, v = np.arange(1, width - 1), np.arange(1, height - 1)
    towards = inverse[1:-1, 1:-1] - a * (u - camera.cx_px) - b * (v[:, None] - camera.cy_px)
    normals = np.stack([a * camera.fx_px, b * camera.fy_px, towards], axis=-1)
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    return np.divide(normals, length, out=np.full(normals.shape, np.nan), where=length > 0)
