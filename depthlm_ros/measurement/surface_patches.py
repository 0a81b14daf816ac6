# SPDX-License-Identifier: Apache-2.0
"""Segments a depth image into patches: connected surfaces without a fold or a step (`segment_surfaces`).

1 / z of a plane is affine in the pixel (n.X = d with X = z (x, y, 1) gives 1 / z = (nx x + ny y + nz) / d). So the
second difference of 1 / z is zero on every plane, however slanted. It is negative across a convex edge, and positive
along a concave fold and on the far side of a step: where one object ends and the next one, or the floor it stands on,
begins. Cutting at concavities only keeps the faces of one object together (as the convexity of neighbouring faces does
for Stein et al., Object Partitioning using Local Convexity, CVPR 2014).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# All of these are slopes: focal length times a difference of 1 / z between neighbours, over 1 / z. A slope is the
# tangent of the slant of a surface against the image plane; the second difference is its change from pixel to pixel.
# FOLD: least second difference at a fold. STEP: least one in front of a step. CONTINUES: greatest slope between
# neighbours of one surface. CLEAR_FIT: greatest misfit at which a pixel at an edge surely belongs to its patch.
FOLD = 0.05
STEP = 20.0
CONTINUES = 8.0
CLEAR_FIT = 0.5
# Where the map itself is rough (noise, rounding), a fold must exceed this many times the bend that three quarters of
# the pixels exceed. Beyond ROUGH the map is smoothed first.
OVER_NOISE = 3.0
ROUGH = 0.5

_NEIGHBOURS = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
_BLOCK = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class SurfacePatches:
    """The patches of a depth image.

    label: int32 (H, W), 0 where the depth is unknown, otherwise 1 .. count - 1. sure: bool (H, W), False where the
    pixel lies on a fold or step, so that its patch is a guess.
    """

    label: np.ndarray
    sure: np.ndarray
    count: int


def segment_surfaces(inverse: np.ndarray, fx_px: float, fy_px: float) -> SurfacePatches:
    """Returns the patches of an image of 1 / z, float32 (H, W) in 1 / m, 0 where unknown.

    fx_px, fy_px: focal lengths in units of the distance between neighbouring pixels.
    """
    known = inverse > 0
    filled = inverse if known.all() else _fill_small_holes(inverse, known)
    bend, roughness = _bends(filled, known, fx_px, fy_px)
    if roughness > ROUGH:
        bend, roughness = _bends(cv2.medianBlur(filled, 5), known, fx_px, fy_px)
    label, count = _label_free_pixels(known & ~_edges(bend, filled, max(FOLD, OVER_NOISE * roughness)))
    label, sure = _grow_into_edges(label, inverse, fx_px)
    rest, rest_count = _components(known & (label == 0), 0)
    return SurfacePatches(np.where(rest > 0, rest + (count - 1), label), sure, count + rest_count - 1)


def _fill_small_holes(inverse: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Fills small holes with the mean of the pixels around them, so that no fold begins or ends there."""
    around = cv2.blur(inverse, (3, 3)) / np.maximum(cv2.blur(known.astype(np.float32), (3, 3)), 1e-6)
    return np.where(known, inverse, around)


def _bends(
    inverse: np.ndarray, known: np.ndarray, fx_px: float, fy_px: float
) -> tuple[tuple[np.ndarray, np.ndarray], float]:
    """Returns the bend along u and v, and the roughness of the map.

    The roughness is the bend that three quarters of the known pixels exceed. It is 0 where most surfaces are exact or
    smooth.
    """
    bend = _bend(inverse, 1, fx_px), _bend(inverse, 0, fy_px)
    every_second = (slice(None, None, 2), slice(None, None, 2))
    size = np.maximum(np.abs(bend[0][every_second]), np.abs(bend[1][every_second]))[known[every_second]]
    roughness = np.percentile(size / inverse[every_second][known[every_second]], 25) if len(size) else 0.0
    return bend, float(roughness)


