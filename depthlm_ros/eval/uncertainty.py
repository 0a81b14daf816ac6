# SPDX-License-Identifier: Apache-2.0
"""Reported standard deviations: `fit_error_factors` calibrates them, `measure_reliability` checks them.

The same for the confidence of answers: `fit_confidence` and `calibration_error`.

The fit makes about as many errors lie within one standard deviation as a normal distribution has there. The check says
how often the reported intervals cover the error, and whether the model knows where its errors are.

Reliability curve and its mean gap: Kuleshov, Fenner, Ermon, "Accurate uncertainties for deep learning using calibrated
regression", ICML 2018. Sparsification and its area (AUSE): Ilg et al., "Uncertainty estimates and multi-hypotheses
networks for optical flow", ECCV 2018, here with AbsRel, so that points are removed by their relative deviation.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np

from depthlm_ros.eval.metrics import has_depth

# Share of a normal distribution within one standard deviation.
WITHIN_ONE_STD = 0.6827
# The fit tries these weights of the model's own spread, relative to the weight of the depth.
RATIOS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
# The fit refuses larger factors, because the spread carries no information then.
MAX_FACTOR = 9.0
# The fit needs this many errors.
LEAST_ERRORS = 10
LEVELS = tuple(round(0.05 * step, 2) for step in range(1, 20))
CONFIDENCE_BINS = 5
# Probabilities nearer to 0 and 1 than this count as this: their logits are finite.
LEAST_PROBABILITY = 1e-4
# Ridge of the logistic regression: with few answers, or if all are right, gain and offset stay near 1 and 0.
RIDGE = 1.0
NEWTON_STEPS, STEP_TOLERANCE = 50, 1e-9
KEPT_SHARES = tuple(round(0.05 * step, 2) for step in range(20, 0, -1))


@dataclass(frozen=True)
class DepthErrors:
    """N measured depths, all arrays float (N,). Only entries whose values are all finite count.

    error_m: predicted minus true depth. spread_m: the deviation that the model reported. depth_m: its depth.
    """

    error_m: np.ndarray
    spread_m: np.ndarray
    depth_m: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """bool (N,): which entries count."""
        return np.isfinite(self.error_m) & np.isfinite(self.spread_m) & np.isfinite(self.depth_m) & (self.depth_m > 0)


@dataclass(frozen=True)
class Reliability:
    """How reliable reported deviations are, over the n points with a true depth, a prediction and a deviation > 0.

    within_1std, within_2std: share of the errors within one and two reported deviations (a normal distribution: 0.683,
    0.954). covered: for each of LEVELS, the share of errors within the interval that should contain this share. gap:
    mean distance of that curve from the diagonal. absrel_kept: AbsRel of the most certain points, for each of
    KEPT_SHARES; absrel_best: the same if the points were sorted by their true errors. ause: mean difference of the two,
    as a share of the AbsRel of all points.
    """

    n: int
    within_1std: float
    within_2std: float
    covered: tuple[float, ...]
    gap: float
    absrel_kept: tuple[float, ...]
    absrel_best: tuple[float, ...]
    ause: float

    def as_dict(self) -> dict[str, object]:
        """Returns plain types, with the levels of both curves."""
        return asdict(self) | {"levels": LEVELS, "kept": KEPT_SHARES}


def fit_error_factors(errors: DepthErrors) -> tuple[float, float]:
    """Returns (spread factor, relative factor) of std = hypot(spread factor * spread, relative factor * depth).

    Each ratio between the two factors is scaled so that 68 % of the errors lie within one standard deviation. The ratio
    with the smallest deviations, by their geometric mean, is taken: it is equally true and sharper. Returns (1, 1) if
    there are too few errors.
    """
    known = errors.known
    if known.sum() < LEAST_ERRORS:
        return 1.0, 1.0
    error_m, spread_m, depth_m = (np.abs(x[known]) for x in (errors.error_m, errors.spread_m, errors.depth_m))
    best, smallest = (1.0, 1.0), np.inf
    for ratio in RATIOS:
        shape_m = np.hypot(ratio * spread_m, depth_m)
        scale = float(np.quantile(error_m / shape_m, WITHIN_ONE_STD))
        width = float(np.log(np.maximum(scale * shape_m, 1e-9)).mean())
        if width < smallest and ratio * scale < MAX_FACTOR:
            best, smallest = (ratio * scale, scale), width
    return best


def gaussian_nll(error_m: np.ndarray, std_m: np.ndarray) -> float:
    """Returns the mean of -ln of the normal density of errors (N,) with standard deviations (N,)."""
    return float(np.mean(0.5 * math.log(2 * math.pi) + np.log(std_m) + 0.5 * (error_m / std_m) ** 2))


def laplace_nll(error_m: np.ndarray, std_m: np.ndarray) -> float:
    """Returns the mean of -ln of Laplace's density of errors (N,) with standard deviations (N,)."""
    width_m = std_m / math.sqrt(2)
    return float(np.mean(np.log(2 * width_m) + np.abs(error_m) / width_m))


