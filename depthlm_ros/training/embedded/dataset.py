# SPDX-License-Identifier: Apache-2.0
"""Endless batches of pictures from all sources, for both phases.

A batch depends on (seed, phase, step) only, in whichever process it is made: `make_batch`, `TrainingBatches`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from tokenizers import Tokenizer
from torch.utils.data import IterableDataset

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.records import RecordProblem
from depthlm_ros.families.tiny import Tiny
from depthlm_ros.geometry.pinhole import centred_camera
from depthlm_ros.scenes.questions.generate import sample_questions
from depthlm_ros.training.embedded.photo_questions import turns_about_photo
from depthlm_ros.training.embedded.pictures import (
    TOKEN_PX,
    PhotoPicture,
    Picture,
    PictureSources,
    RenderedPicture,
    draw_frame,
    draw_photo,
    draw_rendered,
)
from depthlm_ros.training.embedded.prompts import (
    pack_supervised,
    point_turn,
    sample_points,
    turns_about_picture,
    without_colours,
)
from depthlm_ros.training.embedded.recipe import PhaseSettings, PictureSettings
from depthlm_ros.training.embedded.tokenizer import PAD, token_id
from depthlm_ros.training.packing import PADDING, ChatTurn, TokenRow

# Keys of the random streams of the phases.
DEPTH_PHASE, WORDS_PHASE = 0, 1


@dataclass(frozen=True, eq=False)
class Example:
    """One example. image: uint8 (H, W, 3). depth_m, names: as in pictures.Picture.

    row, attention: the packed questions, None in the first phase.
    """

    image: np.ndarray
    depth_m: np.ndarray
    names: np.ndarray
    row: TokenRow | None = None
    attention: np.ndarray | None = None


@dataclass(frozen=True)
class TrainingBatch:
    """B examples.

    image: uint8 (B, H, W, 3). depth_m: float32 (B, H/4, W/4), NaN where there is no label. names: int8 (B, N, names).
    ids, segment, offset, next_id: int64 (B, Q), see packing.TokenRow; Q is the longest row. attention: bool
    (B, layers, Q, N) for the N tokens of an image. These five are empty in the first phase. problems: pictures that
    were skipped for this batch.
    """

    image: torch.Tensor
    depth_m: torch.Tensor
    names: torch.Tensor
    ids: torch.Tensor
    segment: torch.Tensor
    offset: torch.Tensor
    next_id: torch.Tensor
    attention: torch.Tensor
    problems: tuple[RecordProblem, ...] = ()

    def to(self, device: str) -> TrainingBatch:
        """Returns the batch on this device."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "problems"}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})


@dataclass(frozen=True)
class BatchPlan:
    """What a process needs to make batches. photos, frames: folders, None for none. number: of the phase."""

    pictures: PictureSettings
    phase: PhaseSettings
    number: int
    tokenizer_json: str
    seed: int
    photos: Path | None = None
    frames: Path | None = None


class TrainingBatches(IterableDataset):
    """Batches start, start + 1, ... of a plan."""

    def __init__(self, plan: BatchPlan, start: int) -> None:
        self.plan, self.start = plan, start

    def __iter__(self) -> Iterator[TrainingBatch]:
        # Built here, because a tokenizer cannot be sent to another process.
        tokenizer = Tokenizer.from_str(self.plan.tokenizer_json)
        sources = PictureSources(self.plan.photos, self.plan.frames)
        worker = torch.utils.data.get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        step = self.start + first
        while True:
            yield make_batch(self.plan, sources, tokenizer, step)
            step += stride


def use_one_opencv_thread(worker: int = 0) -> None:
    """Keeps OpenCV from competing with the other processes. Call it before a process forks, too: a fork in which OpenCV
    had threads cannot use them any more and waits for ever."""
    cv2.setNumThreads(0)


def make_batch(plan: BatchPlan, sources: PictureSources, tokenizer: Tokenizer, step: int) -> TrainingBatch:
    """Returns batch number `step`. Raises BadInput if photographs or frames cannot be read any more."""
    rng = np.random.default_rng([plan.seed, plan.number, step])
    examples = _draw_examples(rng, plan, sources, tokenizer)
    return replace(collate(examples), problems=sources.take_problems())


def _draw_examples(
    rng: np.random.Generator, plan: BatchPlan, sources: PictureSources, tokenizer: Tokenizer
) -> list[Example]:
    settings, shares = plan.pictures, plan.phase.shares
    camera = draw_camera(rng, settings)
    # A wide canvas holds more tokens: fewer images keep the cost of a step even.
    first = settings.canvases[0]
    count = plan.phase.batch * first[0] * first[1] // (camera.width_px * camera.height_px)
    names = [field.name for field in fields(shares)]
    weights = np.array([getattr(shares, name) for name in names], float)
    weights /= weights.sum()
    maker = _ExampleMaker(rng, plan, sources, tokenizer, camera)
    return [maker.make(names[int(rng.choice(len(names), p=weights))]) for _ in range(max(count, 1))]


