"""What a runtime must offer: look at an image, step over text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Look:
    """What one pass over an image leaves behind.

    depth_m: float32 (h, w), canvas pixels. keys, values: float32 (layers, 1, heads_kv, P, D) of the prefix.
    next_position: position id of the first token after the prefix.
    """

    depth_m: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    next_position: int


@dataclass(frozen=True)
class StepInput:
    """Text for N rows after a cache of S slots.

    ids, positions: int64 (N, T), padded on the right; last: int64 (N,), index of each row's last real token.
    past_keys, past_values: float32 (layers, N, heads_kv, S, D); past_mask: float32 (N, S), 0 valid, -inf not.
    """

    ids: np.ndarray
    positions: np.ndarray
    last: np.ndarray
    past_keys: np.ndarray
    past_values: np.ndarray
    past_mask: np.ndarray


@dataclass(frozen=True)
class StepOutput:
    """logits: float32 (N, V) after each row's last token; keys, values: (layers, N, heads_kv, T, D) of the new text."""

    logits: np.ndarray
    keys: np.ndarray
    values: np.ndarray


class Backend(Protocol):
    """A loaded model. Both calls may come from several threads at once; errors are BackendFailed."""

    name: str

    def look(self, image: np.ndarray) -> Look:
        """One pass over a canvas, uint8 (h, w, 3), of one of the bundle's canvas sizes."""
        ...

    def step(self, given: StepInput) -> StepOutput:
        """Runs text after a prefix."""
        ...
