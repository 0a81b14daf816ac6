# SPDX-License-Identifier: Apache-2.0
"""`Dice`: cheap random numbers for building scenes.

The order of the calls decides what a scene looks like, so it must not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from depthlm_ros.scenes.world.primitives import Paint, Rgb

T = TypeVar("T")


class Dice:
    """Random numbers from a numpy generator, fetched in blocks: one call of numpy costs as much as 30 of these."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._stock: list[float] = []

    def unit(self) -> float:
        """Returns a number in [0, 1)."""
        if not self._stock:
            self._stock = self._rng.random(1024).tolist()
        return self._stock.pop()

    def between(self, low: float, high: float) -> float:
        """Returns a number in [low, high)."""
        return low + (high - low) * self.unit()

    def integer(self, low: int, high: int) -> int:
        """Returns an integer from low to high, both included."""
        return low + int((high - low + 1) * self.unit())

    def chance(self, share: float) -> bool:
        """Returns True in this share of calls."""
        return self.unit() < share

    def pick(self, items: Sequence[T]) -> T:
        """Returns one of the items."""
        return items[int(len(items) * self.unit())]

    def seed(self) -> int:
        """Returns a seed for a texture, 0 to 999."""
        return int(1000 * self.unit())

    def similar_colour(self, rgb: Rgb, spread: float = 0.06) -> Rgb:
        """Returns a colour close to this one; its brightness differs more than its hue."""
        gain = self.between(1 - 3 * spread, 1 + 3 * spread)
        low, high = 1 - spread, 1 + spread
        return (
            rgb[0] * gain * self.between(low, high),
            rgb[1] * gain * self.between(low, high),
            rgb[2] * gain * self.between(low, high),
        )

    def paint(
        self, rgb: Rgb, rgb2: Rgb = (0.5, 0.5, 0.5), texture: int = 0, scale_m: float = 0.1, **more: float
    ) -> Paint:
        """Returns a paint with colours close to these."""
        return Paint(self.similar_colour(rgb), self.similar_colour(rgb2), texture, scale_m, seed=self.seed(), **more)
