"""Greedy decoding of many questions on one look, over any backend.

All rows share the prefix of the look; its keys and values are copied once per row into a buffer of fixed size, into
which every step's new ones are written. Shapes stay the same from step to step, as TensorRT and CUDA graphs want.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from depthlm_ros.backends.base import Backend, Look, StepInput


@dataclass(frozen=True)
class Query:
    """Token ids after the prefix, and when to stop: `stops` is bool (V,), True for tokens that end the reply."""

    ids: Sequence[int]
    stops: np.ndarray
    max_new_tokens: int


@dataclass(frozen=True)
class Generated:
    """ids of the reply without the token that ended it; log_probability of each. finished: a stop token came."""

    ids: tuple[int, ...]
    log_probability: tuple[float, ...]
    finished: bool


# More rows cost memory and gain nothing: arithmetic is saturated.
ROWS_AT_ONCE = 32


def generate(backend: Backend, look: Look, queries: Sequence[Query]) -> list[Generated]:
    """The greedy reply to each query; equal to asking one by one."""
    replies: list[Generated] = []
    for start in range(0, len(queries), ROWS_AT_ONCE):
        replies += _generate_rows(backend, look, queries[start : start + ROWS_AT_ONCE])
    return replies


def _generate_rows(backend: Backend, look: Look, queries: Sequence[Query]) -> list[Generated]:
    rows = _Rows(look, queries)
    output = backend.step(rows.question())
    for step in range(max(query.max_new_tokens for query in queries)):
        rows.take(output.logits)
        if rows.all_done():
            break
        rows.store(output.keys, output.values, step)
        output = backend.step(rows.next_token(step))
    return rows.replies()


class _Rows:
    """The buffers of one batch of queries while they are decoded."""

    def __init__(self, look: Look, queries: Sequence[Query]) -> None:
        self.queries = queries
        self.lengths = np.array([len(query.ids) for query in queries])
        self.prefix, self.longest = look.keys.shape[3], int(self.lengths.max())
        self.first_position = look.next_position
        slots = self.prefix + self.longest + max(query.max_new_tokens for query in queries)
        layers, _, heads, _, size = look.keys.shape
        self.keys = np.zeros((layers, len(queries), heads, slots, size), np.float32)
        self.values = np.zeros_like(self.keys)
        self.keys[:, :, :, : self.prefix] = look.keys
        self.values[:, :, :, : self.prefix] = look.values
        self.mask = np.full((len(queries), slots), -np.inf, np.float32)
        self.mask[:, : self.prefix] = 0.0
        self.ids: list[list[int]] = [[] for _ in queries]
        self.log_probability: list[list[float]] = [[] for _ in queries]
        self.finished = np.zeros(len(queries), bool)
        self.done = np.zeros(len(queries), bool)
        self.chosen = np.zeros(len(queries), np.int64)

    def question(self) -> StepInput:
        ids = np.zeros((len(self.queries), self.longest), np.int64)
        for row, query in enumerate(self.queries):
            ids[row, : len(query.ids)] = query.ids
        positions = np.broadcast_to(self.first_position + np.arange(self.longest), ids.shape).copy()
        # The question's own attention needs the prefix only; the empty slots behind it are left out.
        keys, values = (np.ascontiguousarray(x[:, :, :, : self.prefix]) for x in (self.keys, self.values))
        mask = np.ascontiguousarray(self.mask[:, : self.prefix])
        return StepInput(ids, positions, self.lengths - 1, keys, values, mask)

    def take(self, logits: np.ndarray) -> None:
        """Chooses each row's next token."""
        self.chosen = logits.argmax(-1)
        top = logits.max(-1)
        log_probability = -np.log(np.exp(logits - top[:, None]).sum(-1))
        for row, query in enumerate(self.queries):
            if self.done[row]:
                continue
            token = int(self.chosen[row])
            if query.stops[token]:
                self.finished[row] = self.done[row] = True
                continue
            self.ids[row].append(token)
            self.log_probability[row].append(float(log_probability[row]))
            self.done[row] = len(self.ids[row]) >= query.max_new_tokens

    def store(self, keys: np.ndarray, values: np.ndarray, step: int) -> None:
        """Writes new keys and values behind the prefix; padding of shorter questions stays masked."""
        start = self.prefix if step == 0 else self.prefix + self.longest + step - 1
        end = start + keys.shape[3]
        self.keys[:, :, :, start:end] = keys
        self.values[:, :, :, start:end] = values
        if step == 0:
            valid = np.arange(self.longest) < self.lengths[:, None]
            self.mask[:, start:end] = np.where(valid, 0.0, -np.inf)
        else:
            self.mask[:, start:end] = 0.0

    def next_token(self, step: int) -> StepInput:
        positions = (self.first_position + self.lengths + step)[:, None]
        last = np.zeros(len(self.queries), np.int64)
        return StepInput(self.chosen[:, None], positions, last, self.keys, self.values, self.mask)

    def all_done(self) -> bool:
        return bool(self.done.all())

    def replies(self) -> list[Generated]:
        return [
            Generated(tuple(ids), tuple(log_probability), bool(finished))
            for ids, log_probability, finished in zip(self.ids, self.log_probability, self.finished, strict=True)
        ]
