"""Cheap random numbers for building scenes: one block of uniforms, handed out as Python floats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from depthlm_ros.scenes.world.primitives import Paint, Rgb

T = TypeVar("T")


class Dice:
    """Uniform numbers from a generator, fetched in blocks: a call of numpy's generator costs as much as 30 of these."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._stock: list[float] = []

    def unit(self) -> float:
        """In [0, 1)."""
        if not self._stock:
            self._stock = self._rng.random(1024).tolist()
        return self._stock.pop()

    def between(self, low: float, high: float) -> float:
        """In [low, high)."""
        return low + (high - low) * self.unit()

    def whole(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return low + int((high - low + 1) * self.unit())

    def chance(self, share: float) -> bool:
        """True in this share of calls."""
        return self.unit() < share

    def pick(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[int(len(items) * self.unit())]

    def seed(self) -> int:
        """For a texture."""
        return int(1000 * self.unit())

    def near(self, rgb: Rgb, spread: float = 0.06) -> Rgb:
        """A colour close to this one, its brightness changed more than its hue."""
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
        """A paint near these colours."""
        return Paint(self.near(rgb), self.near(rgb2), texture, scale_m, seed=self.seed(), **more)
