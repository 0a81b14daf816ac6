# SPDX-License-Identifier: Apache-2.0
"""Questions and replies as rows of tokens, for both trainings: which tokens are learnt and which see each other.

Several questions about one image are packed into one row. They do not see each other (`block_mask`), which is also how
they are asked at run time. A question is tokenised as at run time: question with header, then reply with its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer

from depthlm_ros.families.registry import ChatTemplate

# Label of a token after which nothing is learnt: the default ignore_index of torch's cross-entropy.
IGNORED = -100
# Segments of tokens that belong to no packed question: before the questions, and behind the end of a row.
PREFIX, PADDING = -1, -2

# Two bool (N,): the image tokens that the first and the second supervised layer have to look at.
AttentionTarget = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class ChatTurn:
    """A question that follows the images, and the whole reply that is expected.

    forced: the beginning of the reply, which is given and not learnt. attention: the image tokens that the reply is
    about, None if it is not about a place.
    """

    question: str
    reply: str
    forced: str = ""
    attention: AttentionTarget | None = None


@dataclass(frozen=True)
class TurnTokens:
    """Token ids of a turn: those that are given, and those that the model predicts."""

    given: tuple[int, ...]
    predicted: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TokenRow:
    """One row of tokens. ids, segment, offset: int64 (T,). learnt: bool (T,).

    segment: the number of the token's question, or PREFIX or PADDING. offset: the token's place in its question, or in
    the row where questions follow each other in one conversation. learnt: whether the model learns to say the token.
    """

    ids: np.ndarray
    segment: np.ndarray
    offset: np.ndarray
    learnt: np.ndarray

    @property
    def next_id(self) -> np.ndarray:
        """Returns int64 (T,): the token that is learnt to follow this one, or IGNORED.

        A token follows the one before it in the row if it sees that one: the first token of a packed question follows
        the prefix, but not the question before it.
        """
        next_id = np.full(len(self.ids), IGNORED, np.int64)
        before = self.segment[:-1]
        counts = self.learnt[1:] & ((self.segment[1:] == before) | (before == PREFIX))
        next_id[:-1][counts] = self.ids[1:][counts]
        return next_id

    def padded(self, length: int, pad_id: int) -> TokenRow:
        """Returns the row with padding up to `length` tokens."""
        more = length - len(self.ids)
        return TokenRow(
            np.pad(self.ids, (0, more), constant_values=pad_id),
            np.pad(self.segment, (0, more), constant_values=PADDING),
            np.pad(self.offset, (0, more)),
            np.pad(self.learnt, (0, more)),
        )


def token_ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """Returns the token ids of a text, without special tokens that the tokenizer would add."""
    return tuple(tokenizer.encode(text, add_special_tokens=False).ids)


def tokenize_turn(turn: ChatTurn, tokenizer: Tokenizer, chat: ChatTemplate) -> TurnTokens:
    """Returns the tokens of question, header and forced words, and those of the rest of the reply with its end."""
    given = token_ids(tokenizer, turn.question + chat.header + turn.forced)
    return TurnTokens(given, token_ids(tokenizer, turn.reply.removeprefix(turn.forced) + chat.end))


def pack_turns(
    turns: Sequence[TurnTokens], separate: bool = True, learn_given: bool = False, most_tokens: int | None = None
) -> TokenRow:
    """Packs turns one after the other into one row.

    separate: turns do not see each other; otherwise they are one conversation in the segment PREFIX. learn_given: the
    given tokens are learnt too. most_tokens: a turn that would exceed this length of the row is left out.
    """
    ids: list[int] = []
    segment: list[int] = []
    offset: list[int] = []
    learnt: list[bool] = []
    for index, turn in enumerate(turns):
        count, start = len(turn.given) + len(turn.predicted), len(ids)
        if most_tokens is not None and start + count > most_tokens:
            continue
        ids += turn.given + turn.predicted
        segment += [index if separate else PREFIX] * count
        offset += range(count) if separate else range(start, start + count)
        learnt += [learn_given] * len(turn.given) + [True] * len(turn.predicted)
    return TokenRow(
        np.array(ids, np.int64), np.array(segment, np.int64), np.array(offset, np.int64), np.array(learnt, bool)
    )


def block_mask(segment: torch.Tensor) -> torch.Tensor:
    """Returns bool (B, 1, T, T): True where a token (row) sees another (column).

    segment: int64 (B, T). A token sees the prefix and its own question, never a later token. Padding sees the prefix
    too, since a softmax over nothing is NaN.
    """
    count = segment.shape[1]
    causal = torch.ones(count, count, dtype=torch.bool, device=segment.device).tril()
    same = (segment[:, :, None] == segment[:, None, :]) | (segment[:, None, :] == PREFIX)
    return (same & causal)[:, None]


def stack_rows(rows: Sequence[np.ndarray | Sequence[int]], fill: int, at_left: bool = False) -> torch.Tensor:
    """Returns int64 (B, T): the rows, padded with `fill` to the longest one, at the right or at the left."""
    longest = max(len(row) for row in rows)
    stacked = np.full((len(rows), longest), fill, np.int64)
    for index, row in enumerate(rows):
        start = longest - len(row) if at_left else 0
        stacked[index, start : start + len(row)] = row
    return torch.from_numpy(stacked)
