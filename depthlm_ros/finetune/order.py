"""Which record is shown when. A position in training decides it, with the seed, and nothing else: so a run can stop
anywhere, go on, and be the same run."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

_ROUNDS = 6
_WORD = (1 << 64) - 1


@dataclass(frozen=True)
class Order:
    """sizes: records of each data set. weights: of each, None to show every record once in an epoch. nominal: an
    epoch's samples per record, of weighted sets."""

    sizes: tuple[int, ...]
    weights: tuple[float, ...] | None
    seed: int
    nominal: int = 1

    @property
    def epoch(self) -> int:
        """Samples in an epoch."""
        return sum(self.sizes) * (self.nominal if self.weights else 1)

    def at(self, position: int, attempt: int = 0) -> tuple[int, int]:
        """Data set and record shown at a position; attempt: how many before it turned out to be unusable there, each
        of which is replaced by the next one, as in DepthLM's code."""
        epoch, index = divmod(position, self.epoch)
        number = shuffled(index, self.epoch, (self.seed << 20) + epoch)
        if self.weights is None:
            number = (number + attempt) % self.epoch
            starts = list(accumulate(self.sizes, initial=0))
            which = bisect_right(starts, number) - 1
            return which, number - starts[which]
        limits = np.cumsum(self.weights)
        drawn = self.rng(position, attempt, stream=1).random() * limits[-1]
        which = min(int(np.searchsorted(limits, drawn, side="right")), len(self.sizes) - 1)
        return which, (number + attempt) % self.sizes[which]

    def rng(self, position: int, attempt: int = 0, stream: int = 0) -> np.random.Generator:
        """The source of everything random about a sample."""
        return np.random.default_rng([self.seed, position, attempt, stream])


def shuffled(index: int, length: int, key: int) -> int:
    """Where a shuffle of range(length) has put `index`, without making the shuffle: lists of samples are too long.

    A Feistel network on the next power of four, walked until it lands inside (Black and Rogaway, "Ciphers with
    arbitrary finite domains", 2002).
    """
    half = max(1, ((length - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(_ROUNDS):
            left, right = right, left ^ (_mixed(right + (turn << 40), key) & mask)
        index = (left << half) | right
        if index < length:
            return index


def held_back(count: int, share: float) -> np.ndarray:
    """bool (count,): the records that are kept from training: the last `share` of the file, which is what DepthLM's
    evaluation reads of it (eval/released.py), counted as there. Files are in the order of their scenes: so these are
    other scenes, too."""
    return np.arange(count) >= int(count * (1 - share))


def _mixed(value: int, key: int) -> int:
    """64 bits without pattern (the finaliser of splitmix64, Steele, Lea and Flood 2014)."""
    value = (value + key * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & _WORD
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _WORD
    return value ^ (value >> 31)
