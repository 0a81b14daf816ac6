# SPDX-License-Identifier: Apache-2.0
"""How well each object is visible in a rendered picture.

`find_sightings` returns a `Sighting` for every named object with a visible pixel: its pixels, its box, its distance,
and how much of it is hidden or outside the picture. `is_clear` decides whether that is enough to recognise it.
`bounding_region` returns the box around pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from depthlm_ros.core import Intrinsics, Region
from depthlm_ros.geometry.pinhole import range_from_z
from depthlm_ros.scenes.renderer.jit import cached_kernel
from depthlm_ros.scenes.renderer.raycast import BIG, geometry, pixel_window, ray_planes, screen_rect, solid_entry
from depthlm_ros.scenes.renderer.render import RenderedImage, camera_vector
from depthlm_ros.scenes.world.primitives import Scene, SceneObject

# An object is clear with this many visible pixels in a picture of 128 x 96, and in proportion for other sizes, ...
CLEAR_PX = 12
CLEAR_PICTURE_PX = 128 * 96
# ... and if at least these shares of it are not hidden, and lie inside the picture.
CLEAR_SHARE = 0.4
CLEAR_INSIDE = 0.35
# Its size can be judged from these shares.
COMPLETE_SHARE = 0.75
COMPLETE_INSIDE = 0.95


@dataclass(frozen=True)
class Sighting:
    """An object in a picture.

    pixels: number of visible pixels. edges_px: the box around them as pixel edges (left, top, right, bottom); right
    and bottom are one past the last pixel. range_m: median distance from the camera over the visible pixels, NaN if
    the object is not clear. share: visible pixels divided by the pixels that it would have with nothing in front of
    it. inside: share of its projected bounding box that lies in the picture.
    """

    thing: SceneObject
    pixels: int
    edges_px: tuple[int, int, int, int]
    range_m: float
    share: float
    inside: float

    @property
    def is_complete(self) -> bool:
        """True if enough of the object is visible to judge its size."""
        return self.share >= COMPLETE_SHARE and self.inside >= COMPLETE_INSIDE


def find_sightings(scene: Scene, rendered: RenderedImage, intrinsics: Intrinsics) -> list[Sighting]:
    """Returns a sighting of every named object that has at least one visible pixel.

    share and inside are computed without lens distortion, which would change them by a few pixels.
    """
    count = int(scene.object_of.max(initial=-1)) + 1
    height, width = rendered.depth_m.shape
    pose, cam = rendered.pose, camera_vector(intrinsics)
    alone, bounds = _count_unoccluded_pixels(
        geometry(scene.solids), pose.R, pose.t, cam, height, width, scene.object_of, count
    )
    table = _count_visible_pixels(rendered.object_id, count)
    sightings: list[Sighting] = []
    for thing in scene.objects:
        k = thing.object_id
        if table[k, 0]:
            pixels, edges = int(table[k, 0]), tuple(table[k, 1:].tolist())
            share, inside = pixels / max(1, int(alone[k])), _share_inside(bounds[k], width, height)
            range_m = _range_m(rendered, intrinsics, k) if is_clear(pixels, share, inside, width * height) else math.nan
            sightings.append(Sighting(thing, pixels, edges, range_m, share, inside))
    return sightings


def is_clear(pixels: int, share: float, inside: float, picture_px: int) -> bool:
    """Returns whether enough of an object is visible to recognise it. picture_px: pixels of the whole picture."""
    enough = pixels >= CLEAR_PX * picture_px / CLEAR_PICTURE_PX
    return enough and share >= CLEAR_SHARE and inside >= CLEAR_INSIDE


def bounding_region(u: np.ndarray, v: np.ndarray) -> Region:
    """Returns the smallest box that holds these pixels, whose columns and rows are int (N,)."""
    return Region(int(u.min()), int(v.min()), int(np.ptp(u)) + 1, int(np.ptp(v)) + 1)


@cached_kernel
def _count_unoccluded_pixels(geo, R, t, cam, height, width, object_of, count):
    """Returns the pixels that each object would have alone, int64 (count,), and its projected bounds, float64
    (count, 4), pixels."""
    stamp = np.full((height, width), -1, np.int16)
    pixels, bounds = np.zeros(count, np.int64), np.empty((count, 4))
    bounds[:, :2], bounds[:, 2:] = BIG, -BIG
    A, B, C, o = np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    corners, rect, window = np.empty((8, 3)), np.empty(4), np.empty(4, np.int64)
    for n in range(geo.shape[0]):
        k = object_of[n]
        if k < 0 or not screen_rect(geo, n, R, t, cam, corners, rect):
            continue
        for c in range(2):
            bounds[k, c], bounds[k, c + 2] = min(bounds[k, c], rect[c]), max(bounds[k, c + 2], rect[c + 2])
        if not pixel_window(rect, 0.0, height, width, window):
            continue
        ray_planes(geo, n, R, t, cam, A, B, C, o)
        for j in range(window[1], window[3]):
            for i in range(window[0], window[2]):
                x, y, z = A[0] * i + B[0] * j + C[0], A[1] * i + B[1] * j + C[1], A[2] * i + B[2] * j + C[2]
                if stamp[j, i] != k and solid_entry(int(geo[n, 15]), geo[n, 16], o[0], o[1], o[2], x, y, z) < BIG:
                    stamp[j, i] = k
                    pixels[k] += 1
    return pixels, bounds


@cached_kernel
def _count_visible_pixels(object_id, count):
    """Returns int64 (count, 5): visible pixels of each object, and the left, top, right and bottom edge of them."""
    table = np.zeros((count, 5), np.int64)
    table[:, 1:3] = 1 << 30
    for j in range(object_id.shape[0]):
        for i in range(object_id.shape[1]):
            k = object_id[j, i]
            if k >= 0:
                row = table[k]
                row[0] += 1
                row[1], row[2] = min(row[1], i), min(row[2], j)
                row[3], row[4] = max(row[3], i + 1), max(row[4], j + 1)
    return table


def _range_m(rendered: RenderedImage, intrinsics: Intrinsics, object_id: int) -> float:
    """Returns the median distance from the camera over the visible pixels of an object, metres."""
    v, u = np.nonzero(rendered.object_id == object_id)
    uv_px = rendered.undistorted_px(np.stack([u, v], 1))
    return float(np.median(range_from_z(uv_px, rendered.depth_m[v, u], intrinsics)))


def _share_inside(bounds: np.ndarray, width: int, height: int) -> float:
    """Returns the share of a rectangle (left, top, right, bottom), pixels, that lies in the picture."""
    w, h = bounds[2] - bounds[0], bounds[3] - bounds[1]
    visible_w = min(bounds[2], width - 0.5) - max(bounds[0], -0.5)
    visible_h = min(bounds[3], height - 0.5) - max(bounds[1], -0.5)
    return float(max(0.0, visible_w) * max(0.0, visible_h) / (w * h + 1e-9))
