"""What is asked about a rendered picture in training, with the true replies and where they have to look.

Questions and replies about one image as one packed row of tokens.

All questions of an image share its prefix and do not see each other (a block mask), which is also how they are
asked at run time: any number of questions on one look.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from depthlm_ros.core import Region
from depthlm_ros.families import vlm3
from depthlm_ros.families.base import Family, Prompt
from depthlm_ros.families.chat import qwen
from depthlm_ros.geometry.pinhole import range_from_z
from depthlm_ros.scenes.questions.generate import Question, ask_what
from depthlm_ros.scenes.renderer.render import Rendered
from depthlm_ros.scenes.world.colours import NAMED
from depthlm_ros.training.synthetic.auxiliary_losses import LOOKS, Gaze, tokens_at, tokens_of
from depthlm_ros.training.synthetic.config import DataConfig, canvas_camera

# What is trained here speaks as Qwen3-VL does, without a system message.
CHAT = qwen("")


@dataclass(frozen=True)
class Turn:
    """One prompt and the whole reply expected (its forced words included). gaze: where the reply has to look, if it is
    about a place."""

    prompt: Prompt
    reply: str
    gaze: Gaze | None = None


@dataclass(frozen=True)
class PackedRow:
    """ids, segment, offset: int64 (Q,); segment is -1 where padded; offset counts within a segment.

    label: int64 (Q,): the token that should follow this one, or -100 where nothing is asked of it.
    gaze: bool (LOOKS, Q, M): where to look for the token that should follow, of M image tokens; none: anywhere. Up to a
    reply's first digit, and from the end of its box to the first digit of its number: the digits of a box give away
    where the thing is.
    """

    ids: np.ndarray
    segment: np.ndarray
    offset: np.ndarray
    label: np.ndarray
    gaze: np.ndarray


def encode_turn(turn: Turn, tokenizer: Tokenizer) -> tuple[list[int], int]:
    """Token ids of question, header, reply and end; and how many of them are given rather than predicted."""
    given = tokenizer.encode(turn.prompt.text + CHAT.header + turn.prompt.forced).ids
    predicted = tokenizer.encode(turn.reply.removeprefix(turn.prompt.forced) + CHAT.end).ids
    return given + predicted, len(given)


def pack(turns: Sequence[Turn], tokenizer: Tokenizer, length: int, pad_id: int, image_tokens: int = 0) -> PackedRow:
    """Packs turns one after the other into `length` tokens; a turn that no longer fits is left out.

    image_tokens: of the images that the turns' gazes are about; 0 leaves these out.
    """
    ids = np.full(length, pad_id, np.int64)
    segment = np.full(length, -1, np.int64)
    offset = np.zeros(length, np.int64)
    label = np.full(length, -100, np.int64)
    gaze = np.zeros((LOOKS, length, image_tokens), bool)
    at = 0
    for index, turn in enumerate(turns):
        tokens, given = encode_turn(turn, tokenizer)
        end = at + len(tokens)
        if end > length:
            continue
        ids[at:end] = tokens
        segment[at:end] = index
        offset[at:end] = np.arange(len(tokens))
        label[at + given - 1 : end - 1] = tokens[given:]
        if image_tokens and turn.gaze is not None:
            looking = at + given - 1 + _before_numbers(tokens[given:], tokenizer)
            gaze[:, looking] = np.stack(turn.gaze)[:, None]
        at = end
    return PackedRow(ids, segment, offset, label, gaze)


def _before_numbers(predicted: Sequence[int], tokenizer: Tokenizer) -> np.ndarray:
    """int64 (N,): places of the tokens up to the first digit, and of those from the end of a box to the next digit."""
    words = [tokenizer.decode([token]) for token in predicted]
    digits = [place for place, word in enumerate(words) if any(map(str.isdigit, word))]
    closed = next((place for place, word in enumerate(words) if ")" in word), len(words))
    number = next((place for place in digits if place > closed), closed)
    return np.r_[: digits[0] + 1 if digits else len(words), closed + 1 : number + 1]


COLOURS = frozenset(NAMED)


def turns_about(
    rng: np.random.Generator, config: DataConfig, family: Family, asked: list[Question], rendered: Rendered
) -> list[Turn]:
    """VLM3 point questions, then the questions about objects and marks, what pixels show, and one about a region."""
    size_px = (rendered.depth_m.shape[1], rendered.depth_m.shape[0])
    turns = [
        point_turn(u, v, depth_m, family, size_px, config.token_px)
        for u, v, depth_m in sample_points(rng, rendered, config.points)
    ]
    camera = canvas_camera(size_px, config.focal_px)
    whats = (ask_what(rng, rendered, camera) for _ in range(config.whats))
    for question in [*asked, *filter(None, whats)]:
        uv_px = np.asarray(question.uv_px, float).reshape(-1, 2)
        prompt = family.question_prompt(as_typed(rng, question.question), uv_px, (), size_px)
        turns.append(Turn(prompt, question.reply, gaze_of(question, rendered, config.token_px)))
    turns += region_turns(rng, config, family, rendered)
    return turns


def without_colours(turns: list[Turn]) -> list[Turn]:
    """Those that neither ask nor tell a colour."""
    return [
        turn for turn in turns if COLOURS.isdisjoint(re.findall(r"\w+", f"{turn.prompt.text} {turn.reply}".lower()))
    ]


def gaze_of(question: Question, rendered: Rendered, token_px: int) -> Gaze | None:
    """At the first and the last of the pixels or objects that the question names and the picture shows."""
    size_px = (rendered.depth_m.shape[1], rendered.depth_m.shape[0])
    places = [tokens_at(*uv, size_px, token_px) for uv in question.uv_px]
    places += [tokens_of(rendered.object_id == index, token_px) for index in question.object_ids]
    return (places[0], places[-1]) if places else None


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


def point_turn(u: int, v: int, depth_m: float, family: Family, size_px: tuple[int, int], token_px: int) -> Turn:
    place = tokens_at(u, v, size_px, token_px)
    return Turn(family.point_prompt(u, v, size_px), vlm3.POINT_REPLY.format(depth_m=depth_m), (place, place))


REGION_QUESTIONS = (
    "How far is the object in this region?",
    "How far away is this object?",
    "What is the distance to this region?",
    "distance to this object",
)


def around(u: np.ndarray, v: np.ndarray) -> Region:
    """The smallest box that holds these pixels."""
    return Region(int(u.min()), int(v.min()), int(np.ptp(u)) + 1, int(np.ptp(v)) + 1)


def region_turns(rng: np.random.Generator, config: DataConfig, family: Family, rendered: Rendered) -> list[Turn]:
    """For half the images: how far is what lies in this box (median range of one object's visible pixels)."""
    ids = np.unique(rendered.object_id[rendered.object_id >= 0])
    if not len(ids) or rng.random() < 0.5:
        return []
    mask = (rendered.object_id == rng.choice(ids)) & np.isfinite(rendered.depth_m)
    v, u = np.nonzero(mask)
    if len(u) < 12:
        return []
    region = around(u, v)
    size_px = (mask.shape[1], mask.shape[0])
    camera = canvas_camera(size_px, config.focal_px)
    uv_px = rendered.straight_px(np.stack([u, v], 1))
    range_m = float(np.median(range_from_z(uv_px, rendered.depth_m[v, u], camera)))
    question = REGION_QUESTIONS[int(rng.integers(len(REGION_QUESTIONS)))]
    prompt = family.question_prompt(question, np.zeros((0, 2)), (region,), size_px)
    place = tokens_of(mask, config.token_px)
    return [Turn(prompt, f"The object is {range_m:.2f} meters away.", (place, place))]
