# SPDX-License-Identifier: Apache-2.0
"""The scale of the depth: ratios of measured to told depth, gathered over time into one robust number (`ScaleTracker`).

One camera cannot tell sizes: a network's depth is often right in shape and wrong by one factor. Whatever gives true
metres somewhere tells that factor. See floor_height.py (the camera's height), range_scale.py (range sensors) and
motion_scale.py (odometry). All arithmetic is on logarithms, so that 2 and 1/2 are equally far from 1.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

# Ratios outside this range are no errors of scale: another thing was measured than the one that is seen.
LEAST_RATIO, MOST_RATIO = 0.2, 5.0
# Samples count as outliers beyond so many standard deviations of the others; no deviation counts as smaller than this.
MOST_DEVIATIONS, LEAST_SPREAD = 2.5, 0.02
ROUNDS = 5
# The median absolute deviation of a normal distribution, times this, is its standard deviation.
MAD_TO_STD = 1.4826
# The samples of one image and one source are wrong together: more than this many tell no more.
MOST_INDEPENDENT = 10
# Relative error that all samples of a source share: the mounting of a sensor, the slope of a floor, slipping wheels.
SHARED_ERROR = 0.02
# How long a sample counts, and how many images do.
WINDOW_S, MOST_BATCHES = 10.0, 600
# Fewer samples, or images with samples, or a larger relative standard deviation, or a smaller share of samples that
# agree with each other, tell no scale.
LEAST_SAMPLES, LEAST_IMAGES, MOST_STD, LEAST_AGREEING = 5, 3, 0.15, 0.55


@dataclass(frozen=True)
class ScaleEstimate:
    """The ratio of measured to told depth, its standard deviation, and the number of samples of each source.

    ratio, std: NaN without samples. samples: by source, such as "camera_height". images: that gave samples.
    agreeing: share of the samples that agree with the ratio.
    """

    ratio: float = math.nan
    std: float = math.nan
    samples: dict[str, int] = field(default_factory=dict)
    images: int = 0
    agreeing: float = 1.0

    @property
    def count(self) -> int:
        """The number of all samples."""
        return sum(self.samples.values())

    @property
    def is_sure(self) -> bool:
        """Whether there are enough samples, and they agree."""
        enough = self.count >= LEAST_SAMPLES and self.images >= LEAST_IMAGES and self.agreeing >= LEAST_AGREEING
        return enough and self.std <= MOST_STD * self.ratio

    def differs(self, tolerance: float, applied: float = 1.0) -> bool:
        """Whether what is told, times `applied`, is surely wrong by more than a share, such as 0.25."""
        if not self.is_sure:
            return False
        off = abs(math.log(self.ratio / applied))
        return off > math.log1p(tolerance) and off > 2 * self.std / self.ratio


@dataclass(frozen=True)
class _Batch:
    """The samples of one source about one image, as one number. log_std: relative standard deviation."""

    time_s: float
    source: str
    log_ratio: float
    log_std: float
    count: int


class ScaleTracker:
    """Gathers ratios of measured to told depth; `estimate` is their robust mean over the last seconds.

    Not thread-safe. Times are those of the images, seconds.
    """

    def __init__(self) -> None:
        self._batches: deque[_Batch] = deque(maxlen=MOST_BATCHES)

    def add(self, time_s: float, source: str, ratios: np.ndarray) -> int:
        """Adds the ratios (N,) of measured to told depth of one image; returns how many of them are usable.

        None are if they contradict each other.
        """
        ratios = usable_ratios(ratios)
        if not len(ratios):
            return 0
        log_ratio, spread, agreeing = robust_mean(np.log(ratios))
        if agreeing < LEAST_AGREEING:
            return 0
        log_std = spread / math.sqrt(min(len(ratios), MOST_INDEPENDENT))
        self._batches.append(_Batch(time_s, source, log_ratio, max(log_std, LEAST_SPREAD), len(ratios)))
        return len(ratios)

    def clear(self) -> None:
        """Forgets all samples, for example because the camera is another one."""
        self._batches.clear()

    def estimate(self, now_s: float) -> ScaleEstimate:
        """Returns what the samples of the last WINDOW_S seconds say."""
        recent = [batch for batch in self._batches if 0 <= now_s - batch.time_s <= WINDOW_S]
        if not recent:
            return ScaleEstimate()
        samples: dict[str, int] = {}
        for batch in recent:
            samples[batch.source] = samples.get(batch.source, 0) + batch.count
        values = np.array([batch.log_ratio for batch in recent])
        weights = 1.0 / np.array([batch.log_std for batch in recent]) ** 2
        log_ratio, spread, agreeing = robust_mean(values, weights)
        ratio = math.exp(log_ratio)
        images = len({batch.time_s for batch in recent})
        std = ratio * math.hypot(spread / math.sqrt(images), SHARED_ERROR)
        return ScaleEstimate(ratio, std, samples, images, agreeing)


def usable_ratios(ratios: np.ndarray) -> np.ndarray:
    """Returns, of ratios of any kind, those that can be an error of scale, float64 (M,)."""
    ratios = np.asarray(ratios, np.float64).ravel()
    with np.errstate(invalid="ignore"):
        return ratios[(ratios >= LEAST_RATIO) & (ratios <= MOST_RATIO)]


def robust_mean(values: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, float, float]:
    """Returns the mean of those values (N,) that agree, their standard deviation and their share of the weight.

    It starts at the weighted median, and leaves out what is too far from the mean of the others, in a few rounds: a
    third of outliers on one side, which would shift the median, then shifts nothing. There must be one value at least.
    """
    weights = np.ones(len(values)) if weights is None else weights
    mean = weighted_median(values, weights)
    std = max(MAD_TO_STD * weighted_median(np.abs(values - mean), weights), LEAST_SPREAD)
    for _ in range(ROUNDS):
        agree = np.abs(values - mean) <= MOST_DEVIATIONS * std
        if not agree.any():
            break
        mean = float(np.average(values[agree], weights=weights[agree]))
        std = max(math.sqrt(float(np.average((values[agree] - mean) ** 2, weights=weights[agree]))), LEAST_SPREAD)
    agree = np.abs(values - mean) <= MOST_DEVIATIONS * std
    return mean, std, float(weights[agree].sum() / weights.sum())


def weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    """Returns the value (N,) at which half of the weight is reached."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])


# The applied scale nears the estimated one with this time constant.
SMOOTHING_S = 1.0
# A longer pause between two images counts as this.
LONGEST_STEP_S = 1.0


@dataclass
class SmoothScale:
    """The scale that is applied. It follows what is estimated without jumps; `value` is 1 until a scale is known."""

    value: float = 1.0
    _time_s: float | None = None

    def follow(self, estimate: ScaleEstimate, now_s: float) -> float:
        """Moves towards a sure estimate, and returns the value; without one it stays."""
        step_s = min(max(now_s - self._time_s, 0.0), LONGEST_STEP_S) if self._time_s is not None else 0.0
        self._time_s = now_s
        if estimate.is_sure:
            share = 1.0 - math.exp(-step_s / SMOOTHING_S)
            self.value *= (estimate.ratio / self.value) ** share
        return self.value
