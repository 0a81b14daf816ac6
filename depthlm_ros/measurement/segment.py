"""Finds the thing inside its box, from the depth alone.

A box holds background too. What is known of the thing: nothing of it is outside its box, and it reaches all four sides.
So of the patches of the depth map (patches.py) those that go on outside the box are background or hide the thing; of
the others, those that touch each other in space belong together, and further ones join where they reach a side of the
box that was not reached (grouping.py). Where nothing fits like that - a box too tight, too wide, or drawn on a wall -
the rules are loosened, and in the end the largest patch in the box is taken.

Which patches of a depth map are the thing that a box is drawn around.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from depthlm_ros.core import DepthMap, Region
from depthlm_ros.errors import BadQuestion
from depthlm_ros.measurement.surface_patches import (
    CONTINUES,
    Borders,
    Extents,
    Patches,
    Window,
    box_of,
    cut,
    plane_of,
    union,
)

# Of a tight box: the share of its pixels in the box that a patch of the thing may have outside, further than a pixel
# and at all; of a loose one.
BEYOND, AT_RIM, LOOSELY_BEYOND = 0.005, 0.2, 0.5
# How far the thing may fall short of its box or reach over it, as shares of the box, besides two pixels.
SPANS, FITS, FITS_LOOSELY, HARDLY_FITS = 0.05, 0.1, 0.25, 0.5
# What is further before or behind the thing than this share of the thing's size is no part of it.
APART = 0.3
# Which patches are on the plane of a wall or floor: most pixels within ON_PLANE of it, relative depth.
PLANES, PLANE_PX, ON_PLANE, MOSTLY = 6, 30, 0.004, 0.7
# Parts with so large a share of the thing count for its top even if its box does not need them.
LARGE = 0.3
MOST_GROUPS = 60


@dataclass(frozen=True)
class Choice:
    """thing: bool (count,), patches of the thing. bulk: without small ones that its box does not need, as what stands
    on it. cropped: the patch goes on outside, and what lies in the box is meant."""

    thing: np.ndarray
    bulk: np.ndarray
    cropped: bool = False


def choose(patches: Patches, window: Window) -> Choice:
    """The patches that make up the thing in the window's box; none where no depth is known in it."""
    left, top, right, bottom = window.box
    total, inside, near = (
        np.bincount(part.ravel(), minlength=patches.count)
        for part in (
            patches.label,
            patches.label[top:bottom, left:right],
            patches.label[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1],
        )
    )
    inside[0] = 0
    chooser = _Chooser(patches, window, total)
    tight = chooser.attempt((inside > 0) & (total - near <= BEYOND * inside) & (total - inside <= AT_RIM * inside))
    if tight.misfit <= FITS:
        return tight.choice
    loose = chooser.attempt((inside > 0) & (total - inside <= LOOSELY_BEYOND * inside))
    if loose.misfit <= FITS_LOOSELY:
        return loose.choice
    if tight.misfit <= HARDLY_FITS:
        return tight.choice
    largest = (np.arange(patches.count) == inside.argmax()) & (inside > 0)
    return Choice(largest, largest, cropped=True)


@dataclass(frozen=True)
class _Attempt:
    choice: Choice
    misfit: float


