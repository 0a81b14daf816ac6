"""Makes reported standard deviations true: fitted so that as many errors lie within one as of a normal distribution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