def share_within(error_m: np.ndarray, std_m: np.ndarray) -> float:
    """Returns the share of errors that lie within one reported standard deviation; NaN if none is known."""
    known = np.isfinite(error_m) & np.isfinite(std_m)
    return float((np.abs(error_m[known]) <= std_m[known]).mean()) if known.any() else float("nan")


def measure_reliability(predicted_m: np.ndarray, std_m: np.ndarray, true_m: np.ndarray) -> Reliability:
    """Compares reported deviations with the errors. All arrays are float (N,) in metres, NaN for unknown."""
    predicted_m, std_m, true_m = (np.asarray(x, np.float64) for x in (predicted_m, std_m, true_m))
    known = has_depth(predicted_m) & has_depth(std_m) & has_depth(true_m)
    p, std, g = predicted_m[known], std_m[known], true_m[known]
    error = p - g
    covered = tuple(share_within(error, NormalDist().inv_cdf((1 + level) / 2) * std) for level in LEVELS)
    relative = np.abs(error) / g
    kept, best = _sparsification(relative, std / p), _sparsification(relative, relative)
    gaps = [abs(share - level) for share, level in zip(covered, LEVELS, strict=True)]
    area = np.mean(np.subtract(kept, best)) / kept[0] if kept[0] > 0 else math.nan
    return Reliability(
        n=int(known.sum()),
        within_1std=share_within(error, std),
        within_2std=share_within(error, 2 * std),
        covered=covered,
        gap=float(np.mean(gaps)),
        absrel_kept=kept,
        absrel_best=best,
        ause=float(area),
    )


def _sparsification(relative_error: np.ndarray, doubt: np.ndarray) -> tuple[float, ...]:
    """Returns the mean relative error of the least doubtful points, for each of KEPT_SHARES."""
    if not len(relative_error):
        return (math.nan,) * len(KEPT_SHARES)
    sorted_errors = relative_error[np.argsort(doubt, kind="stable")]
    means = np.cumsum(sorted_errors) / np.arange(1, len(relative_error) + 1)
    return tuple(float(means[max(round(share * len(relative_error)), 1) - 1]) for share in KEPT_SHARES)


def fit_confidence(probability: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Returns (gain, offset) for ErrorCalibration.calibrated_confidence, by logistic regression (Platt 1999).

    probability: float (N,), what the model itself gives its answers, NaN for unknown. right: bool (N,). Returns (1, 0)
    without a known probability. The gain is never negative: a more probable answer is never less sure.
    """
    known = np.isfinite(probability)
    p = np.clip(probability[known], LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    x, y = np.stack([np.log(p / (1 - p)), np.ones(len(p))], axis=1), right[known].astype(float)
    start = weights = np.array([1.0, 0.0])

    def loss(weights: np.ndarray) -> float:
        odds = x @ weights
        return float((np.logaddexp(0, odds) - y * odds).sum() + RIDGE / 2 * ((weights - start) ** 2).sum())

    for _ in range(NEWTON_STEPS):
        told = 1 / (1 + np.exp(-np.clip(x @ weights, -50, 50)))
        gradient = x.T @ (told - y) + RIDGE * (weights - start)
        curvature = (x * (told * (1 - told))[:, None]).T @ x + RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        while loss(weights - step) > loss(weights) and np.abs(step).max() > STEP_TOLERANCE:
            step = step / 2
        weights = weights - step
    if weights[0] < 0:
        # Without a gain every answer has the same confidence: the share of right ones.
        share = float(np.clip(y.mean(), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY))
        return 0.0, math.log(share / (1 - share))
    return float(weights[0]), float(weights[1])


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Returns the mean over answers of |mean confidence - share of right answers| of their bin.

    confidence: float (N,), 0 to 1; unknown ones (NaN) are left out. right: bool (N,). The bins are equally wide.
    """
    known = np.isfinite(confidence)
    confidence, right = confidence[known], right[known]
    if not len(confidence):
        return math.nan
    bins = np.minimum((confidence * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
    gaps = [abs(float((confidence[bins == one] - right[bins == one]).sum())) for one in range(CONFIDENCE_BINS)]
    return sum(gaps) / len(confidence)
