"""Boxes as numbers of 0 to 1000, in which VLM3, Qwen3-VL and the embedded model write them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from depthlm_ros.core import Region

BOX_SCALE = 1000
# "(x1, y1, x2, y2)" as it stands in questions and replies.
BOX = re.compile(r"\(([0-9]{1,4}), ([0-9]{1,4}), ([0-9]{1,4}), ([0-9]{1,4})\)")


def box_text(region: Region, size_px: tuple[int, int]) -> str:
    """A region of an image (width, height) as "(x1, y1, x2, y2)"; corners outside go to its edge."""
    return "(" + ", ".join(map(str, box_corners(region, size_px))) + ")"


def box_corners(region: Region, size_px: tuple[int, int]) -> tuple[int, ...]:
    """(x1, y1, x2, y2), each round(1000 * pixel / extent) with halves to even, as the released data have it.

    Rounded in two steps, so that a half that arithmetic left a hair away still counts as one.
    """
    right, bottom = region.x_px + region.width_px, region.y_px + region.height_px
    edges = ((region.x_px, 0), (region.y_px, 1), (right, 0), (bottom, 1))
    scaled = (round(round(BOX_SCALE * value / size_px[axis], 6)) for value, axis in edges)
    return tuple(min(max(value, 0), BOX_SCALE) for value in scaled)


def region_of(
    corners: Iterable[float], extent: tuple[float, float], size_px: tuple[int, int], label: str = ""
) -> Region | None:
    """A Region in pixels of an image (width, height) from corners x1, y1, x2, y2 of 0 to `extent`; None if it is empty,
    its corners are in the wrong order, or it lies outside."""
    x1, y1, x2, y2 = corners
    (wide, high), (width, height) = extent, size_px
    if not (0 <= x1 < x2 <= wide and 0 <= y1 < y2 <= high):
        return None
    x, y = x1 / wide * width, y1 / high * height
    return Region(x, y, (x2 - x1) / wide * width, (y2 - y1) / high * height, label)


def boxes_in(text: str, size_px: tuple[int, int]) -> tuple[Region, ...]:
    """The possible boxes that a text names, each once, in order."""
    corners = (map(int, match.groups()) for match in BOX.finditer(text))
    found = (region_of(four, (BOX_SCALE, BOX_SCALE), size_px) for four in corners)
    return tuple(dict.fromkeys(region for region in found if region is not None))
