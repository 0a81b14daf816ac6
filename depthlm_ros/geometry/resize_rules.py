"""Sizes of the image that a published system sees: focal normalisation, then the checkpoint's own image processor.

Facts of the released code; the rules are those of spec.CanvasRule. All sizes are (width, height).
"""

from __future__ import annotations

import math

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadIntrinsics
from depthlm_ros.model_files.spec import CanvasRule

# The largest area that any published checkpoint's processor lets through (Qwen3-VL: 4096 x 4096).
MOST_CANVAS_PIXELS = 4096 * 4096
# Qwen's processors refuse images that are longer than this many times their width.
MOST_ASPECT = 200
# qwen_vl_utils' own limits, in multiples of its 28 pixels squared.
_SNAP_LEAST, _SNAP_MOST = 4, 16384

Size = tuple[int, int]


def fitted_sizes(intrinsics: Intrinsics, rule: CanvasRule) -> tuple[Size, Size]:
    """Size to which the whole image is resized, and size of its top-left part that the model sees.

    The two differ only where a rule crops. Raises BadIntrinsics for a camera whose image would become no picture.
    """
    size = limited_size(canonical_size(intrinsics, rule), rule.longest_px)
    if max(size) > MOST_ASPECT * min(size):
        raise BadIntrinsics(
            f"an image of {intrinsics.width_px} x {intrinsics.height_px} with fx = {intrinsics.fx_px:g}, fy = "
            f"{intrinsics.fy_px:g} would be seen as {size[0]} x {size[1]}, longer than {MOST_ASPECT} times its width: "
            "check the calibration, or crop the image."
        )
    if rule.snap_px:
        area = rule.snap_px**2
        size = nearest_size(size, rule.snap_px, _SNAP_LEAST * area, _SNAP_MOST * area)
    whole, seen = _to_multiples(size, rule)
    if not 0 < seen[0] * seen[1] <= MOST_CANVAS_PIXELS:
        raise BadIntrinsics(
            f"an image of {intrinsics.width_px} x {intrinsics.height_px} with fx = {intrinsics.fx_px:g}, fy = "
            f"{intrinsics.fy_px:g} would be seen as {seen[0]} x {seen[1]} pixels; between one token and "
            f"{MOST_CANVAS_PIXELS} pixels are possible: check the calibration."
        )
    return whole, seen


def canonical_size(intrinsics: Intrinsics, rule: CanvasRule) -> Size:
    """Size at which the focal length is the canonical one.

    DepthLM's and VLM3's code truncate, DepthVLM's rounds, both with focal / fx for either axis, so that fy is left
    as it comes; VLM3's pose sample was scaled axis by axis.
    """
    if rule.focal_px is None:
        return intrinsics.size_px
    scale_x = rule.focal_px / intrinsics.fx_px
    scale_y = scale_x if rule.scale_by == "fx" else rule.focal_px / intrinsics.fy_px
    to_whole = int if rule.rounding == "trunc" else round
    return max(1, to_whole(intrinsics.width_px * scale_x)), max(1, to_whole(intrinsics.height_px * scale_y))


def limited_size(size: Size, longest_px: int | None) -> Size:
    """The size whose longer side is longest_px, the other one rounded (VLM3's correspondences)."""
    if longest_px is None:
        return size
    scale = longest_px / max(size)
    width, height = (longest_px if n == max(size) else max(1, round(n * scale)) for n in size)
    return width, height


def nearest_size(size: Size, multiple: int, least_pixels: int, most_pixels: int) -> Size:
    """Sides to the nearest multiples, the area brought within its limits with the aspect kept (most 0: no limit).

    The rule of Qwen's image processors (transformers' smart_resize); with an area limit it never gives an empty side.
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
    """The longer side brought down to most_px, then both sides up to the next multiple: Pixtral's image processor."""
    ratio = max(size) / most_px if most_px else 1.0
    shrunk = (math.floor(n / ratio) for n in size) if ratio > 1 else iter(size)
    width, height = (((n - 1) // multiple + 1) * multiple for n in shrunk)
    return max(width, multiple), max(height, multiple)


def _to_multiples(size: Size, rule: CanvasRule) -> tuple[Size, Size]:
    if rule.multiple_by == "crop":
        # The patch convolution has no padding: pixels that do not fill a patch are not looked at.
        return size, (size[0] // rule.multiple_px * rule.multiple_px, size[1] // rule.multiple_px * rule.multiple_px)
    if rule.multiple_by == "up":
        size = next_size(size, rule.multiple_px, rule.most_px)
    else:
        size = nearest_size(size, rule.multiple_px, rule.least_pixels, rule.most_pixels)
    return size, size
