# SPDX-License-Identifier: Apache-2.0
"""Focal normalisation: any camera's image seen as if by the one camera that the model was trained with.

An exported model looks at a canvas of fixed size whose camera has focal length f on both axes and its principal point
in the middle. An image is stretched by f / fx and f / fy onto that canvas (`canonical_view`). A published checkpoint
looks at the whole image, resized by the rules of its released code (`fitted_view`). Both give a CanonicalView, which
maps images, depth and pixels between image and canvas. A published checkpoint has its own image processor; the image
before it is the picture (CanonicalView.picture). A CanvasPlacement is one frame with its view: it says which pixels and
regions of the frame the model can be asked about, and where they are. `checked_canonical_view` refuses cameras that no
model, or not this engine, can serve.

Depth needs no correction for this. A pinhole camera puts a point at u = fx x / z + cx; stretching the image by s gives
u' = (s fx) x / z + cx', the image that a camera of focal length s fx takes of the same, unmoved scene. So z at
corresponding pixels is the same number of metres, and only the sampling differs (Yin et al., Metric3D, ICCV 2023:
canonical camera transformation, method CSTM_image).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np

from depthlm_ros.core import Frame, Intrinsics, Region
from depthlm_ros.errors import BadImage, BadIntrinsics, BadQuestion
from depthlm_ros.geometry.camera_model import UNSEEN_GREY
from depthlm_ros.geometry.pinhole import ROWS_AT_ONCE, check_pixels_inside, nearest_pixel, pixels_inside
from depthlm_ros.geometry.resize_rules import (
    SLACK_PX,
    Axis,
    CanvasRule,
    fitted_sizes,
    picture_size,
    process_picture,
    resize_whole,
    scaled_pixels,
)

# The images in which a model is asked about pixels (CanvasPlacement.uv_in).
CANVAS, PICTURE = "canvas", "picture"
# An image with fewer canvas pixels than this on one axis shows nothing.
MIN_CANVAS_PX = 4
# A principal point that is farther from the middle than this many image sizes belongs to another image. (That of a
# cropped sensor is much nearer.)
MAX_PRINCIPAL_POINT_OFFSET = 3.0
# The smallest share of an image that an engine must see of a camera that it was not built for. (A model that is not an
# engine sees as much as its canvas holds; the rest is unknown.)
MIN_ENGINE_COVERAGE = 0.9
# An engine that holds its camera serves cameras whose focal length differs by at most this share.
MAX_FOCAL_DIFFERENCE = 0.02
# By which factor the inverse depth may change in one canvas pixel beyond the outermost one, where it is extrapolated.
_MAX_EDGE_RATIO = 1.25
# Smallest depth whose inverse is a float32.
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class CanonicalView:
    """How one camera's image lies on the model's canvas. Build it with `canonical_view` or `fitted_view`.

    x, y: the two axes. Maps are computed on first use and kept; every method is pure and may be called from any thread.
    Sizes and coordinates of the canvas are in canvas pixels. depth_factor: what the model's metres are multiplied by
    for this camera (CanvasRule.depth_factor). resampling: as in CanvasRule, or a filter (resize_rules.resize). picture:
    how the image lies in the picture, if the model has an image processor of its own, that of `rule`.
    """

    x: Axis
    y: Axis
    depth_factor: float = 1.0
    resampling: str = ""
    picture: CanonicalView | None = None
    rule: CanvasRule | None = None

    def canvas_camera(self, camera: Intrinsics) -> Intrinsics:
        """Returns the camera that would take the canvas itself as its image."""
        u_px, v_px = self.uv_to_canvas(np.array([[camera.cx_px, camera.cy_px]]))[0]
        return Intrinsics(
            camera.fx_px * self.x.scale, camera.fy_px * self.y.scale, float(u_px), float(v_px), *self.canvas_size_px
        )

    @cached_property
    def canvas_size_px(self) -> tuple[int, int]:
        """(width, height) of the canvas."""
        return self.x.canvas_px, self.y.canvas_px

    @property
    def visible(self) -> tuple[int, int, int, int]:
        """(x, y, width, height) of the canvas pixels that show the image, at least in part."""
        (x0, x1), (y0, y1) = self.x.visible, self.y.visible
        return x0, y0, x1 - x0, y1 - y0

    @property
    def coverage(self) -> float:
        """Share of the image's pixels that lie on the canvas, 0 to 1."""
        return float(self.x.inside.mean()) * float(self.y.inside.mean())

    def uv_to_canvas(self, uv_px: np.ndarray) -> np.ndarray:
        """Returns float64 (N, 2): canvas coordinates of image pixels (N, 2), also of those outside the canvas."""
        uv = np.asarray(uv_px, np.float64).reshape(-1, 2)
        return np.stack([self.x.to_canvas(uv[:, 0]), self.y.to_canvas(uv[:, 1])], axis=1)

    def uv_to_image(self, uv_canvas: np.ndarray) -> np.ndarray:
        """Returns float64 (N, 2): image pixels of canvas coordinates (N, 2); the exact inverse of uv_to_canvas."""
        uv = np.asarray(uv_canvas, np.float64).reshape(-1, 2)
        return np.stack([self.x.to_image(uv[:, 0]), self.y.to_image(uv[:, 1])], axis=1)

    def contains(self, uv_px: np.ndarray) -> np.ndarray:
        """Returns bool (N,): whether each image pixel (N, 2) lies in the image and on the canvas; False for NaN."""
        u, v = self.uv_to_canvas(uv_px).T
        in_image = pixels_inside(uv_px, (self.x.image_px, self.y.image_px))
        return in_image & self.x.is_on_canvas(u) & self.y.is_on_canvas(v)

    def image_to_canvas(self, rgb: np.ndarray) -> np.ndarray:
        """Returns the canvas, uint8 (h, w, 3), of an image uint8 (H, W, 3); grey where the image does not reach.

        Without an image processor and resampling, shrinking averages whole blocks of pixels first, so that fine texture
        does not alias. Raises BadImage for an image of another size.
        """
        if rgb.shape[:2] != (self.y.image_px, self.x.image_px):
            raise BadImage(
                f"image is {rgb.shape[1]} x {rgb.shape[0]} but this view is of "
                f"{self.x.image_px} x {self.y.image_px}: build a canonical view for this camera."
            )
        if self.picture is not None and self.rule is not None:
            return process_picture(rgb, self.rule, self.picture.canvas_size_px)
        if self.resampling:
            whole = round(self.x.image_px * self.x.scale), round(self.y.image_px * self.y.scale)
            return resize_whole(rgb, whole, self.canvas_size_px, self.resampling)
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

    def nearest_to_canvas(self, values: np.ndarray) -> np.ndarray:
        """Returns (h, w): for each pixel of the canvas, the value (H, W) of the image's nearest pixel, NaN outside."""
        (height, width), (w, h) = values.shape, self.canvas_size_px
        u, v = (np.rint(axis.to_image(np.arange(count))).astype(int) for axis, count in ((self.x, w), (self.y, h)))
        inside = ((v >= 0) & (v < height))[:, None] & ((u >= 0) & (u < width))[None]
        return np.where(inside, values[np.clip(v, 0, height - 1)[:, None], np.clip(u, 0, width - 1)[None]], np.nan)

    def depth_to_image(self, depth_canvas_m: np.ndarray) -> np.ndarray:
        """Returns float32 (H, W): depth of the image from depth on the canvas, float32 (h, w), metres.

        Interpolates 1 / z bilinearly: on a plane 1 / z is affine in the pixel coordinates, so planes come back as
        planes. NaN where the canvas does not show the image, and wherever one of the interpolated values is not a
        positive number; +inf where the nearest one is +inf. Raises BadImage for a map of another size.
        """
        if depth_canvas_m.shape != (self.y.canvas_px, self.x.canvas_px):
            raise BadImage(
                f"depth has shape {depth_canvas_m.shape} but the canvas is {self.y.canvas_px} rows of "
                f"{self.x.canvas_px}: pass the map the model made of this canvas."
            )
        visible_m = depth_canvas_m[slice(*self.y.visible), slice(*self.x.visible)]
        if visible_m.min() >= _TINY and visible_m.max() < np.inf:  # False for NaN; usually true, and fast
            inverse, endless = np.reciprocal(visible_m), None
        else:
            inverse, endless = np.full(visible_m.shape, np.nan, np.float32), np.isposinf(visible_m)
            np.divide(1.0, visible_m, out=inverse, where=np.isfinite(visible_m) & (visible_m >= _TINY))
        across = _interpolate_rows(cv2.transpose(inverse), self.x)
        depth_m = _interpolate_rows(cv2.transpose(across), self.y)
        np.reciprocal(depth_m, out=depth_m)
        if endless is not None and endless.any():
            nearest = endless[self.y.nearest_visible][:, self.x.nearest_visible]
            depth_m[nearest & self.y.inside[:, None] & self.x.inside] = np.inf
        return depth_m


