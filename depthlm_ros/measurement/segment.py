# SPDX-License-Identifier: Apache-2.0
"""Finds the object inside a box, from the depth map alone (`segment_object`).

A box contains background too. What is known of the object: no part of it is outside the box, and it reaches all four
sides. So of the patches of the depth map (surface_patches.py) those that continue outside the box are background, or
hide the object. Of the others, those that touch each other in space belong together, and further ones join where they
reach a side of the box that was not reached. Where nothing fits like that - a box that is too tight, too wide, or drawn
on a wall - the rules are loosened, and in the end the largest patch in the box is taken.

Boxes of patches are stored as their sides (left, top, -right, -bottom), edges of pixels: the union of two boxes is then
the minimum of their sides, and what a box lacks of another one is the positive part of the difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from depthlm_ros.core import DepthMap, Region
from depthlm_ros.errors import BadQuestion
from depthlm_ros.geometry.pinhole import backproject
from depthlm_ros.measurement.surface_patches import CONTINUES, SurfacePatches, segment_surfaces

# Of larger boxes, and of maps with less detail, only every second, third, ... pixel is used, but no fewer than these.
MOST_PX, LEAST_PX = 400, 32
MARGIN, LEAST_MARGIN_PX = 0.1, 6
# Of a tight box: the share of its pixels in the box that a patch of the object may have outside, further than a pixel
# away and in all; of a loose box: in all.
BEYOND, AT_RIM, LOOSELY_BEYOND = 0.005, 0.2, 0.5
# How far the object may fall short of its box or reach over it, as shares of the box, besides two pixels.
SPANS, FITS, FITS_LOOSELY, HARDLY_FITS = 0.05, 0.1, 0.25, 0.5
# A patch that is further before or behind the object than this share of the object's size is not part of it.
APART = 0.3
# Which patches are on the plane of a wall or floor: most of their pixels are within ON_PLANE of it, relative depth.
PLANES, PLANE_PX, ON_PLANE, MOSTLY = 6, 30, 0.004, 0.7
# A plane is fitted to at most PLANE_SAMPLE pixels of a patch, which is flat if half of them are within FLAT of it
# (relative depth).
PLANE_SAMPLE, FLAT = 500, 0.003
# Parts with this share of the object count for its top even if the box does not need them.
LARGE = 0.3
MOST_GROUPS = 60


@dataclass(frozen=True)
class SegmentedObject:
    """The pixels of an object, N = 0 where no depth is known.

    uv_px: float64 (N, 2). depth_m: float64 (N,). points_m: float64 (N, 3), optical frame. sure: bool (N,), False at
    edges, where a pixel may belong to what is behind or below. bulk: bool (N,), False for what stands on the object and
    for other small parts. step_px: distance of neighbours. box_px: (left, top, right, bottom) of the box, edges of
    whole pixels.
    """

    uv_px: np.ndarray
    depth_m: np.ndarray
    points_m: np.ndarray
    sure: np.ndarray
    bulk: np.ndarray
    step_px: int
    box_px: tuple[int, int, int, int]


@dataclass(frozen=True)
class DepthWindow:
    """The part of a depth map around a box.

    inverse: float32 (H, W), 1 / z in 1 / m, 0 where unknown. sides: int64 (4,), the box in pixels of the window as
    (left, top, -right, -bottom). fx_px, fy_px: focal lengths in units of the distance of neighbours in the window.
    """

    inverse: np.ndarray
    sides: np.ndarray
    fx_px: float
    fy_px: float

    def misfit(self, sides: np.ndarray) -> float:
        """By how much another box, given by its sides, differs from this one, as a share of it, besides two pixels."""
        size = np.tile(-self.sides[2:] - self.sides[:2], 2)
        return float(((np.abs(sides - self.sides) - 2) / size).max(initial=0.0))


@dataclass(frozen=True)
class PatchSelection:
    """The patches of an object.

    parts: bool (count,), patches of the object. bulk: the same without small ones that the box does not need, such as
    what stands on the object. is_cropped: the patch continues outside the box, and only the part inside is meant.
    misfit: by how much the box of the parts differs from the box.
    """

    parts: np.ndarray
    bulk: np.ndarray
    misfit: float
    is_cropped: bool = False


def segment_object(depth: DepthMap, region: Region) -> SegmentedObject:
    """Returns the object in a box. Raises BadQuestion for a box without size or outside the image."""
    box_px = box_to_pixels(region, depth.intrinsics.size_px)
    size_px = max(box_px[2] - box_px[0], box_px[3] - box_px[1])
    step = max(-(-size_px // MOST_PX), min(round(depth.detail_px), size_px // LEAST_PX), 1)
    window, u, v = _window_around(depth, box_px, step)
    patches = segment_surfaces(window.inverse, window.fx_px, window.fy_px)
    selection = select_patches(patches, window)
    mask = selection.parts[patches.label]
    if selection.is_cropped:
        left, top, right, bottom = window.sides * (1, 1, -1, -1)
        inside = np.zeros_like(mask)
        inside[top:bottom, left:right] = True
        mask &= inside
    row, column = np.nonzero(mask)
    depth_m = 1 / window.inverse[row, column].astype(np.float64)
    uv_px = np.stack([u[column], v[row]], axis=1).astype(np.float64)
    points_m = backproject(uv_px, depth_m, depth.intrinsics)
    bulk = selection.bulk[patches.label[row, column]]
    return SegmentedObject(uv_px, depth_m, points_m, patches.sure[row, column], bulk, step, box_px)


def _window_around(
    depth: DepthMap, box_px: tuple[int, int, int, int], step: int
) -> tuple[DepthWindow, np.ndarray, np.ndarray]:
    """Returns every step-th pixel of a box and a margin around it, with their columns (W,) and rows (H,) in the map."""
    camera = depth.intrinsics
    left, top, right, bottom = box_px
    margin = step * max(LEAST_MARGIN_PX, math.ceil(MARGIN * max(right - left, bottom - top) / step))
    u, v = (
        pixels[(pixels >= 0) & (pixels < size)]
        for pixels, size in (
            (np.arange(left - margin, right + margin, step), camera.width_px),
            (np.arange(top - margin, bottom + margin, step), camera.height_px),
        )
    )
    part_m = depth.depth_m[v[0] : v[-1] + 1 : step, u[0] : u[-1] + 1 : step]
    known = np.isfinite(part_m) & (part_m > 0)
    inverse = np.where(known, 1 / np.where(known, part_m, 1), 0).astype(np.float32)
    (x0, x1), (y0, y1) = np.searchsorted(u, (left, right)), np.searchsorted(v, (top, bottom))
    return DepthWindow(inverse, np.array([x0, y0, -x1, -y1]), camera.fx_px / step, camera.fy_px / step), u, v


def box_to_pixels(region: Region, size_px: tuple[int, int]) -> tuple[int, int, int, int]:
    """Returns (left, top, right, bottom), edges of the whole pixels of a box within an image, at least one pixel.

    These are edges of pixels, from 0 to the width or height, and not pixel centres as in `pinhole.pixels_inside`.
    size_px: (width, height) of the image. Raises BadQuestion for a box without size, not finite, or outside the image.
    """
    edges = (region.x_px, region.y_px, region.x_px + region.width_px, region.y_px + region.height_px)
    what = f"region {region.width_px:g} x {region.height_px:g} at ({region.x_px:g}, {region.y_px:g})"
    if not all(math.isfinite(edge) for edge in edges) or region.width_px <= 0 or region.height_px <= 0:
        raise BadQuestion(f"{what} has no size: give its top-left corner, width and height in pixels.")
    limits = (*size_px, *size_px)
    if edges[0] >= limits[0] or edges[1] >= limits[1] or edges[2] <= 0 or edges[3] <= 0:
        raise BadQuestion(f"{what} is outside the {size_px[0]} x {size_px[1]} image: give a box inside.")
    left, top = (min(max(round(edge), 0), limit - 1) for edge, limit in zip(edges[:2], size_px, strict=True))
    right, bottom = (
        min(max(round(edge), low + 1), limit) for edge, low, limit in zip(edges[2:], (left, top), size_px, strict=True)
    )
    return left, top, right, bottom


def select_patches(patches: SurfacePatches, window: DepthWindow) -> PatchSelection:
    """Returns the patches that make up the object in the window's box; none where no depth is known in it."""
    left, top, right, bottom = window.sides * (1, 1, -1, -1)
    total, inside, near = (
        np.bincount(part.ravel(), minlength=patches.count)
        for part in (
            patches.label,
            patches.label[top:bottom, left:right],
            patches.label[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1],
        )
    )
    inside[0] = 0
    selector = _PatchSelector(patches, window, total)
    tight = selector.select((inside > 0) & (total - near <= BEYOND * inside) & (total - inside <= AT_RIM * inside))
    if tight.misfit <= FITS:
        return tight
    loose = selector.select((inside > 0) & (total - inside <= LOOSELY_BEYOND * inside))
    if loose.misfit <= FITS_LOOSELY:
        return loose
    if tight.misfit <= HARDLY_FITS:
        return tight
    largest = (np.arange(patches.count) == inside.argmax()) & (inside > 0)
    return PatchSelection(largest, largest, np.inf, is_cropped=True)


