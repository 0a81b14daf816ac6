"""VLM3-depth: depth at a pixel whose coordinates stand in the text.

Prompt, coordinate scale and reply format are those the released checkpoint was trained on. The prompt names the range
as [0, 2000], the paper as [0, 2000): which is meant is a setting of the model.
"""

from __future__ import annotations

from depthlm_ros.families.base import Family, Prompt, normalised
from depthlm_ros.families.numbers import answered_metres

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
# Of a whole reply, nothing forced, as the released notebook asks.
POINT_REPLY_TOKENS = 256


def point_text(u_px: float, v_px: float, size_px: tuple[int, int], most: int = COORDINATE_SCALE) -> str:
    """The depth question for one pixel of an image (width, height); coordinates are at most `most`."""
    nx = min(normalised(u_px, size_px[0], COORDINATE_SCALE), most)
    ny = min(normalised(v_px, size_px[1], COORDINATE_SCALE), most)
    return POINT_QUESTION.format(nx=nx, ny=ny)


def point_prompt(u_px: float, v_px: float, size_px: tuple[int, int], most: int = COORDINATE_SCALE) -> Prompt:
    """The depth question for one pixel. Its reply begins with known words, so only the number is decoded."""
    text = point_text(u_px, v_px, size_px, most)
    return Prompt(text, forced=POINT_REPLY_START, number_only=True, max_new_tokens=8)


def read_point(reply: str) -> float:
    """Metres from a reply, be it whole or only what follows POINT_REPLY_START; NaN unless it gives one plain positive
    number. The released notebook leaves such failures out of its score; here they count as unknown."""
    return answered_metres(reply)


class Vlm3Depth(Family):
    """facebook/VLM3-depth."""

    name = "vlm3-depth"
    abilities = frozenset({"points"})

    def point_prompt(self, u_px: float, v_px: float, size_px: tuple[int, int]) -> Prompt:
        return point_prompt(u_px, v_px, size_px, self.most_coordinate)

    def read_point(self, reply: str) -> float:
        return read_point(reply)
