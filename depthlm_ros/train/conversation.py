"""Questions and replies about one image as one packed row of tokens.

All questions of an image share its prefix and do not see each other (a block mask), which is also how they are
asked at run time: any number of questions on one look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from depthlm_ros.families.base import Prompt
from depthlm_ros.families.chat import qwen
from depthlm_ros.train.gaze import LOOKS, Gaze

# What is trained here speaks as Qwen3-VL does, without a system message.
CHAT = qwen("")


@dataclass(frozen=True)
class Turn:
    """One prompt and the whole reply expected (its forced words included). gaze: where the reply has to look, if it is
    about a place."""

    prompt: Prompt
    reply: str
    gaze: Gaze | None = None


@dataclass(frozen=True)
class PackedRow:
    """ids, segment, offset: int64 (Q,); segment is -1 where padded; offset counts within a segment.

    label: int64 (Q,): the token that should follow this one, or -100 where nothing is asked of it.
    gaze: bool (LOOKS, Q, M): where to look for the token that should follow, of M image tokens; none: anywhere. Up to a
    reply's first digit, and from the end of its box to the first digit of its number: the digits of a box give away
    where the thing is.
    """

    ids: np.ndarray
    segment: np.ndarray
    offset: np.ndarray
    label: np.ndarray
    gaze: np.ndarray


def encode_turn(turn: Turn, tokenizer: Tokenizer) -> tuple[list[int], int]:
    """Token ids of question, header, reply and end; and how many of them are given rather than predicted."""
    given = tokenizer.encode(turn.prompt.text + CHAT.header + turn.prompt.forced).ids
    predicted = tokenizer.encode(turn.reply.removeprefix(turn.prompt.forced) + CHAT.end).ids
    return given + predicted, len(given)


def pack(turns: Sequence[Turn], tokenizer: Tokenizer, length: int, pad_id: int, image_tokens: int = 0) -> PackedRow:
    """Packs turns one after the other into `length` tokens; a turn that no longer fits is left out.

    image_tokens: of the images that the turns' gazes are about; 0 leaves these out.
    """
    ids = np.full(length, pad_id, np.int64)
    segment = np.full(length, -1, np.int64)
    offset = np.zeros(length, np.int64)
    label = np.full(length, -100, np.int64)
    gaze = np.zeros((LOOKS, length, image_tokens), bool)
    at = 0
    for index, turn in enumerate(turns):
        tokens, given = encode_turn(turn, tokenizer)
        end = at + len(tokens)
        if end > length:
            continue
        ids[at:end] = tokens
        segment[at:end] = index
        offset[at:end] = np.arange(len(tokens))
        label[at + given - 1 : end - 1] = tokens[given:]
        if image_tokens and turn.gaze is not None:
            looking = at + given - 1 + _before_numbers(tokens[given:], tokenizer)
            gaze[:, looking] = np.stack(turn.gaze)[:, None]
        at = end
    return PackedRow(ids, segment, offset, label, gaze)


def _before_numbers(predicted: Sequence[int], tokenizer: Tokenizer) -> np.ndarray:
    """int64 (N,): places of the tokens up to the first digit, and of those from the end of a box to the next digit."""
    words = [tokenizer.decode([token]) for token in predicted]
    digits = [place for place, word in enumerate(words) if any(map(str.isdigit, word))]
    closed = next((place for place, word in enumerate(words) if ")" in word), len(words))
    number = next((place for place in digits if place > closed), closed)
    return np.r_[: digits[0] + 1 if digits else len(words), closed + 1 : number + 1]
