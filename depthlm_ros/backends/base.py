"""What a runtime must offer: look at images, then step over text behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from depthlm_ros.errors import BadQuestion
from depthlm_ros.model_files.bundle import Bundle


@dataclass(frozen=True)
class Look:
    """What one pass over the images of a prompt leaves behind; B prompts of equal sizes may be looked at together.

    depth_m: float32 (B, h, w), canvas pixels of the first image; None if the model has no depth head.
    prefix: keys and values of the B prefixes, in the backend's own form and memory; length: their tokens.
    next_position: position id of the first token after a prefix.
    """

    depth_m: np.ndarray | None
    prefix: Any
    prompts: int
    length: int
    next_position: int


@dataclass(frozen=True)
class StepInput:
    """Text for N rows behind a look: N = B * R, the R rows of the first prompt first.

    ids, positions: int64 (N, T), padded on the right; last: int64 (N,), index of each row's last real token.
    mask: float32 (N, S) over the rows' own slots, 0 valid, -inf not. at: slot into which the keys and values of this
    text go. watched: int64 (W,) token ids whose probabilities are wanted.
    """

    ids: np.ndarray
    positions: np.ndarray
    last: np.ndarray
    mask: np.ndarray
    at: int
    watched: np.ndarray


@dataclass(frozen=True)
class StepOutput:
    """After each row's last token: chosen int64 (N,), the most probable next token; log_probability float32 (N,), its
    own; watched float32 (N, W), that of the watched tokens."""

    chosen: np.ndarray
    log_probability: np.ndarray
    watched: np.ndarray


class Backend(Protocol):
    """A loaded model. All calls may come from several threads at once; errors are BackendFailed."""

    name: str

    def look(self, images: Sequence[np.ndarray]) -> Look:
        """One pass over the images of a prompt, in their order, each uint8 (B, h, w, 3)."""
        ...

    def cache(self, look: Look, rows: int, slots: int) -> Any:
        """Room for the keys and values of `slots` tokens of text in each of `rows` rows behind a look.

        Raises OutOfMemory if there is none.
        """
        ...

    def step(self, cache: Any, given: StepInput) -> StepOutput:
        """Runs text behind what the cache holds, and keeps its keys and values there."""
        ...


def checked_size(bundle: Bundle, images: Sequence[np.ndarray]) -> tuple[int, int]:
    """Size (width, height) of the images of a prompt, each (1, h, w, 3). Raises BadQuestion for more of them than the
    bundle's graphs look at together, or for two sizes."""
    most = 2 if bundle.pairs else 1
    if len(images) > most or any(len(image) != 1 for image in images):
        raise BadQuestion(f"{bundle.name} was exported to look at {most} image(s) at a time, no more.")
    sizes = sorted({(image.shape[2], image.shape[1]) for image in images})
    if len(sizes) > 1:
        raise BadQuestion(
            f"the two images come from cameras so different that the model sees them as {sizes} pixels: "
            f"{bundle.name} takes two images in one size; use images of one camera."
        )
    return sizes[0]
