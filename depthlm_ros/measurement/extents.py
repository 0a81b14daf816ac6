"""How far the thing in a box reaches along a direction, to the edges of its pixels.

The two points at which two things are nearest to each other.

A thing as points in space: a thing in a box, or what is seen at a pixel.

How two things stand to each other, as far as that is certain: nearer, in front of, left of, above.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from depthlm_ros.core import DepthMap, Intrinsics, Measurement, Region
from depthlm_ros.geometry.pinhole import backproject
from depthlm_ros.measurement.segment import Outline, find_thing

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


# All pairs of so many points of each are compared; the best few are followed among so many, the best of all in all.
COARSE, FINE, STARTS, ROUNDS = 256, 4096, 4, 8


def nearest_points(one_m: np.ndarray, two_m: np.ndarray) -> np.ndarray:
    """float64 (2, 3): a point of each of two sets (N, 3) and (M, 3), both not empty, as near as they come.

    From the nearest pairs of a sample of both, the nearest point of the one set and of the other in turn, until they
    stay: for surfaces this ends at the nearest pair, or at one as near as the sample is dense.
    """
    coarse_one, coarse_two = _sample(one_m, COARSE), _sample(two_m, COARSE)
    apart = ((coarse_two**2).sum(1) - 2 * coarse_one @ coarse_two.T).min(1) + (coarse_one**2).sum(1)
    fine_one, fine_two = _sample(one_m, FINE), _sample(two_m, FINE)
    pairs = [_settled(fine_one, fine_two, coarse_one[start]) for start in np.argsort(apart)[:STARTS]]
    nearest = min(pairs, key=lambda pair: float(np.linalg.norm(pair[1] - pair[0])))
    return _settled(one_m, two_m, nearest[0])


def _settled(one_m: np.ndarray, two_m: np.ndarray, start_m: np.ndarray) -> np.ndarray:
    first, second = start_m, _nearest(two_m, start_m)
    for _ in range(ROUNDS):
        before = first, second
        first = _nearest(one_m, second)
        second = _nearest(two_m, first)
        if (first == before[0]).all() and (second == before[1]).all():
            break
    return np.stack([first, second])


def _nearest(points_m: np.ndarray, to_m: np.ndarray) -> np.ndarray:
    apart = points_m - to_m
    return points_m[np.einsum("ij,ij->i", apart, apart).argmin()]


def _sample(points_m: np.ndarray, count: int) -> np.ndarray:
    return points_m[:: -(-len(points_m) // count)]


# The nearest point is the nearest but one in so many: a few wild pixels do not shift it.
OUTLIERS = 500


@dataclass(frozen=True)
class Thing:
    """What is known of a thing, metres in the optical frame; without points where its depth is unknown.

    points_m: float64 (N, 3), those that are surely its own. nearest_m: (3,), NaN without points. spread_m: standard
    deviation of the depth around there. columns_px: its left and right end in the image. outline: of a thing in a box.
    """

    points_m: np.ndarray
    nearest_m: np.ndarray
    spread_m: float
    columns_px: tuple[float, float]
    outline: Outline | None = None

    @property
    def known(self) -> bool:
        return len(self.points_m) > 0

    @property
    def distance_m(self) -> float:
        return float(np.linalg.norm(self.nearest_m))

    def span_m(self, axis: np.ndarray) -> tuple[float, float]:
        """From where to where its points reach along a unit vector."""
        along = self.points_m @ axis
        return float(along.min()), float(along.max())


def thing_in(depth: DepthMap, region: Region) -> Thing:
    """The thing in a box. Raises BadQuestion for a box of no size or outside the image."""
    outline = find_thing(depth, region)
    left, _, right, _ = outline.box_px
    columns_px = (left - 0.5, right - 0.5)
    mine = outline.sure if outline.sure.any() else np.ones(len(outline.depth_m), bool)
    points_m = backproject(outline.uv_px[mine], outline.depth_m[mine], depth.intrinsics)
    if not len(points_m):
        return Thing(points_m, np.full(3, np.nan), np.nan, columns_px, outline)
    rank = len(points_m) // OUTLIERS
    nearest = np.argpartition(np.einsum("ij,ij->i", points_m, points_m), rank)[rank]
    u, v = np.abs(outline.uv_px[mine] - outline.uv_px[mine][nearest]).T
    around = (u <= outline.step_px) & (v <= outline.step_px)
    spread_m = float(outline.depth_m[mine][around].std())
    return Thing(points_m, points_m[nearest], spread_m, columns_px, outline)


def thing_at(depth: DepthMap, uv_px: np.ndarray) -> Thing:
    """What is seen at the pixel nearest to (u, v)."""
    u, v = np.rint(uv_px).astype(int)
    columns_px = (uv_px[0] - 0.5, uv_px[0] + 0.5)
    points_m = backproject(uv_px, _known(depth.depth_m[v, u]), depth.intrinsics)
    if np.isnan(points_m).any():
        return Thing(points_m[:0], np.full(3, np.nan), np.nan, columns_px)
    around = _known(depth.depth_m[max(0, v - 1) : v + 2, max(0, u - 1) : u + 2])
    return Thing(points_m, points_m[0], float(np.nanstd(around)), columns_px)


def _known(depth_m: np.ndarray) -> np.ndarray:
    """float64, NaN where there is no surface."""
    depth_m = np.asarray(depth_m, np.float64)
    return np.where(np.isfinite(depth_m) & (depth_m > 0), depth_m, np.nan)


# A relation is told from so many standard deviations on.
SURE = 2.0
# Share of the narrower of two things' columns that both have, for one to be in front of the other.
COVERED = 0.5

Numbered = tuple[int, Thing]


def relations(
    one: Numbered, two: Numbered, right: np.ndarray, down: np.ndarray, relative_std: float
) -> Iterator[Measurement]:
    """What holds between two things of known depth by more than SURE standard deviations, as measure() tells it.

    right, down: unit vectors (3,). relative_std: of the depth of each thing, independent of the other's.
    """
    near, far = sorted((one, two), key=lambda numbered: numbered[1].distance_m)
    yield from _nearer(near, far, relative_std)
    left, other = sorted((one, two), key=lambda numbered: sum(numbered[1].columns_px))
    yield from _before("left of", left, other, right, relative_std)
    upper, lower = sorted((one, two), key=lambda numbered: sum(numbered[1].span_m(down)))
    yield from _before("above", upper, lower, down, relative_std)


def _nearer(near: Numbered, far: Numbered, relative_std: float) -> Iterator[Measurement]:
    """Nearer and, where they share columns of the image, in front of."""
    (first, one), (second, two) = near, far
    by_m = two.distance_m - one.distance_m
    std_m = math.hypot(relative_std * one.distance_m, relative_std * two.distance_m, one.spread_m, two.spread_m)
    if by_m > SURE * std_m:
        points_m = np.stack([one.nearest_m, two.nearest_m])
        yield Measurement("nearer", by_m, "m", std_m, (first, second), points_m)
        if _shared_columns(one, two) >= COVERED:
            yield Measurement("in front of", by_m, "m", std_m, (first, second), points_m)


def _shared_columns(one: Thing, two: Thing) -> float:
    """Columns that both have over those of the narrower."""
    both = min(one.columns_px[1], two.columns_px[1]) - max(one.columns_px[0], two.columns_px[0])
    return both / min(thing.columns_px[1] - thing.columns_px[0] for thing in (one, two))


def _before(
    relation: str, one: Numbered, two: Numbered, axis: np.ndarray, relative_std: float
) -> Iterator[Measurement]:
    """Whether the middle of each is beyond the end of the other along an axis, and by how much the middles differ."""
    (first, before), (second, after) = one, two
    (low, high), (other_low, other_high) = before.span_m(axis), after.span_m(axis)
    middle, other = (low + high) / 2, (other_low + other_high) / 2
    # What is seen off the axis moves along it with its depth.
    std_m = relative_std * math.hypot(middle, other)
    if middle < other_low and high < other and other - middle > SURE * std_m:
        points_m = np.stack([before.points_m.mean(0), after.points_m.mean(0)])
        yield Measurement(relation, other - middle, "m", std_m, (first, second), points_m)
