"""Two pictures of one scene: where pixels of the first are in the second, and how the camera moved, asked and answered
in VLM3's words."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer

from depthlm_ros.core import Intrinsics
from depthlm_ros.families.base import Family, normalised
from depthlm_ros.families.vlm3 import MATCH_COORDINATE_SCALE, pose_replies
from depthlm_ros.scenes.camera.photo import photograph
from depthlm_ros.scenes.questions.view_pairs import Pair, sample_pair
from depthlm_ros.scenes.world.sample import sample_scene
from depthlm_ros.train.conversation import PackedRow, Turn, pack
from depthlm_ros.train.gaze import Gaze, tokens_at
from depthlm_ros.train.naming import words_shown
from depthlm_ros.train.placing import numbers_shown
from depthlm_ros.train.tokenizer import PAD, token_id

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
