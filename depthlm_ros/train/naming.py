"""What each image token shows, in words, and a loss that lets the token resemble them.

An image token enters the language model as if it were a word. Where it resembles the words for what it shows, the words
of a question find it: recognition is taught at every place of every picture, not only at those that are asked about.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import chain

import numpy as np
import torch
from torch.nn import functional

from depthlm_ros.scenes.questions.wording import FURNITURE_KINDS, GROUPS
from depthlm_ros.scenes.renderer.render import Rendered
from depthlm_ros.scenes.world.colours import NAMED
from depthlm_ros.scenes.world.primitives import SIMPLE_KINDS

NAMES = (*NAMED, *SIMPLE_KINDS, *FURNITURE_KINDS, *chain.from_iterable(GROUPS))
WORDS = tuple(sorted({word for name in NAMES for word in name.split()}))
OF_COLOUR = np.isin(WORDS, tuple(NAMED))
# An object is shown by a token that it fills to this share, or that holds this share of what is seen of it.
FILLED, HELD = 0.1, 0.25
# Cosines between -1 and 1 are too flat for a softmax over so many words.
SHARPNESS = 10.0


def words_shown(rendered: Rendered, token_px: int, colours: bool = True) -> np.ndarray:
    """bool (N, len(WORDS)): the words of the names of what each token of a picture shows, tokens row by row; with the
    names of colours or without."""
    pixels = object_pixels(rendered, token_px)
    names = np.zeros((pixels.shape[1], len(WORDS)), np.uint8)
    for one in rendered.scene.objects:
        if one.object_id < len(names):
            names[one.object_id] = _words_of(one.name, one.colour)
    if not colours:
        names[:, OF_COLOUR] = 0
    return np.asarray(shows_enough(pixels, token_px).astype(np.uint8) @ names > 0)


@lru_cache(maxsize=1024)
def _words_of(name: str, colour: str) -> tuple[bool, ...]:
    return tuple(word in (*name.split(), colour) for word in WORDS)


def object_pixels(rendered: Rendered, token_px: int) -> np.ndarray:
    """int64 (N, K): pixels of each object in each token."""
    height, width = rendered.object_id.shape
    columns = width // token_px
    v, u = np.nonzero(rendered.object_id >= 0)
    token, tokens = v // token_px * columns + u // token_px, height // token_px * columns
    thing, count = rendered.object_id[v, u].astype(np.int64), int(rendered.object_id.max(initial=-1)) + 1
    return np.bincount(token * count + thing, minlength=tokens * count).reshape(tokens, count)


def shows_enough(pixels: np.ndarray, token_px: int) -> np.ndarray:
    """bool (N, K): is the object shown by the token? pixels: see object_pixels."""
    return np.asarray((pixels >= FILLED * token_px**2) | ((pixels > 0) & (pixels >= HELD * pixels.sum(0))))


def naming_loss(tokens: torch.Tensor, words: torch.Tensor, nothing: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy between the words that a token shows, each as likely, and those it resembles.

    tokens: (B, N, C). words: (K, C), the embeddings of WORDS; nothing: (C,), that of what a token says that shows no
    named thing. shown: bool (B, N, K).
    """
    choices = functional.normalize(torch.cat([words, nothing[None]]).float(), dim=-1)
    logits = SHARPNESS * functional.normalize(tokens.float(), dim=-1) @ choices.T
    wanted = torch.cat([shown, ~shown.any(-1, keepdim=True)], dim=-1).float()
    wanted = wanted / wanted.sum(-1, keepdim=True)
    return -(wanted * logits.log_softmax(-1)).sum(-1).mean()
