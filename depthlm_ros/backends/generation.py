# SPDX-License-Identifier: Apache-2.0
"""Greedy decoding of many questions after one look, with any backend.

All rows of a batch share the keys and values of the look. Those of the text go into a buffer of fixed size that the
backend keeps: its shapes stay the same from step to step, as TensorRT and CUDA graphs need.

`generate` decodes the replies to questions about an image. `look_at_marked_images` is for models that are asked about
a pixel by a mark in the image itself (DepthLM): it looks at copies of one image that have different marks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from depthlm_ros.backends.base import Backend, Look, StepInput, StepOutput
from depthlm_ros.errors import OutOfMemory
from depthlm_ros.geometry.visual_prompt import draw_markers, markers_fit, pad_for_markers

logger = logging.getLogger(__name__)

# More rows cost memory and gain nothing: the arithmetic is saturated, and the working set of a row leaves the caches
# (measured with bench/sparse.py on two CPU cores: 128 points take 1.01 s in batches of 16, 1.04 of 8, 1.20 of 32, 1.32
# of 64).
MAX_ROWS_PER_BATCH = 16
# Every copy is a whole image for the vision tower: a few saturate the arithmetic, more only take memory.
MAX_COPIES_PER_BATCH = 8

# Called with the indices of some copies and the look at them.
LookHandler: TypeAlias = Callable[[list[int], Look], None]
# Makes the image that the model sees of a marked one, both uint8 (h, w, 3).
ImageProcessor: TypeAlias = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Query:
    """A question as tokens. ids: token ids after the prefix. is_stop_token: bool (V,), True where a token ends the
    reply.

    repetition_penalty: see GenerationSettings. prefix_ids: the token ids of the prefix, images included, in any order
    and each at least once; they count for the penalty, as all tokens of the prompt do in transformers.
    on_tokens: called with the tokens of the reply so far after every step. What it raises ends the decoding of the
    whole batch within this step.
    """

    ids: Sequence[int]
    is_stop_token: np.ndarray
    max_new_tokens: int
    repetition_penalty: float = 1.0
    prefix_ids: Sequence[int] = ()
    on_tokens: Callable[[Sequence[int]], None] | None = None


@dataclass(frozen=True)
class GeneratedTokens:
    """The tokens of a reply. ids: without the token that ended it. log_probability: of each of them.

    finished: True if a stop token ended the reply, False if it was cut off. watched: float32 (K, W), log probabilities
    of the watched tokens at every step, including the step that ended the reply.
    """

    ids: tuple[int, ...]
    log_probability: tuple[float, ...]
    finished: bool
    watched: np.ndarray


def generate(backend: Backend, look: Look, queries: Sequence[Query], watched: np.ndarray) -> list[GeneratedTokens]:
    """Returns the greedy reply to each query. The replies are the same as those to the queries one by one.

    look: of one prompt, which all queries share, or of as many prompts as there are queries, one for each (these are
    decoded in one batch). A look that needs reading is read (Backend.read): a caller that asks again keeps the read
    look. watched: int64 (W,), the token ids whose probabilities are kept.
    If memory is short, smaller batches are tried before OutOfMemory is raised.
    """
    look = backend.read(look)
    if look.prompts > 1:
        return _generate_batch(backend, look, queries, watched)
    replies: list[GeneratedTokens] = []
    batch_size = MAX_ROWS_PER_BATCH
    while len(replies) < len(queries):
        batch = queries[len(replies) : len(replies) + batch_size]
        try:
            replies += _generate_batch(backend, look, batch, watched)
        except OutOfMemory as exc:
            if len(batch) == 1:
                raise
            batch_size = (len(batch) + 1) // 2
            logger.warning("no memory for %d questions at once, continuing with %d: %s", len(batch), batch_size, exc)
    return replies


def look_at_marked_images(
    backend: Backend,
    picture: np.ndarray,
    markers_px: Sequence[Sequence[tuple[float, float]]],
    pad_px: int,
    handle_look: LookHandler,
    process: ImageProcessor = np.asarray,
) -> None:
    """Looks at one copy of the picture, uint8 (h, w, 3), for each entry of markers_px, several copies in one batch.

    markers_px: the markers (u, v) of each copy. handle_look is called once for every batch. process: the model's image
    processor, which gets each marked copy.
    If a marker does not fit at the border, its copy is widened by pad_px, the size of one image token, on every side.
    The copies of the next batch are made while the model looks at the last one. If memory is short, smaller batches are
    tried before OutOfMemory is raised.
    """
    size_px = (picture.shape[1], picture.shape[0])
    fit = [bool(markers_fit(np.asarray(markers, np.float64), size_px).all()) for markers in markers_px]
    fitting = [index for index in range(len(fit)) if fit[index]]
    _look_in_batches(backend, picture, markers_px, 0, fitting, handle_look, process)
    if not all(fit):
        padded = pad_for_markers(picture, pad_px)
        remaining = [index for index in range(len(fit)) if not fit[index]]
        _look_in_batches(backend, padded, markers_px, pad_px, remaining, handle_look, process)


def _look_in_batches(
    backend: Backend,
    image: np.ndarray,
    markers_px: Sequence[Sequence[tuple[float, float]]],
    shift_px: int,
    indices: list[int],
    handle_look: LookHandler,
    process: ImageProcessor,
) -> None:
    def make(index: int) -> np.ndarray:
        return process(draw_markers(image, np.asarray(markers_px[index], np.float64) + shift_px))

    batch_size, copies = MAX_COPIES_PER_BATCH, dict[int, Future[np.ndarray]]()
    with ThreadPoolExecutor(1, "marked-copies") as pool:
        while indices:
            batch = indices[:batch_size]
            for index in indices[: 2 * batch_size]:
                if index not in copies:
                    copies[index] = pool.submit(make, index)
            try:
                handle_look(batch, backend.look([np.stack([copies[index].result() for index in batch])]))
            except OutOfMemory as exc:
                if len(batch) == 1:
                    raise
                batch_size = (len(batch) + 1) // 2
                logger.warning("no memory for %d images at once, continuing with %d: %s", len(batch), batch_size, exc)
            else:
                indices = indices[len(batch) :]
                copies = {index: copy for index, copy in copies.items() if index in indices}


def _generate_batch(
    backend: Backend, look: Look, queries: Sequence[Query], watched: np.ndarray
) -> list[GeneratedTokens]:
    batch = _DecodingBatch(look, queries, watched)
    cache = backend.cache(look, len(queries), batch.slots)
    step_input: StepInput | None = batch.first_input()
    while step_input is not None:
        step_input = batch.next_input(backend.step(cache, step_input))
    return batch.replies()


class _DecodingBatch:
    """The state of a batch of queries while their replies are decoded."""

    def __init__(self, look: Look, queries: Sequence[Query], watched: np.ndarray) -> None:
        self.queries, self.watched = queries, watched
        self.lengths = np.array([len(query.ids) for query in queries])
        self.longest = int(self.lengths.max())
        self.first_position = look.next_position
        self.slots = self.longest + max(query.max_new_tokens for query in queries)
        self.mask = np.full((len(queries), self.slots), -np.inf, np.float32)
        self.steps = 0
        self.ids: list[list[int]] = [[] for _ in queries]
        self.log_probability: list[list[float]] = [[] for _ in queries]
        self.watched_values: list[list[np.ndarray]] = [[] for _ in queries]
        self.finished = np.zeros(len(queries), bool)
        self.done = np.zeros(len(queries), bool)
        # All queries of a batch are of one model.
        self.repetition_penalty = queries[0].repetition_penalty
        self.seen = [set(query.prefix_ids) | set(query.ids) for query in queries]

    def first_input(self) -> StepInput:
        """Returns the text of all questions. Must be called once, before next_input."""
        ids = np.zeros((len(self.queries), self.longest), np.int64)
        for row, query in enumerate(self.queries):
            ids[row, : len(query.ids)] = query.ids
        positions = np.broadcast_to(self.first_position + np.arange(self.longest), ids.shape).copy()
        step_input = self._input(ids, positions, self.lengths - 1, 0)
        # The padding of shorter questions stays masked.
        self.mask[:, : self.longest] = np.where(np.arange(self.longest) < self.lengths[:, None], 0.0, -np.inf)
        return step_input

    def next_input(self, output: StepOutput) -> StepInput | None:
        """Takes the next token of each row from the last step, and returns the input of the next step.

        Returns None if all replies have ended.
        """
        for row, query in enumerate(self.queries):
            if not self.done[row]:
                self._take_token(row, query, output)
                if query.on_tokens:
                    query.on_tokens(self.ids[row])
        if self.done.all():
            return None
        slot = self.longest + self.steps
        positions = (self.first_position + self.lengths + self.steps)[:, None]
        last = np.zeros(len(self.queries), np.int64)
        step_input = self._input(output.chosen[:, None], positions, last, slot)
        self.mask[:, slot] = 0.0
        self.steps += 1
        return step_input

    def _take_token(self, row: int, query: Query, output: StepOutput) -> None:
        """Adds the token that was chosen for a row to its reply, or ends the reply."""
        token = int(output.chosen[row])
        self.watched_values[row].append(output.watched[row])
        # Output layers are padded beyond the entries of the tokenizer: such a choice means nothing.
        if token >= len(query.is_stop_token):
            self.done[row] = True
            return
        if query.is_stop_token[token]:
            self.finished[row] = self.done[row] = True
            return
        self.ids[row].append(token)
        self.seen[row].add(token)
        self.log_probability[row].append(float(output.log_probability[row]))
        self.done[row] = len(self.ids[row]) >= query.max_new_tokens

    def _input(self, ids: np.ndarray, positions: np.ndarray, last: np.ndarray, slot: int) -> StepInput:
        """Returns the input of a step, with the tokens so far where they are penalised."""
        given = (ids, positions, last, self.mask.copy(), slot, self.watched, self.repetition_penalty)
        if self.repetition_penalty == 1.0:
            return StepInput(*given)
        # Rows with fewer tokens repeat one of their own, which changes nothing.
        most = max(map(len, self.seen))
        rows = [[*seen, *[next(iter(seen))] * (most - len(seen))] for seen in self.seen]
        return StepInput(*given, np.array(rows, np.int64))

    def replies(self) -> list[GeneratedTokens]:
        """Returns the tokens so far, one entry for each query."""
        rows = zip(self.ids, self.log_probability, self.finished, self.watched_values, strict=True)
        return [
            GeneratedTokens(
                tuple(ids),
                tuple(log_probability),
                bool(finished),
                np.array(watched).reshape(len(watched), len(self.watched)),
            )
            for ids, log_probability, finished, watched in rows
        ]
