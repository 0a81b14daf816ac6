"""Focal normalisation: any camera's image seen as if by the one camera the model was trained with.

An exported model looks at a canvas of fixed size whose camera has focal length f on both axes and its
principal point in the middle. An image is stretched by f / fx and f / fy onto that canvas. A published
checkpoint looks at the whole image, resized by the rules of its released code (`fitted_view`).

Depth needs no correction for this. A pinhole camera puts a point at u = fx x / z + cx; stretching
the image by s gives u' = (s fx) x / z + cx', the image that a camera of focal length s fx takes of
the same, unmoved scene. So z at corresponding pixels is the same number of metres, and only the
sampling differs (Yin et al., Metric3D, ICCV 2023: canonical camera transformation, method CSTM_image).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from depthlm_ros.camera import UNSEEN_GREY
from depthlm_ros.canonical_axis import Axis, interpolate_rows, place_axis, share_shown
from depthlm_ros.canvas_size import fitted_sizes
from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadImage
from depthlm_ros.spec import CanvasRule

# Smallest depth whose inverse is a float32.
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class CanonicalView:
    """How one camera's image lies on the model's canvas. Build it with `canonical_view` or `fitted_view`.

    x, y: the two axes. Maps are computed on first use and kept; every method is pure and may be
    called from any thread. Sizes and coordinates of the canvas are in canvas pixels.
    """

    x: Axis
    y: Axis

    @property
    def canvas_size_px(self) -> tuple[int, int]:
        """(width, height) of the canvas."""
        return self.x.canvas_px, self.y.canvas_px

    @property
    def visible(self) -> tuple[int, int, int, int]:
        """(x, y, width, height) of the canvas pixels that show the image, be it in part."""
        (x0, x1), (y0, y1) = self.x.visible, self.y.visible
        return x0, y0, x1 - x0, y1 - y0

    @property
    def coverage(self) -> float:
        """Share of the image's pixels that lie on the canvas, 0 to 1."""
        return self.x.share_inside * self.y.share_inside

    def uv_to_canvas(self, uv_px: np.ndarray) -> np.ndarray:
        """float64 (N, 2) canvas coordinates of image pixels (N, 2); those outside the canvas are kept."""
        uv = np.asarray(uv_px, np.float64).reshape(-1, 2)
        return np.stack([self.x.to_canvas(uv[:, 0]), self.y.to_canvas(uv[:, 1])], axis=1)

    def uv_to_image(self, uv_canvas: np.ndarray) -> np.ndarray:
        """float64 (N, 2) image pixels of canvas coordinates (N, 2); the exact inverse of uv_to_canvas."""
        uv = np.asarray(uv_canvas, np.float64).reshape(-1, 2)
        return np.stack([self.x.to_image(uv[:, 0]), self.y.to_image(uv[:, 1])], axis=1)

    def contains(self, uv_px: np.ndarray) -> np.ndarray:
        """bool (N,): the image pixel (N, 2) lies in the image and on the canvas; False for NaN."""
        uv = np.asarray(uv_px, np.float64).reshape(-1, 2)
        return self.x.contains(uv[:, 0]) & self.y.contains(uv[:, 1])

    def image_to_canvas(self, rgb: np.ndarray) -> np.ndarray:
        """uint8 (h, w, 3) canvas of an image uint8 (H, W, 3); grey where the image does not reach.

        Shrinking averages whole blocks of pixels first, so that fine texture does not alias.
        """
        if rgb.shape[:2] != (self.y.image_px, self.x.image_px):
            raise BadImage(
                f"image is {rgb.shape[1]} x {rgb.shape[0]} but this view is of "
                f"{self.x.image_px} x {self.y.image_px}: build a canonical view for this camera."
            )
        return cv2.remap(
            _block_means(rgb, self.x.block, self.y.block),
            *self._block_maps,
            interpolation=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(UNSEEN_GREY,) * 4,
        )

    @cached_property
    def _block_maps(self) -> tuple[np.ndarray, np.ndarray]:
        map_x, map_y = np.meshgrid(self.x.block_of_canvas, self.y.block_of_canvas)
        return cv2.convertMaps(map_x, map_y, cv2.CV_16SC2)

    def depth_to_image(self, depth_canvas_m: np.ndarray) -> np.ndarray:
        """float32 (H, W) depth of the image from depth on the canvas, float32 (h, w), metres.

        Interpolates 1 / z bilinearly: on a plane 1 / z is affine in the pixel coordinates, so planes
        come back as planes. NaN where the canvas does not show the image, and wherever one of the
        interpolated values is not a positive number; +inf where the nearest one is +inf.
        """
        if depth_canvas_m.shape != (self.y.canvas_px, self.x.canvas_px):
            raise BadImage(
                f"depth has shape {depth_canvas_m.shape} but the canvas is {self.y.canvas_px} rows of "
                f"{self.x.canvas_px}: pass the map the model made of this canvas."
            )
        seen_m = depth_canvas_m[slice(*self.y.visible), slice(*self.x.visible)]
        inverse = np.full(seen_m.shape, np.nan, np.float32)
        np.divide(1.0, seen_m, out=inverse, where=np.isfinite(seen_m) & (seen_m >= _TINY))
        across = interpolate_rows(np.ascontiguousarray(inverse.T), self.x)
        depth_m = interpolate_rows(np.ascontiguousarray(across.T), self.y)
        np.reciprocal(depth_m, out=depth_m)
        endless = np.isposinf(seen_m)
        if endless.any():
            nearest = endless[self.y.nearest_visible][:, self.x.nearest_visible]
            depth_m[nearest & self.y.inside[:, None] & self.x.inside] = np.inf
        return depth_m


