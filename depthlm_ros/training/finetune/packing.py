"""Samples as rows of tokens: what stands where, what may see what, and what is to be learnt.

Text is tokenised piece by piece as at run time (before the images, between, after; question with header; reply with its
end), so that a question has the same tokens when it is asked as when it was learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer

from depthlm_ros.families.chat import Chat
from depthlm_ros.nets.positions import ImageSpan, PromptLayout, prefix_positions
from depthlm_ros.training.finetune.recipe import TextSettings
from depthlm_ros.training.finetune.samples import Turn

IGNORED = -100
# What stands before a further question in one conversation, by chat template.
NEXT_TURN = {"qwen": "\n<|im_start|>user\n", "pixtral": "[INST]"}
# The header of a reply that is not there, which the released training code appends.
TRAILING = {"qwen": "\n<|im_start|>assistant\n", "pixtral": ""}
PREFIX = -1


@dataclass(frozen=True, eq=False)
class Row:
    """ids: int64 (T,). positions: int64 (3, T), equal rows where an architecture has plain positions. segment: int64
    (T,): PREFIX, or the question's number where several are packed and must not see each other (all PREFIX in a
    conversation). next_id: int64 (T,): the token that is to be said after this one, IGNORED where nothing is learnt."""

    ids: np.ndarray
    positions: np.ndarray
    segment: np.ndarray
    next_id: np.ndarray


@dataclass(frozen=True)
class Speech:
    """How an architecture writes: its tokenizer and chat, whose name is `template`; image_ids: the token that stands
    for a patch of an image, and those that end its rows and all of it (None: there are none such)."""

    tokenizer: Tokenizer
    chat: Chat
    template: str
    image_id: int
    row_ids: tuple[int, int] | None = None

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def image(self, span: ImageSpan) -> list[int]:
        """What stands for an image."""
        rows, columns = span.grid
        if self.row_ids is None:
            return [self.image_id] * span.tokens
        row_end, end = self.row_ids
        return ([self.image_id] * columns + [row_end]) * (rows - 1) + [self.image_id] * columns + [end]

    def prefix(self, spans: Sequence[ImageSpan]) -> tuple[list[int], PromptLayout]:
        """All before the first question, and where things are in it."""
        texts = (self.chat.before, *[self.chat.between] * (len(spans) - 1), self.chat.after)
        pieces = [self.ids(text) for text in texts]
        ids = list(pieces[0])
        for span, piece in zip(spans, pieces[1:], strict=True):
            ids += self.image(span) + piece
        return ids, PromptLayout(tuple(map(len, pieces)), tuple(spans))


def encode(speech: Speech, spans: Sequence[ImageSpan], turns: Sequence[Turn], settings: TextSettings) -> Row:
    """The row of a sample with images of these spans."""
    prefix, layout = speech.prefix(spans)
    ids, learnt = list(prefix), _learnt_prefix(prefix, speech, settings)
    segment, starts = [PREFIX] * len(prefix), []
    packed = settings.layout == "packed" and len(turns) > 1
    for index, turn in enumerate(turns):
        given, said = _turn(speech, turn, settings, first=index == 0 or packed, last=packed or turn is turns[-1])
        starts.append(len(ids))
        ids += given + said
        learnt += [settings.loss_on != "reply"] * len(given) + [True] * len(said)
        segment += [index if packed else PREFIX] * (len(given) + len(said))
    after = _text_positions(len(ids) - len(prefix), [start - len(prefix) for start in starts] if packed else [0])
    positions = torch.cat([_prefix_positions(speech, layout), after.expand(3, -1) + layout.next_position], dim=1)
    row = np.array(ids, np.int64), positions.numpy(), np.array(segment, np.int64)
    return Row(*row, _next_ids(ids, learnt, segment))


def _turn(speech: Speech, turn: Turn, settings: TextSettings, first: bool, last: bool) -> tuple[list[int], list[int]]:
    """Tokens that are given, and those that are said."""
    opening = [] if first else speech.ids(NEXT_TURN[speech.template])
    given = opening + speech.ids(turn.question + speech.chat.header)
    if not settings.answers:
        return given, []
    said = speech.ids(turn.reply + speech.chat.end)
    trailing = speech.ids(TRAILING[speech.template]) if last and settings.trailing_header else []
    return given, said + trailing


def _learnt_prefix(prefix: Sequence[int], speech: Speech, settings: TextSettings) -> list[bool]:
    """Which tokens of the prefix are learnt."""
    pictured = [token in (speech.image_id, *(speech.row_ids or ())) for token in prefix]
    first = {"all": 0, "after_image": len(prefix) - pictured[::-1].index(True), "reply": len(prefix)}[settings.loss_on]
    return [at >= first and not pictured[at] for at in range(len(prefix))]


def _next_ids(ids: Sequence[int], learnt: Sequence[bool], segment: Sequence[int]) -> np.ndarray:
    """A token is said after the one before it, if it can see it: the first of a packed question follows the prefix,
    which is the token before it for the first question only."""
    next_id = np.full(len(ids), IGNORED, np.int64)
    for at in range(1, len(ids)):
        follows = segment[at] == segment[at - 1] or segment[at - 1] == PREFIX
        if learnt[at] and follows:
            next_id[at - 1] = ids[at]
    return next_id


def _prefix_positions(speech: Speech, layout: PromptLayout) -> torch.Tensor:
    """int64 (3, P)."""
    if speech.row_ids is not None:
        return torch.arange(layout.length).expand(3, -1)
    return prefix_positions(layout)


def _text_positions(count: int, starts: Sequence[int]) -> torch.Tensor:
    """int64 (1, count): counting on from each start."""
    positions = torch.arange(count)
    origin = torch.zeros(count, dtype=torch.long)
    for start in starts:
        origin[start:] = start
    return (positions - origin)[None]
