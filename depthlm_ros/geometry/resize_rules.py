# SPDX-License-Identifier: Apache-2.0
"""How a published system resizes images: focal normalisation, then the checkpoint's own image processor.

A CanvasRule says how a system does it. These are facts of the released code. Two images matter: the picture has the
canonical focal length, and markers are drawn on it; the canvas is what the network sees. `fitted_sizes` computes the
sizes, an Axis says where pixels land, `scaled_pixels` where the released code puts them, `process_picture` makes the
canvas of a picture. `resize` is the one place where whole images are resampled. All sizes are (width, height).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadIntrinsics
from depthlm_ros.geometry.antialiased_resize import filter_image
from depthlm_ros.geometry.camera_model import NOWHERE_PX, UNSEEN_GREY

# The largest area that the processor of any published checkpoint accepts (Qwen3-VL: 4096 x 4096).
MOST_CANVAS_PIXELS = 4096 * 4096
# The largest area of a picture, which a processor shrinks: 192 MiB. (A focal length in a wrong unit asks for more.)
MOST_PICTURE_PIXELS = 4 * MOST_CANVAS_PIXELS
# Qwen's processors refuse images whose longer side is more than this many times the shorter one.
MOST_ASPECT = 200
# Limits of qwen_vl_utils on the area, in multiples of the square of its 28 pixels.
_SNAP_LEAST, _SNAP_MOST = 4, 16384
# An image that overflows the canvas by at most this still counts as inside: calibrations are rounded.
SLACK_PX = 0.01

Size = tuple[int, int]

# Values of the fields of a CanvasRule.
SCALE_BY = ("fx", "each")
ROUNDINGS = ("trunc", "round")
MULTIPLES_BY = ("nearest", "up", "crop")
PIXEL_RULES = ("centre", "scale", "truncate")
# OpenCV's own ways to resize: only "area" is antialiased.
RESAMPLINGS = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}


@dataclass(frozen=True)
class CanvasRule:
    """How a camera's image becomes the image that the model sees (the canvas), and what its metres mean there.

    canvases_px: the fixed sizes (width, height) of exported graphs, on which the image is placed at exactly the
    canonical focal length. fixed_px: the one size (width, height) to which the whole image is resized: stretched or,
    with letterbox, at its own aspect in the middle of a grey canvas. If both are empty, the whole image is resized, by
    these fields in this order:
    focal_px: canonical focal length, None for no normalisation. scale_by: "fx" scales both axes by focal_px / fx,
    "each" every axis by its own focal length. rounding: of the scaled size, "trunc" or "round". longest_px,
    shortest_px: length of the longer or of the shorter side, which may enlarge the image; None for no rule. snap_px:
    both sides first become multiples of this, 0 for none (the released code calls qwen_vl_utils, which does so with 28,
    before the checkpoint's own processor). least_pixels, most_pixels: area limits of the checkpoint's own processor, 0
    for none. most_px: its limit of the longer side, which never enlarges; None for none. multiple_px: both sides become
    multiples of this. multiple_by: "nearest" stretches to the nearest multiples within the area limits (Qwen); "up"
    stretches to the next larger ones (Pixtral); "crop" leaves out the rest at the right and bottom (Pixtral without
    resize).
    built_px: for an engine that was built for certain cameras, the only sizes of resized images that it accepts; empty
    for any. built_by: the command that builds the engine, without its camera; "" for models that are not engines, which
    accept any camera.
    depth_focal_px: the focal length in canvas pixels at which the model's metres are true; depth_focal_widths: the same
    as a share of the canvas's width. For another camera the metres are multiplied by its focal length over this one
    (Metric3D's transformation of labels, CSTM_label). None for metres that hold for every camera. built_focal_px: the
    focal length in canvas pixels of the one camera that an engine was built for; None for any.
    resampling: how the whole image is resized, a name in RESAMPLINGS; "" for means of whole blocks and then bilinear.
    canonical_filter, snap_filter, processor_filter: names in FILTERS. With a processor_filter the steps of the released
    code are repeated one by one, without `resampling`: to the canonical size and the limits of a side by
    canonical_filter, to multiples of snap_px by snap_filter, to the sizes of the checkpoint's processor by
    processor_filter.
    pixel_rule: where a pixel of the image is asked about. "centre": at the same place of the scene, with pixel centres
    at whole numbers. "scale": at its coordinate times the scale, and "truncate": the same without its fraction, as the
    released code of some systems does (up to 1 pixel to the left and above). released_pixel_rule: that of the released
    code; see as_released.
    """

    focal_px: float | None
    canvases_px: tuple[tuple[int, int], ...] = ()
    scale_by: str = "fx"
    rounding: str = "trunc"
    longest_px: int | None = None
    snap_px: int = 0
    least_pixels: int = 0
    most_pixels: int = 0
    most_px: int | None = None
    multiple_px: int = 1
    multiple_by: str = "nearest"
    built_px: tuple[tuple[int, int], ...] = ()
    built_by: str = ""
    fixed_px: tuple[int, int] | None = None
    letterbox: bool = False
    shortest_px: int | None = None
    depth_focal_px: float | None = None
    depth_focal_widths: float | None = None
    built_focal_px: float | None = None
    resampling: str = ""
    canonical_filter: str = ""
    snap_filter: str = ""
    processor_filter: str = ""
    pixel_rule: str = "centre"
    released_pixel_rule: str = "centre"

    def as_released(self) -> CanvasRule:
        """Returns the rule that asks about pixels exactly where the released code does."""
        return replace(self, pixel_rule=self.released_pixel_rule)

    def depth_factor(self, focal_px: float, width_px: int) -> float:
        """Returns what the model's metres are multiplied by for a canvas of this focal length and width in pixels."""
        if self.depth_focal_px is not None:
            return focal_px / self.depth_focal_px
        if self.depth_focal_widths is not None:
            return focal_px / (width_px * self.depth_focal_widths)
        return 1.0


@dataclass(frozen=True)
class Axis:
    """One axis of a canonical view: canvas = (image + 0.5) * scale - 0.5 + offset_px, pixel centres.

    image_px, canvas_px: number of pixels. Both images cover -0.5 .. n - 0.5 in their own pixels.
    """

    image_px: int
    canvas_px: int
    scale: float
    offset_px: float

    def to_canvas(self, image_px: np.ndarray) -> np.ndarray:
        """Returns the canvas coordinate of an image coordinate."""
        return (image_px + 0.5) * self.scale - 0.5 + self.offset_px

    def to_image(self, canvas_px: np.ndarray) -> np.ndarray:
        """Returns the image coordinate of a canvas coordinate; the exact inverse of to_canvas."""
        return (canvas_px + 0.5 - self.offset_px) / self.scale - 0.5

    def is_on_canvas(self, canvas_px: np.ndarray) -> np.ndarray:
        """Returns bool: whether a canvas coordinate lies on the canvas.

        Unlike `pinhole.pixels_inside` it allows for the rounding of calibrations.
        """
        return (canvas_px >= -0.5 - SLACK_PX) & (canvas_px <= self.canvas_px - 0.5 + SLACK_PX)

    @cached_property
    def visible(self) -> tuple[int, int]:
        """First canvas pixel that shows the image, and one past the last."""
        first = int(np.floor(self.offset_px + SLACK_PX))
        end = int(np.ceil(self.offset_px + self.image_px * self.scale - SLACK_PX))
        first = min(max(first, 0), self.canvas_px - 1)
        return first, max(min(end, self.canvas_px), first + 1)

    @cached_property
    def inside(self) -> np.ndarray:
        """bool (image_px,): whether the centre of each image pixel lies on the canvas."""
        return self.is_on_canvas(self.to_canvas(np.arange(self.image_px)))

    @cached_property
    def taps(self) -> tuple[np.ndarray, np.ndarray]:
        """Per image pixel: row of the visible strip with one margin row, and the weight of the next row.

        int (image_px,) and float32 (image_px,). The weight is NaN off the canvas, which makes the interpolated value
        NaN at no cost.
        """
        start, end = self.visible
        position = self.to_canvas(np.arange(self.image_px)) - (start - 1)
        first = np.floor(position).clip(0, end - start).astype(np.intp)
        weight = np.where(self.inside, (position - first).clip(0.0, 1.0), np.nan)
        return first, weight.astype(np.float32)

    @cached_property
    def nearest_visible(self) -> np.ndarray:
        """int (image_px,): row of the visible strip that is nearest to each image pixel."""
        start, end = self.visible
        position = self.to_canvas(np.arange(self.image_px)) - start
        return np.rint(position).clip(0, end - start - 1).astype(np.intp)

    @cached_property
    def block(self) -> int:
        """Number of image pixels averaged into one before resampling: nearest to the size of one canvas pixel."""
        return min(max(1, round(1.0 / self.scale)), self.image_px)

    @cached_property
    def block_of_canvas(self) -> np.ndarray:
        """float32 (canvas_px,): coordinate, in blocks, of each canvas pixel; far outside where it shows nothing."""
        canvas = np.arange(self.canvas_px)
        position = (self.to_image(canvas) + 0.5) / self.block - 0.5
        blocks = -(-self.image_px // self.block)
        start, end = self.visible
        shown = (canvas >= start) & (canvas < end)
        return np.where(shown, position.clip(0, blocks - 1), NOWHERE_PX).astype(np.float32)


def fitted_sizes(intrinsics: Intrinsics, rule: CanvasRule) -> tuple[Size, Size]:
    """Returns the size to which the whole image is resized, and the size of the canvas.

    The two differ where a rule crops (the canvas is the top-left part) or letterboxes. Raises BadIntrinsics for a
    camera whose image would become too long, too large, or smaller than one token.
    """
    if rule.fixed_px is not None:
        seen = (rule.fixed_px[0], rule.fixed_px[1])
        return (_inscribed_size(intrinsics.size_px, seen) if rule.letterbox else seen), seen
    size = picture_size(intrinsics, rule)
    if max(size) > MOST_ASPECT * min(size):
        raise BadIntrinsics(
            f"an image of {intrinsics.width_px} x {intrinsics.height_px} with fx = {intrinsics.fx_px:g}, fy = "
            f"{intrinsics.fy_px:g} would be seen as {size[0]} x {size[1]}, longer than {MOST_ASPECT} times its width: "
            "check the calibration, or crop the image."
        )
    whole, seen = _to_multiples(_snapped_size(size, rule), rule)
    if not 0 < seen[0] * seen[1] <= MOST_CANVAS_PIXELS:
        raise BadIntrinsics(
            f"an image of {intrinsics.width_px} x {intrinsics.height_px} with fx = {intrinsics.fx_px:g}, fy = "
            f"{intrinsics.fy_px:g} would be seen as {seen[0]} x {seen[1]} pixels; between one token and "
            f"{MOST_CANVAS_PIXELS} pixels are possible: check the calibration."
        )
    enlarged_px = size[0] * size[1] if size[0] > intrinsics.width_px else 0
    if rule.processor_filter and enlarged_px > MOST_PICTURE_PIXELS:
        raise BadIntrinsics(
            f"an image of {intrinsics.width_px} x {intrinsics.height_px} with fx = {intrinsics.fx_px:g}, fy = "
            f"{intrinsics.fy_px:g} would first be enlarged to {size[0]} x {size[1]}; {MOST_PICTURE_PIXELS} pixels are "
            "possible. Focal lengths are in pixels: check the calibration."
        )
    return whole, seen


def picture_size(intrinsics: Intrinsics, rule: CanvasRule) -> Size:
    """Returns the size of the picture: the canonical size within the rule's limits of a side."""
    size = limited_size(canonical_size(intrinsics, rule), rule.longest_px)
    if rule.shortest_px is None:
        return size
    return limited_size(size, max(rule.shortest_px, round(rule.shortest_px * max(size) / min(size))))


def canonical_size(intrinsics: Intrinsics, rule: CanvasRule) -> Size:
    """Returns the size at which the focal length is the canonical one.

    DepthLM's and VLM3's code truncate, DepthVLM's rounds. All scale both axes by focal / fx, so that fy is not
    normalised; VLM3's pose sample was scaled axis by axis.
    """
    if rule.focal_px is None:
        return intrinsics.size_px
    scale_x = rule.focal_px / intrinsics.fx_px
    scale_y = scale_x if rule.scale_by == "fx" else rule.focal_px / intrinsics.fy_px
    to_whole = int if rule.rounding == "trunc" else round
    return max(1, to_whole(intrinsics.width_px * scale_x)), max(1, to_whole(intrinsics.height_px * scale_y))


def limited_size(size: Size, longest_px: int | None) -> Size:
    """Returns the size with a longer side of longest_px, the other side rounded (VLM3's correspondences)."""
    if longest_px is None:
        return size
    scale = longest_px / max(size)
    width, height = (longest_px if n == max(size) else max(1, round(n * scale)) for n in size)
    return width, height


def scaled_pixels(uv_px: np.ndarray, camera: Intrinsics, rule: CanvasRule) -> np.ndarray:
    """Returns float64 (N, 2): pixels (N, 2) of the image in the picture, as released code scales them.

    It multiplies coordinates by the scale, as if pixel centres lay at halves. DepthLM then cuts off the fraction. The
    order of the operations is that of DepthLM (utils/datasets.py): it decides the last digit.
    """
    uv_px = np.asarray(uv_px, np.float64).reshape(-1, 2)
    focal_px = np.array([camera.fx_px, camera.fy_px])
    centre_px = np.array([camera.cx_px, camera.cy_px])
    scale = np.ones(2)
    if rule.focal_px is not None:
        scale = rule.focal_px / (focal_px if rule.scale_by == "each" else focal_px[:1])
    scaled = (uv_px - centre_px) * (focal_px * scale / focal_px) + centre_px * scale
    if rule.longest_px is None:
        return scaled
    return scaled * (rule.longest_px / max(canonical_size(camera, rule)))


def process_picture(image: np.ndarray, rule: CanvasRule, picture: Size | None = None) -> np.ndarray:
    """Returns the canvas, uint8 (h, w, 3), of a picture with or without markers, uint8 (H, W, 3).

    These are the steps of the checkpoint's processor. The rule needs a processor_filter. picture: the size of the
    picture, if `image` is not the picture but the camera's image.
    """
    picture = picture or (image.shape[1], image.shape[0])
    snapped = _snapped_size(picture, rule)
    whole, (width, height) = _to_multiples(snapped, rule)
    steps = (picture, rule.canonical_filter), (snapped, rule.snap_filter), (whole, rule.processor_filter)
    return np.ascontiguousarray(filter_image(image, *steps)[:height, :width])


def resize_whole(rgb: np.ndarray, whole: Size, canvas: Size, resampling: str) -> np.ndarray:
    """Returns uint8 (h, w, 3): the image, resized to the size `whole`, in the middle of a grey canvas.

    resampling: see `resize`.
    """
    resized = resize(rgb, whole, resampling)
    if whole == canvas:
        return resized
    left, top = (canvas[0] - whole[0]) // 2, (canvas[1] - whole[1]) // 2
    seen = np.full((canvas[1], canvas[0], 3), UNSEEN_GREY, np.uint8)
    seen[top : top + whole[1], left : left + whole[0]] = resized
    return seen


def resize(rgb: np.ndarray, size: Size, resampling: str) -> np.ndarray:
    """Returns uint8 (h, w, 3): the image, resized to a size (width, height); the image itself if it has that size.

    resampling: a name in RESAMPLINGS, for OpenCV's way; or in FILTERS, for the antialiased way of Pillow's
    Image.resize: first across, then down, each rounded to whole grey levels (src/libImaging/Resample.c). torchvision's
    resize with antialias on uint8 does the same with coarser weights, so that it differs by at most 2 grey levels.
    Since version 13 Pillow goes down first in some cases, which published checkpoints were not trained on.
    """
    if (rgb.shape[1], rgb.shape[0]) == size:
        return rgb
    if resampling in RESAMPLINGS:
        return cv2.resize(rgb, size, interpolation=RESAMPLINGS[resampling])
    return filter_image(rgb, (size, resampling))


def _inscribed_size(size: Size, canvas: Size) -> Size:
    """Returns the largest size of the same aspect that fits into the canvas, truncated as Metric3D's code does it."""
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    # The side that fills the canvas is exact, whatever the rounding of the product.
    width, height = (max(1, min(int(n * scale + 1e-6), most)) for n, most in zip(size, canvas, strict=True))
    return width, height


def nearest_size(size: Size, multiple: int, least_pixels: int, most_pixels: int) -> Size:
    """Returns sides that are the nearest multiples, with the area within its limits and nearly the same aspect.

    most_pixels 0 means no limit. This is the rule of Qwen's image processors (transformers' smart_resize), which with
    an area limit never gives an empty side.
    """
    width, height = (round(n / multiple) * multiple for n in size)
    area = size[0] * size[1]
    if most_pixels and width * height > most_pixels:
        shrink = math.sqrt(area / most_pixels)
        width, height = (max(multiple, math.floor(n / shrink / multiple) * multiple) for n in size)
    elif width * height < least_pixels:
        grow = math.sqrt(least_pixels / area)
        width, height = (math.ceil(n * grow / multiple) * multiple for n in size)
    return max(width, multiple), max(height, multiple)


def next_size(size: Size, multiple: int, most_px: int | None) -> Size:
    """Shrinks the longer side to most_px, then enlarges both sides to multiples, as Pixtral's image processor does."""
    ratio = max(size) / most_px if most_px else 1.0
    shrunk = (math.floor(n / ratio) for n in size) if ratio > 1 else iter(size)
    width, height = (((n - 1) // multiple + 1) * multiple for n in shrunk)
    return max(width, multiple), max(height, multiple)


def _snapped_size(size: Size, rule: CanvasRule) -> Size:
    """Returns the size of a picture after qwen_vl_utils, in multiples of snap_px."""
    if not rule.snap_px:
        return size
    area = rule.snap_px**2
    return nearest_size(size, rule.snap_px, _SNAP_LEAST * area, _SNAP_MOST * area)


def _to_multiples(size: Size, rule: CanvasRule) -> tuple[Size, Size]:
    """Returns the size of the resized image, and of its part that the model sees, in multiples of multiple_px."""
    if rule.multiple_by == "crop":
        # The patch convolution has no padding: pixels that do not fill a patch are not seen.
        return size, (size[0] // rule.multiple_px * rule.multiple_px, size[1] // rule.multiple_px * rule.multiple_px)
    if rule.multiple_by == "up":
        size = next_size(size, rule.multiple_px, rule.most_px)
    else:
        size = nearest_size(size, rule.multiple_px, rule.least_pixels, rule.most_pixels)
    return size, size
