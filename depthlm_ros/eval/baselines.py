"""Predictions that never look at the image: the floor that a model has to beat."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from depthlm_ros.eval.metrics import DELTA1_RATIO, has_depth, score


@dataclass(frozen=True)
class Constant:
    """One depth answered everywhere, and the delta1 that it scores; both NaN where nothing is labelled."""

    depth_m: float
    delta1: float


def constant(depth_m: float, true_m: np.ndarray) -> Constant:
    """What answering depth_m everywhere scores on these true depths."""
    return Constant(depth_m, score(np.full(np.shape(true_m), depth_m), true_m).delta1)


def best_constant(true_m: np.ndarray) -> Constant:
    """The one depth that, answered everywhere, scores the highest delta1 on these true depths in metres.

    A constant c is right for every g in the open interval (c / 1.25, 1.25 c), whose ends are a factor 1.25^2 apart:
    slide that interval over the sorted depths and take the geometric middle of the fullest one.
    """
    sorted_m = np.sort(np.asarray(true_m, np.float64)[has_depth(np.asarray(true_m))])
    if sorted_m.size == 0:
        return Constant(math.nan, math.nan)
    end = np.searchsorted(sorted_m, sorted_m * DELTA1_RATIO**2, side="left")
    start = int(np.argmax(end - np.arange(sorted_m.size)))
    return constant(float(np.sqrt(sorted_m[start] * sorted_m[end[start] - 1])), sorted_m)
