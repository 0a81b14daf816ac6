"""Looks at copies of one image that bear different marks (DepthLM points at a pixel in the image itself)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from depthlm_ros.backends.base import Backend, Look
from depthlm_ros.errors import OutOfMemory
from depthlm_ros.marker import draw_marks, fits, pad_for_marks

logger = logging.getLogger(__name__)

# Every copy is a whole image to the vision tower: a few saturate the arithmetic, more only take memory.
COPIES_AT_ONCE = 8

# Given the indices of some copies and the look at them.
Work = Callable[[list[int], Look], None]


def look_at_marked(
    backend: Backend,
    canvas: np.ndarray,
    marks_px: Sequence[Sequence[tuple[float, float]]],
    pad_px: int,
    work: Work,
) -> None:
    """Calls `work` with groups of looks at copies of the canvas, uint8 (h, w, 3), until every copy has had its turn.

    Where a mark does not fit beside its pixel at the border, the copy is widened by pad_px on every side, one image
    token, rather than the pixel given up. Where memory is short, smaller groups are tried before OutOfMemory is raised.
    """
    size_px = (canvas.shape[1], canvas.shape[0])
    inside = [bool(fits(np.asarray(marks, np.float64), size_px).all()) for marks in marks_px]
    _in_groups(backend, canvas, marks_px, 0, [i for i, fit in enumerate(inside) if fit], work)
    if not all(inside):
        padded = pad_for_marks(canvas, pad_px)
        _in_groups(backend, padded, marks_px, pad_px, [i for i, fit in enumerate(inside) if not fit], work)


def _in_groups(
    backend: Backend,
    base: np.ndarray,
    marks_px: Sequence[Sequence[tuple[float, float]]],
    shift_px: int,
    waiting: list[int],
    work: Work,
) -> None:
    at_once = COPIES_AT_ONCE
    while waiting:
        group = waiting[:at_once]
        try:
            copies = [draw_marks(base, np.asarray(marks_px[index], np.float64) + shift_px) for index in group]
            work(group, backend.look([np.stack(copies)]))
        except OutOfMemory as exc:
            if len(group) == 1:
                raise
            at_once = (len(group) + 1) // 2
            logger.warning("no memory for %d images at once, going on with %d: %s", len(group), at_once, exc)
        else:
            waiting = waiting[len(group) :]
