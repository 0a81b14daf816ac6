"""Greedy decoding of many questions on one look, over any backend.

The rows share the keys and values of the look. Those of the text go into a buffer of fixed size that the backend keeps;
shapes stay the same from step to step, as TensorRT and CUDA graphs want.

Looks at copies of one image that bear different marks (DepthLM points at a pixel in the image itself).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from depthlm_ros.backends.base import Backend, Look, StepInput, StepOutput
from depthlm_ros.errors import OutOfMemory
from depthlm_ros.families.depthlm import draw_marks, fits, pad_for_marks

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Query:
    """Token ids after the prefix, and when to stop: `stops` is bool (V,), True for tokens that end the reply."""

    ids: Sequence[int]
    stops: np.ndarray
    max_new_tokens: int


@dataclass(frozen=True)
class Generated:
    """ids of the reply without the token that ended it; log_probability of each. finished: a stop token came.

    watched: float32 (K, W), log probabilities of the watched tokens at every step, the one that ended the reply
    included.
    """

    ids: tuple[int, ...]
    log_probability: tuple[float, ...]
    finished: bool
    watched: np.ndarray


# More rows cost memory and gain nothing: arithmetic is saturated, and what a row works on leaves the caches (measured
# with bench/sparse.py on two CPU cores: 128 points take 1.01 s in groups of 16, 1.04 of 8, 1.20 of 32, 1.32 of 64).
ROWS_AT_ONCE = 16


def generate(backend: Backend, look: Look, queries: Sequence[Query], watched: np.ndarray) -> list[Generated]:
    """The greedy reply to each query; equal to asking one by one.

    look: of one prompt, which all queries share, or of as many prompts as there are queries, one each (these are
    decoded together). watched: int64 (W,) token ids whose probabilities are kept.
    Where memory is short, smaller groups are tried before OutOfMemory is raised.
    """
    if look.prompts > 1:
        return _generate_rows(backend, look, queries, watched)
    replies: list[Generated] = []
    at_once = ROWS_AT_ONCE
    while len(replies) < len(queries):
        group = queries[len(replies) : len(replies) + at_once]
        try:
            replies += _generate_rows(backend, look, group, watched)
        except OutOfMemory as exc:
            if len(group) == 1:
                raise
            at_once = (len(group) + 1) // 2
            logger.warning("no memory for %d questions at once, going on with %d: %s", len(group), at_once, exc)
    return replies


def _generate_rows(backend: Backend, look: Look, queries: Sequence[Query], watched: np.ndarray) -> list[Generated]:
    rows = _Rows(look, queries, watched)
    cache = backend.cache(look, len(queries), rows.slots)
    output = backend.step(cache, rows.question())
    for step in range(max(query.max_new_tokens for query in queries)):
        rows.take(output)
        if rows.all_done():
            break
        output = backend.step(cache, rows.next_token(step))
    return rows.replies()


class _Rows:
    """What is known of one batch of queries while they are decoded."""

    def __init__(self, look: Look, queries: Sequence[Query], watched: np.ndarray) -> None:
        self.queries, self.watched = queries, watched
        self.lengths = np.array([len(query.ids) for query in queries])
        self.longest = int(self.lengths.max())
        self.first_position = look.next_position
        self.slots = self.longest + max(query.max_new_tokens for query in queries)
        self.mask = np.full((len(queries), self.slots), -np.inf, np.float32)
        self.ids: list[list[int]] = [[] for _ in queries]
        self.log_probability: list[list[float]] = [[] for _ in queries]
        self.seen: list[list[np.ndarray]] = [[] for _ in queries]
        self.finished = np.zeros(len(queries), bool)
        self.done = np.zeros(len(queries), bool)
        self.chosen = np.zeros(len(queries), np.int64)

    def question(self) -> StepInput:
        ids = np.zeros((len(self.queries), self.longest), np.int64)
        for row, query in enumerate(self.queries):
            ids[row, : len(query.ids)] = query.ids
        positions = np.broadcast_to(self.first_position + np.arange(self.longest), ids.shape).copy()
        given = StepInput(ids, positions, self.lengths - 1, self.mask.copy(), 0, self.watched)
        # Padding of shorter questions stays masked.
        self.mask[:, : self.longest] = np.where(np.arange(self.longest) < self.lengths[:, None], 0.0, -np.inf)
        return given

    def take(self, output: StepOutput) -> None:
        """Takes each row's next token."""
        self.chosen = output.chosen
        for row, query in enumerate(self.queries):
            if self.done[row]:
                continue
            token = int(self.chosen[row])
            self.seen[row].append(output.watched[row])
            # Output layers are padded beyond the tokenizer's entries: such a choice says nothing.
            if token >= len(query.stops):
                self.done[row] = True
                continue
            if query.stops[token]:
                self.finished[row] = self.done[row] = True
                continue
            self.ids[row].append(token)
            self.log_probability[row].append(float(output.log_probability[row]))
            self.done[row] = len(self.ids[row]) >= query.max_new_tokens

    def next_token(self, step: int) -> StepInput:
        at = self.longest + step
        positions = (self.first_position + self.lengths + step)[:, None]
        last = np.zeros(len(self.queries), np.int64)
        given = StepInput(self.chosen[:, None], positions, last, self.mask.copy(), at, self.watched)
        self.mask[:, at] = 0.0
        return given

    def all_done(self) -> bool:
        return bool(self.done.all())

    def replies(self) -> list[Generated]:
        rows: Any = zip(self.ids, self.log_probability, self.finished, self.seen, strict=True)
        return [
            Generated(tuple(ids), tuple(log), bool(finished), np.array(seen).reshape(len(seen), len(self.watched)))
            for ids, log, finished, seen in rows
        ]


# Every copy is a whole image to the vision tower: a few saturate the arithmetic, more only take memory.
COPIES_AT_ONCE = 8

# Given the indices of some copies and the look at them.
Work = Callable[[list[int], Look], None]


def look_at_marked(
    backend: Backend,
    canvas: np.ndarray,
    marks_px: Sequence[Sequence[tuple[float, float]]],
    pad_px: int,
    work: Work,
) -> None:
    """Calls `work` with groups of looks at copies of the canvas, uint8 (h, w, 3), until every copy has had its turn.

    Where a mark does not fit beside its pixel at the border, the copy is widened by pad_px on every side, one image
    token, rather than the pixel given up. Where memory is short, smaller groups are tried before OutOfMemory is raised.
    """
    size_px = (canvas.shape[1], canvas.shape[0])
    inside = [bool(fits(np.asarray(marks, np.float64), size_px).all()) for marks in marks_px]
    _in_groups(backend, canvas, marks_px, 0, [i for i, fit in enumerate(inside) if fit], work)
    if not all(inside):
        padded = pad_for_marks(canvas, pad_px)
        _in_groups(backend, padded, marks_px, pad_px, [i for i, fit in enumerate(inside) if not fit], work)


def _in_groups(
    backend: Backend,
    base: np.ndarray,
    marks_px: Sequence[Sequence[tuple[float, float]]],
    shift_px: int,
    waiting: list[int],
    work: Work,
) -> None:
    at_once = COPIES_AT_ONCE
    while waiting:
        group = waiting[:at_once]
        try:
            copies = [draw_marks(base, np.asarray(marks_px[index], np.float64) + shift_px) for index in group]
            work(group, backend.look([np.stack(copies)]))
        except OutOfMemory as exc:
            if len(group) == 1:
                raise
            at_once = (len(group) + 1) // 2
            logger.warning("no memory for %d images at once, going on with %d: %s", len(group), at_once, exc)
        else:
            waiting = waiting[len(group) :]
