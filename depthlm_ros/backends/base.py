"""The interface of a backend: look at images once, then run text after them, as often as needed.

A backend runs a loaded model. It has three calls: `look` encodes the images of a prompt, `cache` reserves memory for
the text of some questions after them, and `step` runs a piece of that text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

# Keys and values of attention, in the form and the memory of one backend. No other code reads them.
KeyValues: TypeAlias = Any


@dataclass(frozen=True)
class Look:
    """The result of one pass over the images of a prompt. B prompts with images of one size can be looked at together.

    depth_m: float32 (B, h, w), z-depth in metres at the canvas pixels of the first image; None if the model has no
    depth head. prefix: keys and values of the B prompts' images; None if no question can be asked.
    prompts: B. length: number of tokens in each prefix. next_position: position id of the first token after it.
    """

    depth_m: np.ndarray | None
    prefix: KeyValues
    prompts: int
    length: int
    next_position: int


@dataclass(frozen=True)
class StepInput:
    """Text for N rows after a look. N = B * R: R rows for each of the B prompts, those of the first prompt first.

    ids, positions: int64 (N, T), padded on the right. last: int64 (N,), index of the last real token of each row.
    mask: float32 (N, S) over the S slots of the rows' own text, 0 for valid slots, -inf for all others. first_slot:
    the slot for the keys and values of the first of these T tokens. watched: int64 (W,), the token ids whose
    probabilities are returned.
    """

    ids: np.ndarray
    positions: np.ndarray
    last: np.ndarray
    mask: np.ndarray
    first_slot: int
    watched: np.ndarray


@dataclass(frozen=True)
class StepOutput:
    """The prediction after the last token of each row.

    chosen: int64 (N,), the most probable next token. log_probability: float32 (N,), of the chosen token. watched:
    float32 (N, W), log probabilities of the watched tokens.
    """

    chosen: np.ndarray
    log_probability: np.ndarray
    watched: np.ndarray


class Backend(Protocol):
    """A loaded model. Several threads can call it at the same time. Failures are raised as BackendFailed."""

    name: str

    def look(self, images: Sequence[np.ndarray]) -> Look:
        """Runs one pass over the images of a prompt, in their order, each uint8 (B, h, w, 3), red first."""
        ...

    def cache(self, look: Look, rows: int, slots: int) -> KeyValues:
        """Reserves memory for the keys and values of `slots` text tokens in each of `rows` rows after a look.

        Raises OutOfMemory if there is not enough memory.
        """
        ...

    def step(self, cache: KeyValues, step_input: StepInput) -> StepOutput:
        """Runs text after everything that the cache holds, and adds the keys and values of this text to it."""
        ...
