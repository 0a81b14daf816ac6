"""Batches that are trained on again, for a GPU that is faster than the processors that render for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from depthlm_ros.train.dataset import Batch


class Memory:
    """The last `room` batches, on the device that they came on; nothing is kept for room 0."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._kept: list[Batch] = []
        self._next = 0

    def keep(self, batch: Batch) -> None:
        """In the place of the oldest, when there is no more room."""
        if len(self._kept) < self.room:
            self._kept.append(batch)
        elif self.room:
            self._kept[self._next] = batch
            self._next = (self._next + 1) % self.room

    def draw(self, rng: np.random.Generator) -> Batch:
        """One of those kept, developed anew."""
        batch = self._kept[int(rng.integers(len(self._kept)))]
        second = developed(rng, batch.second) if len(batch.second) else batch.second
        return replace(batch, image=developed(rng, batch.image), second=second)


def developed(rng: np.random.Generator, images: torch.Tensor) -> torch.Tensor:
    """Pictures uint8 (B, H, W, 3) with other brightness, contrast and tint each, as scenes.photo.developed gives them
    one by one on the CPU."""
    count = len(images)
    power = np.exp(rng.normal(0, 0.25, (count, 1, 1, 1)))
    gain = np.exp(rng.normal(0.1, 0.2, (count, 1, 1, 1)) + rng.normal(0, 0.04, (count, 1, 1, 3)))
    power_there, gain_there = (torch.from_numpy(each.astype(np.float32)).to(images.device) for each in (power, gain))
    return (255 * (images.float() / 255) ** power_there * gain_there + 0.5).clamp(0, 255).to(torch.uint8)
