"""Cuts a depth image into patches: connected surfaces without a fold or a step.

1 / z of a plane is affine in the pixel (n.X = d with X = z (x, y, 1) gives 1 / z = (nx x + ny y + nz) / d). So the
second difference of 1 / z is zero on every plane, however slanted, negative over a convex edge, and positive along a
concave fold and on the far side of a step: where one thing ends and the next one, or the floor it stands on, begins.
Cutting at concavities only keeps the faces of one thing together (as convexity of neighbouring faces does for Stein
et al., Object Partitioning using Local Convexity, CVPR 2014).

Facts about the patches in a part of a depth map: where each is, how near, and what it borders on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

# All of these are slopes: focal length times a difference of 1 / z between neighbours, over 1 / z. A slope is the
# tangent of the slant of a surface against the image plane; the second difference is its change from pixel to pixel.
FOLD = 0.05
STEP = 20.0
CONTINUES = 8.0
CLEAR_FIT = 0.5
# Where the map itself is rough (noise, rounding), a fold is what stands out by so many times the bend that three
# quarters of its pixels exceed; beyond ROUGH the map is smoothed first.
OVER_NOISE = 3.0
ROUGH = 0.5

_AROUND = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
_BLOCK = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class Patches:
    """label: int32 (H, W), 0 = unknown depth, otherwise 1 .. count - 1. sure: bool (H, W), False where the pixel lies
    on a fold or step and its patch is a guess."""

    label: np.ndarray
    sure: np.ndarray
    count: int


def cut(inverse: np.ndarray, fx_px: float, fy_px: float) -> Patches:
    """Patches of 1 / z, float32 (H, W) in 1 / m, 0 = unknown. fx_px, fy_px: focal lengths for neighbouring pixels."""
    known = inverse > 0
    whole = inverse if known.all() else _filled(inverse, known)
    bend, roughness = _bends(whole, known, fx_px, fy_px)
    if roughness > ROUGH:
        bend, roughness = _bends(cv2.medianBlur(whole, 5), known, fx_px, fy_px)
    label, count = _labels(known & ~_edges(bend, whole, max(FOLD, OVER_NOISE * roughness)))
    label, sure = _grown(label, inverse, fx_px)
    rest, more = _components(known & (label == 0), 0)
    return Patches(np.where(rest > 0, rest + (count - 1), label), sure, count + more - 1)


def _filled(inverse: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Small holes filled with the mean around them: no fold begins or ends there."""
    around = cv2.blur(inverse, (3, 3)) / np.maximum(cv2.blur(known.astype(np.float32), (3, 3)), 1e-6)
    return np.where(known, inverse, around)


def _bends(
    inverse: np.ndarray, known: np.ndarray, fx_px: float, fy_px: float
) -> tuple[tuple[np.ndarray, np.ndarray], float]:
    """Bend along u and v, and the roughness: the bend that three quarters of the known pixels exceed, none where most
    surfaces are exact or smooth."""
    bend = _bend(inverse, 1, fx_px), _bend(inverse, 0, fy_px)
    coarse = (slice(None, None, 2), slice(None, None, 2))
    size = np.maximum(np.abs(bend[0][coarse]), np.abs(bend[1][coarse]))[known[coarse]]
    roughness = np.percentile(size / inverse[coarse][known[coarse]], 25) if len(size) else 0.0
    return bend, float(roughness)


def _bend(inverse: np.ndarray, axis: int, focal_px: float) -> np.ndarray:
    """float32 (H, W): focal length times the second difference along an axis; beside the unknown 0, at the borders of
    the image that of the next pixel if it is a fold, and large if it is a step."""
    kernel = np.array([[1, -2, 1]], np.float32) * np.float32(focal_px)
    bend = cv2.filter2D(inverse, -1, kernel if axis else kernel.T, borderType=cv2.BORDER_REFLECT_101)
    unknown = inverse == 0
    if unknown.any():
        beside = np.ones((1, 3) if axis else (3, 1), np.uint8)
        bend[cv2.dilate(unknown.astype(np.uint8), beside) > 0] = 0
    lines, depth = np.moveaxis(bend, axis, 0), np.moveaxis(inverse, axis, 0)
    if len(lines) > 2:
        for here, inner in ((0, 1), (-1, -2)):
            step = (depth[inner] - depth[here]) * focal_px
            lines[here] = np.where(step > CONTINUES * depth[here], step, np.maximum(lines[inner], 0))
    return bend


