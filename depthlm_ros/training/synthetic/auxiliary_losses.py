"""Where a reply has to look: the image tokens that hold what its question is about, and a loss that teaches it.

From words alone a model finds out late that the digits of a box belong to a place in the picture. The renderer knows
the place: one attention head in each of two layers is taught to look there from every token of the reply (as Liu et al.
taught captions, https://arxiv.org/abs/1605.09553). The first looks at what is given, say at the pixel whose match is
wanted, the second at what is found; where only one thing is asked about, both look at it.

What each image token shows, in words, and a loss that lets the token resemble them.

An image token enters the language model as if it were a word. Where it resembles the words for what it shows, the words
of a question find it: recognition is taught at every place of every picture, not only at those that are asked about.

What each image token shows, in numbers, and a loss that lets these be read off it.

A reply that names a box and a distance has to turn the token that it looks at into digits. Here every token of every
picture is taught how far it is, and where and how far the object that it shows: a straight line has to lead from its
features to these numbers, so that only the way to the digits is left to learn. The line is left behind after training.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from depthlm_ros.core import Intrinsics
from depthlm_ros.geometry.pinhole import rays
from depthlm_ros.nets.positions import PromptLayout
from depthlm_ros.scenes.questions.wording import FURNITURE_KINDS, GROUPS
from depthlm_ros.scenes.renderer.render import Rendered
from depthlm_ros.scenes.world.colours import NAMED
from depthlm_ros.scenes.world.primitives import SIMPLE_KINDS

LOOKS = 2
# The one head of each layer that is taught, and with it the first of the keys, which heads share.
HEAD = 0

# Two bool (N,), one of each look: the image tokens, row by row, that hold what is to be looked at.
Gaze = tuple[np.ndarray, np.ndarray]


def tokens_of(mask: np.ndarray, token_px: int) -> np.ndarray:
    """bool (N,): the tokens that show a pixel of the mask (H, W)."""
    height, width = mask.shape
    return mask.reshape(height // token_px, token_px, width // token_px, token_px).any((1, 3)).ravel()


def tokens_at(u_px: float, v_px: float, size_px: tuple[int, int], token_px: int) -> np.ndarray:
    """bool (N,): the token that shows a pixel of a picture of this size (width, height)."""
    columns, rows = (extent // token_px for extent in size_px)
    shown = np.zeros((rows, columns), bool)
    row, column = (round(value) // token_px for value in (v_px, u_px))
    shown[min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)] = True
    return shown.ravel()


def gaze_loss(
    queries: Sequence[torch.Tensor],
    keys: torch.Tensor,
    scaling: float,
    mask: torch.Tensor,
    gaze: torch.Tensor,
    layout: PromptLayout,
) -> torch.Tensor:
    """Mean -log of the share of attention that goes where it should; 0 where nothing is to be looked at.

    queries: of each layer (B, heads, T, D). keys: (layers, B, heads_kv, T, D). mask: bool (B, 1, T, T), True where
    attention is allowed. gaze: bool (B, LOOKS, Q, M) for the last Q of the T tokens and the M tokens of all images.
    """
    # The last layer says what was found: it is left alone.
    layers = [max(len(queries) - 1 - back, 0) for back in range(LOOKS, 0, -1)]
    device = gaze.device
    columns = torch.cat([torch.arange(start, start + count, device=device) for start, count in layout.spans])
    losses, counts = [], []
    for look, layer in enumerate(layers):
        wanted = gaze[:, look].any(-1)
        query, key = queries[layer][:, HEAD, layout.length :], keys[layer][:, 0]
        scores = (scaling * query @ key.transpose(-1, -2)).float()
        scores = scores.masked_fill(~mask[:, 0, layout.length :], -torch.inf)
        # Nothing here depends on how many are wanted: a CUDA graph takes it. What is not wanted may look anywhere.
        elsewhere = ~gaze[:, look] & wanted[..., None]
        seen = scores.log_softmax(-1)[..., columns].masked_fill(elsewhere, -torch.inf).logsumexp(-1)
        losses.append((-seen * wanted).sum() / wanted.sum().clamp(min=1))
        counts.append(wanted.any())
    return torch.stack(losses).sum() / torch.stack(counts).sum().clamp(min=1)


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


# ln z-depth of the token; left, top, right, bottom of its object as shares of the picture; ln range of the object.
NUMBERS = 6
# An error of a tenth of the picture counts as much as one of 40 % in depth.
WEIGHTS = (1.0, 4.0, 4.0, 4.0, 4.0, 1.0)


def numbers_shown(rendered: Rendered, camera: Intrinsics, token_px: int) -> np.ndarray:
    """float32 (N, NUMBERS) of the tokens of a picture, row by row; medians over the pixels with a depth; NaN where
    there is none, or no object. Of several objects the one with most pixels counts. Ranges are told without the lens.
    """
    ln_z = np.log(rendered.depth_m)
    pixels = object_pixels(rendered, token_px)
    numbers = np.full((len(pixels), NUMBERS), np.nan, np.float32)
    numbers[:, 0] = _medians(ln_z, token_px)
    enough = pixels * shows_enough(pixels, token_px)
    if enough.any():
        objects = _objects(rendered, ln_z + np.log(np.linalg.norm(rays(camera), axis=2)), pixels.sum(0))
        numbers[:, 1:] = np.where(enough.any(1, keepdims=True), objects[enough.argmax(1)], np.nan)
    return numbers


def _medians(values: np.ndarray, token_px: int) -> np.ndarray:
    """(N,): the lower median of the known values (H, W) in each token, NaN where none is."""
    rows, columns = (extent // token_px for extent in values.shape)
    cells = values.reshape(rows, token_px, columns, token_px).swapaxes(1, 2).reshape(rows * columns, -1)
    known = np.isfinite(cells).sum(1)
    return np.asarray(np.sort(cells, axis=1)[np.arange(len(cells)), np.maximum(known - 1, 0) // 2])


def _objects(rendered: Rendered, ln_range: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """float32 (K, 5): box and ln range of each object with pixels in the picture."""
    height, width = rendered.object_id.shape
    found = np.full((len(pixels), NUMBERS - 1), np.nan, np.float32)
    v, u = np.nonzero(rendered.object_id >= 0)
    # Object by object and, within each, from near to far.
    order = np.lexsort((ln_range[v, u], rendered.object_id[v, u]))
    v, u, ln_range = v[order], u[order], ln_range[v, u][order]
    seen = np.flatnonzero(pixels)
    ends = np.cumsum(pixels[seen])
    starts = ends - pixels[seen]
    found[seen, 0], found[seen, 1] = np.minimum.reduceat(u, starts) / width, np.minimum.reduceat(v, starts) / height
    found[seen, 2] = (np.maximum.reduceat(u, starts) + 1) / width
    found[seen, 3] = (np.maximum.reduceat(v, starts) + 1) / height
    found[seen, 4] = (ln_range[(starts + ends - 1) // 2] + ln_range[(starts + ends) // 2]) / 2
    return found


class Placing(nn.Module):
    """The line from a token's features (..., C) to its numbers (..., NUMBERS)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.line = nn.LayerNorm(width), nn.Linear(width, NUMBERS)
        nn.init.zeros_(self.line.weight)
        nn.init.zeros_(self.line.bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.line(self.norm(tokens))


def placing_loss(told: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Mean weighted absolute error over the numbers that are known; both (B, N, NUMBERS), NaN = unknown."""
    known = numbers.isfinite()
    weights = torch.cat([torch.full((1,), weight, device=told.device) for weight in WEIGHTS])
    error = (told.float() - torch.where(known, numbers, 0.0)).abs() * weights
    return (error * known).sum() / known.sum().clamp(min=1)
