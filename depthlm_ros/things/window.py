"""Facts about the patches in a part of a depth map: where each is, how near, and what it borders on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# A plane through at most so many pixels of a patch is one if half of them lie within FLAT of it (relative depth).
PLANE_SAMPLE, FLAT = 500, 0.003


@dataclass(frozen=True)
class Window:
    """Part of a depth map with a box in it: inverse float32 (H, W) is 1 / z in 1 / m, 0 = unknown; box int (4,) left,
    top, right, bottom, edges of its pixels; focal lengths for neighbouring pixels of the window."""

    inverse: np.ndarray
    box: np.ndarray
    fx_px: float
    fy_px: float

    @property
    def slope(self) -> float:
        """Larger side of the box over its distance from the camera."""
        left, top, right, bottom = self.box
        return max((right - left) / self.fx_px, (bottom - top) / self.fy_px)

    def misfit(self, box: np.ndarray) -> float:
        """By how much another box differs from this one's, as a share of it, besides two pixels."""
        size = np.tile(self.box[2:] - self.box[:2], 2)
        return float(((np.abs(box - self.box) - 2) / size).max(initial=0.0))

    def missing(self, box: np.ndarray) -> np.ndarray:
        """int64 (...,): pixels by which boxes (..., 4) fall short of this one's, all sides together."""
        return np.maximum((box - self.box) * (1, 1, -1, -1), 0).sum(-1)


class Extents:
    """box: int64 (count, 4) left, top, right, bottom, edges; near_m, far_m: float64 (count,) z-depth; of the wanted
    patches, bool (count,)."""

    def __init__(self, label: np.ndarray, inverse: np.ndarray, wanted: np.ndarray) -> None:
        v, u = np.nonzero(wanted[label])
        mine = label[v, u]
        # Small integers are sorted by counting.
        order = np.argsort(mine.astype(np.uint16) if len(wanted) < 1 << 16 else mine, kind="stable")
        starts = np.flatnonzero(np.diff(mine[order], prepend=-1))
        which, u, v, here = mine[order][starts], u[order], v[order], inverse[v, u][order]
        self.box = np.zeros((len(wanted), 4), np.int64)
        for side, values in enumerate((u, v)):
            self.box[which, side] = np.minimum.reduceat(values, starts)
            self.box[which, side + 2] = np.maximum.reduceat(values, starts) + 1
        self.near_m, self.far_m = np.zeros(len(wanted)), np.zeros(len(wanted))
        self.near_m[which] = 1 / np.maximum.reduceat(here, starts)
        self.far_m[which] = 1 / np.minimum.reduceat(here, starts)

    def of(self, group: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Box, nearest and farthest depth of several patches, by their indices."""
        box = np.concatenate([self.box[group, :2].min(0), self.box[group, 2:].max(0)])
        return box, float(self.near_m[group].min()), float(self.far_m[group].max())


class Borders:
    """near, far: int64 (M,), of each pair of neighbouring pixels of different patches the patch of the nearer and of
    the farther pixel; steep: float32 (M,), slope between them (patches.py)."""

    def __init__(self, label: np.ndarray, window: Window) -> None:
        parts = zip(*_neighbours(label, window), strict=True)
        one, two, inverse_one, inverse_two, focal_px = (np.concatenate(part) for part in parts)
        swap = inverse_one < inverse_two
        self.near = np.where(swap, two, one).astype(np.int64)
        self.far = np.where(swap, one, two).astype(np.int64)
        self.steep = np.abs(inverse_one - inverse_two) * focal_px / np.minimum(inverse_one, inverse_two)


def _neighbours(label: np.ndarray, window: Window) -> Iterator[tuple[np.ndarray, ...]]:
    inverse = window.inverse
    for one, two, inverse_one, inverse_two, focal_px in (
        (label[:, :-1], label[:, 1:], inverse[:, :-1], inverse[:, 1:], window.fx_px),
        (label[:-1], label[1:], inverse[:-1], inverse[1:], window.fy_px),
    ):
        pair = (one != two) & (one > 0) & (two > 0)
        focal = np.full(int(pair.sum()), focal_px, np.float32)
        yield one[pair], two[pair], inverse_one[pair], inverse_two[pair], focal


def plane_of(mask: np.ndarray, inverse: np.ndarray) -> np.ndarray | None:
    """float64 (3,): 1 / z = a u + b v + c where mask, bool (H, W), is True, or None if that is not flat."""
    v, u = (2 * index for index in np.nonzero(mask[::2, ::2]))
    if len(v) < 3:
        return None
    step = -(-len(v) // PLANE_SAMPLE)
    v, u = v[::step], u[::step]
    here = inverse[v, u].astype(np.float64)
    terms = np.stack([u, v, np.ones(len(u))], axis=1)
    plane = np.linalg.lstsq(terms, here, rcond=None)[0]
    return plane if np.median(np.abs(terms @ plane - here) / here) <= FLAT else None


def union(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """int64 (..., 4): boxes around both a box (4,) and each of others (..., 4)."""
    return np.concatenate([np.minimum(one[:2], two[..., :2]), np.maximum(one[2:], two[..., 2:])], axis=-1)


def box_of(mask: np.ndarray) -> np.ndarray:
    """int64 (4,): left, top, right, bottom edges of what is True, at least one pixel."""
    v, u = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([u[0], v[0], u[-1] + 1, v[-1] + 1])
