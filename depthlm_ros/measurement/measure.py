# SPDX-License-Identifier: Apache-2.0
"""Measures objects in boxes and at pixels in the depth map: distance, height, width, gaps and relations (`measure`).
`agree` combines such a number with the one that a model's words give.

Uncertainty: within one object the errors of a depth map count as one common relative error, between two objects as
independent ones. So a height or width has the relative error of the object's depth, and a gap changes with both depths
in proportion to how far they lie along it: |(s1 p1.n, s2 p2.n)|, for its two ends p1, p2 on objects with relative
errors s1, s2 and the direction n between them. The spread of the map around the measured points, and the size of a
pixel there, are added to it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from depthlm_ros.core import DepthMap, Intrinsics, Measurement, Region
from depthlm_ros.geometry.pinhole import check_pixels_inside
from depthlm_ros.measurement.extents import (
    CAMERA_DOWN,
    MeasuredObject,
    SurfacePoint,
    ends_across,
    ends_down,
    estimate_down,
    nearest_points,
    object_at_pixel,
    object_in_box,
)

# With more objects than this, pairs are not compared.
MOST_PAIRED = 4
FORWARD = (0.0, 0.0, 1.0)
# A relation is reported if it holds by more than this many standard deviations.
SURE = 2.0
# Least share of the narrower object's columns that both objects have, for one to be in front of the other.
COVERED = 0.5
# Two numbers contradict each other if they differ by more than this many standard deviations of their difference.
MOST_DEVIATIONS = 3.0
# and by more than this share of the measured one: deviations that were never calibrated can be far too small.
LEAST_CONTRADICTION = 0.1
_NUMBER = re.compile(r"\d+(?:\.(\d+))?")
QUANTITIES = ("distance", "nearest", "height", "width", "gap", "nearer", "in front of", "left of", "above")

# An object with its index in the answer: boxes first, then pixels.
Numbered = tuple[int, MeasuredObject]


def measure(
    depth: DepthMap,
    regions: Sequence[Region],
    uv_px: np.ndarray | Sequence,
    relative_std: float,
    find_down: Callable[[DepthMap], np.ndarray] = estimate_down,
) -> tuple[Measurement, ...]:
    """Returns distances, height and width of the object in each box, distance of each pixel (N, 2), gaps and relations.

    The objects are those in the boxes, then those at the pixels; Measurement.about counts them in this order. See
    segment.py for which part of a box is the object. Quantities:
    "distance": from the camera's centre, the median over the visible surface, as in the training of the embedded model.
    "nearest": to its nearest visible point. "height", "width": extent of the visible part, along the vertical
    (extents.estimate_down) and horizontally across the line of sight. "gap": between the nearest visible points. Every
    pair of up to MOST_PAIRED objects is compared.
    Relations, only those that hold by more than two standard deviations: "nearer", with the difference of the nearest
    points' distances; "in front of", for a nearer object if the two share at least half of the narrower one's columns;
    "left of" and "above", if the middle of each is beyond the end of the other, with the distance of the middles along
    the camera's horizontal or the vertical.

    relative_std: standard deviation of the map's depths over depth, for a map that does not tell it for every pixel
    (DepthMap.std_m); NaN if unknown: then no std and no relations. find_down: is called if the vertical is needed; for
    many calls about one map, it may remember the result. Values of boxes and pixels without known depth are
    NaN. Raises BadQuestion for boxes without size or outside the image, and for pixels outside the image.
    """
    camera, uv_px = depth.intrinsics, check_pixels_inside(uv_px, depth.intrinsics.size_px)
    objects = [object_in_box(depth, region, relative_std) for region in regions]
    objects += [object_at_pixel(depth, uv, relative_std) for uv in uv_px]
    down = find_down(depth) if len(regions) or len(objects) > 1 else np.array(CAMERA_DOWN)
    numbered = list(enumerate(objects))
    found = [_distance("distance", number, one, one.middle) for number, one in numbered]
    for number, measured in numbered[: len(regions)]:
        found.append(_distance("nearest", number, measured, measured.nearest))
        found += _height_and_width(number, measured, down, camera)
    for one, two in combinations(numbered, 2) if len(objects) <= MOST_PAIRED else ():
        found.append(_gap(one, two))
        if one[1].is_known and two[1].is_known:
            found += _relations(one, two, down)
    return tuple(sorted(found, key=lambda measurement: QUANTITIES.index(measurement.quantity)))


def _distance(quantity: str, number: int, one: MeasuredObject, at: SurfacePoint) -> Measurement:
    points_m = at.point_m[None] if one.is_known else np.zeros((0, 3))
    std_m = math.hypot(one.relative_std * at.distance_m, at.spread_m)
    return Measurement(quantity, at.distance_m, "m", std_m, (number,), points_m)


def _height_and_width(number: int, one: MeasuredObject, down: np.ndarray, camera: Intrinsics) -> list[Measurement]:
    """Returns the height and width of an object in a box.

    They are as uncertain as the object's depth, and by where in its pixel, and with what spread of the depth, each end
    lies.
    """
    if one.segment is None or not one.is_known:
        return [Measurement(quantity, math.nan, "m", math.nan, (number,)) for quantity in ("height", "width")]
    left, top, right, bottom = one.segment.box_px
    u, v = (left + right - 1) / 2, (top + bottom - 1) / 2
    across = _unit(np.cross(down, ((u - camera.cx_px) / camera.fx_px, (v - camera.cy_px) / camera.fy_px, 1.0)))
    found = []
    for quantity, axis, ends_m in (
        ("height", down, ends_down(one.segment, down, camera)),
        ("width", across, ends_across(one.segment, across, camera)),
    ):
        value_m = float((ends_m[1] - ends_m[0]) @ axis)
        # The standard deviation of a uniform distribution over one pixel is its side over the square root of 12.
        pixel_m = math.hypot(*(end[2] / camera.fx_px / math.sqrt(12) for end in ends_m))
        spread_m = math.hypot(*(one.nearest.spread_m * float(end @ axis) / end[2] for end in ends_m))
        std_m = math.hypot(one.relative_std * value_m, pixel_m, spread_m)
        found.append(Measurement(quantity, value_m, "m", std_m, (number,), ends_m))
    return found


def _gap(one: Numbered, two: Numbered) -> Measurement:
    about, pair = (one[0], two[0]), (one[1], two[1])
    if not (pair[0].is_known and pair[1].is_known):
        return Measurement("gap", math.nan, "m", math.nan, about)
    ends_m = nearest_points(pair[0].points_m, pair[1].points_m)
    value_m = float(np.linalg.norm(ends_m[1] - ends_m[0]))
    # Objects that touch in the map may be apart along the line of sight.
    along = _unit(ends_m[1] - ends_m[0]) if value_m > 0 else _unit(ends_m[0])
    reach_m = [each.relative_std * float(end @ along) for each, end in zip(pair, ends_m, strict=True)]
    spread_m = [each.nearest.spread_m * float(along @ _unit(end)) for each, end in zip(pair, ends_m, strict=True)]
    return Measurement("gap", value_m, "m", math.hypot(*reach_m, *spread_m), about, ends_m)


def _relations(one: Numbered, two: Numbered, down: np.ndarray) -> Iterator[Measurement]:
    """Yields the relations between two objects of known depth that hold by more than SURE standard deviations.

    The errors of their depths count as independent.
    """
    near, far = sorted((one, two), key=lambda numbered: numbered[1].nearest.distance_m)
    yield from _nearer(near, far)
    left, right = sorted((one, two), key=lambda numbered: sum(numbered[1].columns_px))
    yield from _before("left of", left, right, _unit(np.cross(down, FORWARD)))
    upper, lower = sorted((one, two), key=lambda numbered: sum(numbered[1].span_m(down)))
    yield from _before("above", upper, lower, down)


def _nearer(near: Numbered, far: Numbered) -> Iterator[Measurement]:
    """Yields "nearer" and, where the objects share columns of the image, "in front of"."""
    (first, one), (second, two) = near, far
    by_m = two.nearest.distance_m - one.nearest.distance_m
    stds_m = (each.relative_std * each.nearest.distance_m for each in (one, two))
    std_m = math.hypot(*stds_m, one.nearest.spread_m, two.nearest.spread_m)
    if by_m > SURE * std_m:
        points_m = np.stack([one.nearest.point_m, two.nearest.point_m])
        yield Measurement("nearer", by_m, "m", std_m, (first, second), points_m)
        shared_px = min(one.columns_px[1], two.columns_px[1]) - max(one.columns_px[0], two.columns_px[0])
        if shared_px / min(each.columns_px[1] - each.columns_px[0] for each in (one, two)) >= COVERED:
            yield Measurement("in front of", by_m, "m", std_m, (first, second), points_m)


def _before(relation: str, one: Numbered, two: Numbered, axis: np.ndarray) -> Iterator[Measurement]:
    """Yields the relation if the middle of each object is beyond the end of the other along an axis.

    The value is the distance of the two middles.
    """
    (first, before), (second, after) = one, two
    (low, high), (other_low, other_high) = before.span_m(axis), after.span_m(axis)
    middle, other = (low + high) / 2, (other_low + other_high) / 2
    # A point that is seen off the axis moves along it with its depth.
    std_m = math.hypot(before.relative_std * middle, after.relative_std * other)
    if middle < other_low and high < other and other - middle > SURE * std_m:
        points_m = np.stack([before.points_m.mean(0), after.points_m.mean(0)])
        yield Measurement(relation, other - middle, "m", std_m, (first, second), points_m)


def _unit(vector: np.ndarray) -> np.ndarray:
    """Returns the vector with length 1."""
    return vector / np.linalg.norm(vector)


@dataclass(frozen=True)
class AgreedNumber:
    """What is known of a quantity from words and map. std: its standard deviation. is_consistent: False if the two
    contradict each other; then value is the measured one, and std their difference."""

    value: float
    std: float
    is_consistent: bool = True


def agree(words: float, words_std: float, measured: float, measured_std: float) -> AgreedNumber:
    """Combines a number in words with the measured one: their mean, weighted by the inverse of their variances.

    The weights are those of the best mean of two independent numbers. Its standard deviation is the mean of both with
    the same weights, which holds even if their errors are the same: words and map come from one network. Of two numbers
    of which one has an unknown (NaN) standard deviation, the other one is taken; if both are unknown, the words'.
    """
    if math.isnan(measured_std):
        return AgreedNumber(words, words_std)
    if math.isnan(words_std):
        return AgreedNumber(measured, measured_std)
    difference, difference_std = abs(words - measured), math.hypot(words_std, measured_std)
    if difference > max(MOST_DEVIATIONS * difference_std, LEAST_CONTRADICTION * abs(measured)):
        return AgreedNumber(measured, difference, is_consistent=False)
    if difference_std == 0:
        return AgreedNumber(measured, 0.0)
    share = (words_std / difference_std) ** 2
    return AgreedNumber(words + share * (measured - words), words_std + share * (measured_std - words_std))


def replace_number(text: str, old: float, new: float) -> str:
    """Returns a text whose number `old` is exchanged for `new`.

    A text that states it in another unit, as its only number, is changed in proportion. Any other text stays.
    """
    numbers = list(_NUMBER.finditer(text))
    found = next((number for number in numbers if float(number[0]) == abs(old)), None)
    if found is None and len(numbers) == 1:
        found = numbers[0]
    if found is None or old == 0:
        return text
    stated = float(found[0]) * new / old
    decimals = max(len(found[1] or ""), 2 if abs(stated) < 100 else 0)
    return f"{text[: found.start()]}{abs(stated):.{decimals}f}{text[found.end() :]}"


def local_depth_std(depth_m: np.ndarray, uv_px: np.ndarray) -> np.ndarray:
    """Returns float64 (N,): standard deviation of a depth map (h, w) over the 3 x 3 pixels around each (u, v)."""
    height, width = depth_m.shape
    u = np.clip(np.rint(uv_px[:, 0]).astype(int), 0, width - 1)
    v = np.clip(np.rint(uv_px[:, 1]).astype(int), 0, height - 1)
    padded = np.pad(depth_m.astype(np.float64), 1, mode="edge")
    return np.stack([padded[v + dv, u + du] for dv in range(3) for du in range(3)]).std(0)