def fill_unknown(depth_m: np.ndarray, other_m: np.ndarray) -> np.ndarray:
    """Returns a depth map float32 (h, w) whose unknown pixels have those of another map, at the scale of the first."""
    known = np.isfinite(depth_m) & (depth_m > 0)
    ratio = float(np.median(depth_m[known] / other_m[known])) if known.any() else 1.0
    return np.where(known, depth_m, ratio * other_m).astype(np.float32)


def canonical_view(intrinsics: Intrinsics, focal_px: float, canvases: Sequence[tuple[int, int]]) -> CanonicalView:
    """Returns the view of this camera on the canvas (width, height) that shows most of it; the smallest of several.

    The principal point lies in the middle of the canvas, moved by as little as is needed for the image to lie inside
    the canvas or, where the image is larger, to fill it.
    """
    scale_x, scale_y = focal_px / intrinsics.fx_px, focal_px / intrinsics.fy_px

    def rank(canvas: tuple[int, int]) -> tuple[float, int]:
        share_x = _share_shown(intrinsics.width_px * scale_x, canvas[0])
        share_y = _share_shown(intrinsics.height_px * scale_y, canvas[1])
        return -share_x * share_y, canvas[0] * canvas[1]

    width, height = min(canvases, key=rank)
    x = _place_axis(intrinsics.width_px, width, scale_x, intrinsics.cx_px)
    y = _place_axis(intrinsics.height_px, height, scale_y, intrinsics.cy_px)
    return CanonicalView(x, y)


