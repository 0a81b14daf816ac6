# SPDX-License-Identifier: Apache-2.0
"""The interface of a backend: look at images once, then run text after them, as often as needed.

A backend runs a loaded model. It has four calls: `look` encodes the images of a prompt, `read` gives them to the
language model, `cache` reserves memory for the text of some questions after them, and `step` runs a piece of that text.

A depth-first model tells depth without its language model: `look` leaves the look's prefix open, and `read` fills it
when the first question comes. In all other models the prefix comes with the look, and `read` has nothing to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np

from depthlm_ros.errors import BackendFailed

# Keys and values of attention, and the features of an image, in the form and the memory of one backend. No other code
# reads them.
KeyValues: TypeAlias = Any
Features: TypeAlias = Any


@dataclass(frozen=True)
class Look:
    """The result of one pass over the images of a prompt. B prompts with images of one size can be looked at together.

    depth_m: float32 (B, h, w), z-depth in metres at the canvas pixels of the first image; None if the model has no
    depth head. prefix: keys and values of the B prompts' images; None if they must be read first (Backend.read), or if
    no question can be asked.
    prompts: B. length: number of tokens in each prefix, 0 without prefix. next_position: position id of the first token
    after it.
    relative_std: float32 (B, h, w), standard deviation of ln(depth), which is about that of the depth over depth, at
    the same pixels; None if the model does not tell it.
    features: what `read` needs of the first image beside depth_m and relative_std; None if there is nothing to read.
    second: the look at the second image alone, in a look of a depth-first model at two images.
    host_features: float32 (B, C, h, w), the features of the first image, one cell a token, in a look of a depth-first
    model at two images; else None.
    """

    depth_m: np.ndarray | None
    prefix: KeyValues
    prompts: int
    length: int
    next_position: int
    relative_std: np.ndarray | None = None
    features: Features = None
    second: Look | None = None
    host_features: np.ndarray | None = None

    @property
    def needs_reading(self) -> bool:
        """Whether Backend.read must be called before Backend.cache."""
        return self.prefix is None and self.features is not None


@dataclass(frozen=True)
class ReadInput:
    """What the language model reads of one image: the fields of its Look. depth_m, relative_std: float32 (B, h, w)."""

    features: Features
    depth_m: np.ndarray
    relative_std: np.ndarray


@dataclass(frozen=True)
class StepInput:
    """Text for N rows after a look. N = B * R: R rows for each of the B prompts, those of the first prompt first.

    ids, positions: int64 (N, T), padded on the right. last: int64 (N,), index of the last real token of each row.
    mask: float32 (N, S) over the S slots of the rows' own text, 0 for valid slots, -inf for all others. first_slot:
    the slot for the keys and values of the first of these T tokens. watched: int64 (W,), the token ids whose
    probabilities are returned.
    repetition_penalty, repeated: the penalty (ModelSpec.generation), and the token ids, int64 (N, K), to which it is
    applied in each row. An id may stand there more than once. repeated is None where the penalty is 1.
    """

    ids: np.ndarray
    positions: np.ndarray
    last: np.ndarray
    mask: np.ndarray
    first_slot: int
    watched: np.ndarray
    repetition_penalty: float = 1.0
    repeated: np.ndarray | None = None


@dataclass(frozen=True)
class StepOutput:
    """The prediction after the last token of each row.

    chosen: int64 (N,), the most probable next token. log_probability: float32 (N,), of the chosen token. watched:
    float32 (N, W), log probabilities of the watched tokens. All are those after the repetition penalty.
    """

    chosen: np.ndarray
    log_probability: np.ndarray
    watched: np.ndarray


class Backend(Protocol):
    """A loaded model. Several threads can call it at the same time. Failures are raised as BackendFailed."""

    name: str

    @property
    def device(self) -> str:
        """Where it runs: "cpu", "cuda" or "cuda:1"."""
        ...

    def look(self, images: Sequence[np.ndarray]) -> Look:
        """Runs one pass over the images of a prompt, in their order, each uint8 (B, h, w, 3), red first."""
        ...

    def read(self, look: Look) -> Look:
        """Returns a look with its prefix. A look that needs no reading is returned as it is.

        The language model reads the features together with depth_m and relative_std of the look. So it reads the depth
        of another network if these arrays are replaced (dataclasses.replace); they keep their shape, and all their
        values must be finite and positive. A look at two images of a depth-first model is measured, not read.
        """
        ...

    def cache(self, look: Look, rows: int, slots: int) -> KeyValues:
        """Reserves memory for the keys and values of `slots` text tokens in each of `rows` rows after a look.

        The look must have been read. Raises OutOfMemory if there is not enough memory.
        """
        ...

    def step(self, cache: KeyValues, step_input: StepInput) -> StepOutput:
        """Runs text after everything that the cache holds, and adds the keys and values of this text to it."""
        ...


def penalise_repetition(logits: np.ndarray, step_input: StepInput) -> np.ndarray:
    """Returns logits float32 (N, V) after the repetition penalty, as transformers' RepetitionPenaltyLogitsProcessor
    computes it: every id counts once, however often it stands in the text."""
    ids, penalty = step_input.repeated, np.float32(step_input.repetition_penalty)
    if ids is None:
        return logits
    penalised = logits.astype(np.float32)
    values = np.take_along_axis(penalised, ids, axis=1)
    np.put_along_axis(penalised, ids, np.where(values < 0, values * penalty, values / penalty), axis=1)
    return penalised


def read_input(look: Look) -> ReadInput:
    """Returns what `read` takes of a look, after a check.

    Raises BackendFailed if depth_m or relative_std is missing, has another shape than the depth, or is not finite and
    positive everywhere, and for a look at two images, which are only measured.
    """
    if look.second is not None:
        raise BackendFailed("the look cannot be read: it is at two images, and the language model reads one.")
    shape = None if look.depth_m is None else look.depth_m.shape
    return ReadInput(
        look.features,
        _checked_array("depth_m", look.depth_m, shape),
        _checked_array("relative_std", look.relative_std, shape),
    )


def _checked_array(name: str, array: np.ndarray | None, shape: tuple[int, ...] | None) -> np.ndarray:
    if array is None or array.shape != shape:
        given = "missing" if array is None else f"of shape {array.shape}"
        raise BackendFailed(f"the look cannot be read: {name} is {given}, expected the shape of the depth, {shape}.")
    if not (np.isfinite(array) & (array > 0)).all():
        raise BackendFailed(f"the look cannot be read: {name} is not finite and positive everywhere.")
    return array


def pair_of_looks(looks: Sequence[Look], features: Sequence[np.ndarray | None]) -> Look:
    """Returns the look of a depth-first model at two images, made of the looks at each of them.

    features: of the two images, on the host in any type; None for a model that tells only depth.
    """
    first, second = (
        replace(look, host_features=None if each is None else np.asarray(each, np.float32))
        for look, each in zip(looks, features, strict=True)
    )
    return replace(first, second=second)


def read_look(look: Look, prefix: KeyValues, length: int) -> Look:
    """Returns the look with the prefix that was read, without the features, so that their memory becomes free."""
    return replace(look, prefix=prefix, length=length, features=None)


def checked_look(look: Look, graph: str, precision: str) -> Look:
    """Returns the look. Raises BackendFailed if its depth or standard deviations are not numbers.

    Every backend passes its results through this and checked_step. Without them NaN, which a number that overflows
    becomes, would pass for a picture of unknown depth. graph: what gave the look. precision: the type that it computes
    in.
    """
    for name, values in (("depth", look.depth_m), ("standard deviations", look.relative_std)):
        if values is not None and not np.isfinite(values).all():
            share = 100.0 * (1.0 - np.isfinite(values).mean())
            raise BackendFailed(f"{graph} gave {name} that are no numbers, in {share:.3g} % {_nan_advice(precision)}")
    return look


def checked_step(output: StepOutput, graph: str, precision: str) -> StepOutput:
    """Returns the output of a step. Raises BackendFailed if its logits are not numbers; see checked_look.

    The first token of the vocabulary would be chosen again and again.
    """
    is_number = np.isfinite(output.log_probability)
    if not is_number.all():
        share = 100.0 * (1.0 - is_number.mean())
        raise BackendFailed(f"{graph} gave logits that are no numbers, in {share:.3g} % {_nan_advice(precision)}")
    return output


def _nan_advice(precision: str) -> str:
    return (
        f"of them (NaN or infinite), in precision {precision}: numbers overflowed, or the weights are damaged. Use "
        "another precision, such as fp32 (depthlm engine build --precision fp32), or get the weights again."
    )