class _Chooser:
    """Puts a thing together from the patches that a box allows. area: int64 (count,), pixels of each patch."""

    def __init__(self, patches: Patches, window: Window, area: np.ndarray) -> None:
        self.patches, self.window, self.area = patches, window, area
        self.borders = Borders(patches.label, window)

    def attempt(self, allowed: np.ndarray) -> _Attempt:
        """The best thing of the allowed patches, bool (count,)."""
        allowed = self._without_background(allowed)
        if not allowed.any():
            return _Attempt(Choice(allowed, allowed), np.inf)
        extents = Extents(self.patches.label, self.window.inverse, allowed)
        parts = self._joined(allowed, extents)
        thing, bulk = np.zeros_like(allowed), np.zeros_like(allowed)
        thing[parts] = True
        bulk[self._bulk(parts, extents)] = True
        return _Attempt(Choice(thing, bulk), self.window.misfit(extents.of(parts)[0]))

    def _without_background(self, allowed: np.ndarray) -> np.ndarray:
        """Without patches on the plane of a wall or floor outside, seen through holes, if the others fill the box."""
        others = allowed & ~self._on_planes(allowed)
        fill = others.any() and self.window.misfit(box_of(others[self.patches.label])) <= SPANS
        return others if fill else allowed

    def _on_planes(self, allowed: np.ndarray) -> np.ndarray:
        """bool (count,): allowed patches most of which lie on the plane of one of the largest others."""
        label, inverse, count = self.patches.label, self.window.inverse, len(allowed)
        mask = allowed[label]
        v, u = (index.astype(np.float32) for index in np.nonzero(mask))
        mine, here = label[mask], inverse[mask]
        pixels, found = np.bincount(mine, minlength=count), np.zeros(count, bool)
        outside = np.where(allowed, 0, self.area)
        outside[0] = 0
        for other in np.argsort(-outside)[:PLANES]:
            plane = plane_of(label == other, inverse) if outside[other] > PLANE_PX else None
            if plane is not None:
                a, b, c = plane.astype(np.float32)
                close = np.abs(a * u + b * v + c - here) < ON_PLANE * here
                found |= np.bincount(mine[close], minlength=count) > MOSTLY * pixels
        return found & allowed

    def _joined(self, allowed: np.ndarray, extents: Extents) -> np.ndarray:
        """Indices of patches: the largest group, and further ones that fill its box."""
        chosen, *groups = self._touching(allowed)
        box, near_m, far_m = extents.of(chosen)
        for group in groups[:MOST_GROUPS]:
            its_box, its_near_m, its_far_m = extents.of(group)
            both = union(box, its_box)
            before, behind = 1 - its_far_m / near_m, its_near_m / far_m - 1
            if max(before, behind) > APART * self.window.slope:
                continue
            if self.window.missing(both) < self.window.missing(box):
                chosen = np.concatenate([chosen, group])
                box, near_m, far_m = both, min(near_m, its_near_m), max(far_m, its_far_m)
        return chosen

    def _touching(self, allowed: np.ndarray) -> list[np.ndarray]:
        """Groups of patches that touch each other in space, the largest first."""
        near, far = self.borders.near, self.borders.far
        contact = allowed[near] & allowed[far] & (self.borders.steep < CONTINUES)
        root = _roots(np.unique(near[contact] * len(allowed) + far[contact]), len(allowed))
        members = np.flatnonzero(allowed)
        members = members[np.argsort(root[members], kind="stable")]
        groups = np.split(members, np.flatnonzero(np.diff(root[members])) + 1)
        return sorted(groups, key=lambda group: -self.area[group].sum())

    def _bulk(self, parts: np.ndarray, extents: Extents) -> np.ndarray:
        """The large parts, and then always the one that fills most of what is missing of the box."""
        area = self.area[parts]
        bulk = parts[area >= min(LARGE * area.sum(), area.max())]
        box = extents.of(bulk)[0]
        while True:
            both = union(box, extents.box[parts])
            best = int(self.window.missing(both).argmin())
            if self.window.missing(both[best]) == self.window.missing(box):
                return bulk
            bulk, box = np.append(bulk, parts[best]), both[best]


def _roots(pairs: np.ndarray, count: int) -> np.ndarray:
    """int64 (count,): one representative for all that pairs, first * count + second, connect."""
    root = list(range(count))

    def top(index: int) -> int:
        while root[index] != index:
            root[index] = root[root[index]]
            index = root[index]
        return index

    for pair in pairs.tolist():
        root[top(pair // count)] = top(pair % count)
    return np.array([top(index) for index in range(count)])


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
