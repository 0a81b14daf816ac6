"""Finds the thing inside its box, from the depth alone.

A box holds background too. What is known of the thing: nothing of it is outside its box, and it reaches all four sides.
So of the patches of the depth map (patches.py) those that go on outside the box are background or hide the thing; of
the others, those that touch each other in space belong together, and further ones join where they reach a side of the
box that was not reached (grouping.py). Where nothing fits like that - a box too tight, too wide, or drawn on a wall -
the rules are loosened, and in the end the largest patch in the box is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from depthlm_ros.core import DepthMap, Region
from depthlm_ros.errors import BadQuestion
from depthlm_ros.things.grouping import choose
from depthlm_ros.things.patches import cut
from depthlm_ros.things.window import Window

# Of larger boxes, every second, third, ... pixel is looked at.
MOST_PX = 400
MARGIN, LEAST_MARGIN_PX = 0.1, 6


@dataclass(frozen=True)
class Outline:
    """The pixels of a thing, N = 0 where no depth is known.

    uv_px: float64 (N, 2). depth_m: float64 (N,). sure: bool (N,), False at edges where a pixel may belong to what is
    behind or below. bulk: bool (N,), False for what stands on the thing and other small parts. step_px: distance of
    neighbours. box_px: (left, top, right, bottom) of the box, edges of whole pixels.
    """

    uv_px: np.ndarray
    depth_m: np.ndarray
    sure: np.ndarray
    bulk: np.ndarray
    step_px: int
    box_px: tuple[int, int, int, int]


def find_thing(depth: DepthMap, region: Region) -> Outline:
    """The thing in a box. Raises BadQuestion for a box of no size or outside the image."""
    box_px = pixel_box(region, depth.intrinsics.size_px)
    left, top, right, bottom = box_px
    step = -(-max(right - left, bottom - top) // MOST_PX)
    margin = step * max(LEAST_MARGIN_PX, math.ceil(MARGIN * max(right - left, bottom - top) / step))
    u, v = (
        _grid(low, high, margin, step, size)
        for low, high, size in ((left, right, depth.intrinsics.width_px), (top, bottom, depth.intrinsics.height_px))
    )
    part_m = depth.depth_m[v[0] : v[-1] + 1 : step, u[0] : u[-1] + 1 : step]
    known = np.isfinite(part_m) & (part_m > 0)
    inverse = np.where(known, 1 / np.where(known, part_m, 1), 0).astype(np.float32)
    box = np.array([np.searchsorted(axis, edge) for edge, axis in zip(box_px, (u, v, u, v), strict=True)])
    window = Window(inverse, box, depth.intrinsics.fx_px / step, depth.intrinsics.fy_px / step)
    return _outlined(window, u, v, step, box_px)


def _outlined(window: Window, u: np.ndarray, v: np.ndarray, step: int, box_px: tuple[int, int, int, int]) -> Outline:
    """The chosen patches as pixels of the map; u (W,), v (H,): columns and rows of the window."""
    patches = cut(window.inverse, window.fx_px, window.fy_px)
    choice = choose(patches, window)
    mask = choice.thing[patches.label]
    if choice.cropped:
        left, top, right, bottom = window.box
        inside = np.zeros_like(mask)
        inside[top:bottom, left:right] = True
        mask &= inside
    row, column = np.nonzero(mask)
    depth_m = 1 / window.inverse[row, column].astype(np.float64)
    uv_px = np.stack([u[column], v[row]], axis=1).astype(np.float64)
    bulk = choice.bulk[patches.label[row, column]]
    return Outline(uv_px, depth_m, patches.sure[row, column], bulk, step, box_px)


def _grid(low: int, high: int, margin: int, step: int, size: int) -> np.ndarray:
    """Every step-th pixel from `low`, and of the margin around, within 0 .. size - 1."""
    pixels = np.arange(low - margin, high + margin, step)
    return pixels[(pixels >= 0) & (pixels < size)]


def pixel_box(region: Region, size_px: tuple[int, int]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom), edges of the whole pixels of a box within an image of this size, at least one pixel.

    Raises BadQuestion for a box of no size, not finite, or outside the image.
    """
    edges = (region.x_px, region.y_px, region.x_px + region.width_px, region.y_px + region.height_px)
    what = f"region {region.width_px:g} x {region.height_px:g} at ({region.x_px:g}, {region.y_px:g})"
    if not all(math.isfinite(edge) for edge in edges) or region.width_px <= 0 or region.height_px <= 0:
        raise BadQuestion(f"{what} has no size: give its top-left corner, width and height in pixels.")
    limits = (*size_px, *size_px)
    if edges[0] >= limits[0] or edges[1] >= limits[1] or edges[2] <= 0 or edges[3] <= 0:
        raise BadQuestion(f"{what} is outside the {size_px[0]} x {size_px[1]} image: give a box inside.")
    first = [min(max(round(edge), 0), limit - 1) for edge, limit in zip(edges[:2], limits[:2], strict=True)]
    last = [
        min(max(round(edge), low + 1), limit) for edge, low, limit in zip(edges[2:], first, limits[2:], strict=True)
    ]
    return first[0], first[1], last[0], last[1]
