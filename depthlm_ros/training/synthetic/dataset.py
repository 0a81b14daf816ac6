"""Endless batches of rendered scenes with dense depth and packed questions. A batch depends on (seed, step) only.

Two pictures of one scene: where pixels of the first are in the second, and how the camera moved, asked and answered
in VLM3's words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
import torch
from tokenizers import Tokenizer
from torch.utils.data import IterableDataset

from depthlm_ros.core import Intrinsics
from depthlm_ros.families.base import Family, normalised
from depthlm_ros.families.vlm3 import MATCH_COORDINATE_SCALE, pose_replies
from depthlm_ros.geometry.camera_model import UNSEEN_GREY
from depthlm_ros.scenes.camera.lens import sample_lens
from depthlm_ros.scenes.camera.photo import developed, photograph, recoloured
from depthlm_ros.scenes.camera.viewpoints import sample_pose
from depthlm_ros.scenes.questions.generate import ask_about
from depthlm_ros.scenes.questions.view_pairs import Pair, sample_pair
from depthlm_ros.scenes.renderer.batch import Shot
from depthlm_ros.scenes.renderer.gpu import render_on
from depthlm_ros.scenes.renderer.render import Rendered, render
from depthlm_ros.scenes.world.primitives import Pose, Scene
from depthlm_ros.scenes.world.sample import sample_scene
from depthlm_ros.training.synthetic.auxiliary_losses import Gaze, numbers_shown, tokens_at, words_shown
from depthlm_ros.training.synthetic.config import DataConfig, canvas_camera
from depthlm_ros.training.synthetic.prompts import PackedRow, Turn, pack, turns_about, without_colours
from depthlm_ros.training.synthetic.tokenizer import PAD, token_id

Example = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, PackedRow]


def pair_examples(
    rng: np.random.Generator,
    camera: Intrinsics,
    family: Family,
    tokenizer: Tokenizer,
    count: int,
    points: int,
    row_tokens: int,
    token_px: int,
) -> list[Example]:
    """`count` times (first picture, second, depth, words and numbers of the first, packed questions); `points` matches
    are asked for."""
    examples: list[Example] = []
    while len(examples) < count:
        scene = sample_scene(rng)
        # Several pairs of a scene, since making one costs more than a picture of it.
        for _ in range(min(2, count - len(examples))):
            try:
                pair = sample_pair(rng, scene, camera, points)
            except RuntimeError:
                break
            both = 2 * pair.first.depth_m.size // token_px**2
            row = pack(pair_turns(pair, family, token_px), tokenizer, row_tokens, token_id(tokenizer, PAD), both)
            images = (photograph(rng, rendered) for rendered in (pair.first, pair.second))
            shown = words_shown(pair.first, token_px), numbers_shown(pair.first, camera, token_px)
            examples.append((*images, pair.first.depth_m, *shown, row))
    return examples


def pair_turns(pair: Pair, family: Family, token_px: int) -> list[Turn]:
    """The questions about two pictures with their true answers."""
    size_px = (pair.first.depth_m.shape[1], pair.first.depth_m.shape[0])
    turns = []
    for uv, matched in zip(pair.uv_px, pair.matched_px, strict=True):
        prompt = family.match_prompt(float(uv[0]), float(uv[1]), size_px)
        turns.append(Turn(prompt, match_reply(matched, size_px), match_gaze(uv, matched, size_px, token_px)))
    replies = pose_replies(pair.rotation, pair.translation_m)
    return turns + [Turn(prompt, replies[name]) for name, prompt in family.pose_prompts().items() if name in replies]


def match_gaze(uv_px: np.ndarray, matched_px: np.ndarray, size_px: tuple[int, int], token_px: int) -> Gaze:
    """First at the pixel in the first picture, then at its match in the second."""
    first, second = (tokens_at(u, v, size_px, token_px) for u, v in (uv_px, matched_px))
    none = np.zeros_like(first)
    return np.concatenate([first, none]), np.concatenate([none, second])


def match_reply(matched_px: np.ndarray, size_px: tuple[int, int]) -> str:
    """The answer to a question for a match."""
    x, y = (
        normalised(float(value), extent, MATCH_COORDINATE_SCALE)
        for value, extent in zip(matched_px, size_px, strict=True)
    )
    return f"({x}, {y})"


TEXT_FIELDS = ("ids", "segment", "offset", "label", "gaze")


@dataclass(frozen=True)
class Batch:
    """image: uint8 (B, H, W, 3); second: the same of the second pictures, (0,) of single ones; depth_m: float32
    (B, H, W) of the first, NaN = no label; shown: bool (B, N, K) and numbers: float32 (B, N, NUMBERS), what the tokens
    of the first show (naming.py, placing.py); the rest int64 (B, Q) and bool (B, LOOKS, Q, M), see PackedRow."""

    image: torch.Tensor
    second: torch.Tensor
    depth_m: torch.Tensor
    shown: torch.Tensor
    numbers: torch.Tensor
    ids: torch.Tensor
    segment: torch.Tensor
    offset: torch.Tensor
    label: torch.Tensor
    gaze: torch.Tensor

    def to(self, device: str) -> Batch:
        """The batch on this device; itself if it is there."""
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))


class RenderedBatches(IterableDataset):
    """Batches start, start + 1, ... of a seed."""

    def __init__(self, config: DataConfig, family: Family, tokenizer_json: str, seed: int, start: int) -> None:
        self.config, self.family, self.tokenizer_json = config, family, tokenizer_json
        self.seed, self.start = seed, start

    def __iter__(self) -> Iterator[Batch]:
        # Built here: a tokenizer does not travel between processes.
        tokenizer = Tokenizer.from_str(self.tokenizer_json)
        worker = torch.utils.data.get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if worker is not None:
            # Workers are the threads here: as many more in each would only get in each other's way.
            cv2.setNumThreads(1)
        step = self.start + first
        while True:
            yield make_batch(self.config, self.family, tokenizer, self.seed, step)
            step += stride


def make_batch(config: DataConfig, family: Family, tokenizer: Tokenizer, seed: int, step: int) -> Batch:
    """Batch number `step` of `seed`."""
    rng = np.random.default_rng([seed, step])
    size_px = config.canvases[int(rng.random() < config.wide_share)]
    # A wide canvas holds about twice the tokens: half the images keep the cost of a step even.
    count = config.batch * config.canvases[0][0] * config.canvases[0][1] // (size_px[0] * size_px[1])
    camera = canvas_camera(size_px, config.focal_px)
    if rng.random() < config.pair_share:
        told = (family, tokenizer, max(count // 2, 1), config.pair_points, config.row_tokens, config.token_px)
        return stacked(*zip(*pair_examples(rng, camera, *told), strict=True))
    images, depths, shown, numbers, rows = [], [], [], [], []
    for whole in render_on(config.render_device, sample_shots(rng, config, camera, count), camera):
        rendered, outside = mask_outside(rng, whole)
        image = developed(rng, photograph(rng, rendered))
        true_colours = rng.random() >= config.recoloured_share
        if not true_colours:
            image = recoloured(rng, image, rendered.object_id)
        image[outside] = UNSEEN_GREY
        asked = ask_about(rng, rendered.scene, rendered, camera, config.questions)
        turns = turns_about(rng, config, family, asked, rendered)
        turns = turns if true_colours else without_colours(turns)
        images.append(image)
        depths.append(rendered.depth_m)
        shown.append(words_shown(rendered, config.token_px, true_colours))
        numbers.append(numbers_shown(rendered, camera, config.token_px))
        image_tokens = size_px[0] * size_px[1] // config.token_px**2
        rows.append(pack(turns, tokenizer, config.row_tokens, token_id(tokenizer, PAD), image_tokens))
    return stacked(images, (), depths, shown, numbers, rows)


def sample_shots(rng: np.random.Generator, config: DataConfig, camera: Intrinsics, count: int) -> Iterator[Shot]:
    """`count` single pictures to be taken, several of each scene, some through a lens."""
    scene: Scene | None = None
    for view in range(count):
        scene, pose = sample_view(rng, None if view % config.views_per_scene == 0 else scene)
        yield Shot(scene, pose, sample_lens(rng, camera) if rng.random() < config.lens_share else None)


def stacked(
    images: Sequence[np.ndarray],
    seconds: Sequence[np.ndarray],
    depths: Sequence[np.ndarray],
    shown: Sequence[np.ndarray],
    numbers: Sequence[np.ndarray],
    rows: Sequence[PackedRow],
) -> Batch:
    """One batch of its examples; no seconds: single pictures."""
    second = torch.from_numpy(np.stack(seconds)) if len(seconds) else torch.zeros(0, dtype=torch.uint8)
    texts = (torch.from_numpy(np.stack([getattr(row, name) for row in rows])) for name in TEXT_FIELDS)
    first = (torch.from_numpy(np.stack(each)) for each in (depths, shown, numbers))
    return Batch(torch.from_numpy(np.stack(images)), second, *first, *texts)


def sample_view(rng: np.random.Generator, scene: Scene | None = None) -> tuple[Scene, Pose]:
    """A camera in the scene, or in a new one: a room too full for a camera must not end a long training."""
    while True:
        scene = scene or sample_scene(rng)
        try:
            return scene, sample_pose(rng, scene)
        except RuntimeError:
            scene = None


def mask_outside(rng: np.random.Generator, rendered: Rendered) -> tuple[Rendered, np.ndarray]:
    """Keeps a random rectangle, as a camera that does not fill the canvas would; returns also what lies outside."""
    height, width = rendered.depth_m.shape
    outside = np.zeros((height, width), bool)
    if rng.random() < 0.7:
        w, h = (int(extent * rng.uniform(0.7, 1.0)) for extent in (width, height))
        # Mostly centred (the principal point is), now and then shifted as an off-centre camera would be.
        x, y = ((extent - inner) // 2 for extent, inner in ((width, w), (height, h)))
        if rng.random() < 0.2:
            x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        outside[:] = True
        outside[y : y + h, x : x + w] = False
    depth_m = np.where(outside, np.nan, rendered.depth_m).astype(np.float32)
    object_id = np.where(outside, -1, rendered.object_id).astype(rendered.object_id.dtype)
    return replace(rendered, depth_m=depth_m, object_id=object_id), outside


def batch_texts(rng: np.random.Generator, config: DataConfig, family: Family, scenes: int) -> Iterator[str]:
    """Prompts and replies about `scenes` rendered images, for learning a tokenizer."""
    camera = canvas_camera(config.canvases[0], config.focal_px)
    for _ in range(scenes):
        scene, pose = sample_view(rng)
        rendered = render(scene, pose, camera)
        asked = ask_about(rng, scene, rendered, camera, 4 * config.questions)
        for turn in turns_about(rng, config, family, asked, rendered):
            yield turn.prompt.text
            yield turn.reply
