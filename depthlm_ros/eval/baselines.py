"""Predictions that never look at the image: the floor that a model has to beat."""

from __future__ import annotations

import math

import numpy as np

from depthlm_ros.eval.metrics import DELTA1_RATIO, has_depth


def best_constant_m(true_m: np.ndarray) -> float:
    """The one depth in metres that, answered everywhere, scores the highest delta1 on these true depths; NaN for none.

    A constant c is right for every g in the open interval (c / 1.25, 1.25 c), whose ends are a factor 1.25^2 apart:
    slide that interval over the sorted depths and take the geometric middle of the fullest one.
    """
    sorted_m = np.sort(np.asarray(true_m, np.float64)[has_depth(np.asarray(true_m))])
    if sorted_m.size == 0:
        return math.nan
    end = np.searchsorted(sorted_m, sorted_m * DELTA1_RATIO**2, side="left")
    start = int(np.argmax(end - np.arange(sorted_m.size)))
    return float(np.sqrt(sorted_m[start] * sorted_m[end[start] - 1]))
