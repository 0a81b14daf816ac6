# SPDX-License-Identifier: Apache-2.0
"""Questions about rendered pictures, with true replies and the image tokens that each reply is about.

`turns_about_picture` makes them; `pack_supervised` packs them into one row of tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from depthlm_ros.core import Intrinsics
from depthlm_ros.families.base import Prompt
from depthlm_ros.families.registry import qwen
from depthlm_ros.families.tiny import Tiny, point_text
from depthlm_ros.geometry.pinhole import range_from_z
from depthlm_ros.scenes.questions.generate import SceneQuestion, sample_naming_question
from depthlm_ros.scenes.questions.visibility import bounding_region
from depthlm_ros.scenes.renderer.render import RenderedImage
from depthlm_ros.scenes.world.colours import NAMED_COLOURS
from depthlm_ros.training.embedded.recipe import PictureSettings
from depthlm_ros.training.packing import AttentionTarget, ChatTurn, TokenRow, pack_turns, token_ids, tokenize_turn

# The embedded model is asked as Qwen3-VL is, without a system message.
CHAT = qwen("")
COLOURS = frozenset(NAMED_COLOURS)
REGION_QUESTIONS = (
    "How far is the object in this region?",
    "How far away is this object?",
    "What is the distance to this region?",
    "distance to this object",
)
# Pixels with a depth that an object needs, so that a question about its region has an answer.
LEAST_REGION_PIXELS = 12
# Layers of the language model that learn where to look (losses.py).
SUPERVISED_LAYERS = 2


@dataclass(frozen=True)
class PromptTokens:
    """Token ids of the fixed text before and after an image."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def read_prompt_tokens(tokenizer: Tokenizer) -> PromptTokens:
    """Returns the token ids that every step of the second phase needs."""
    before, _, after = (token_ids(tokenizer, text) for text in CHAT.around_images)
    return PromptTokens(before, after)


def turns_about_picture(
    rng: np.random.Generator,
    settings: PictureSettings,
    family: Tiny,
    questions: Sequence[SceneQuestion],
    rendered: RenderedImage,
    camera: Intrinsics,
    token_px: int,
) -> list[ChatTurn]:
    """Returns turns about depths of points, about the questions, about what pixels show, and about a region."""
    size_px = picture_size(rendered)
    turns = [
        point_turn(u, v, depth_m, family, size_px, token_px)
        for u, v, depth_m in sample_points(rng, rendered.depth_m, settings.points)
    ]
    about_pixels = (
        sample_naming_question(rng, rendered, camera, family.box_text) for _ in range(settings.pixel_questions)
    )
    for question in [*questions, *filter(None, about_pixels)]:
        uv_px = np.asarray(question.uv_px, float).reshape(-1, 2)
        prompt = family.question_prompt(vary_typing(rng, question.question), uv_px, (), size_px)
        turns.append(make_turn(prompt, question.reply, attention_target(question, rendered, token_px)))
    return turns + region_turns(rng, family, rendered, camera, token_px)


def pack_supervised(
    turns: Sequence[ChatTurn], tokenizer: Tokenizer, length: int, pad_id: int, image_tokens: int = 0
) -> tuple[TokenRow, np.ndarray]:
    """Packs turns into a row of `length` tokens; a turn that does not fit is left out.

    image_tokens: number of tokens N of the image, 0 for no attention supervision.

    Returns the row and bool (SUPERVISED_LAYERS, length, N): where each layer has to look while the next token is
    predicted, all False for anywhere. Supervised are the tokens up to a reply's first digit, and those from the end of
    its box to the first digit of its number: the digits of a box already tell where the thing is.
    """
    tokens = [tokenize_turn(turn, tokenizer, CHAT) for turn in turns]
    row = pack_turns(tokens, most_tokens=length).padded(length, pad_id)
    attention = np.zeros((SUPERVISED_LAYERS, length, image_tokens), bool)
    for index, (turn, each) in enumerate(zip(turns, tokens, strict=True)):
        places = np.flatnonzero(row.segment == index)
        if len(places) and image_tokens and turn.attention is not None:
            before = places[0] + len(each.given) - 1 + places_before_numbers(each.predicted, tokenizer)
            attention[:, before] = np.stack(turn.attention)[:, None]
    return row, attention


def places_before_numbers(predicted: Sequence[int], tokenizer: Tokenizer) -> np.ndarray:
    """Returns int64 (N,): places up to the first digit, and from behind the end of a box to the next digit."""
    words = [tokenizer.decode([token]) for token in predicted]
    digits = [place for place, word in enumerate(words) if any(map(str.isdigit, word))]
    places = [place for place in digits if words[place].startswith("<")]
    box_end = places[-1] if places else len(words)
    number = next((place for place in digits if place > box_end), box_end)
    return np.r_[: digits[0] + 1 if digits else len(words), box_end + 1 : number + 1]


