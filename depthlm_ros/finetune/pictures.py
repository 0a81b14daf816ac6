"""Images of records as the model sees them in training: canonical focal length, DepthLM's crops and aspect noise, then
the checkpoint's own processor's size.

Without crop or noise it is what `look` shows the model at run time, pixel for pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.finetune.settings import Span
from depthlm_ros.geometry.canonical_view import Axis, CanonicalView, fitted_view
from depthlm_ros.geometry.resize_rules import canonical_size, fitted_sizes, limited_size
from depthlm_ros.model_files.spec import CanvasRule

Size = tuple[int, int]


@dataclass(frozen=True)
class Cut:
    """A picture that is made of a record's image before the checkpoint's processor sees it: the image is resized to
    whole_px (width, height), of which size_px about the middle are kept."""

    whole_px: Size
    size_px: Size

    @property
    def left_top_px(self) -> Size:
        left, top = ((whole - kept) // 2 for whole, kept in zip(self.whole_px, self.size_px, strict=True))
        return left, top

    def view(self, size_px: Size) -> CanonicalView:
        """How an image of this size lies in the picture."""
        x, y = (
            Axis(image, kept, whole / image, float(-start))
            for image, kept, whole, start in zip(size_px, self.size_px, self.whole_px, self.left_top_px, strict=True)
        )
        return CanonicalView(x, y)


def plain_cut(intrinsics: Intrinsics, rule: CanvasRule) -> Cut:
    """The whole image at the canonical focal length."""
    size = limited_size(canonical_size(intrinsics, rule), rule.longest_px)
    return Cut(size, size)


def centre_cut(cut: Cut, most_px: int | None) -> Cut:
    """At most most_px of each axis (DepthVLM, for two data sets)."""
    if most_px is None:
        return cut
    width, height = (min(side, most_px) for side in cut.size_px)
    return replace(cut, size_px=(width, height))


def random_cut(cut: Cut, rng: np.random.Generator, height_px: Span, width_px: Span) -> Cut:
    """DepthLM's crop: both extents drawn, bounded by the image's own, about its centre."""
    high, wide = (int(rng.integers(int(low), int(most) + 1)) for low, most in (height_px, width_px))
    return replace(cut, size_px=(min(cut.size_px[0], wide), min(cut.size_px[1], high)))


def stretched_cut(cut: Cut, rng: np.random.Generator, ratio: Span) -> Cut:
    """DepthLM's noise of intrinsics for Taskonomy: width / height is drawn, the height follows, nothing is cut off."""
    width = cut.size_px[0]
    size = (width, max(1, int(width / rng.uniform(*ratio))))
    return Cut(size, size)


def processed(picture: np.ndarray, rule: CanvasRule) -> np.ndarray:
    """uint8 (h, w, 3): the picture as the checkpoint's own processor resizes it."""
    return _own_size(picture.shape[1], picture.shape[0], rule).image_to_canvas(picture)


def seen_size(size_px: Size, rule: CanvasRule) -> Size:
    """(width, height) of the part of a picture that the model sees: Pixtral does not see what fills no patch."""
    return fitted_sizes(_no_camera(*size_px), _processor_only(rule))[1] if rule.multiple_by == "crop" else size_px


def label_on(cut: Cut, depth_m: np.ndarray) -> np.ndarray:
    """float32 (h, w): a depth map (H, W) of the record's image, at any resolution, as it lies on the cut: nearest
    neighbours, since depths must not be mixed over edges."""
    whole = cv2.resize(depth_m, cut.whole_px, interpolation=cv2.INTER_NEAREST_EXACT)
    (left, top), (width, height) = cut.left_top_px, cut.size_px
    return np.ascontiguousarray(whole[top : top + height, left : left + width])


def _own_size(width: int, height: int, rule: CanvasRule) -> CanonicalView:
    return fitted_view(_no_camera(width, height), _processor_only(rule))


def _processor_only(rule: CanvasRule) -> CanvasRule:
    return replace(rule, focal_px=None, longest_px=None)


def _no_camera(width: int, height: int) -> Intrinsics:
    return Intrinsics(1.0, 1.0, 0.0, 0.0, width, height)
