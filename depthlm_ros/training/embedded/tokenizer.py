# SPDX-License-Identifier: Apache-2.0
"""The embedded model's tokenizer: byte-level BPE, single digits, and fixed phrases of the prompts as one token each.

A phrase token does not limit what can be written (other text still becomes bytes), but it makes questions and replies
short, and many of them about one image cheap. A place, "<435>", is one token too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from depthlm_ros.errors import BadBundle, BadInput, SetupError
from depthlm_ros.families.tiny import PLACES, POINT_QUESTION, Tiny
from depthlm_ros.file_io import write_atomically
from depthlm_ros.geometry.pinhole import centred_camera
from depthlm_ros.scenes.camera.viewpoints import sample_scene_and_pose
from depthlm_ros.scenes.questions.generate import sample_questions
from depthlm_ros.scenes.renderer.render import render
from depthlm_ros.training.embedded.photo_questions import turns_about_photo
from depthlm_ros.training.embedded.pictures import TOKEN_PX, PictureSources, draw_photo
from depthlm_ros.training.embedded.prompts import CHAT, turns_about_picture
from depthlm_ros.training.embedded.recipe import EmbeddedRecipe, PictureSettings

PAD = "<|endoftext|>"
IMAGE = "<|image_pad|>"
# The text around names, boxes and numbers of a reply about things.
REPLY_WORDS = (" meters away.", " meters wide.", " meters tall.", " in this image.", "There is no ", " is closer: ")
CONTROL = (PAD, IMAGE, "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
# Pictures of each source whose questions and replies a new tokenizer is learnt from.
TOKENIZER_PICTURES = 300
TOKENIZER_FILE = "tokenizer.json"


def fixed_phrases() -> tuple[str, ...]:
    """Returns the unchanging parts of prompts and replies, and the places."""
    return (POINT_QUESTION, CHAT.header, *REPLY_WORDS, *PLACES)


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Returns the id of a token. Raises BadBundle if the tokenizer does not have it."""
    number = tokenizer.token_to_id(token)
    if number is None:
        raise BadBundle(f"the tokenizer has no token {token!r}: it was not made by this package.")
    return int(number)


def train_tokenizer(texts: Iterable[str], vocab: int) -> Tokenizer:
    """Returns a tokenizer of `vocab` entries learnt from texts. The result is deterministic."""
    tokenizer = Tokenizer(models.BPE())
    # Words with their leading space, single digits, ", " between coordinates, everything else by runs.
    pieces = Regex(r"\d|, | ?[A-Za-z]+|[^\sA-Za-z\d]+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pieces, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(CONTROL) - len(fixed_phrases()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(list(CONTROL))
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in fixed_phrases()])
    return tokenizer


def load_or_make_tokenizer(
    recipe: EmbeddedRecipe, folder: Path, open_sources: Callable[[], PictureSources]
) -> Tokenizer:
    """Returns the tokenizer of a run, which is kept in the run's folder. Raises BadInput if it cannot be read."""
    path = folder / TOKENIZER_FILE
    if not path.exists():
        write_atomically(path, make_tokenizer(recipe, open_sources()).to_str(pretty=True))
    try:
        return Tokenizer.from_file(str(path))
    except Exception as exc:  # the library's own type
        raise BadInput(f"{path} is no tokenizer ({exc}): restore it, or name another --run folder.") from exc


def make_tokenizer(recipe: EmbeddedRecipe, sources: PictureSources) -> Tokenizer:
    """Returns a tokenizer learnt from the questions and replies about a few pictures.

    Raises SetupError for a vocab that does not hold bytes, control tokens and phrases.
    """
    least = len(pre_tokenizers.ByteLevel.alphabet()) + len(CONTROL) + len(fixed_phrases())
    if recipe.model.vocab < least:
        raise SetupError(f"model.vocab is {recipe.model.vocab}: at least {least} is needed.")
    rng = np.random.default_rng([recipe.seed, 1 << 30])
    return train_tokenizer(sample_texts(rng, recipe.pictures, sources, TOKENIZER_PICTURES), recipe.model.vocab)


def sample_texts(
    rng: np.random.Generator, settings: PictureSettings, sources: PictureSources, pictures: int
) -> Iterator[str]:
    """Yields the questions and replies about `pictures` rendered pictures and, where there are photographs, about as
    many of them: from these a tokenizer is learnt."""
    family, camera = Tiny(), centred_camera(settings.canvases[0], settings.focal_px)
    for _ in range(pictures):
        scene, pose = sample_scene_and_pose(rng)
        rendered = render(scene, pose, camera)
        questions = sample_questions(rng, scene, rendered, camera, 4 * settings.questions, family.box_text)
        turns = turns_about_picture(rng, settings, family, questions, rendered, camera, TOKEN_PX)
        if sources.has_photos:
            picture = draw_photo(rng, settings, camera, sources.draw_photo(rng))
            turns += turns_about_photo(rng, settings, family, picture, camera)
        for turn in turns:
            yield turn.question
            yield turn.reply
