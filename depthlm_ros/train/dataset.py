"""Endless batches of rendered scenes with dense depth and packed questions. A batch depends on (seed, step) only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.utils.data import IterableDataset

from depthlm_ros.camera import UNSEEN_GREY
from depthlm_ros.core import Intrinsics, Region
from depthlm_ros.families import vlm3
from depthlm_ros.families.base import Family
from depthlm_ros.pinhole import range_from_z
from depthlm_ros.scenes.batch import Shot
from depthlm_ros.scenes.gpu import render_on
from depthlm_ros.scenes.lens import sample_lens
from depthlm_ros.scenes.photo import photograph
from depthlm_ros.scenes.pose import sample_pose
from depthlm_ros.scenes.primitives import Pose, Scene
from depthlm_ros.scenes.questions import Question, ask_about
from depthlm_ros.scenes.render import Rendered, render
from depthlm_ros.scenes.sample import sample_scene
from depthlm_ros.train.conversation import PackedRow, Turn, pack
from depthlm_ros.train.pairs import pair_examples
from depthlm_ros.train.tokenizer import PAD, token_id

TEXT_FIELDS = ("ids", "segment", "offset", "label")


@dataclass(frozen=True)
class DataConfig:
    """What is rendered. Sizes are (width, height) in pixels at the canonical focal length.

    wide_share: of batches on the second canvas. pair_share: of batches of two pictures each. lens_share: of single
    pictures whose camera's calibration is not exact, see scenes/lens.py. render_device: where single pictures are
    rendered, cpu or cuda (scenes/gpu.py); a seed's batches on the one are not those on the other.
    """

    focal_px: float = 96.0
    canvases: tuple[tuple[int, int], ...] = ((128, 96), (192, 128))
    wide_share: float = 0.12
    batch: int = 32
    views_per_scene: int = 4
    points: int = 3
    questions: int = 3
    row_tokens: int = 176
    pair_share: float = 0.15
    pair_points: int = 4
    lens_share: float = 0.3
    render_device: str = "cpu"


@dataclass(frozen=True)
class Batch:
    """image: uint8 (B, H, W, 3); second: the same of the second pictures, (0,) of single ones; depth_m: float32
    (B, H, W) of the first, NaN = no label; the rest int64 (B, Q), see PackedRow."""

    image: torch.Tensor
    second: torch.Tensor
    depth_m: torch.Tensor
    ids: torch.Tensor
    segment: torch.Tensor
    offset: torch.Tensor
    label: torch.Tensor


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
        told = (family, tokenizer, max(count // 2, 1), config.pair_points, config.row_tokens)
        return stacked(*zip(*pair_examples(rng, camera, *told), strict=True))
    images, depths, rows = [], [], []
    for whole in render_on(config.render_device, sample_shots(rng, config, camera, count), camera):
        rendered, outside = mask_outside(rng, whole)
        image = photograph(rng, rendered)
        image[outside] = UNSEEN_GREY
        asked = ask_about(rng, rendered.scene, rendered, camera, config.questions)
        turns = turns_about(rng, config, family, asked, rendered)
        images.append(image)
        depths.append(rendered.depth_m)
        rows.append(pack(turns, tokenizer, config.row_tokens, token_id(tokenizer, PAD)))
    return stacked(images, (), depths, rows)


def sample_shots(rng: np.random.Generator, config: DataConfig, camera: Intrinsics, count: int) -> Iterator[Shot]:
    """`count` single pictures to be taken, several of each scene, some through a lens."""
    scene: Scene | None = None
    for view in range(count):
        scene, pose = sample_view(rng, None if view % config.views_per_scene == 0 else scene)
        yield Shot(scene, pose, sample_lens(rng, camera) if rng.random() < config.lens_share else None)


def stacked(
    images: Sequence[np.ndarray], seconds: Sequence[np.ndarray], depths: Sequence[np.ndarray], rows: Sequence[PackedRow]
) -> Batch:
    """One batch of its examples; no seconds: single pictures."""
    second = torch.from_numpy(np.stack(seconds)) if len(seconds) else torch.zeros(0, dtype=torch.uint8)
    texts = (torch.from_numpy(np.stack([getattr(row, name) for row in rows])) for name in TEXT_FIELDS)
    return Batch(torch.from_numpy(np.stack(images)), second, torch.from_numpy(np.stack(depths)), *texts)


def sample_view(rng: np.random.Generator, scene: Scene | None = None) -> tuple[Scene, Pose]:
    """A camera in the scene, or in a new one: a room too full for a camera must not end a long training."""
    while True:
        scene = scene or sample_scene(rng)
        try:
            return scene, sample_pose(rng, scene)
        except RuntimeError:
            scene = None


def canvas_camera(size_px: tuple[int, int], focal_px: float) -> Intrinsics:
    """The canonical camera of a canvas: principal point at its centre."""
    width, height = size_px
    return Intrinsics(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2, width, height)


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


def turns_about(
    rng: np.random.Generator, config: DataConfig, family: Family, asked: list[Question], rendered: Rendered
) -> list[Turn]:
    """VLM3 point questions, then the questions about objects and marks, then one about a region."""
    size_px = (rendered.depth_m.shape[1], rendered.depth_m.shape[0])
    turns = [
        point_turn(u, v, depth_m, family, size_px) for u, v, depth_m in sample_points(rng, rendered, config.points)
    ]
    for question in asked:
        uv_px = np.asarray(question.uv_px, float).reshape(-1, 2)
        turns.append(Turn(family.question_prompt(as_typed(rng, question.question), uv_px, (), size_px), question.reply))
    turns += region_turns(rng, rendered, family, size_px, config.focal_px)
    return turns


def as_typed(rng: np.random.Generator, question: str) -> str:
    """Now and then without capitals or question mark, as people type."""
    if rng.random() < 0.2:
        question = question.lower()
    return question.rstrip("?.") if rng.random() < 0.2 else question


def sample_points(rng: np.random.Generator, rendered: Rendered, count: int) -> list[tuple[int, int, float]]:
    """(u, v, depth_m) of random pixels with a depth."""
    v, u = np.nonzero(np.isfinite(rendered.depth_m))
    if not len(u):
        return []
    chosen = rng.integers(0, len(u), count)
    return [(int(u[i]), int(v[i]), float(rendered.depth_m[v[i], u[i]])) for i in chosen]


def point_turn(u: int, v: int, depth_m: float, family: Family, size_px: tuple[int, int]) -> Turn:
    return Turn(family.point_prompt(u, v, size_px), vlm3.POINT_REPLY.format(depth_m=depth_m))


REGION_QUESTIONS = (
    "How far is the object in this region?",
    "How far away is this object?",
    "What is the distance to this region?",
    "distance to this object",
)


def region_turns(
    rng: np.random.Generator, rendered: Rendered, family: Family, size_px: tuple[int, int], focal_px: float
) -> list[Turn]:
    """For half the images: how far is what lies in this box (median range of one object's visible pixels)."""
    ids = np.unique(rendered.object_id[rendered.object_id >= 0])
    if not len(ids) or rng.random() < 0.5:
        return []
    mask = (rendered.object_id == rng.choice(ids)) & np.isfinite(rendered.depth_m)
    v, u = np.nonzero(mask)
    if len(u) < 12:
        return []
    x, y = int(u.min()), int(v.min())
    region = Region(x, y, int(u.max()) + 1 - x, int(v.max()) + 1 - y)
    camera = canvas_camera(size_px, focal_px)
    uv_px = rendered.straight_px(np.stack([u, v], 1))
    range_m = float(np.median(range_from_z(uv_px, rendered.depth_m[v, u], camera)))
    question = REGION_QUESTIONS[int(rng.integers(len(REGION_QUESTIONS)))]
    prompt = family.question_prompt(question, np.zeros((0, 2)), (region,), size_px)
    return [Turn(prompt, f"The object is {range_m:.2f} meters away.")]


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