def canonical_view(intrinsics: Intrinsics, focal_px: float, canvases: Sequence[tuple[int, int]]) -> CanonicalView:
    """The view of this camera on the canvas (width, height) that shows most of it; the smallest of several such.

    The principal point lies in the middle of the canvas, moved by as little as is needed for the image
    to lie inside the canvas or, where the image is larger, to fill it.
    """
    scale_x, scale_y = focal_px / intrinsics.fx_px, focal_px / intrinsics.fy_px

    def rank(canvas: tuple[int, int]) -> tuple[float, int]:
        share_x = share_shown(intrinsics.width_px * scale_x, canvas[0])
        share_y = share_shown(intrinsics.height_px * scale_y, canvas[1])
        return -share_x * share_y, canvas[0] * canvas[1]

    width, height = min(canvases, key=rank)
    x = place_axis(intrinsics.width_px, width, scale_x, intrinsics.cx_px)
    y = place_axis(intrinsics.height_px, height, scale_y, intrinsics.cy_px)
    return CanonicalView(x, y)


def fitted_view(intrinsics: Intrinsics, rule: CanvasRule) -> CanonicalView:
    """The view of a published checkpoint: the whole image, resized to the size that its released code gives it.

    The released code resamples twice (bicubic in DepthLM, bilinear in DepthVLM, then bicubic in the checkpoint's
    processor); here it is once, bilinear on means of whole blocks, so that pixels lie where they lie there but are
    not bit-equal. rule.canvases_px must be empty. Raises BadIntrinsics for a camera whose image would be no picture.
    """
    whole, seen = fitted_sizes(intrinsics, rule)
    x, y = (
        Axis(image_px, canvas_px, whole_px / image_px, 0.0)
        for image_px, canvas_px, whole_px in zip(intrinsics.size_px, seen, whole, strict=True)
    )
    return CanonicalView(x, y)


def _block_means(rgb: np.ndarray, block_x: int, block_y: int) -> np.ndarray:
    """Means of whole blocks; the last block of a row or column is filled up by repeating the border."""
    height, width = rgb.shape[:2]
    if block_x == block_y == 1:
        return rgb
    missing_x, missing_y = -width % block_x, -height % block_y
    if missing_x or missing_y:
        rgb = cv2.copyMakeBorder(rgb, 0, missing_y, 0, missing_x, cv2.BORDER_REPLICATE)
    size = (rgb.shape[1] // block_x, rgb.shape[0] // block_y)
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
