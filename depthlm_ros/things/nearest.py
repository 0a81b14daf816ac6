"""The two points at which two things are nearest to each other."""

from __future__ import annotations

import numpy as np

# All pairs of so many points of each are compared; the best few are followed among so many, the best of all in all.
COARSE, FINE, STARTS, ROUNDS = 256, 4096, 4, 8


def nearest_points(one_m: np.ndarray, two_m: np.ndarray) -> np.ndarray:
    """float64 (2, 3): a point of each of two sets (N, 3) and (M, 3), both not empty, as near as they come.

    From the nearest pairs of a sample of both, the nearest point of the one set and of the other in turn, until they
    stay: for surfaces this ends at the nearest pair, or at one as near as the sample is dense.
    """
    coarse_one, coarse_two = _sample(one_m, COARSE), _sample(two_m, COARSE)
    apart = ((coarse_two**2).sum(1) - 2 * coarse_one @ coarse_two.T).min(1) + (coarse_one**2).sum(1)
    fine_one, fine_two = _sample(one_m, FINE), _sample(two_m, FINE)
    pairs = [_settled(fine_one, fine_two, coarse_one[start]) for start in np.argsort(apart)[:STARTS]]
    nearest = min(pairs, key=lambda pair: float(np.linalg.norm(pair[1] - pair[0])))
    return _settled(one_m, two_m, nearest[0])


def _settled(one_m: np.ndarray, two_m: np.ndarray, start_m: np.ndarray) -> np.ndarray:
    first, second = start_m, _nearest(two_m, start_m)
    for _ in range(ROUNDS):
        before = first, second
        first = _nearest(one_m, second)
        second = _nearest(two_m, first)
        if (first == before[0]).all() and (second == before[1]).all():
            break
    return np.stack([first, second])


def _nearest(points_m: np.ndarray, to_m: np.ndarray) -> np.ndarray:
    apart = points_m - to_m
    return points_m[np.einsum("ij,ij->i", apart, apart).argmin()]


def _sample(points_m: np.ndarray, count: int) -> np.ndarray:
    return points_m[:: -(-len(points_m) // count)]