def _edges(bend: tuple[np.ndarray, np.ndarray], inverse: np.ndarray, fold: float) -> np.ndarray:
    """bool (H, W): folds, and pixels far behind where the surface beside them would go on."""
    edge = cv2.max(bend[0], bend[1]) >= fold * inverse
    for axis in (0, 1):
        out, drop, depth = (np.moveaxis(a, axis, 0) for a in (edge, -bend[1 - axis], inverse))
        out[1:] |= (drop[:-1] > STEP * depth[1:]) & (depth[:-1] > depth[1:])
        out[:-1] |= (drop[1:] > STEP * depth[:-1]) & (depth[1:] > depth[:-1])
    return edge


def _labels(free: np.ndarray) -> tuple[np.ndarray, int]:
    """Components that hang together by more than a thread of two pixels; then what is left, thin parts too."""
    core = cv2.erode(free.astype(np.uint8), _BLOCK, borderType=cv2.BORDER_CONSTANT, borderValue=1) > 0
    label, count = _components(core, 1)
    near = cv2.dilate(label.astype(np.float32), _BLOCK).astype(np.int32)
    label = np.where((label == 0) & free, near, label)
    thin, more = _components(free & (label == 0), 1)
    return np.where(thin > 0, thin + (count - 1), label), count + more - 1


def _components(mask: np.ndarray, too_small: int) -> tuple[np.ndarray, int]:
    """Labels of 4-connected components with more than too_small pixels, and the number of labels with 0."""
    count, label = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    if too_small:
        label[np.bincount(label.ravel(), minlength=count)[label] <= too_small] = 0
    return label, count


def _grown(label: np.ndarray, inverse: np.ndarray, focal_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Gives the pixels of the edges to the neighbouring patch that fits best when it is continued there; twice, since
    an edge is up to four pixels wide. Returns labels and which of them are sure."""
    wide = cv2.copyMakeBorder(inverse, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=0).ravel()
    padded = cv2.copyMakeBorder(label, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=0)
    labels, width = padded.ravel(), padded.shape[1]
    sure = np.ones(label.shape, bool)
    v, u = np.nonzero((label == 0) & (inverse > 0))
    for _ in range(2):
        at = (v + 2) * width + u + 2
        chosen, misfit = _best_neighbour(at, labels, wide, width, focal_px)
        labels[at] = chosen
        sure[v, u] = misfit <= CLEAR_FIT
        v, u = v[chosen == 0], u[chosen == 0]
    sure[v, u] = True  # belongs to no neighbour, so it is not confused with one
    return padded[2:-2, 2:-2], sure


def _best_neighbour(
    at: np.ndarray, labels: np.ndarray, inverse: np.ndarray, width: int, focal_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """For pixels at flat indices: the label whose surface goes on there (0: none), and the slope it is off by."""
    here = inverse[at]
    chosen, least = np.zeros(len(at), np.int32), CONTINUES / focal_px * here
    for dv, du in _AROUND:
        step = dv * width + du
        label, near, far = labels[at + step], inverse[at + step], inverse[at + 2 * step]
        first = np.abs(near - here)
        straight = labels[at + 2 * step] == label
        misfit = np.where(straight, np.abs(2 * near - far - here), first + 0.3 / focal_px * here)
        better = (label > 0) & (misfit < least) & (first < CONTINUES / focal_px * here)
        chosen[better], least[better] = label[better], misfit[better]
    return chosen, least * focal_px / np.maximum(here, 1e-12)


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