def _share_shown(length_px: float, canvas_px: int) -> float:
    """Returns the share of an image of this length, in canvas pixels, that a canvas can show."""
    return 1.0 if length_px <= canvas_px + 2 * SLACK_PX else canvas_px / length_px


def _place_axis(image_px: int, canvas_px: int, scale: float, principal_px: float) -> Axis:
    """Returns the axis with the principal point as near to the middle of the canvas as `canonical_view` says."""
    centred = canvas_px / 2 - (principal_px + 0.5) * scale
    room = canvas_px - image_px * scale
    if room >= -2 * SLACK_PX:
        offset = np.clip(centred, min(0.0, room / 2), max(room, room / 2))
    else:
        offset = np.clip(centred, room, 0.0)
    return Axis(image_px, canvas_px, scale, float(offset))


def fitted_view(intrinsics: Intrinsics, rule: CanvasRule) -> CanonicalView:
    """Returns the view of a published checkpoint: the whole image, resized to the size that its released code gives it.

    rule.canvases_px must be empty. Raises BadIntrinsics for a camera whose image would be too small, too large or too
    long (see `resize_rules.fitted_sizes`).
    """
    whole, seen = fitted_sizes(intrinsics, rule)
    x, y = (
        Axis(image_px, canvas_px, whole_px / image_px, (canvas_px - whole_px) // 2 if rule.letterbox else 0.0)
        for image_px, canvas_px, whole_px in zip(intrinsics.size_px, seen, whole, strict=True)
    )
    if not rule.processor_filter:
        return CanonicalView(x, y, resampling=rule.resampling)
    axes = zip(intrinsics.size_px, picture_size(intrinsics, rule), strict=True)
    picture_x, picture_y = (Axis(image_px, picture_px, picture_px / image_px, 0.0) for image_px, picture_px in axes)
    picture = CanonicalView(picture_x, picture_y, resampling=rule.canonical_filter)
    return CanonicalView(x, y, picture=picture, rule=rule)


def checked_canonical_view(intrinsics: Intrinsics, rule: CanvasRule) -> CanonicalView:
    """Returns how a camera's image lies on the model's canvas.

    Raises BadIntrinsics for a camera whose numbers are finite but impossible, and for one that an engine was not built
    for and cannot serve.
    """
    width, height = intrinsics.size_px
    focal_px = rule.focal_px or intrinsics.fx_px
    if min(width * focal_px / intrinsics.fx_px, height * focal_px / intrinsics.fy_px) < MIN_CANVAS_PX:
        raise BadIntrinsics(
            f"focal length fx = {intrinsics.fx_px:g}, fy = {intrinsics.fy_px:g} for an image of {width} x {height}: "
            f"this view is so narrow that the model would see fewer than {MIN_CANVAS_PX} pixels; check the calibration."
        )
    off_x = abs(intrinsics.cx_px - (width - 1) / 2) / width
    off_y = abs(intrinsics.cy_px - (height - 1) / 2) / height
    if max(off_x, off_y) > MAX_PRINCIPAL_POINT_OFFSET:
        raise BadIntrinsics(
            f"principal point ({intrinsics.cx_px:g}, {intrinsics.cy_px:g}) is far outside the {width} x {height} "
            "image: is the calibration of another resolution?"
        )
    if rule.canvases_px:
        view = canonical_view(intrinsics, focal_px, rule.canvases_px)
        if rule.built_by and view.coverage < MIN_ENGINE_COVERAGE:
            needed = f"{width * focal_px / intrinsics.fx_px:.0f} x {height * focal_px / intrinsics.fy_px:.0f}"
            raise _wrong_camera(intrinsics, rule, needed)
        return view
    view = fitted_view(intrinsics, rule)
    canvas_px, canvas_focal_px = view.canvas_size_px, intrinsics.fx_px * view.x.scale
    if rule.built_px and canvas_px not in rule.built_px:
        raise _wrong_camera(intrinsics, rule, f"{canvas_px[0]} x {canvas_px[1]}")
    built_px = rule.built_focal_px
    if built_px is not None and not math.isclose(canvas_focal_px, built_px, rel_tol=MAX_FOCAL_DIFFERENCE):
        raise BadIntrinsics(
            f"the model sees this camera with a focal length of {canvas_focal_px:g} pixels, but this engine holds the "
            f"camera that it was built for, with {built_px:g}: build one for this camera: "
            f"{engine_build_command(intrinsics, rule)}"
        )
    return replace(view, depth_factor=rule.depth_factor(canvas_focal_px, canvas_px[0]))


def _wrong_camera(intrinsics: Intrinsics, rule: CanvasRule, needed: str) -> BadIntrinsics:
    """Returns the error for a camera that an engine cannot serve. needed: the canvas size that its image would need."""
    built = ", ".join(f"{w} x {h}" for w, h in rule.canvases_px or rule.built_px)
    return BadIntrinsics(
        f"a camera of {intrinsics.width_px} x {intrinsics.height_px} with fx = {intrinsics.fx_px:g} would be seen as "
        f"{needed} pixels, but this engine was built for a camera that is seen as {built}: build one for this camera: "
        f"{engine_build_command(intrinsics, rule)}"
    )


def engine_build_command(intrinsics: Intrinsics, rule: CanvasRule) -> str:
    """Returns the command that builds an engine of the same model for a camera."""
    if not math.isclose(intrinsics.fx_px, intrinsics.fy_px, rel_tol=0.01):
        return f"{rule.built_by} --camera CALIBRATION.yaml"
    size = f"{intrinsics.width_px}x{intrinsics.height_px}"
    return f"{rule.built_by} --size {size} --focal {intrinsics.fx_px:g}"


def _block_means(rgb: np.ndarray, block_x: int, block_y: int) -> np.ndarray:
    """Returns means of whole blocks; the last block of a row or column is filled up by repeating the border."""
    height, width = rgb.shape[:2]
    if block_x == block_y == 1:
        return rgb
    missing_x, missing_y = -width % block_x, -height % block_y
    if missing_x or missing_y:
        rgb = cv2.copyMakeBorder(rgb, 0, missing_y, 0, missing_x, cv2.BORDER_REPLICATE)
    size = (rgb.shape[1] // block_x, rgb.shape[0] // block_y)
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)


def _interpolate_rows(inverse: np.ndarray, axis: Axis) -> np.ndarray:
    """Returns float32 (axis.image_px, M) from the visible canvas rows, float32 (n, M), linear along the first axis."""
    rows = _with_margin(inverse)
    steps = np.diff(rows, axis=0)
    first, weight = axis.taps
    out = np.empty((axis.image_px, rows.shape[1]), np.float32)
    scratch = np.empty((ROWS_AT_ONCE, rows.shape[1]), np.float32)
    for top in range(0, axis.image_px, ROWS_AT_ONCE):
        part = slice(top, top + ROWS_AT_ONCE)
        added, block = scratch[: len(first[part])], out[part]
        # "clip" lets `take` write without a copy in between; every index is inside.
        steps.take(first[part], axis=0, out=added, mode="clip")
        rows.take(first[part], axis=0, out=block, mode="clip")
        np.multiply(added, weight[part, None], out=added)
        np.add(block, added, out=block)
    return out


def _with_margin(rows: np.ndarray) -> np.ndarray:
    """Adds one row at either end, which continues the slope there but not by more than a quarter of the value."""
    inner = rows[min(1, len(rows) - 1)], rows[max(-2, -len(rows))]
    before = np.clip(2 * rows[0] - inner[0], rows[0] / _MAX_EDGE_RATIO, rows[0] * _MAX_EDGE_RATIO)
    after = np.clip(2 * rows[-1] - inner[1], rows[-1] / _MAX_EDGE_RATIO, rows[-1] * _MAX_EDGE_RATIO)
    return np.concatenate([before[None], rows, after[None]])


@dataclass(frozen=True)
class CanvasPlacement:
    """A frame on the model's canvas.

    Pixel coordinates (N, 2) are those of pixel centres, the sides of regions are edges of pixels: half a pixel lies
    between the two.
    """

    frame: Frame
    canonical: CanonicalView

    @cached_property
    def canvas(self) -> np.ndarray:
        """uint8 (h, w, 3), what the model sees."""
        return self.canonical.image_to_canvas(self.frame.rgb)

    @cached_property
    def canvas_size_px(self) -> tuple[int, int]:
        """(width, height) of the canvas."""
        return self.canonical.canvas_size_px

    @cached_property
    def picture(self) -> np.ndarray:
        """uint8 (h, w, 3), the image that the checkpoint's processor gets, or the canvas without a processor."""
        return self.canvas if self.canonical.picture is None else self.canonical.picture.image_to_canvas(self.frame.rgb)

    def size_in(self, image: str) -> tuple[int, int]:
        """Returns (width, height) of the CANVAS or the PICTURE."""
        return self._view(image).canvas_size_px

    def uv_in(self, image: str, uv_px: np.ndarray) -> np.ndarray:
        """Returns float64 (N, 2): where the model is asked about pixels (N, 2) of the frame.

        image: CANVAS, or PICTURE, where the rule of the canvas decides (CanvasRule.pixel_rule).
        """
        rule = self.canonical.rule
        if image == CANVAS or rule is None or rule.pixel_rule == "centre":
            return self._view(image).uv_to_canvas(uv_px)
        scaled = scaled_pixels(uv_px, self.frame.intrinsics, rule)
        return np.trunc(scaled) if rule.pixel_rule == "truncate" else scaled

    def uv_from(self, image: str, uv_px: np.ndarray) -> np.ndarray:
        """Returns float64 (N, 2): pixels of the frame; the inverse of uv_in, except for fractions that it cuts off."""
        rule = self.canonical.rule
        if image == CANVAS or rule is None or rule.pixel_rule == "centre":
            return self._view(image).uv_to_image(uv_px)
        return np.asarray(uv_px, np.float64) / scaled_pixels(np.ones((1, 2)), self.frame.intrinsics, rule)

    def _view(self, image: str) -> CanonicalView:
        return (self.canonical.picture if image == PICTURE else None) or self.canonical

    def check_visible(self, uv_px: np.ndarray | Sequence) -> np.ndarray:
        """Returns float64 (N, 2). Raises BadQuestion for a pixel outside the frame, or that the model does not see."""
        uv_px = check_pixels_inside(uv_px, self.frame.intrinsics.size_px)
        for u, v in uv_px[~self.is_visible(uv_px)]:
            raise BadQuestion(
                f"the model does not see pixel ({u:g}, {v:g}): it is masked, or outside its field of view."
            )
        return uv_px

    def is_visible(self, uv_px: np.ndarray) -> np.ndarray:
        """Returns bool (N,): whether each pixel (N, 2) is in the frame, on the canvas, and was seen by the camera."""
        visible = self.canonical.contains(uv_px)
        if self.frame.seen is not None:
            u, v = nearest_pixel(uv_px[visible]).T
            visible[visible] = self.frame.seen[v, u]
        return visible

    def region_to_canvas(self, region: Region) -> Region:
        """Returns the region on the canvas.

        Raises BadQuestion for a region that is empty, leaves the image, or whose middle the model does not see.
        """
        low, high = corners = region_corners_px(region)
        size_px = self.frame.intrinsics.size_px
        is_inside = (low >= 0).all() and (high <= size_px).all() and (high > low).all()
        if not (is_inside and self.is_visible(region_centres_px([region]))[0]):
            raise BadQuestion(
                f"region {region.width_px:g} x {region.height_px:g} at ({region.x_px:g}, {region.y_px:g}) is empty, "
                f"leaves the {size_px[0]} x {size_px[1]} image, or has its middle where the model does not see."
            )
        return _region_between(self.canonical.uv_to_canvas(corners - 0.5) + 0.5, region.label)

    def region_to_image(self, region: Region) -> Region:
        """Returns the region of the image for a region of the canvas, clipped to the image."""
        corners = self.canonical.uv_to_image(region_corners_px(region) - 0.5) + 0.5
        return _region_between(np.clip(corners, 0, self.frame.intrinsics.size_px), region.label)


def region_corners_px(region: Region) -> np.ndarray:
    """Returns float64 (2, 2): top-left and bottom-right corner, edges of pixels."""
    x, y = region.x_px, region.y_px
    return np.array([[x, y], [x + region.width_px, y + region.height_px]], np.float64)


def region_centres_px(regions: Sequence[Region]) -> np.ndarray:
    """Returns float64 (N, 2): the pixel coordinates of the middle of each region."""
    return np.array([region_corners_px(region).mean(0) - 0.5 for region in regions]).reshape(-1, 2)


def _region_between(corners_px: np.ndarray, label: str) -> Region:
    """Returns the region with these corners; the inverse of region_corners_px."""
    (x0, y0), (x1, y1) = corners_px
    return Region(float(x0), float(y0), float(x1 - x0), float(y1 - y0), label)
