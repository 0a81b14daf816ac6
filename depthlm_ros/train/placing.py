"""What each image token shows, in numbers, and a loss that lets these be read off it.

A reply that names a box and a distance has to turn the token that it looks at into digits. Here every token of every
picture is taught how far it is, and where and how far the object that it shows: a straight line has to lead from its
features to these numbers, so that only the way to the digits is left to learn. The line is left behind after training.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from depthlm_ros.core import Intrinsics
from depthlm_ros.geometry.pinhole import rays
from depthlm_ros.scenes.renderer.render import Rendered
from depthlm_ros.train.naming import object_pixels, shows_enough

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
