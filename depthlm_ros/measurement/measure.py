"""Geometry of things in boxes and at pixels, measured in the depth map: how far, how high, how wide, how far apart.

Uncertainty: within one thing the errors of a depth map count as one common relative error, between two things as
independent ones. So a height or width has the relative error of the thing's depth, and a gap changes with both depths
as far as they lie along it: relative_std * |(p1.n, p2.n)|, for its two ends p1, p2 and the direction n between them.
What the map spreads around the measured points, and the size of a pixel there, come on top.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from depthlm_ros.core import DepthMap, Intrinsics, Measurement, Region
from depthlm_ros.errors import BadQuestion
from depthlm_ros.measurement.extents import Thing, ends_across, ends_down, nearest_points, relations, thing_at, thing_in
from depthlm_ros.measurement.gravity import CAMERA_DOWN, downwards

# Of more things than this, pairs are not compared.
MOST_PAIRED = 4
FORWARD = (0.0, 0.0, 1.0)


def measure(
    depth: DepthMap, regions: Sequence[Region], uv_px: np.ndarray | Sequence, relative_std: float
) -> tuple[Measurement, ...]:
    """Distance, height and width of the thing in each box, distance of each pixel (N, 2), gaps and relations of pairs.

    The things are the boxes, then the pixels; `about` counts them so. What in a box is the thing: things/outline.py.
    "distance": from the camera's centre to the nearest seen surface. "height", "width": of what is seen, along the
    vertical (things/upright.py) and horizontally across the line of sight. "gap": between the nearest seen points. Of
    up to MOST_PAIRED things every pair is compared.
    Relations, only those that hold by more than two standard deviations: "nearer", by so much of the distance; "in
    front of", of a nearer thing if the two share at least half of the narrower one's columns; "left of" and "above",
    if the middle of each is beyond the end of the other, by the distance of the middles along the camera's horizontal
    or the vertical.

    relative_std: standard deviation of the map's depths over depth; NaN if unknown: no std, no relations.
    Values of boxes and pixels without known depth are NaN. Raises BadQuestion for boxes of no size or outside the
    image and for pixels outside.
    """
    camera, uv_px = depth.intrinsics, _checked(uv_px, depth.intrinsics)
    things = [thing_in(depth, region) for region in regions] + [thing_at(depth, uv) for uv in uv_px]
    down = downwards(depth) if len(regions) or len(things) > 1 else np.array(CAMERA_DOWN)
    right = _unit(np.cross(down, FORWARD))
    boxes, numbered = range(len(regions)), list(enumerate(things))
    pairs = list(combinations(numbered, 2)) if len(things) <= MOST_PAIRED else []
    found = [_distance(number, thing, relative_std) for number, thing in numbered]
    found += [_height(number, things[number], down, camera, relative_std) for number in boxes]
    found += [_width(number, things[number], down, camera, relative_std) for number in boxes]
    found += [_gap(one, two, relative_std) for one, two in pairs]
    for one, two in pairs:
        if one[1].known and two[1].known:
            found += relations(one, two, right, down, relative_std)
    order = ("distance", "height", "width", "gap", "nearer", "in front of", "left of", "above")
    return tuple(sorted(found, key=lambda measurement: order.index(measurement.quantity)))


def _distance(number: int, thing: Thing, relative_std: float) -> Measurement:
    std_m = math.hypot(relative_std * thing.distance_m, thing.spread_m)
    points_m = thing.nearest_m[None] if thing.known else np.zeros((0, 3))
    return Measurement("distance", thing.distance_m, "m", std_m, (number,), points_m)


def _height(number: int, thing: Thing, down: np.ndarray, camera: Intrinsics, relative_std: float) -> Measurement:
    if thing.outline is None or not thing.known:
        return _unknown("height", number)
    ends_m = ends_down(thing.outline, down, camera)
    return _extent("height", number, thing, ends_m, down, camera, relative_std)


def _width(number: int, thing: Thing, down: np.ndarray, camera: Intrinsics, relative_std: float) -> Measurement:
    if thing.outline is None or not thing.known:
        return _unknown("width", number)
    left, top, right, bottom = thing.outline.box_px
    u, v = (left + right - 1) / 2, (top + bottom - 1) / 2
    ahead = ((u - camera.cx_px) / camera.fx_px, (v - camera.cy_px) / camera.fy_px, 1.0)
    across = _unit(np.cross(down, ahead))
    ends_m = ends_across(thing.outline, across, camera)
    return _extent("width", number, thing, ends_m, across, camera, relative_std)


def _extent(
    quantity: str,
    number: int,
    thing: Thing,
    ends_m: np.ndarray,
    axis: np.ndarray,
    camera: Intrinsics,
    relative_std: float,
) -> Measurement:
    """The distance of two ends along an axis: as uncertain as the thing's depth, and by where in its pixel, and with
    what spread of the depth, each end lies."""
    value_m = float((ends_m[1] - ends_m[0]) @ axis)
    pixel_m = math.hypot(*(end[2] / camera.fx_px / math.sqrt(12) for end in ends_m))
    spread_m = math.hypot(*(thing.spread_m * float(end @ axis) / end[2] for end in ends_m))
    std_m = math.hypot(relative_std * value_m, pixel_m, spread_m)
    return Measurement(quantity, value_m, "m", std_m, (number,), ends_m)


def _gap(one: tuple[int, Thing], two: tuple[int, Thing], relative_std: float) -> Measurement:
    (first, thing), (second, other) = one, two
    if not (thing.known and other.known):
        return _unknown("gap", first, second)
    ends_m = nearest_points(thing.points_m, other.points_m)
    value_m = float(np.linalg.norm(ends_m[1] - ends_m[0]))
    # Things that touch may be apart along the line of sight.
    along = _unit(ends_m[1] - ends_m[0]) if value_m > 0 else _unit(ends_m[0])
    reach = [relative_std * float(end @ along) for end in ends_m]
    spread_m = [each.spread_m * float(along @ _unit(end)) for each, end in zip((thing, other), ends_m, strict=True)]
    return Measurement("gap", value_m, "m", math.hypot(*reach, *spread_m), (first, second), ends_m)


def _unknown(quantity: str, *about: int) -> Measurement:
    return Measurement(quantity, math.nan, "m", math.nan, about)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _checked(uv_px: np.ndarray | Sequence, camera: Intrinsics) -> np.ndarray:
    """float64 (N, 2). Raises BadQuestion for pixels that are not in the image."""
    uv_px = np.asarray(uv_px, np.float64).reshape(-1, 2)
    inside = ((uv_px >= -0.5) & (uv_px < np.array(camera.size_px) - 0.5)).all(1)
    for u, v in uv_px[~inside]:
        width, height = camera.size_px
        raise BadQuestion(
            f"pixel ({u:g}, {v:g}) is outside the {width} x {height} image: u 0..{width - 1}, v 0..{height - 1}."
        )
    return uv_px
