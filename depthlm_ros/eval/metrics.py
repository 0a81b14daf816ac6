# SPDX-License-Identifier: Apache-2.0
"""Scores of depth: `score_depth` compares points or maps; `count_edges` and `score_edges` compare the edges of maps.

Points:
    delta1    share of points with max(p/g, g/p) < 1.25, strictly less (Eigen et al. 2014). It is the only score that
              both DepthLM and DepthVLM report.
    AbsRel    mean of |p - g| / g
    RMSE      square root of the mean of (p - g)^2
A point counts if its true depth g is finite and positive. A missing prediction p (NaN, infinite, zero or negative) is
wrong in delta1 and is not part of AbsRel and RMSE. `parse_failures` counts the missing predictions, so that a model
gains nothing by not answering. `delta1_answered` leaves them out, as the released code of DepthVLM and of VLM3 does.

Edges: the scale-invariant boundary score of Bochkovskii et al., "Depth Pro", ICLR 2025. There is an edge between two
neighbouring pixels if one is more than a factor t farther away. A predicted edge is correct if it lies between the same
two pixels, in the same direction. F1 is averaged over t from 1.05 to 1.25, and large t have a larger weight. Here the
pairs of all directions and images are counted together (Depth Pro's code averages over directions, then over images),
and pairs with an unknown true depth do not count.

Flying pixels: of the pixels beside an edge, the share whose predicted depth is in the middle between the two surfaces,
where nothing is (time-of-flight cameras: Reynolds et al., "Capturing time-of-flight data with confidence", CVPR 2011).
The definition as a share is this project's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import TypeAlias

import cv2
import numpy as np

DELTA1_RATIO = 1.25
THRESHOLDS = np.linspace(1.05, 1.25, 10)
WINDOW_PX = 5
# A window of pixels is at an edge if its farthest depth is this many times its nearest depth.
EDGE_RATIO = 1.25
# A pixel flies between these shares of the way from the nearer to the farther surface, in the logarithm of the depth.
FLYING_FROM, FLYING_TO = 0.25, 0.75
_FAR = np.float32(1e9)

EdgeCountsAsList: TypeAlias = "tuple[list[int], list[int], list[int], int, int]"


@dataclass(frozen=True)
class DepthScores:
    """Scores of n points; NaN where no point allows a score.

    n: number of points with a true depth. parse_failures: number of these without a prediction. absrel, rmse_m and
    delta1_answered are over the other n - parse_failures points.
    """

    delta1: float
    absrel: float
    rmse_m: float
    n: int
    parse_failures: int
    delta1_answered: float = math.nan


@dataclass(frozen=True)
class DepthErrorSums:
    """Sums from which scores are computed. Sums of several images can be added.

    n: number of points with a true depth. predicted: number of these with a prediction. correct: number of these that
    are correct by delta1. relative, square_m2: sums of |p - g| / g and of (p - g)^2.
    """

    n: int = 0
    predicted: int = 0
    correct: int = 0
    relative: float = 0.0
    square_m2: float = 0.0

    def __add__(self, other: DepthErrorSums) -> DepthErrorSums:
        return DepthErrorSums(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    @property
    def scores(self) -> DepthScores:
        """The scores of these points."""
        n, predicted = self.n, self.predicted
        return DepthScores(
            delta1=self.correct / n if n else math.nan,
            absrel=self.relative / predicted if predicted else math.nan,
            rmse_m=math.sqrt(self.square_m2 / predicted) if predicted else math.nan,
            n=n,
            parse_failures=n - predicted,
            delta1_answered=self.correct / predicted if predicted else math.nan,
        )


@dataclass(frozen=True)
class EdgeCounts:
    """Counts of edges between neighbouring pixels. Counts of several images can be added.

    matched, predicted, true: int (10,), number of edges for each of THRESHOLDS. beside: number of pixels beside an
    edge. flying: number of these whose prediction lies between the surfaces of the edge.
    """

    matched: np.ndarray
    predicted: np.ndarray
    true: np.ndarray
    beside: int
    flying: int

    def __add__(self, other: EdgeCounts) -> EdgeCounts:
        return EdgeCounts(
            self.matched + other.matched,
            self.predicted + other.predicted,
            self.true + other.true,
            self.beside + other.beside,
            self.flying + other.flying,
        )

    def as_list(self) -> EdgeCountsAsList:
        """Returns the counts as JSON values."""
        return self.matched.tolist(), self.predicted.tolist(), self.true.tolist(), self.beside, self.flying

    @classmethod
    def from_list(cls, values: EdgeCountsAsList) -> EdgeCounts:
        """Returns the counts that `as_list` gave."""
        matched, predicted, true, beside, flying = values
        return cls(np.array(matched), np.array(predicted), np.array(true), beside, flying)


@dataclass(frozen=True)
class BoundaryScores:
    """Scores of edges. f1, precision, recall: weighted means over THRESHOLDS, NaN if there are no edges.

    flying_share: share of the `beside` pixels that fly.
    """

    f1: float
    precision: float
    recall: float
    flying_share: float
    beside: int


def has_depth(depth_m: np.ndarray) -> np.ndarray:
    """Returns bool, of the same shape: which depths are finite and positive."""
    return np.isfinite(depth_m) & (depth_m > 0)


def score_depth(predicted_m: np.ndarray, true_m: np.ndarray) -> DepthScores:
    """Returns the scores of predicted depths. Both arrays have one shape and are in metres.

    Raises ValueError if the shapes differ.
    """
    return sum_depth_errors(predicted_m, true_m).scores


def sum_depth_errors(predicted_m: np.ndarray, true_m: np.ndarray) -> DepthErrorSums:
    """Returns the sums for `score_depth`, from the same arguments."""
    predicted_m, true_m = _points_with_truth(predicted_m, true_m)
    answered = has_depth(predicted_m)
    p, g = predicted_m[answered], true_m[answered]
    correct = int(np.count_nonzero(np.maximum(p / g, g / p) < DELTA1_RATIO))
    return DepthErrorSums(true_m.size, p.size, correct, float(np.sum(np.abs(p - g) / g)), float(np.sum((p - g) ** 2)))


def align_medians(predicted_m: np.ndarray, true_m: np.ndarray) -> np.ndarray:
    """Returns the predictions of ONE image times median(g) / median(p), so that errors of scale do not count.

    This is the alignment of Zhou et al. 2017 (SfMLearner). The result is float64 of the same shape. It is unchanged if
    no point has both depths.
    """
    predicted_m = np.asarray(predicted_m, np.float64)
    both = has_depth(predicted_m) & has_depth(np.asarray(true_m))
    if not both.any():
        return predicted_m
    return predicted_m * (np.median(np.asarray(true_m)[both]) / np.median(predicted_m[both]))


def mean_delta1(image_scores: Sequence[DepthScores]) -> float:
    """Returns the unweighted mean of the images' delta1, as DepthVLM scores a data set.

    An image without a labelled point scores 0.
    """
    if not image_scores:
        return math.nan
    return sum(scores.delta1 if scores.n else 0.0 for scores in image_scores) / len(image_scores)


def _points_with_truth(predicted_m: np.ndarray, true_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    predicted_m, true_m = np.asarray(predicted_m, np.float64), np.asarray(true_m, np.float64)
    if predicted_m.shape != true_m.shape:
        raise ValueError(
            f"predicted depths have shape {predicted_m.shape}, true depths {true_m.shape}: they must match."
        )
    labelled = has_depth(true_m)
    return predicted_m[labelled], true_m[labelled]


def count_edges(predicted_m: np.ndarray, true_m: np.ndarray) -> EdgeCounts:
    """Returns the counts of one image. Both depth maps are float (H, W) in metres, NaN for unknown."""
    predicted_log, true_log = _logarithm(predicted_m), _logarithm(true_m)
    totals = np.zeros((3, len(THRESHOLDS)), np.int64)
    for axis in (0, 1):
        true_step, predicted_step = np.diff(true_log, axis=axis), np.diff(predicted_log, axis=axis)
        known = np.isfinite(true_step)
        true_step, predicted_step = true_step[known], np.nan_to_num(predicted_step[known], nan=0.0)
        for sign in (1, -1):
            # Both steps exceed a threshold where the smaller of the two does.
            both = np.minimum(sign * true_step, sign * predicted_step)
            totals += [
                _count_above_thresholds(both),
                _count_above_thresholds(sign * predicted_step),
                _count_above_thresholds(sign * true_step),
            ]
    matched, predicted, true = totals
    return EdgeCounts(matched, predicted, true, *count_flying_pixels(predicted_m, true_m))


def _count_above_thresholds(step: np.ndarray) -> list[int]:
    """Returns how many steps of the logarithm exceed each of THRESHOLDS."""
    limits = np.log(THRESHOLDS)
    large = step[step > limits[0]]
    return [int(np.count_nonzero(large > limit)) for limit in limits]


def count_flying_pixels(predicted_m: np.ndarray, true_m: np.ndarray) -> tuple[int, int]:
    """Returns (number of pixels beside an edge, number of these that fly) of two depth maps (H, W).

    A pixel is beside an edge if the true depths within two pixels differ by more than EDGE_RATIO, and its own true
    depth is near one of the two ends. It flies if its prediction is in the middle half between both ends, in the
    logarithm, after the whole image was scaled by the median of truth over prediction.
    """
    true_log, predicted_log = _logarithm(true_m), _logarithm(predicted_m)
    known = np.isfinite(true_log) & np.isfinite(predicted_log)
    if known.any():
        predicted_log += np.median(true_log[known] - predicted_log[known])
    kernel = np.ones((WINDOW_PX, WINDOW_PX), np.uint8)
    near = cv2.erode(np.where(np.isnan(true_log), _FAR, true_log).astype(np.float32), kernel)
    far = cv2.dilate(np.where(np.isnan(true_log), -_FAR, true_log).astype(np.float32), kernel)
    with np.errstate(invalid="ignore", divide="ignore"):
        span = far - near
        true_share, predicted_share = (true_log - near) / span, (predicted_log - near) / span
        beside = (span > math.log(EDGE_RATIO)) & np.isfinite(predicted_log)
        beside &= (true_share <= FLYING_FROM) | (true_share >= FLYING_TO)
        flying = beside & (predicted_share > FLYING_FROM) & (predicted_share < FLYING_TO)
    return int(beside.sum()), int(flying.sum())


def score_edges(counts: EdgeCounts) -> BoundaryScores:
    """Returns the scores of counted edges."""
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = counts.matched / counts.predicted, counts.matched / counts.true
    precision = np.where(counts.predicted > 0, precision, 0.0)
    both = precision + recall
    f1 = np.where(both > 0, 2 * precision * recall / np.where(both > 0, both, 1.0), np.where(np.isnan(both), np.nan, 0))
    weights = THRESHOLDS / THRESHOLDS.sum()
    share = counts.flying / counts.beside if counts.beside else math.nan
    return BoundaryScores(
        float(f1 @ weights), float(precision @ weights), float(recall @ weights), share, counts.beside
    )


def _logarithm(depth_m: np.ndarray) -> np.ndarray:
    """Returns float64 (H, W), NaN where no depth is known."""
    depth_m = np.asarray(depth_m, np.float64)
    return np.log(np.where(has_depth(depth_m), depth_m, np.nan))