def make_turn(prompt: Prompt, reply: str, attention: AttentionTarget | None = None) -> ChatTurn:
    """Returns the turn of a family's prompt."""
    return ChatTurn(prompt.text, reply, prompt.forced, attention)


def picture_size(rendered: RenderedImage) -> tuple[int, int]:
    """Returns (width, height) in pixels."""
    height, width = rendered.depth_m.shape
    return width, height


def without_colours(turns: Sequence[ChatTurn]) -> list[ChatTurn]:
    """Returns the turns whose question and reply name no colour."""
    return [turn for turn in turns if COLOURS.isdisjoint(re.findall(r"\w+", f"{turn.question} {turn.reply}".lower()))]


def attention_target(question: SceneQuestion, rendered: RenderedImage, token_px: int) -> AttentionTarget | None:
    """Returns the tokens of the first and of the last pixel or object in view that the question names."""
    size_px = picture_size(rendered)
    places = [token_at_pixel(*uv, size_px, token_px) for uv in question.uv_px]
    places += [tokens_in_mask(rendered.object_id == index, token_px) for index in question.object_ids]
    return (places[0], places[-1]) if places else None


def tokens_in_mask(mask: np.ndarray, token_px: int) -> np.ndarray:
    """Returns bool (N,), tokens row by row: whether a token shows a pixel of the mask (H, W)."""
    height, width = mask.shape
    return mask.reshape(height // token_px, token_px, width // token_px, token_px).any((1, 3)).ravel()


def token_at_pixel(u_px: float, v_px: float, size_px: tuple[int, int], token_px: int) -> np.ndarray:
    """Returns bool (N,): True for the token that shows a pixel of a picture of this size (width, height)."""
    columns, rows = (extent // token_px for extent in size_px)
    tokens = np.zeros((rows, columns), bool)
    row, column = (round(value) // token_px for value in (v_px, u_px))
    tokens[min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)] = True
    return tokens.ravel()


def tokens_in_box(box_px: tuple[float, float, float, float], size_px: tuple[int, int], token_px: int) -> np.ndarray:
    """Returns bool (N,), tokens row by row: whether its middle is in a box; at least the one of the box's centre."""
    columns, rows = (extent // token_px for extent in size_px)
    left, top, right, bottom = box_px
    u, v = ((np.arange(count) + 0.5) * token_px for count in (columns, rows))
    inside = ((u >= left) & (u <= right))[None] & ((v >= top) & (v <= bottom))[:, None]
    if not inside.any():
        row, column = int((top + bottom) / 2 / token_px), int((left + right) / 2 / token_px)
        inside[min(row, rows - 1), min(column, columns - 1)] = True
    return inside.ravel()


def vary_typing(rng: np.random.Generator, question: str) -> str:
    """Returns the question, sometimes without capitals or question mark, as people type."""
    if rng.random() < 0.2:
        question = question.lower()
    return question.rstrip("?.") if rng.random() < 0.2 else question


def sample_points(rng: np.random.Generator, depth_m: np.ndarray, count: int) -> list[tuple[int, int, float]]:
    """Returns (u, v, z) of random places with a known depth in depth_m (h, w)."""
    v, u = np.nonzero(np.isfinite(depth_m))
    if not len(u):
        return []
    chosen = rng.integers(0, len(u), count)
    return [(int(u[i]), int(v[i]), float(depth_m[v[i], u[i]])) for i in chosen]


def point_turn(u: int, v: int, depth_m: float, family: Tiny, size_px: tuple[int, int], token_px: int) -> ChatTurn:
    """Returns the question for the depth of a pixel, with its reply."""
    place = token_at_pixel(u, v, size_px, token_px)
    return make_turn(family.point_prompt(u, v, size_px), point_text(depth_m), (place, place))


def region_turns(
    rng: np.random.Generator, family: Tiny, rendered: RenderedImage, camera: Intrinsics, token_px: int
) -> list[ChatTurn]:
    """Returns, for half the pictures, a question for the median range of an object's visible pixels in its box."""
    ids = np.unique(rendered.object_id[rendered.object_id >= 0])
    if not len(ids) or rng.random() < 0.5:
        return []
    mask = (rendered.object_id == rng.choice(ids)) & np.isfinite(rendered.depth_m)
    v, u = np.nonzero(mask)
    if len(u) < LEAST_REGION_PIXELS:
        return []
    size_px = picture_size(rendered)
    uv_px = rendered.undistorted_px(np.stack([u, v], 1))
    range_m = float(np.median(range_from_z(uv_px, rendered.depth_m[v, u], camera)))
    question = REGION_QUESTIONS[int(rng.integers(len(REGION_QUESTIONS)))]
    prompt = family.question_prompt(question, np.zeros((0, 2)), (bounding_region(u, v),), size_px)
    place = tokens_in_mask(mask, token_px)
    return [make_turn(prompt, f"The object is {range_m:.2f} meters away.", (place, place))]
