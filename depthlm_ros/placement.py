"""A frame and how it lies on the model's canvas: which pixels and regions can be asked about, and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from depthlm_ros.canonical import CanonicalView
from depthlm_ros.core import Frame, Region
from depthlm_ros.errors import BadQuestion


@dataclass(frozen=True)
class Placement:
    """Pixels (N, 2) and Regions of the frame to those of the canvas and back. Boxes are edges, pixels are centres: half
    a pixel lies between them."""

    frame: Frame
    canonical: CanonicalView

    @cached_property
    def canvas(self) -> np.ndarray:
        """uint8 (h, w, 3), what the model sees."""
        return self.canonical.image_to_canvas(self.frame.rgb)

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height) of the canvas."""
        return self.canonical.canvas_size_px

    def checked(self, uv_px: np.ndarray | Sequence) -> np.ndarray:
        """float64 (N, 2). Raises BadQuestion for a pixel outside the frame."""
        uv_px = np.asarray(uv_px, np.float64).reshape(-1, 2)
        for u, v in uv_px[~self.in_frame(uv_px)]:
            width, height = self.frame.intrinsics.size_px
            raise BadQuestion(
                f"pixel ({u:g}, {v:g}) is outside the {width} x {height} image: u 0..{width - 1}, v 0..{height - 1}."
            )
        return uv_px

    def seen(self, uv_px: np.ndarray | Sequence) -> np.ndarray:
        """float64 (N, 2). Raises BadQuestion for a pixel outside the frame, or that the model does not see."""
        uv_px = self.checked(uv_px)
        for u, v in uv_px[~self.sees(uv_px)]:
            raise BadQuestion(
                f"the model does not see pixel ({u:g}, {v:g}): it is outside its field of view, ask inside."
            )
        return uv_px

    def in_frame(self, uv_px: np.ndarray) -> np.ndarray:
        """bool (N,)."""
        return in_frame(uv_px, self.frame.intrinsics.size_px)

    def sees(self, uv_px: np.ndarray) -> np.ndarray:
        """bool (N,): pixels of the frame that lie on the canvas and show something."""
        on_canvas = self.canonical.contains(uv_px)
        if self.frame.seen is None:
            return on_canvas
        u, v = np.rint(uv_px).astype(int).T
        return on_canvas & self.frame.seen[v, u]

    def uv_to_canvas(self, uv_px: np.ndarray) -> np.ndarray:
        return self.canonical.uv_to_canvas(uv_px)

    def region_to_canvas(self, region: Region) -> Region:
        """Raises BadQuestion for a region that is empty, leaves the image, or has its middle where nothing is seen."""
        if not self._region_is_seen(region):
            width, height = self.frame.intrinsics.size_px
            raise BadQuestion(
                f"region {region.width_px:g} x {region.height_px:g} at ({region.x_px:g}, {region.y_px:g}) is empty, "
                f"leaves the {width} x {height} image, or has its middle where the model does not see."
            )
        return corners_to_region(self.canonical.uv_to_canvas(corners(region) - 0.5) + 0.5, region.label)

    def region_to_image(self, region: Region) -> Region:
        """A region of the canvas, clipped to the image."""
        uv = self.canonical.uv_to_image(corners(region) - 0.5) + 0.5
        return corners_to_region(np.clip(uv, 0, self.frame.intrinsics.size_px), region.label)

    def _region_is_seen(self, region: Region) -> bool:
        low, high = corners(region)
        inside = bool((low >= 0).all() and (high <= self.frame.intrinsics.size_px).all() and (high > low).all())
        return inside and bool(self.sees(centres([region]))[0])


def in_frame(uv_px: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """bool (N,): pixels (N, 2) of an image of this size (width, height)."""
    u, v = uv_px[:, 0], uv_px[:, 1]
    return (u >= -0.5) & (u < size_px[0] - 0.5) & (v >= -0.5) & (v < size_px[1] - 0.5)


def corners(region: Region) -> np.ndarray:
    """(2, 2): top-left and bottom-right."""
    x, y = region.x_px, region.y_px
    return np.array([[x, y], [x + region.width_px, y + region.height_px]])


def corners_to_region(uv: np.ndarray, label: str = "") -> Region:
    """Inverse of corners."""
    (x0, y0), (x1, y1) = uv
    return Region(float(x0), float(y0), float(x1 - x0), float(y1 - y0), label)


def centres(regions: Sequence[Region]) -> np.ndarray:
    """(N, 2) centre pixels."""
    return np.array([corners(region).mean(0) - 0.5 for region in regions]).reshape(-1, 2)
