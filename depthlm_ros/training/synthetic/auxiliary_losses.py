"""Three auxiliary losses of the training on rendered scenes, and their targets, which the renderer knows exactly.

Attention supervision: one attention head in each of two layers learns to look, from every token of a reply, at the
image tokens that the question is about (as Liu et al. taught captions, https://arxiv.org/abs/1605.09553). From words
alone a model finds out late that the digits of a box belong to a place in the picture. The first layer looks at what is
given, for example the pixel whose match is asked for; the second at what is found. Where a question is about one thing,
both look at it.

Word alignment: each image token learns to resemble the embeddings of the words for what it shows. An image token enters
the language model as if it were a word, so the words of a question find tokens that resemble them. This trains
recognition at every place of every picture, not only at the places that are asked about.

Geometry probe: a linear map must read, from each image token, its depth and the box and the range of its object. A
reply that names a box and a distance has to turn these features into digits. The trained model has no probe.
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
from depthlm_ros.scenes.questions.wording import FURNITURE_KINDS, SIMILAR_KIND_GROUPS
from depthlm_ros.scenes.renderer.render import RenderedImage
from depthlm_ros.scenes.world.colours import NAMED_COLOURS
from depthlm_ros.scenes.world.primitives import SIMPLE_KINDS

# Attention supervision: number of layers, and the supervised head of each. Heads share keys; it has the first ones.
SUPERVISED_LAYERS = 2
SUPERVISED_HEAD = 0

# Word alignment: every word of every name and colour that a question may use.
NAMES = (*NAMED_COLOURS, *SIMPLE_KINDS, *FURNITURE_KINDS, *chain.from_iterable(SIMILAR_KIND_GROUPS))
WORDS = tuple(sorted({word for name in NAMES for word in name.split()}))
IS_COLOUR = np.isin(WORDS, tuple(NAMED_COLOURS))
# A token shows an object if the object fills this share of the token, or the token holds this share of its pixels.
LEAST_FILL, LEAST_PART = 0.1, 0.25
# Cosines between -1 and 1 are too flat for a softmax over so many words.
SHARPNESS = 10.0

# Geometry probe: ln z-depth of the token; left, top, right, bottom of its object as shares of the picture; ln range of
# the object.
GEOMETRY_SIZE = 6
# An error of a tenth of the picture counts as much as one of 40 % in depth.
GEOMETRY_WEIGHTS = (1.0, 4.0, 4.0, 4.0, 4.0, 1.0)


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


def attention_supervision_loss(
    queries: Sequence[torch.Tensor],
    keys: torch.Tensor,
    scaling: float,
    mask: torch.Tensor,
    target: torch.Tensor,
    layout: PromptLayout,
) -> torch.Tensor:
    """Returns the mean of -log of the share of attention that goes to the target, 0 if there are no targets.

    queries: (B, heads, T, D) for each layer. keys: (layers, B, heads_kv, T, D). mask: bool (B, 1, T, T), True where
    attention is allowed. target: bool (B, SUPERVISED_LAYERS, Q, M) for the last Q of the T tokens and the M tokens of
    all images.
    """
    # The last layer decides the next token and is not supervised.
    layers = [max(len(queries) - 1 - back, 0) for back in range(SUPERVISED_LAYERS, 0, -1)]
    device = target.device
    columns = torch.cat([torch.arange(start, start + count, device=device) for start, count in layout.spans])
    losses, counts = [], []
    for index, layer in enumerate(layers):
        supervised = target[:, index].any(-1)
        query, key = queries[layer][:, SUPERVISED_HEAD, layout.length :], keys[layer][:, 0]
        scores = (scaling * query @ key.transpose(-1, -2)).float()
        scores = scores.masked_fill(~mask[:, 0, layout.length :], -torch.inf)
        # No step depends on the number of supervised tokens, so that a CUDA graph can record this.
        elsewhere = ~target[:, index] & supervised[..., None]
        ln_share = scores.log_softmax(-1)[..., columns].masked_fill(elsewhere, -torch.inf).logsumexp(-1)
        losses.append((-ln_share * supervised).sum() / supervised.sum().clamp(min=1))
        counts.append(supervised.any())
    return torch.stack(losses).sum() / torch.stack(counts).sum().clamp(min=1)


def words_of_tokens(rendered: RenderedImage, token_px: int, colours: bool = True) -> np.ndarray:
    """Returns bool (N, len(WORDS)), tokens row by row: the words of the names of what each token shows.

    colours: whether names of colours are among them.
    """
    pixels = count_object_pixels(rendered, token_px)
    names = np.zeros((pixels.shape[1], len(WORDS)), np.uint8)
    for one in rendered.scene.objects:
        if one.object_id < len(names):
            names[one.object_id] = _words_of_name(one.name, one.colour)
    if not colours:
        names[:, IS_COLOUR] = 0
    return np.asarray(is_shown(pixels, token_px).astype(np.uint8) @ names > 0)


@lru_cache(maxsize=1024)
def _words_of_name(name: str, colour: str) -> tuple[bool, ...]:
    return tuple(word in (*name.split(), colour) for word in WORDS)


def count_object_pixels(rendered: RenderedImage, token_px: int) -> np.ndarray:
    """Returns int64 (N, K): the number of pixels of each of K objects in each of N tokens."""
    height, width = rendered.object_id.shape
    columns = width // token_px
    v, u = np.nonzero(rendered.object_id >= 0)
    token, tokens = v // token_px * columns + u // token_px, height // token_px * columns
    thing, count = rendered.object_id[v, u].astype(np.int64), int(rendered.object_id.max(initial=-1)) + 1
    return np.bincount(token * count + thing, minlength=tokens * count).reshape(tokens, count)


def is_shown(pixels: np.ndarray, token_px: int) -> np.ndarray:
    """Returns bool (N, K): whether a token shows an object. pixels: the result of `count_object_pixels`."""
    return np.asarray((pixels >= LEAST_FILL * token_px**2) | ((pixels > 0) & (pixels >= LEAST_PART * pixels.sum(0))))


def word_alignment_loss(
    tokens: torch.Tensor, words: torch.Tensor, no_word: torch.Tensor, token_words: torch.Tensor
) -> torch.Tensor:
    """Returns the mean cross-entropy between the words that a token shows, all equally likely, and those it resembles.

    tokens: (B, N, C). words: (K, C), the embeddings of WORDS. no_word: (C,), the embedding that a token without a named
    object resembles. token_words: bool (B, N, K).
    """
    choices = functional.normalize(torch.cat([words, no_word[None]]).float(), dim=-1)
    logits = SHARPNESS * functional.normalize(tokens.float(), dim=-1) @ choices.T
    target = torch.cat([token_words, ~token_words.any(-1, keepdim=True)], dim=-1).float()
    target = target / target.sum(-1, keepdim=True)
    return -(target * logits.log_softmax(-1)).sum(-1).mean()


def geometry_of_tokens(rendered: RenderedImage, camera: Intrinsics, token_px: int) -> np.ndarray:
    """Returns float32 (N, GEOMETRY_SIZE), tokens row by row: depth, box and range as the probe has to read them.

    Depth and range are medians over the pixels with a depth. A number is NaN where no pixel has a depth or no object is
    shown. If a token shows several objects, the one with the most pixels counts. Ranges disregard the lens.
    """
    ln_z = np.log(rendered.depth_m)
    pixels = count_object_pixels(rendered, token_px)
    geometry = np.full((len(pixels), GEOMETRY_SIZE), np.nan, np.float32)
    geometry[:, 0] = _token_medians(ln_z, token_px)
    counted = pixels * is_shown(pixels, token_px)
    if counted.any():
        ln_range = ln_z + np.log(np.linalg.norm(rays(camera), axis=2))
        objects = _boxes_and_ranges(rendered, ln_range, pixels.sum(0))
        geometry[:, 1:] = np.where(counted.any(1, keepdims=True), objects[counted.argmax(1)], np.nan)
    return geometry


def _token_medians(values: np.ndarray, token_px: int) -> np.ndarray:
    """Returns (N,): the lower median of the finite values (H, W) in each token, NaN where none is finite."""
    rows, columns = (extent // token_px for extent in values.shape)
    cells = values.reshape(rows, token_px, columns, token_px).swapaxes(1, 2).reshape(rows * columns, -1)
    finite = np.isfinite(cells).sum(1)
    return np.asarray(np.sort(cells, axis=1)[np.arange(len(cells)), np.maximum(finite - 1, 0) // 2])


def _boxes_and_ranges(rendered: RenderedImage, ln_range: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Returns float32 (K, 5): the box and the ln range of each object with pixels in the picture, NaN for others."""
    height, width = rendered.object_id.shape
    objects = np.full((len(pixels), GEOMETRY_SIZE - 1), np.nan, np.float32)
    v, u = np.nonzero(rendered.object_id >= 0)
    # Object by object and, within each, from near to far.
    order = np.lexsort((ln_range[v, u], rendered.object_id[v, u]))
    v, u, ln_range = v[order], u[order], ln_range[v, u][order]
    seen = np.flatnonzero(pixels)
    ends = np.cumsum(pixels[seen])
    starts = ends - pixels[seen]
    objects[seen, 0], objects[seen, 1] = np.minimum.reduceat(u, starts) / width, np.minimum.reduceat(v, starts) / height
    objects[seen, 2] = (np.maximum.reduceat(u, starts) + 1) / width
    objects[seen, 3] = (np.maximum.reduceat(v, starts) + 1) / height
    objects[seen, 4] = (ln_range[(starts + ends - 1) // 2] + ln_range[(starts + ends) // 2]) / 2
    return objects


class GeometryProbe(nn.Module):
    """A linear map from the features of a token (..., C) to its geometry (..., GEOMETRY_SIZE)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.line = nn.LayerNorm(width), nn.Linear(width, GEOMETRY_SIZE)
        nn.init.zeros_(self.line.weight)
        nn.init.zeros_(self.line.bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.line(self.norm(tokens))


def geometry_probe_loss(predicted: torch.Tensor, geometry: torch.Tensor) -> torch.Tensor:
    """Returns the mean weighted absolute error over the known numbers; both (B, N, GEOMETRY_SIZE), NaN = unknown."""
    known = geometry.isfinite()
    weights = torch.cat([torch.full((1,), weight, device=predicted.device) for weight in GEOMETRY_WEIGHTS])
    error = (predicted.float() - torch.where(known, geometry, 0.0)).abs() * weights
    return (error * known).sum() / known.sum().clamp(min=1)
