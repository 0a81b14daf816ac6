"""Depth scores over labelled points.

delta1 = mean[max(p/g, g/p) < 1.25], strict (Eigen et al. 2014; the one score that DepthLM and DepthVLM report).
AbsRel = mean |p - g| / g.  RMSE = sqrt(mean (p - g)^2).
A point counts if its true depth g is finite and positive. A missing prediction (NaN, infinite, zero or negative) is
wrong in delta1 and stays out of AbsRel and RMSE; `parse_failures` says how many, so that silence does not pay.
`delta1_answered` leaves it out there too, as the released code of DepthVLM and of VLM3 does.

How sharp depth is at the edges of things: edges found and invented, and points that fly between two surfaces.

Edges: the scale-invariant boundary score of Bochkovskii et al., "Depth Pro", ICLR 2025. A neighbour is
occluded where it is more than a factor t farther off; a predicted edge is right if it lies between the same two pixels,
in the same direction. F1 is averaged over t from 1.05 to 1.25, large t weighing more. Here the pairs of all directions
and images are counted together (Depth Pro's code averages directions, then images), and pairs with an unknown truth do
not count.

Flying points: of the pixels beside an edge, the share predicted in the middle between its two surfaces, where nothing
is (time-of-flight cameras' flying pixels: Reynolds et al., "Capturing time-of-flight data with confidence", CVPR 2011).
The definition as a share is this project's own: see `flying`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import cv2
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


THRESHOLDS = np.linspace(1.05, 1.25, 10)
WINDOW_PX = 5
# A window is at an edge if its farthest depth is this many times its nearest.
EDGE_RATIO = 1.25
# Of the way from the nearer to the farther surface, in the logarithm: what lies between these is on neither.
FLYING_FROM, FLYING_TO = 0.25, 0.75
_FAR = np.float32(1e9)


@dataclass(frozen=True)
class Edges:
    """Counts, so that those of many images can be added. For each of THRESHOLDS: matched, predicted, true edges between
    neighbours. beside: pixels beside an edge; flying: those of them predicted between its surfaces."""

    matched: np.ndarray
    predicted: np.ndarray
    true: np.ndarray
    beside: int
    flying: int

    def __add__(self, other: Edges) -> Edges:
        return Edges(
            self.matched + other.matched,
            self.predicted + other.predicted,
            self.true + other.true,
            self.beside + other.beside,
            self.flying + other.flying,
        )

    def as_list(self) -> list:
        """For JSON."""
        return [self.matched.tolist(), self.predicted.tolist(), self.true.tolist(), self.beside, self.flying]

    @classmethod
    def from_list(cls, values: list) -> Edges:
        """Inverse of as_list."""
        matched, predicted, true = (np.array(counts) for counts in values[:3])
        return cls(matched, predicted, true, *values[3:])


@dataclass(frozen=True)
class Boundary:
    """recall, precision, f1: weighted over THRESHOLDS; NaN without edges. flying_share: of `beside` pixels."""

    f1: float
    precision: float
    recall: float
    flying_share: float
    beside: int


def edges(predicted_m: np.ndarray, true_m: np.ndarray) -> Edges:
    """Counts of one image: depth maps float (H, W) of one size, metres, NaN unknown."""
    told, true = _logarithm(predicted_m), _logarithm(true_m)
    totals = np.zeros((3, len(THRESHOLDS)), np.int64)
    for axis in (0, 1):
        step, told_step = np.diff(true, axis=axis), np.diff(told, axis=axis)
        known = np.isfinite(step)
        step, told_step = step[known], np.nan_to_num(told_step[known], nan=0.0)
        for sign in (1, -1):
            # Both are beyond a threshold where the smaller of the two is.
            both = np.minimum(sign * step, sign * told_step)
            totals += [_beyond(both), _beyond(sign * told_step), _beyond(sign * step)]
    matched, predicted, real = totals
    return Edges(matched, predicted, real, *flying(predicted_m, true_m))


def _beyond(step: np.ndarray) -> list[int]:
    """How many steps of the logarithm are beyond each of THRESHOLDS."""
    limits = np.log(THRESHOLDS)
    large = step[step > limits[0]]
    return [int(np.count_nonzero(large > limit)) for limit in limits]


def flying(predicted_m: np.ndarray, true_m: np.ndarray) -> tuple[int, int]:
    """(pixels beside an edge, those of them that fly) of depth maps (H, W).

    Beside an edge: the true depths within two pixels differ by more than EDGE_RATIO, and the pixel's own is near one
    end. It flies if its prediction, once the whole image is scaled by the median of truth over prediction, lies in the
    middle half of the way between both ends, in the logarithm.
    """
    true, told = _logarithm(true_m), _logarithm(predicted_m)
    known = np.isfinite(true) & np.isfinite(told)
    if known.any():
        told += np.median(true[known] - told[known])
    kernel = np.ones((WINDOW_PX, WINDOW_PX), np.uint8)
    near = cv2.erode(np.where(np.isnan(true), _FAR, true).astype(np.float32), kernel)
    far = cv2.dilate(np.where(np.isnan(true), -_FAR, true).astype(np.float32), kernel)
    with np.errstate(invalid="ignore", divide="ignore"):
        span = far - near
        on_true, on_told = (true - near) / span, (told - near) / span
        beside = (span > math.log(EDGE_RATIO)) & np.isfinite(told)
        beside &= (on_true <= FLYING_FROM) | (on_true >= FLYING_TO)
        fly = beside & (on_told > FLYING_FROM) & (on_told < FLYING_TO)
    return int(beside.sum()), int(fly.sum())


def boundary(counts: Edges) -> Boundary:
    """The scores of counted edges."""
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = counts.matched / counts.predicted, counts.matched / counts.true
    precision = np.where(counts.predicted > 0, precision, 0.0)
    both = precision + recall
    f1 = np.where(both > 0, 2 * precision * recall / np.where(both > 0, both, 1.0), np.where(np.isnan(both), np.nan, 0))
    weights = THRESHOLDS / THRESHOLDS.sum()
    share = counts.flying / counts.beside if counts.beside else math.nan
    return Boundary(float(f1 @ weights), float(precision @ weights), float(recall @ weights), share, counts.beside)


def _logarithm(depth_m: np.ndarray) -> np.ndarray:
    """float64 (H, W), NaN where no depth is known."""
    depth_m = np.asarray(depth_m, np.float64)
    return np.log(np.where(has_depth(depth_m), depth_m, np.nan))
