# SPDX-License-Identifier: Apache-2.0
"""Predictions that do not look at the image: the scores that a model has to exceed.

`score_constant` answers one depth everywhere, `best_constant` finds the depth with the highest delta1, and
`predict_from_rows` answers from the row of the image alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.eval.metrics import DELTA1_RATIO, has_depth, score_depth

# The prior by row has one depth for each of this many bands of rows.
BANDS = 16
# A band with fewer labelled points than this uses the best constant of all rows.
LEAST_POINTS = 5


@dataclass(frozen=True)
class ConstantAnswer:
    """One depth that is answered everywhere, and its delta1. Both are NaN if nothing is labelled."""

    depth_m: float
    delta1: float


def score_constant(depth_m: float, true_m: np.ndarray) -> ConstantAnswer:
    """Returns the delta1 of answering depth_m everywhere, for true depths in metres."""
    return ConstantAnswer(depth_m, score_depth(np.full(np.shape(true_m), depth_m), true_m).delta1)


def best_constant(true_m: np.ndarray) -> ConstantAnswer:
    """Returns the depth that has the highest delta1 if it is answered everywhere, for true depths in metres.

    A constant c is correct for every g in the open interval (c / 1.25, 1.25 c), whose ends differ by a factor of
    1.25^2. That interval is moved over the sorted depths, and the geometric middle of the fullest one is taken.
    """
    sorted_m = np.sort(np.asarray(true_m, np.float64)[has_depth(np.asarray(true_m))])
    if sorted_m.size == 0:
        return ConstantAnswer(math.nan, math.nan)
    end = np.searchsorted(sorted_m, sorted_m * DELTA1_RATIO**2, side="left")
    start = int(np.argmax(end - np.arange(sorted_m.size)))
    return score_constant(float(np.sqrt(sorted_m[start] * sorted_m[end[start] - 1])), sorted_m)


def row_slopes(uv_px: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Returns float64 (N,): y / z of the ray through each pixel (N, 2). It is a row that is comparable over cameras."""
    return (np.asarray(uv_px, np.float64).reshape(-1, 2)[:, 1] - intrinsics.cy_px) / intrinsics.fy_px


def predict_from_rows(slopes: Sequence[np.ndarray], true_m: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns the depth of each image's points by row alone: the best constant of their band of rows in other images.

    slopes: row_slopes of every image's points, (N_i,). true_m: their depths. The images are divided into two halves,
    and each half is answered from the other, so that no image is answered from its own labels. The depths are NaN if
    there is only one image.
    """
    predicted = [np.full(np.shape(depths), np.nan) for depths in true_m]
    for half in (0, 1):
        others = range(1 - half, len(true_m), 2)
        if not others:
            continue
        edges, depth_m = _fit_bands(
            np.concatenate([slopes[i] for i in others]), np.concatenate([true_m[i] for i in others])
        )
        for index in range(half, len(true_m), 2):
            predicted[index] = depth_m[np.searchsorted(edges, slopes[index])]
    return predicted


def _fit_bands(slopes: np.ndarray, true_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the inner edges of bands of rows with about equally many points, and the best constant of each band."""
    labelled = has_depth(true_m)
    slopes, true_m = slopes[labelled], true_m[labelled]
    if not len(slopes):
        return np.zeros(0), np.array([np.nan])
    edges = np.unique(np.quantile(slopes, np.linspace(0, 1, BANDS + 1)[1:-1]))
    band = np.searchsorted(edges, slopes)
    everywhere_m = best_constant(true_m).depth_m
    inside = [true_m[band == number] for number in range(len(edges) + 1)]
    return edges, np.array([best_constant(m).depth_m if len(m) >= LEAST_POINTS else everywhere_m for m in inside])
