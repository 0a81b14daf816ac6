"""One axis of a canonical view: where image pixels and canvas pixels lie, and how values get across."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from depthlm_ros.camera import NOWHERE_PX
from depthlm_ros.pinhole import ROWS_AT_ONCE

# An image that overflows the canvas by so little still counts as inside: calibrations are rounded.
_SLACK_PX = 0.01
# How far the inverse depth may change in one canvas pixel beyond the outermost, where it is extrapolated.
_MAX_EDGE_RATIO = 1.25


@dataclass(frozen=True)
class Axis:
    """One axis of a canonical view: canvas = (image + 0.5) * scale - 0.5 + offset_px, pixel centres.

    image_px, canvas_px: number of pixels. Both images span -0.5 .. n - 0.5 in their own pixels.
    """

    image_px: int
    canvas_px: int
    scale: float
    offset_px: float

    def to_canvas(self, image_px: np.ndarray) -> np.ndarray:
        """Canvas coordinate of an image coordinate."""
        return (image_px + 0.5) * self.scale - 0.5 + self.offset_px

    def to_image(self, canvas_px: np.ndarray) -> np.ndarray:
        """Image coordinate of a canvas coordinate; the exact inverse."""
        return (canvas_px + 0.5 - self.offset_px) / self.scale - 0.5

    def holds(self, canvas_px: np.ndarray) -> np.ndarray:
        """bool: the canvas coordinate lies on the canvas."""
        return (canvas_px >= -0.5 - _SLACK_PX) & (canvas_px <= self.canvas_px - 0.5 + _SLACK_PX)

    @cached_property
    def visible(self) -> tuple[int, int]:
        """First canvas pixel that shows the image, and one past the last."""
        first = int(np.floor(self.offset_px + _SLACK_PX))
        end = int(np.ceil(self.offset_px + self.image_px * self.scale - _SLACK_PX))
        first = min(max(first, 0), self.canvas_px - 1)
        return first, max(min(end, self.canvas_px), first + 1)

    def contains(self, image_px: np.ndarray) -> np.ndarray:
        """bool: the image coordinate lies in the image and on the canvas."""
        in_image = (image_px >= -0.5) & (image_px <= self.image_px - 0.5)
        return in_image & self.holds(self.to_canvas(image_px))

    @cached_property
    def inside(self) -> np.ndarray:
        """bool (image_px,): the image pixel's centre lies on the canvas."""
        return self.holds(self.to_canvas(np.arange(self.image_px)))

    @property
    def share_inside(self) -> float:
        """Share of the image pixels that lie on the canvas."""
        return float(self.inside.mean())

    @cached_property
    def taps(self) -> tuple[np.ndarray, np.ndarray]:
        """Per image pixel: row of the visible strip with one margin row, and the weight of the next row.

        int (image_px,) and float32 (image_px,); the weight is NaN off the canvas, which makes the
        interpolated value NaN at no cost.
        """
        start, end = self.visible
        position = self.to_canvas(np.arange(self.image_px)) - (start - 1)
        first = np.floor(position).clip(0, end - start).astype(np.intp)
        weight = np.where(self.inside, (position - first).clip(0.0, 1.0), np.nan)
        return first, weight.astype(np.float32)

    @cached_property
    def nearest_visible(self) -> np.ndarray:
        """int (image_px,): row of the visible strip nearest to each image pixel."""
        start, end = self.visible
        position = self.to_canvas(np.arange(self.image_px)) - start
        return np.rint(position).clip(0, end - start - 1).astype(np.intp)

    @property
    def block(self) -> int:
        """Image pixels averaged into one before resampling: what comes nearest to one canvas pixel."""
        return min(max(1, round(1.0 / self.scale)), self.image_px)

    @cached_property
    def block_of_canvas(self) -> np.ndarray:
        """float32 (canvas_px,): coordinate, in blocks, of each canvas pixel; far outside where it shows nothing."""
        canvas = np.arange(self.canvas_px)
        position = (self.to_image(canvas) + 0.5) / self.block - 0.5
        blocks = -(-self.image_px // self.block)
        start, end = self.visible
        shown = (canvas >= start) & (canvas < end)
        return np.where(shown, position.clip(0, blocks - 1), NOWHERE_PX).astype(np.float32)


def share_shown(length_px: float, canvas_px: int) -> float:
    return 1.0 if length_px <= canvas_px + 2 * _SLACK_PX else canvas_px / length_px


def place_axis(image_px: int, canvas_px: int, scale: float, principal_px: float) -> Axis:
    centred = canvas_px / 2 - (principal_px + 0.5) * scale
    room = canvas_px - image_px * scale
    if room >= -2 * _SLACK_PX:
        offset = np.clip(centred, min(0.0, room / 2), max(room, room / 2))
    else:
        offset = np.clip(centred, room, 0.0)
    return Axis(image_px, canvas_px, scale, float(offset))


def interpolate_rows(inverse: np.ndarray, axis: Axis) -> np.ndarray:
    """float32 (axis.image_px, M) from the visible canvas rows, float32 (n, M), linear along the first axis."""
    rows = _with_margin(inverse)
    steps = np.diff(rows, axis=0)
    first, weight = axis.taps
    out = np.empty((axis.image_px, rows.shape[1]), np.float32)
    for top in range(0, axis.image_px, ROWS_AT_ONCE):
        part = slice(top, top + ROWS_AT_ONCE)
        block = steps[first[part]]
        block *= weight[part, None]
        np.add(block, rows[first[part]], out=out[part])
    return out


def _with_margin(rows: np.ndarray) -> np.ndarray:
    """One more row at either end, continuing the slope there but not by more than a quarter of the value."""
    inner = rows[min(1, len(rows) - 1)], rows[max(-2, -len(rows))]
    before = np.clip(2 * rows[0] - inner[0], rows[0] / _MAX_EDGE_RATIO, rows[0] * _MAX_EDGE_RATIO)
    after = np.clip(2 * rows[-1] - inner[1], rows[-1] / _MAX_EDGE_RATIO, rows[-1] * _MAX_EDGE_RATIO)
    return np.concatenate([before[None], rows, after[None]])
