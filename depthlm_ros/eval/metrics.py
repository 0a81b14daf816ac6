"""Depth scores over labelled points.

delta1 = mean[max(p/g, g/p) < 1.25], strict (Eigen et al. 2014; the one score that DepthLM and DepthVLM report).
AbsRel = mean |p - g| / g.  RMSE = sqrt(mean (p - g)^2).
A point counts if its true depth g is finite and positive. A missing prediction (NaN, infinite, zero or negative) is
wrong in delta1 and stays out of AbsRel and RMSE; `parse_failures` says how many, so that silence does not pay.
`delta1_answered` leaves it out there too, as the released code of DepthVLM and of VLM3 does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

DELTA1_RATIO = 1.25


@dataclass(frozen=True)
class Scores:
    """Scores of n points; NaN where no point allows one.

    n: points with a true depth. parse_failures: those of them without a prediction; absrel, rmse_m and
    delta1_answered are over the other n - parse_failures.
    """

    delta1: float
    absrel: float
    rmse_m: float
    n: int
    parse_failures: int
    delta1_answered: float = math.nan


@dataclass(frozen=True)
class Sums:
    """What scores are made of, so that those of many images can be had without keeping their points.

    n: points with a true depth; said: with a prediction too; hits: of them, those right by delta1; relative, square_m2:
    sums of |p - g| / g and of (p - g)^2.
    """

    n: int = 0
    said: int = 0
    hits: int = 0
    relative: float = 0.0
    square_m2: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    @property
    def scores(self) -> Scores:
        """The scores of these points."""
        n, said = self.n, self.said
        return Scores(
            delta1=self.hits / n if n else math.nan,
            absrel=self.relative / said if said else math.nan,
            rmse_m=math.sqrt(self.square_m2 / said) if said else math.nan,
            n=n,
            parse_failures=n - said,
            delta1_answered=self.hits / said if said else math.nan,
        )


def has_depth(depth_m: np.ndarray) -> np.ndarray:
    """bool, same shape: which depths are finite and positive."""
    return np.isfinite(depth_m) & (depth_m > 0)


def score(predicted_m: np.ndarray, true_m: np.ndarray) -> Scores:
    """Score predictions against true depths, metres, both of one shape."""
    return sums(predicted_m, true_m).scores


def sums(predicted_m: np.ndarray, true_m: np.ndarray) -> Sums:
    """The same, before the division."""
    predicted_m, true_m = _points_with_truth(predicted_m, true_m)
    said = has_depth(predicted_m)
    p, g = predicted_m[said], true_m[said]
    hits = int(np.count_nonzero(np.maximum(p / g, g / p) < DELTA1_RATIO))
    return Sums(true_m.size, p.size, hits, float(np.sum(np.abs(p - g) / g)), float(np.sum((p - g) ** 2)))


def median_aligned(predicted_m: np.ndarray, true_m: np.ndarray) -> np.ndarray:
    """Predictions of ONE image times median(g) / median(p): what is left when the scale is given away.

    The alignment of Zhou et al. 2017 (SfMLearner). float64, same shape; unchanged where no point has both depths.
    """
    predicted_m = np.asarray(predicted_m, np.float64)
    both = has_depth(predicted_m) & has_depth(np.asarray(true_m))
    if not both.any():
        return predicted_m
    return predicted_m * (np.median(np.asarray(true_m)[both]) / np.median(predicted_m[both]))


def mean_delta1(per_image: Sequence[Scores]) -> float:
    """Unweighted mean of the images' delta1; an image without a labelled point scores 0 (DepthVLM's data set score)."""
    if not per_image:
        return math.nan
    return sum(s.delta1 if s.n else 0.0 for s in per_image) / len(per_image)


def _points_with_truth(predicted_m: np.ndarray, true_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    predicted_m, true_m = np.asarray(predicted_m, np.float64), np.asarray(true_m, np.float64)
    if predicted_m.shape != true_m.shape:
        raise ValueError(
            f"predicted depths have shape {predicted_m.shape}, true depths {true_m.shape}: they must match."
        )
    labelled = has_depth(true_m)
    return predicted_m[labelled], true_m[labelled]
