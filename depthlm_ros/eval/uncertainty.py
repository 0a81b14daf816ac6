"""Makes reported standard deviations true: fitted so that as many errors lie within one as of a normal distribution.

Whether a reported uncertainty is true: how often it covers the error, and whether it knows where the errors are.

Reliability curve and its mean gap: Kuleshov, Fenner, Ermon, "Accurate uncertainties for deep learning using calibrated
regression", ICML 2018. Sparsification and its area (AUSE): Ilg et al., "Uncertainty estimates and multi-hypotheses
networks for optical flow", ECCV 2018, here with AbsRel, so that points are left out by their relative deviation.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np

from depthlm_ros.eval.metrics import has_depth

# Share of a normal distribution within one standard deviation.
WITHIN_ONE = 0.6827
# How much of the standard deviation comes from the model's own spread rather than from the depth, as tried.
RATIOS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
# Factors beyond this are not believed: the spread says nothing then.
MOST = 9.0


@dataclass(frozen=True)
class Errors:
    """N measured depths beside the truth, all float (N,): error_m, the spread that the model reported for it, and the
    depth that it reported. Only pairs of which all is finite count."""

    error_m: np.ndarray
    spread_m: np.ndarray
    depth_m: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """bool (N,)."""
        return np.isfinite(self.error_m) & np.isfinite(self.spread_m) & np.isfinite(self.depth_m) & (self.depth_m > 0)


def fit(errors: Errors) -> tuple[float, float]:
    """(spread factor, relative factor) of std = hypot(spread factor * spread, relative factor * depth).

    Of the ratios tried between the two, each scaled so that 68 % of the errors lie within one standard deviation, the
    one with the smallest deviations (in the geometric mean) wins: equally true, but sharper. (1, 1) if nothing is
    known.
    """
    known = errors.known
    if known.sum() < 10:
        return 1.0, 1.0
    error_m, spread_m, depth_m = (np.abs(x[known]) for x in (errors.error_m, errors.spread_m, errors.depth_m))
    best, least = (1.0, 1.0), np.inf
    for ratio in RATIOS:
        shape_m = np.hypot(ratio * spread_m, depth_m)
        scale = float(np.quantile(error_m / shape_m, WITHIN_ONE))
        width = float(np.log(np.maximum(scale * shape_m, 1e-9)).mean())
        if width < least and ratio * scale < MOST:
            best, least = (ratio * scale, scale), width
    return best


def share_within(error_m: np.ndarray, std_m: np.ndarray) -> float:
    """Share of the errors that lie within one reported standard deviation; NaN if none is known."""
    known = np.isfinite(error_m) & np.isfinite(std_m)
    return float((np.abs(error_m[known]) <= std_m[known]).mean()) if known.any() else float("nan")


LEVELS = tuple(round(0.05 * step, 2) for step in range(1, 20))
KEPT = tuple(round(0.05 * step, 2) for step in range(20, 0, -1))


@dataclass(frozen=True)
class Reliability:
    """Of the n points with a truth, a prediction and a positive deviation.

    within_1std, within_2std: share of the errors within one and two reported deviations (a normal distribution: 0.683,
    0.954). covered: for each of LEVELS, the share of errors within the interval that should hold as many; gap: mean
    distance of that curve from the diagonal. absrel_kept: AbsRel of the most certain of KEPT; absrel_best: the same if
    the true errors had been known; ause: mean difference of the two, as a share of the AbsRel of all points.
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
        """In plain types, with the levels beside the curves."""
        return asdict(self) | {"levels": LEVELS, "kept": KEPT}


def reliability(predicted_m: np.ndarray, std_m: np.ndarray, true_m: np.ndarray) -> Reliability:
    """All float (N,), metres, NaN unknown."""
    predicted_m, std_m, true_m = (np.asarray(x, np.float64) for x in (predicted_m, std_m, true_m))
    known = has_depth(predicted_m) & has_depth(std_m) & has_depth(true_m)
    p, std, g = predicted_m[known], std_m[known], true_m[known]
    error = p - g
    covered = tuple(share_within(error, NormalDist().inv_cdf((1 + level) / 2) * std) for level in LEVELS)
    kept, best = _retained(np.abs(error) / g, std / p), _retained(np.abs(error) / g, np.abs(error) / g)
    gaps = [abs(share - level) for share, level in zip(covered, LEVELS, strict=True)]
    lost = np.mean(np.subtract(kept, best)) / kept[0] if kept[0] > 0 else math.nan
    return Reliability(
        n=int(known.sum()),
        within_1std=share_within(error, std),
        within_2std=share_within(error, 2 * std),
        covered=covered,
        gap=float(np.mean(gaps)),
        absrel_kept=kept,
        absrel_best=best,
        ause=float(lost),
    )


def _retained(relative: np.ndarray, doubt: np.ndarray) -> tuple[float, ...]:
    """Mean relative error of the least doubtful of KEPT."""
    if not len(relative):
        return (math.nan,) * len(KEPT)
    means = np.cumsum(relative[np.argsort(doubt, kind="stable")]) / np.arange(1, len(relative) + 1)
    return tuple(float(means[max(round(share * len(relative)), 1) - 1]) for share in KEPT)