class _PatchSelector:
    """Assembles an object from the patches that a box allows.

    area: int64 (count,), pixels of each patch. Of each pair of neighbouring pixels in different patches, _near and _far
    int64 (M,) are the patch of the nearer and of the farther pixel, and _slope float32 (M,) is the slope between them
    (see surface_patches.py).
    """

    def __init__(self, patches: SurfacePatches, window: DepthWindow, area: np.ndarray) -> None:
        self.label, self.window, self.area = patches.label, window, area
        label, inverse, pairs = patches.label, window.inverse, []
        for one, two, inverse_one, inverse_two, focal_px in (
            (label[:, :-1], label[:, 1:], inverse[:, :-1], inverse[:, 1:], window.fx_px),
            (label[:-1], label[1:], inverse[:-1], inverse[1:], window.fy_px),
        ):
            border = (one != two) & (one > 0) & (two > 0)
            focal = np.full(int(border.sum()), focal_px, np.float32)
            pairs.append((one[border], two[border], inverse_one[border], inverse_two[border], focal))
        one, two, inverse_one, inverse_two, focal = (np.concatenate(part) for part in zip(*pairs, strict=True))
        swap = inverse_one < inverse_two
        self._near = np.where(swap, two, one).astype(np.int64)
        self._far = np.where(swap, one, two).astype(np.int64)
        self._slope = np.abs(inverse_one - inverse_two) * focal / np.minimum(inverse_one, inverse_two)

    def select(self, allowed: np.ndarray) -> PatchSelection:
        """Returns the best object that consists of allowed patches, bool (count,)."""
        allowed = self._without_background(allowed)
        if not allowed.any():
            return PatchSelection(allowed, allowed, np.inf)
        bounds = _PatchBounds(self.label, self.window.inverse, allowed)
        indices = self._join_groups(allowed, bounds)
        parts, bulk = np.zeros_like(allowed), np.zeros_like(allowed)
        parts[indices] = True
        bulk[self._bulk(indices, bounds)] = True
        return PatchSelection(parts, bulk, self.window.misfit(bounds.sides[indices].min(0)))

    def _without_background(self, allowed: np.ndarray) -> np.ndarray:
        """Leaves out patches of walls and floors that are seen through holes, if the other patches fill the box.

        These are patches most of which lie on the plane of one of the largest patches that are not allowed.
        """
        label, inverse, count = self.label, self.window.inverse, len(allowed)
        mask = allowed[label]
        v, u = (index.astype(np.float32) for index in np.nonzero(mask))
        own, here = label[mask], inverse[mask]
        pixels, on_planes = np.bincount(own, minlength=count), np.zeros(count, bool)
        outside = np.where(allowed, 0, self.area)
        outside[0] = 0
        for other in np.argsort(-outside)[:PLANES]:
            plane = _fit_plane(label == other, inverse) if outside[other] > PLANE_PX else None
            if plane is not None:
                a, b, c = plane.astype(np.float32)
                close = np.abs(a * u + b * v + c - here) < ON_PLANE * here
                on_planes |= np.bincount(own[close], minlength=count) > MOSTLY * pixels
        others = allowed & ~on_planes
        if not others.any():
            return allowed
        mask = others[label]
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        sides = np.array([columns[0], rows[0], -columns[-1] - 1, -rows[-1] - 1])
        return others if self.window.misfit(sides) <= SPANS else allowed

    def _join_groups(self, allowed: np.ndarray, bounds: _PatchBounds) -> np.ndarray:
        """Returns the indices of the patches of the largest group, and of further groups that fill its box."""
        chosen, *groups = self._touching_groups(allowed)
        sides, near_m, far_m = bounds.of_group(chosen)
        width, height = -self.window.sides[2:] - self.window.sides[:2]
        box_slope = max(width / self.window.fx_px, height / self.window.fy_px)
        for group in groups[:MOST_GROUPS]:
            group_sides, group_near_m, group_far_m = bounds.of_group(group)
            union = np.minimum(sides, group_sides)
            before, behind = 1 - group_far_m / near_m, group_near_m / far_m - 1
            if max(before, behind) > APART * box_slope:
                continue
            if np.maximum(union - self.window.sides, 0).sum() < np.maximum(sides - self.window.sides, 0).sum():
                chosen = np.concatenate([chosen, group])
                sides, near_m, far_m = union, min(near_m, group_near_m), max(far_m, group_far_m)
        return chosen

    def _touching_groups(self, allowed: np.ndarray) -> list[np.ndarray]:
        """Returns groups of patches (indices) that touch each other in space, the largest group first."""
        contact = allowed[self._near] & allowed[self._far] & (self._slope < CONTINUES)
        pairs = np.unique(self._near[contact] * len(allowed) + self._far[contact])
        # Union-find: every patch refers to another one of its group, the representative of the group to itself.
        parent = list(range(len(allowed)))
        for ends in zip((pairs // len(allowed)).tolist(), (pairs % len(allowed)).tolist(), strict=True):
            roots = []
            for index in ends:
                while parent[index] != index:
                    parent[index] = parent[parent[index]]
                    index = parent[index]
                roots.append(index)
            parent[roots[0]] = roots[1]
        root = np.array(parent)
        while (root != root[root]).any():
            root = root[root]
        members = np.flatnonzero(allowed)
        members = members[np.argsort(root[members], kind="stable")]
        groups = np.split(members, np.flatnonzero(np.diff(root[members])) + 1)
        return sorted(groups, key=lambda group: -self.area[group].sum())

    def _bulk(self, parts: np.ndarray, bounds: _PatchBounds) -> np.ndarray:
        """Returns the large parts (indices), and then those that fill most of what these lack of the box."""
        area, sides = self.area[parts], bounds.sides[parts]
        is_large = area >= min(LARGE * area.sum(), area.max())
        bulk, bulk_sides = parts[is_large], sides[is_large].min(0)
        while True:
            missing = np.maximum(np.minimum(bulk_sides, sides) - self.window.sides, 0).sum(1)
            best = int(missing.argmin())
            if missing[best] == np.maximum(bulk_sides - self.window.sides, 0).sum():
                return bulk
            bulk, bulk_sides = np.append(bulk, parts[best]), np.minimum(bulk_sides, sides[best])


class _PatchBounds:
    """The bounds of some patches in the image and in depth.

    sides: int64 (count, 4), left, top, -right, -bottom of each patch. near_m, far_m: float64 (count,), z-depth. All are
    0 for patches that are not wanted. wanted: bool (count,).
    """

    def __init__(self, label: np.ndarray, inverse: np.ndarray, wanted: np.ndarray) -> None:
        v, u = np.nonzero(wanted[label])
        own = label[v, u]
        # numpy sorts small integers by counting.
        order = np.argsort(own.astype(np.uint16) if len(wanted) < 1 << 16 else own, kind="stable")
        starts = np.flatnonzero(np.diff(own[order], prepend=-1))
        which, u, v, here = own[order][starts], u[order], v[order], inverse[v, u][order]
        self.sides = np.zeros((len(wanted), 4), np.int64)
        for side, values in enumerate((u, v)):
            self.sides[which, side] = np.minimum.reduceat(values, starts)
            self.sides[which, side + 2] = -np.maximum.reduceat(values, starts) - 1
        self.near_m, self.far_m = np.zeros(len(wanted)), np.zeros(len(wanted))
        self.near_m[which] = 1 / np.maximum.reduceat(here, starts)
        self.far_m[which] = 1 / np.minimum.reduceat(here, starts)

    def of_group(self, group: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Returns the sides, and the nearest and farthest depth in metres, of several patches by their indices."""
        return self.sides[group].min(0), float(self.near_m[group].min()), float(self.far_m[group].max())


def _fit_plane(mask: np.ndarray, inverse: np.ndarray) -> np.ndarray | None:
    """Returns float64 (3,): 1 / z = a u + b v + c where mask, bool (H, W), is True; None if that is not flat."""
    v, u = (2 * index for index in np.nonzero(mask[::2, ::2]))
    if len(v) < 3:
        return None
    step = -(-len(v) // PLANE_SAMPLE)
    v, u = v[::step], u[::step]
    here = inverse[v, u].astype(np.float64)
    terms = np.stack([u, v, np.ones(len(u))], axis=1)
    plane = np.linalg.lstsq(terms, here, rcond=None)[0]
    return plane if np.median(np.abs(terms @ plane - here) / here) <= FLAT else None
