"""VLM3-corr: where a pixel of one image is in another. Coordinates are 0 to 1000 of each image's own size."""

from __future__ import annotations

import math

from depthlm_ros.families.base import Family, Prompt, normalised
from depthlm_ros.families.numbers import tuples_in
from depthlm_ros.families.text import without_thinking

COORDINATE_SCALE = 1000
MATCH_QUESTION = (
    "Given these two images, what pixel in the second image corresponds to pixel ({x1}, {y1}) in the first image? "
    "Report the answer as (x, y)."
    ' Please think step by step and follow the format: "<think> [think process] </think>\n\n[answer]".'
)
REPLY_TOKENS = 2048


class Vlm3Corr(Family):
    """facebook/VLM3-corr."""

    name = "vlm3-corr"
    abilities = frozenset({"match"})

    def match_prompt(self, u_px: float, v_px: float, size_px: tuple[int, int]) -> Prompt:
        x1 = normalised(u_px, size_px[0], COORDINATE_SCALE)
        y1 = normalised(v_px, size_px[1], COORDINATE_SCALE)
        return Prompt(MATCH_QUESTION.format(x1=x1, y1=y1), max_new_tokens=REPLY_TOKENS)

    def read_match(self, reply: str, size_px: tuple[int, int]) -> tuple[float, float]:
        """The first pair of numbers behind the thinking; NaN if there is none within 0 to 1000. 1000 itself is the
        last pixel."""
        pairs = [found for found in tuples_in(without_thinking(reply)) if len(found) == 2]
        if not pairs or not all(0 <= value <= COORDINATE_SCALE for value in pairs[0]):
            return math.nan, math.nan
        u, v = (value / COORDINATE_SCALE * extent for value, extent in zip(pairs[0], size_px, strict=True))
        return min(u, size_px[0] - 1.0), min(v, size_px[1] - 1.0)
