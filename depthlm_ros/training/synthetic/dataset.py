"""Endless batches of rendered scenes with dense depth and packed questions.

A batch depends on (seed, step) only, in whichever process it is made: `make_batch`, `RenderedBatches`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
import torch
from tokenizers import Tokenizer
from torch.utils.data import IterableDataset

from depthlm_ros.core import Intrinsics
from depthlm_ros.families.base import Family
from depthlm_ros.geometry.camera_model import UNSEEN_GREY
from depthlm_ros.geometry.pinhole import centred_camera
from depthlm_ros.scenes.camera.lens import sample_lens
from depthlm_ros.scenes.camera.photo import jitter_tones, photograph, recolour
from depthlm_ros.scenes.camera.viewpoints import sample_scene_and_pose
from depthlm_ros.scenes.questions.generate import sample_questions
from depthlm_ros.scenes.questions.view_pairs import sample_pair
from depthlm_ros.scenes.renderer.batch import CameraShot
from depthlm_ros.scenes.renderer.gpu import render_shots
from depthlm_ros.scenes.renderer.render import RenderedImage, render
from depthlm_ros.scenes.world.primitives import Scene
from depthlm_ros.scenes.world.sample import sample_scene
from depthlm_ros.training.packing import TokenRow
from depthlm_ros.training.synthetic.auxiliary_losses import geometry_of_tokens, words_of_tokens
from depthlm_ros.training.synthetic.config import SyntheticDataSettings
from depthlm_ros.training.synthetic.prompts import (
    pack_supervised,
    turns_about_pair,
    turns_about_picture,
    without_colours,
)
from depthlm_ros.training.synthetic.tokenizer import PAD, token_id


@dataclass(frozen=True, eq=False)
class SyntheticExample:
    """One example of a batch. images: uint8 (H, W, 3), one or two. depth_m: float32 (H, W) of the first one.

    token_words, token_geometry: what each token of the first image shows (auxiliary_losses). row: the packed questions;
    attention: where their replies look (prompts.pack_supervised).
    """

    images: tuple[np.ndarray, ...]
    depth_m: np.ndarray
    token_words: np.ndarray
    token_geometry: np.ndarray
    row: TokenRow
    attention: np.ndarray


@dataclass(frozen=True)
class SyntheticBatch:
    """B examples.

    image: uint8 (B, H, W, 3). second: the second images, uint8 (0,) if there are none. depth_m: float32 (B, H, W) of
    the first images, NaN where there is no label. token_words: bool (B, N, words) and token_geometry: float32
    (B, N, numbers) of the N tokens of the first images. ids, segment, offset, next_id: int64 (B, Q), see
    packing.TokenRow. attention: bool (B, layers, Q, M) for the M tokens of all images.
    """

    image: torch.Tensor
    second: torch.Tensor
    depth_m: torch.Tensor
    token_words: torch.Tensor
    token_geometry: torch.Tensor
    ids: torch.Tensor
    segment: torch.Tensor
    offset: torch.Tensor
    next_id: torch.Tensor
    attention: torch.Tensor

    def to(self, device: str) -> SyntheticBatch:
        """Returns the batch on this device."""
        return SyntheticBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


class RenderedBatches(IterableDataset):
    """Batches start, start + 1, ... of a seed."""

    def __init__(
        self, settings: SyntheticDataSettings, family: Family, tokenizer_json: str, seed: int, start: int
    ) -> None:
        self.settings, self.family, self.tokenizer_json = settings, family, tokenizer_json
        self.seed, self.start = seed, start

    def __iter__(self) -> Iterator[SyntheticBatch]:
        # Built here, because a tokenizer cannot be sent to another process.
        tokenizer = Tokenizer.from_str(self.tokenizer_json)
        worker = torch.utils.data.get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if worker is not None:
            # The workers themselves run in parallel: more threads in each would only compete.
            cv2.setNumThreads(1)
        step = self.start + first
        while True:
            yield make_batch(self.settings, self.family, tokenizer, self.seed, step)
            step += stride


def make_batch(
    settings: SyntheticDataSettings, family: Family, tokenizer: Tokenizer, seed: int, step: int
) -> SyntheticBatch:
    """Returns batch number `step` of `seed`."""
    rng = np.random.default_rng([seed, step])
    size_px = settings.canvases[int(rng.random() < settings.wide_share)]
    # A wide canvas holds about twice the tokens: half the images keep the cost of a step even.
    count = settings.batch * settings.canvases[0][0] * settings.canvases[0][1] // (size_px[0] * size_px[1])
    camera = centred_camera(size_px, settings.focal_px)
    if rng.random() < settings.pair_share:
        return collate(make_pair_examples(rng, settings, family, tokenizer, camera, max(count // 2, 1)))
    shots = sample_shots(rng, settings, camera, count)
    rendered = render_shots(settings.render_device, shots, camera)
    return collate([make_example(rng, settings, family, tokenizer, camera, each) for each in rendered])


def make_example(
    rng: np.random.Generator,
    settings: SyntheticDataSettings,
    family: Family,
    tokenizer: Tokenizer,
    camera: Intrinsics,
    uncropped: RenderedImage,
) -> SyntheticExample:
    """Returns an example of one picture. uncropped: the picture as it was rendered, over the whole canvas."""
    rendered, outside = mask_outside(rng, uncropped)
    image = jitter_tones(rng, photograph(rng, rendered))
    true_colours = rng.random() >= settings.recoloured_share
    if not true_colours:
        image = recolour(rng, image, rendered.object_id)
    image[outside] = UNSEEN_GREY
    questions = sample_questions(rng, rendered.scene, rendered, camera, settings.questions)
    turns = turns_about_picture(rng, settings, family, questions, rendered)
    if not true_colours:
        turns = without_colours(turns)
    image_tokens = image.shape[0] * image.shape[1] // settings.token_px**2
    row, attention = pack_supervised(turns, tokenizer, settings.row_tokens, token_id(tokenizer, PAD), image_tokens)
    return SyntheticExample(
        (image,),
        rendered.depth_m,
        words_of_tokens(rendered, settings.token_px, true_colours),
        geometry_of_tokens(rendered, camera, settings.token_px),
        row,
        attention,
    )


def make_pair_examples(
    rng: np.random.Generator,
    settings: SyntheticDataSettings,
    family: Family,
    tokenizer: Tokenizer,
    camera: Intrinsics,
    count: int,
) -> list[SyntheticExample]:
    """Returns `count` examples of two pictures of one scene each."""
    examples: list[SyntheticExample] = []
    token_px, pad_id = settings.token_px, token_id(tokenizer, PAD)
    while len(examples) < count:
        scene = sample_scene(rng)
        # Two pairs of each scene, because making a scene costs more than a picture of it.
        for _ in range(min(2, count - len(examples))):
            try:
                pair = sample_pair(rng, scene, camera, settings.pair_points)
            except RuntimeError:
                break
            image_tokens = 2 * pair.first.depth_m.size // token_px**2
            turns = turns_about_pair(pair, family, token_px)
            row, attention = pack_supervised(turns, tokenizer, settings.row_tokens, pad_id, image_tokens)
            images = photograph(rng, pair.first), photograph(rng, pair.second)
            words = words_of_tokens(pair.first, token_px)
            geometry = geometry_of_tokens(pair.first, camera, token_px)
            examples.append(SyntheticExample(images, pair.first.depth_m, words, geometry, row, attention))
    return examples


def collate(examples: Sequence[SyntheticExample]) -> SyntheticBatch:
    """Returns the batch of these examples, which all have the same number of images."""
    images, *second_images = (_stack(images) for images in zip(*(each.images for each in examples), strict=True))
    return SyntheticBatch(
        image=images,
        second=second_images[0] if second_images else torch.zeros(0, dtype=torch.uint8),
        depth_m=_stack(each.depth_m for each in examples),
        token_words=_stack(each.token_words for each in examples),
        token_geometry=_stack(each.token_geometry for each in examples),
        ids=_stack(each.row.ids for each in examples),
        segment=_stack(each.row.segment for each in examples),
        offset=_stack(each.row.offset for each in examples),
        next_id=_stack(each.row.next_id for each in examples),
        attention=_stack(each.attention for each in examples),
    )


def _stack(arrays: Iterable[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(list(arrays)))


def sample_shots(
    rng: np.random.Generator, settings: SyntheticDataSettings, camera: Intrinsics, count: int
) -> Iterator[CameraShot]:
    """Yields `count` single pictures to be rendered, several of each scene, some of them through a lens."""
    scene: Scene | None = None
    for view in range(count):
        scene, pose = sample_scene_and_pose(rng, None if view % settings.views_per_scene == 0 else scene)
        yield CameraShot(scene, pose, sample_lens(rng, camera) if rng.random() < settings.lens_share else None)


def mask_outside(rng: np.random.Generator, rendered: RenderedImage) -> tuple[RenderedImage, np.ndarray]:
    """Keeps a random rectangle of a picture, as a camera that does not fill the canvas would.

    Returns the picture without depth and objects outside the rectangle, and bool (H, W) of what lies outside.
    """
    height, width = rendered.depth_m.shape
    outside = np.zeros((height, width), bool)
    if rng.random() < 0.7:
        w, h = (int(extent * rng.uniform(0.7, 1.0)) for extent in (width, height))
        # Mostly centred, as the principal point is; sometimes shifted, as that of an off-centre camera.
        x, y = ((extent - inner) // 2 for extent, inner in ((width, w), (height, h)))
        if rng.random() < 0.2:
            x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        outside[:] = True
        outside[y : y + h, x : x + w] = False
    depth_m = np.where(outside, np.nan, rendered.depth_m).astype(np.float32)
    object_id = np.where(outside, -1, rendered.object_id).astype(rendered.object_id.dtype)
    return replace(rendered, depth_m=depth_m, object_id=object_id), outside


def sample_texts(
    rng: np.random.Generator, settings: SyntheticDataSettings, family: Family, scenes: int
) -> Iterator[str]:
    """Yields the questions and replies about `scenes` rendered pictures, from which a tokenizer is learnt."""
    camera = centred_camera(settings.canvases[0], settings.focal_px)
    for _ in range(scenes):
        scene, pose = sample_scene_and_pose(rng)
        rendered = render(scene, pose, camera)
        questions = sample_questions(rng, scene, rendered, camera, 4 * settings.questions)
        for turn in turns_about_picture(rng, settings, family, questions, rendered):
            yield turn.question
            yield turn.reply
