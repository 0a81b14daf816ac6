# SPDX-License-Identifier: Apache-2.0
"""Encodes the images and turns of a sample as one row of tokens, in the chat template of an architecture.

Text is tokenised piece by piece as at run time (before the images, between them, after them; then the turns), so that a
question has the same tokens when it is asked as when it was learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer

from depthlm_ros.families.registry import ChatTemplate
from depthlm_ros.nets.positions import ImageSpan, PromptLayout, prefix_positions
from depthlm_ros.training.finetune.recipe import TextSettings
from depthlm_ros.training.packing import (
    PREFIX,
    ChatTurn,
    TokenRow,
    TurnTokens,
    pack_turns,
    token_ids,
    tokenize_turn,
)

# What precedes a further question of one conversation, by chat template.
NEXT_TURN = {"qwen": "\n<|im_start|>user\n", "pixtral": "[INST]"}
# The header of a next reply that does not come, which the released training code appends.
TRAILING_HEADER = {"qwen": "\n<|im_start|>assistant\n", "pixtral": ""}


@dataclass(frozen=True, eq=False)
class EncodedRow:
    """A whole row of T tokens. ids, segment, next_id: int64 (T,), see packing.TokenRow.

    positions: int64 (3, T), with equal rows where an architecture has one position per token.
    """

    ids: np.ndarray
    positions: np.ndarray
    segment: np.ndarray
    next_id: np.ndarray


@dataclass(frozen=True)
class ChatEncoder:
    """How an architecture is written to: its tokenizer and chat, and the name of the chat template.

    image_id: the token that stands for a patch of an image. row_ids: the tokens that end a row of patches and the
    image, None for an architecture without them.
    """

    tokenizer: Tokenizer
    chat: ChatTemplate
    template: str
    image_id: int
    row_ids: tuple[int, int] | None = None

    def encode(self, spans: Sequence[ImageSpan], turns: Sequence[ChatTurn], settings: TextSettings) -> EncodedRow:
        """Returns the row of a sample with images of these spans."""
        prefix, layout = self._encode_prefix(spans, settings)
        separate = settings.layout == "packed" and len(turns) > 1
        text = pack_turns(
            [
                self._encode_turn(turn, settings, first=separate or index == 0, last=separate or turn is turns[-1])
                for index, turn in enumerate(turns)
            ],
            separate,
            learn_given=settings.loss_on != "reply",
        )
        columns = ("ids", "segment", "offset", "learnt")
        row = TokenRow(*(np.concatenate([getattr(prefix, name), getattr(text, name)]) for name in columns))
        after = torch.from_numpy(text.offset).expand(3, -1) + layout.next_position
        positions = torch.cat([self._prefix_positions(layout), after], dim=1)
        return EncodedRow(row.ids, positions.numpy(), row.segment, row.next_id)

    def image_ids(self, span: ImageSpan) -> tuple[int, ...]:
        """Returns the tokens that stand for an image."""
        rows, columns = span.grid
        if self.row_ids is None:
            return (self.image_id,) * span.tokens
        row_end, image_end = self.row_ids
        row = (self.image_id,) * columns
        return (*row, row_end) * (rows - 1) + (*row, image_end)

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Returns the tokens of a text."""
        return token_ids(self.tokenizer, text)

    def _encode_prefix(self, spans: Sequence[ImageSpan], settings: TextSettings) -> tuple[TokenRow, PromptLayout]:
        """Returns everything before the first question, and its layout."""
        texts = (self.chat.before, *[self.chat.between] * (len(spans) - 1), self.chat.after)
        pieces = [self.text_ids(text) for text in texts]
        ids = list(pieces[0])
        for span, piece in zip(spans, pieces[1:], strict=True):
            ids += self.image_ids(span) + piece
        behind_image = int(np.flatnonzero(np.isin(ids, (self.image_id, *(self.row_ids or ()))))[-1]) + 1
        first = {"all": 0, "after_image": behind_image, "reply": len(ids)}[settings.loss_on]
        # As in DepthLM's released code, the tokens that end Pixtral's rows are learnt like those of text.
        learnt = (np.array(ids) != self.image_id) & (np.arange(len(ids)) >= first)
        row = TokenRow(np.array(ids, np.int64), np.full(len(ids), PREFIX, np.int64), np.arange(len(ids)), learnt)
        return row, PromptLayout(tuple(map(len, pieces)), tuple(spans))

    def _encode_turn(self, turn: ChatTurn, settings: TextSettings, first: bool, last: bool) -> TurnTokens:
        """first, last: whether the turn is the first or the last one of its conversation."""
        tokens = tokenize_turn(turn, self.tokenizer, self.chat)
        given = tokens.given if first else self.text_ids(NEXT_TURN[self.template]) + tokens.given
        if not settings.answers:
            return TurnTokens(given, ())
        trailing = self.text_ids(TRAILING_HEADER[self.template]) if last and settings.trailing_header else ()
        return TurnTokens(given, tokens.predicted + trailing)

    def _prefix_positions(self, layout: PromptLayout) -> torch.Tensor:
        """Returns int64 (3, P)."""
        if self.row_ids is not None:
            return torch.arange(layout.length).expand(3, -1)
        return prefix_positions(layout)