def _bend(inverse: np.ndarray, axis: int, focal_px: float) -> np.ndarray:
    """Returns float32 (H, W): focal length times the second difference along an axis.

    It is 0 beside unknown pixels. At the borders of the image it is the bend of the next pixel if that is a fold, and
    large if there is a step.
    """
    kernel = np.array([[1, -2, 1]], np.float32) * np.float32(focal_px)
    bend = cv2.filter2D(inverse, -1, kernel if axis else kernel.T, borderType=cv2.BORDER_REFLECT_101)
    unknown = inverse == 0
    if unknown.any():
        beside = np.ones((1, 3) if axis else (3, 1), np.uint8)
        bend[cv2.dilate(unknown.astype(np.uint8), beside) > 0] = 0
    lines, inverse_lines = np.moveaxis(bend, axis, 0), np.moveaxis(inverse, axis, 0)
    if len(lines) > 2:
        for border, inner in ((0, 1), (-1, -2)):
            step = (inverse_lines[inner] - inverse_lines[border]) * focal_px
            is_step = step > CONTINUES * inverse_lines[border]
            lines[border] = np.where(is_step, step, np.maximum(lines[inner], 0))
    return bend


def _edges(bend: tuple[np.ndarray, np.ndarray], inverse: np.ndarray, fold: float) -> np.ndarray:
    """Returns bool (H, W): folds, and pixels far behind the continuation of the surface beside them."""
    edge = cv2.max(bend[0], bend[1]) >= fold * inverse
    for axis in (0, 1):
        out, drop, inverse_lines = (np.moveaxis(a, axis, 0) for a in (edge, -bend[1 - axis], inverse))
        out[1:] |= (drop[:-1] > STEP * inverse_lines[1:]) & (inverse_lines[:-1] > inverse_lines[1:])
        out[:-1] |= (drop[1:] > STEP * inverse_lines[:-1]) & (inverse_lines[1:] > inverse_lines[:-1])
    return edge


def _label_free_pixels(free: np.ndarray) -> tuple[np.ndarray, int]:
    """Labels the pixels that are not on an edge; returns the labels and their number, 0 included.

    First come components that are connected by more than a thread of two pixels, then the remaining thin parts.
    """
    core = cv2.erode(free.astype(np.uint8), _BLOCK, borderType=cv2.BORDER_CONSTANT, borderValue=1) > 0
    label, count = _components(core, 1)
    nearby = cv2.dilate(label.astype(np.float32), _BLOCK).astype(np.int32)
    label = np.where((label == 0) & free, nearby, label)
    thin, thin_count = _components(free & (label == 0), 1)
    return np.where(thin > 0, thin + (count - 1), label), count + thin_count - 1


def _components(mask: np.ndarray, too_small: int) -> tuple[np.ndarray, int]:
    """Labels the 4-connected components with more than too_small pixels; returns the number of labels, 0 included."""
    count, label = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    if too_small:
        label[np.bincount(label.ravel(), minlength=count)[label] <= too_small] = 0
    return label, count


def _grow_into_edges(label: np.ndarray, inverse: np.ndarray, focal_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Gives each pixel on an edge to the neighbouring patch whose continuation fits best.

    This is done twice, since an edge is up to four pixels wide. Returns the labels, and bool (H, W): which are sure.
    """
    padded_inverse = cv2.copyMakeBorder(inverse, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=0).ravel()
    padded = cv2.copyMakeBorder(label, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=0)
    labels, width = padded.ravel(), padded.shape[1]
    sure = np.ones(label.shape, bool)
    v, u = np.nonzero((label == 0) & (inverse > 0))
    for _ in range(2):
        index = (v + 2) * width + u + 2
        chosen, misfit = _best_neighbour(index, labels, padded_inverse, width, focal_px)
        labels[index] = chosen
        sure[v, u] = misfit <= CLEAR_FIT
        v, u = v[chosen == 0], u[chosen == 0]
    sure[v, u] = True  # These belong to no neighbour, so they are not confused with one.
    return padded[2:-2, 2:-2], sure


def _best_neighbour(
    index: np.ndarray, labels: np.ndarray, inverse: np.ndarray, width: int, focal_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns, for pixels at flat indices, the label of the patch that continues there (0: none), and its misfit.

    The misfit is a slope: how far the pixel is from the continuation of the patch.
    """
    here = inverse[index]
    chosen, least = np.zeros(len(index), np.int32), CONTINUES / focal_px * here
    for dv, du in _NEIGHBOURS:
        step = dv * width + du
        label, near, far = labels[index + step], inverse[index + step], inverse[index + 2 * step]
        first = np.abs(near - here)
        straight = labels[index + 2 * step] == label
        misfit = np.where(straight, np.abs(2 * near - far - here), first + 0.3 / focal_px * here)
        better = (label > 0) & (misfit < least) & (first < CONTINUES / focal_px * here)
        chosen[better], least[better] = label[better], misfit[better]
    return chosen, least * focal_px / np.maximum(here, 1e-12)
