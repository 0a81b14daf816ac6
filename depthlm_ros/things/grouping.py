"""Which patches of a depth map are the thing that a box is drawn around."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from depthlm_ros.things.patches import CONTINUES, Patches
from depthlm_ros.things.window import Borders, Extents, Window, box_of, plane_of, union

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
