"""VLM3: depth at a pixel whose coordinates stand in the text.

Prompt, coordinate scale and reply format are those the released checkpoints were trained on.
"""

from __future__ import annotations

import math
import re

from depthlm_ros.families.base import Prompt, normalised

COORDINATE_SCALE = 2000
POINT_QUESTION = (
    "Given this image, how far is the point at coordinates ({nx}, {ny}) from the camera? The coordinates are in "
    "normalised [0, 2000] format relative to image width and height. Output the thinking process in <think> </think> "
    "and final answer (the meter number only, without the unit) in <answer> </answer> tags."
)
POINT_REPLY = (
    "<think> The point is around {depth_m:.2f} meters away from the camera. </think>\n\n"
    "<answer> {depth_m:.2f} </answer>"
)
POINT_REPLY_START = "<think> The point is around "

_LEADING_NUMBER = re.compile(r"\s*(\d{1,4}(?:\.\d{1,4})?)(?![\d.,eE])")


def point_prompt(u_px: float, v_px: float, size_px: tuple[int, int]) -> Prompt:
    """The depth question for one pixel. Its reply begins with known words, so only the number is decoded."""
    nx = normalised(u_px, size_px[0], COORDINATE_SCALE)
    ny = normalised(v_px, size_px[1], COORDINATE_SCALE)
    return Prompt(POINT_QUESTION.format(nx=nx, ny=ny), forced=POINT_REPLY_START, number_only=True, max_new_tokens=8)


def read_point(reply: str) -> float:
    """Metres from a reply that continues POINT_REPLY_START; NaN unless it begins with one plain positive number."""
    match = _LEADING_NUMBER.match(reply)
    if match is None:
        return math.nan
    depth_m = float(match.group(1))
    return depth_m if depth_m > 0 else math.nan
