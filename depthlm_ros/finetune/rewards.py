"""What a reply about a depth is worth, in reinforcement."""

from __future__ import annotations

import math
from collections.abc import Callable

from depthlm_ros.families.parsing import answered_metres

# (reply, truth in metres, largest error in metres that counts) -> reward
Reward = Callable[[str, float, float], float]
# Factor between a depth and the truth that delta1 still takes for right.
DELTA1 = 1.25


def negative_l1(reply: str, truth_m: float, worst_m: float) -> float:
    """Minus the error in metres; a reply that cannot be read is as bad as the worst that can."""
    error_m = abs(answered_metres(reply) - truth_m)
    return -worst_m if math.isnan(error_m) else -min(error_m, worst_m)


def negative_absrel(reply: str, truth_m: float, worst_m: float) -> float:
    """Minus the error as a share of the truth, bounded alike."""
    return negative_l1(reply, truth_m, worst_m) / truth_m


def delta1(reply: str, truth_m: float, worst_m: float) -> float:
    """1 for a depth within a factor of 1.25 of the truth, else 0."""
    told_m = answered_metres(reply)
    return float(told_m > 0 and max(told_m / truth_m, truth_m / told_m) < DELTA1)


REWARDS: dict[str, Reward] = {"l1": negative_l1, "absrel": negative_absrel, "delta1": delta1}
