"""How two things stand to each other, as far as that is certain: nearer, in front of, left of, above."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from depthlm_ros.core import Measurement
from depthlm_ros.things.thing import Thing

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
