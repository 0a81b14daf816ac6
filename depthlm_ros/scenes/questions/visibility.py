"""How well each object is seen: visible pixels, pixels without occluders, share inside the picture, distance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.geometry.pinhole import range_from_z
from depthlm_ros.scenes.renderer.jit import cached
from depthlm_ros.scenes.renderer.raycast import BIG, geometry, pixel_window, ray_planes, screen_rect, solid_entry
from depthlm_ros.scenes.renderer.render import Rendered, camera_vector
from depthlm_ros.scenes.world.primitives import Scene, SceneObject

# Enough to recognise an object by, at 128 x 96 pixels; in proportion for other sizes.
CLEAR_PX = 12
CLEAR_PICTURE_PX = 128 * 96
CLEAR_SHARE = 0.4
CLEAR_INSIDE = 0.35
WHOLE_SHARE = 0.75
WHOLE_INSIDE = 0.95


@dataclass(frozen=True)
class Sighting:
    """An object in a picture.

    pixels: visible ones. edges_px: box around them as pixel edges (left, top, right, bottom), right and bottom past
    the last pixel. range_m: median distance along the rays over the visible pixels. share: visible pixels over those
    it would have with nothing in front. inside: share of its projected bounding box that lies in the picture.
    """

    thing: SceneObject
    pixels: int
    edges_px: tuple[int, int, int, int]
    range_m: float
    share: float
    inside: float

    @property
    def whole(self) -> bool:
        """Enough of it is seen to tell its size."""
        return self.share >= WHOLE_SHARE and self.inside >= WHOLE_INSIDE


@cached
def _stamp(geo, R, t, cam, height, width, object_of, count):
    """int64 (count,): pixels of each object alone; float64 (count, 4): its projected bounds, pixels."""
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


@cached
def _tally(object_id, count):
    """int64 (count, 5): visible pixels and first and last column and row of each object."""
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


def _range_m(rendered: Rendered, intrinsics: Intrinsics, object_id: int) -> float:
    v, u = np.nonzero(rendered.object_id == object_id)
    uv_px = rendered.straight_px(np.stack([u, v], 1))
    return float(np.median(range_from_z(uv_px, rendered.depth_m[v, u], intrinsics)))


def _inside(bounds: np.ndarray, width: int, height: int) -> float:
    w, h = bounds[2] - bounds[0], bounds[3] - bounds[1]
    seen_w = min(bounds[2], width - 0.5) - max(bounds[0], -0.5)
    seen_h = min(bounds[3], height - 0.5) - max(bounds[1], -0.5)
    return float(max(0.0, seen_w) * max(0.0, seen_h) / (w * h + 1e-9))


def sightings(scene: Scene, rendered: Rendered, intrinsics: Intrinsics) -> list[Sighting]:
    """Every named object with at least one visible pixel; how much of it is hidden or outside is judged without a lens,
    which changes it by a few pixels."""
    count = int(scene.object_of.max(initial=-1)) + 1
    height, width = rendered.depth_m.shape
    pose, cam = rendered.pose, camera_vector(intrinsics)
    alone, bounds = _stamp(geometry(scene.solids), pose.R, pose.t, cam, height, width, scene.object_of, count)
    table = _tally(rendered.object_id, count)
    found = []
    for thing in scene.objects:
        k = thing.object_id
        if table[k, 0]:
            pixels, edges = int(table[k, 0]), tuple(table[k, 1:].tolist())
            share, inside = pixels / max(1, int(alone[k])), _inside(bounds[k], width, height)
            range_m = _range_m(rendered, intrinsics, k) if is_clear(pixels, share, inside, width * height) else math.nan
            found.append(Sighting(thing, pixels, edges, range_m, share, inside))
    return found


def is_clear(pixels: int, share: float, inside: float, picture_px: int) -> bool:
    """Is this enough of an object to recognise it?"""
    enough = pixels >= CLEAR_PX * picture_px / CLEAR_PICTURE_PX
    return enough and share >= CLEAR_SHARE and inside >= CLEAR_INSIDE
