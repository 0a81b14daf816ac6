"""A thing as points in space: a thing in a box, or what is seen at a pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from depthlm_ros.core import DepthMap, Region
from depthlm_ros.geometry.pinhole import backproject
from depthlm_ros.things.outline import Outline, find_thing

# The nearest point is the nearest but one in so many: a few wild pixels do not shift it.
OUTLIERS = 500


@dataclass(frozen=True)
class Thing:
    """What is known of a thing, metres in the optical frame; without points where its depth is unknown.

    points_m: float64 (N, 3), those that are surely its own. nearest_m: (3,), NaN without points. spread_m: standard
    deviation of the depth around there. columns_px: its left and right end in the image. outline: of a thing in a box.
    """

    points_m: np.ndarray
    nearest_m: np.ndarray
    spread_m: float
    columns_px: tuple[float, float]
    outline: Outline | None = None

    @property
    def known(self) -> bool:
        return len(self.points_m) > 0

    @property
    def distance_m(self) -> float:
        return float(np.linalg.norm(self.nearest_m))

    def span_m(self, axis: np.ndarray) -> tuple[float, float]:
        """From where to where its points reach along a unit vector."""
        along = self.points_m @ axis
        return float(along.min()), float(along.max())


def thing_in(depth: DepthMap, region: Region) -> Thing:
    """The thing in a box. Raises BadQuestion for a box of no size or outside the image."""
    outline = find_thing(depth, region)
    left, _, right, _ = outline.box_px
    columns_px = (left - 0.5, right - 0.5)
    mine = outline.sure if outline.sure.any() else np.ones(len(outline.depth_m), bool)
    points_m = backproject(outline.uv_px[mine], outline.depth_m[mine], depth.intrinsics)
    if not len(points_m):
        return Thing(points_m, np.full(3, np.nan), np.nan, columns_px, outline)
    rank = len(points_m) // OUTLIERS
    nearest = np.argpartition(np.einsum("ij,ij->i", points_m, points_m), rank)[rank]
    u, v = np.abs(outline.uv_px[mine] - outline.uv_px[mine][nearest]).T
    around = (u <= outline.step_px) & (v <= outline.step_px)
    spread_m = float(outline.depth_m[mine][around].std())
    return Thing(points_m, points_m[nearest], spread_m, columns_px, outline)


def thing_at(depth: DepthMap, uv_px: np.ndarray) -> Thing:
    """What is seen at the pixel nearest to (u, v)."""
    u, v = np.rint(uv_px).astype(int)
    columns_px = (uv_px[0] - 0.5, uv_px[0] + 0.5)
    points_m = backproject(uv_px, _known(depth.depth_m[v, u]), depth.intrinsics)
    if np.isnan(points_m).any():
        return Thing(points_m[:0], np.full(3, np.nan), np.nan, columns_px)
    around = _known(depth.depth_m[max(0, v - 1) : v + 2, max(0, u - 1) : u + 2])
    return Thing(points_m, points_m[0], float(np.nanstd(around)), columns_px)


def _known(depth_m: np.ndarray) -> np.ndarray:
    """float64, NaN where there is no surface."""
    depth_m = np.asarray(depth_m, np.float64)
    return np.where(np.isfinite(depth_m) & (depth_m > 0), depth_m, np.nan)
