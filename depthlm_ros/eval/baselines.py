"""Predictions that never look at the image: the floor that a model has to beat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.eval.metrics import DELTA1_RATIO, has_depth, score

# The per-row prior knows one depth for each of so many bands of rows, where it has seen so many points.
BANDS, LEAST_POINTS = 16, 5


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


def row_slopes(uv_px: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """float64 (N,): y / z of the ray through each pixel (N, 2), which is a row that means the same for every camera."""
    return (np.asarray(uv_px, np.float64).reshape(-1, 2)[:, 1] - intrinsics.cy_px) / intrinsics.fy_px


def row_prior(slopes: Sequence[np.ndarray], true_m: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Depth by row alone: for each image the best constant of its band of rows in other images.

    slopes: row_slopes of every image's points, (N_i,); true_m: their depths. The images are dealt into two halves, and
    each half is answered from the other, so that no image is answered from its own labels. NaN where there is only one.
    """
    predicted = [np.full(np.shape(depths), np.nan) for depths in true_m]
    for half in (0, 1):
        others = range(1 - half, len(true_m), 2)
        if not others:
            continue
        edges, depth_m = _bands(
            np.concatenate([slopes[i] for i in others]), np.concatenate([true_m[i] for i in others])
        )
        for index in range(half, len(true_m), 2):
            predicted[index] = depth_m[np.searchsorted(edges, slopes[index])]
    return predicted


def _bands(slopes: np.ndarray, true_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inner edges of bands of rows with about as many points each, and the best constant of each band."""
    labelled = has_depth(true_m)
    slopes, true_m = slopes[labelled], true_m[labelled]
    if not len(slopes):
        return np.zeros(0), np.array([np.nan])
    edges = np.unique(np.quantile(slopes, np.linspace(0, 1, BANDS + 1)[1:-1]))
    band = np.searchsorted(edges, slopes)
    everywhere_m = best_constant(true_m).depth_m
    inside = [true_m[band == number] for number in range(len(edges) + 1)]
    return edges, np.array([best_constant(m).depth_m if len(m) >= LEAST_POINTS else everywhere_m for m in inside])
