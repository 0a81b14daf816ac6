"""How sharp depth is at the edges of things: edges found and invented, and points that fly between two surfaces.

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
from dataclasses import dataclass

import cv2
import numpy as np

from depthlm_ros.eval.metrics import has_depth

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