def draw_camera(rng: np.random.Generator, settings: PictureSettings) -> Intrinsics:
    """Returns the camera of a batch: one of the canvases, with a random principal point."""
    shares = np.array(settings.canvas_shares) / sum(settings.canvas_shares)
    size_px = settings.canvases[int(rng.choice(len(settings.canvases), p=shares))]
    camera = centred_camera(size_px, settings.focal_px)
    shift_px = settings.principal_spread * size_px[0] * rng.standard_normal(2)
    return replace(camera, cx_px=camera.cx_px + shift_px[0], cy_px=camera.cy_px + shift_px[1])


@dataclass
class _ExampleMaker:
    rng: np.random.Generator
    plan: BatchPlan
    sources: PictureSources
    tokenizer: Tokenizer
    camera: Intrinsics

    def __post_init__(self) -> None:
        self.family = Tiny()
        self.has_words = self.plan.number == WORDS_PHASE

    def make(self, source: str) -> Example:
        """Returns an example of a picture of a source."""
        picture = self._picture(source)
        if not self.has_words:
            return Example(picture.image, picture.depth_m, picture.names)
        row, attention = self._pack(self._turns(picture))
        return Example(picture.image, picture.depth_m, picture.names, row, attention)

    def _picture(self, source: str) -> Picture:
        settings = self.plan.pictures
        if source == "photos":
            return draw_photo(self.rng, settings, self.camera, self.sources.draw_photo(self.rng))
        if source == "frames":
            return draw_frame(self.rng, settings, self.camera, self.sources.draw_frame(self.rng))
        return draw_rendered(self.rng, settings, self.camera, source)

    def _turns(self, picture: Picture) -> list[ChatTurn]:
        settings = self.plan.pictures
        if isinstance(picture, PhotoPicture):
            return turns_about_photo(self.rng, settings, self.family, picture, self.camera)
        if isinstance(picture, RenderedPicture):
            rendered = picture.rendered
            questions = sample_questions(
                self.rng, rendered.scene, rendered, self.camera, settings.questions, self.family.box_text
            )
            turns = turns_about_picture(self.rng, settings, self.family, questions, rendered, self.camera, TOKEN_PX)
            return turns if picture.true_colours else without_colours(turns)
        return turns_about_depth(self.rng, settings, self.family, picture)

    def _pack(self, turns: Sequence[ChatTurn]) -> tuple[TokenRow, np.ndarray]:
        tokens = self.camera.width_px * self.camera.height_px // TOKEN_PX**2
        pad_id = token_id(self.tokenizer, PAD)
        return pack_supervised(turns, self.tokenizer, self.plan.pictures.row_tokens, pad_id, tokens)


def turns_about_depth(
    rng: np.random.Generator, settings: PictureSettings, family: Tiny, picture: Picture
) -> list[ChatTurn]:
    """Returns questions for depths of pixels of a picture about whose things nothing is known."""
    height, width = picture.image.shape[:2]
    step = height // picture.depth_m.shape[0]
    return [
        point_turn(u * step + step // 2, v * step + step // 2, z, family, (width, height), TOKEN_PX)
        for u, v, z in sample_points(rng, picture.depth_m, settings.points + settings.questions)
    ]


def collate(examples: Sequence[Example]) -> TrainingBatch:
    """Returns the batch of these examples."""
    rows = [each.row for each in examples if each.row is not None]
    # Padding that all rows share costs time and teaches nothing.
    used = max((int(np.flatnonzero(row.segment != PADDING).max(initial=0)) + 1 for row in rows), default=0)
    attention = [each.attention[:, :used] for each in examples if each.attention is not None]
    nothing = torch.zeros(0, dtype=torch.int64)
    return TrainingBatch(
        image=_stack(each.image for each in examples),
        depth_m=_stack(each.depth_m for each in examples),
        names=_stack(each.names for each in examples),
        ids=_stack(row.ids[:used] for row in rows) if rows else nothing,
        segment=_stack(row.segment[:used] for row in rows) if rows else nothing,
        offset=_stack(row.offset[:used] for row in rows) if rows else nothing,
        next_id=_stack(row.next_id[:used] for row in rows) if rows else nothing,
        attention=_stack(attention) if attention else nothing.bool(),
    )


def _stack(arrays: Iterable[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.ascontiguousarray(array) for array in arrays]))
