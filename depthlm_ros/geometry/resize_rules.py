"""Sizes of the image that a published system sees: focal normalisation, then the checkpoint's own image processor.

A CanvasRule says how a system does it; `fitted_sizes` computes the sizes. These are facts of the released code. All
sizes are (width, height).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadIntrinsics

# The largest area that the processor of any published checkpoint accepts (Qwen3-VL: 4096 x 4096).
MOST_CANVAS_PIXELS = 4096 * 4096
# Qwen's processors refuse images whose longer side is more than this many times the shorter one.
MOST_ASPECT = 200
# Limits of qwen_vl_utils on the area, in multiples of the square of its 28 pixels.
_SNAP_LEAST, _SNAP_MOST = 4, 16384

Size = tuple[int, int]

# Values of the fields of a CanvasRule.
SCALE_BY = ("fx", "each")
ROUNDINGS = ("trunc", "round")
MULTIPLES_BY = ("nearest", "up", "crop")


@dataclass(frozen=True)
class CanvasRule:
    """How a camera's image becomes the image that the model sees (the canvas).

    canvases_px: the fixed sizes (width, height) of exported graphs, on which the image is placed at exactly the
    canonical focal length. If it is empty, the whole image is resized, by these fields in this order:
    focal_px: canonical focal length, None for no normalisation. scale_by: "fx" scales both axes by focal_px / fx,
    "each" every axis by its own focal length. rounding: of the scaled size, "trunc" or "round". longest_px: length of
    the longer side, which may enlarge the image; None for no limit. snap_px: both sides first become multiples of this,
    0 for none (the released code calls qwen_vl_utils, which does so with 28, before the checkpoint's own processor).
    least_pixels, most_pixels: area limits of the checkpoint's own processor, 0 for none. most_px: its limit of the
    longer side, which never enlarges; None for none. multiple_px: both sides become multiples of this.
    multiple_by: "nearest" stretches to the nearest multiples within the area limits (Qwen); "up" stretches to the next
    larger ones (Pixtral); "crop" leaves out the rest at the right and bottom (Pixtral without resize).
    built_px: for an engine that was built for certain cameras, the only sizes of resized images that it accepts; empty
    for any. built_by: the command that builds the engine, without its camera; "" for models that are not engines, which
    accept any camera.
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


def fitted_sizes(intrinsics: Intrinsics, rule: CanvasRule) -> tuple[Size, Size]:
    """Returns the size to which the whole image is resized, and the size of its top-left part that the model sees.

    The two differ only where a rule crops. Raises BadIntrinsics for a camera whose image would become too long, too
    large, or smaller than one token.
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
