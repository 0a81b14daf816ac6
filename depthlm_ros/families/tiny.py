# SPDX-License-Identifier: Apache-2.0
"""The embedded model: depths of pixels, and questions about objects and regions; matches and poses are measured.

Places are written as "<435>": thousandths of the image's width or height in steps of 5, one token each. Marked pixels
follow the question as <x><y>, regions as <x1><y1><x2><y2>; replies name boxes in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from depthlm_ros.core import Region, Status
from depthlm_ros.families.base import Family, Prompt, Reply, check_marked
from depthlm_ros.families.parsing import (
    escape_control_tokens,
    only_number,
    positive_metres,
    region_from_corners,
)

NOT_UNDERSTOOD = "I do not understand the question."
PLACE_SCALE, PLACE_STEP = 1000, 5
PLACES = tuple(f"<{place}>" for place in range(0, PLACE_SCALE + 1, PLACE_STEP))
POINT_QUESTION = "Depth at "

# Words about something that is marked, which a question without marks cannot be about.
_MARKED = re.compile(r"\b(this|these) (?:point|pixel|object|region)s?\b", re.IGNORECASE)
_MARKED_POINT = re.compile(r"\b(the|which|what) (?:marked )?(?:point|pixel)s?\b", re.IGNORECASE)
_PLACE = re.compile(r"<([0-9]{1,4})>")
_BOX = re.compile(r" at ((?:<[0-9]{1,4}>){4})")
# Matches every reply with a length, without its boxes. "The a is closer: 2.31 meters." gives the distance of the nearer
# object.
_MEASURE = re.compile(
    r"(?:Yes, the|The) [a-z ]+ (?:is|is closer:|are) ([0-9]{1,3}\.[0-9]{2}) meters(?: (away|wide|tall|apart))?\."
)
_COUNT = re.compile(r"There (?:is|are) ([0-9]{1,3}) [a-z ]+\.")
_QUANTITIES = {"away": "distance", "wide": "width", "tall": "height", "apart": "gap"}


class Tiny(Family):
    """The family of the embedded model."""

    name = "tiny"
    measured = frozenset({"match", "pose"})
    abilities = measured | {"points", "questions"}

    def point_prompt(self, u_px: float, v_px: float, size_px: tuple[int, int]) -> Prompt:
        """Returns the question for the depth of a pixel; the reply is only the number."""
        return Prompt(f"{POINT_QUESTION}{point_mark(u_px, v_px, size_px)}", number_only=True, max_new_tokens=8)

    def read_point(self, reply: str) -> float:
        return positive_metres(only_number(reply))

    def question_prompt(
        self, question: str, uv_px: np.ndarray, regions: Sequence[Region], size_px: tuple[int, int]
    ) -> Prompt:
        """Returns the question, followed by its pixels and regions. Places in the user's own text are not places.

        Raises BadQuestion for a question about "this point" or "these points" with fewer marks than that, and for one
        about "the point" or "which point" without any.
        """
        marks = [point_mark(u, v, size_px) for u, v in uv_px]
        marks += [f"region {region_text(region, size_px)}" for region in regions]
        for words in (_MARKED, _MARKED_POINT):
            check_marked(question, len(marks), words)
        text = _PLACE.sub(r"< \1 >", escape_control_tokens(question))
        return Prompt(" ".join([text.strip(), *marks]))

    def read_reply(self, reply: str, size_px: tuple[int, int]) -> Reply:
        """Reads the number before "meters", and the boxes whose corners are in order.

        A reply in other words than those of the training is not a measurement: it becomes NOT_UNDERSTOOD, in status
        and text.
        """
        text = reply.strip()
        if text.startswith("There is no "):
            return Reply(text, Status.NOT_FOUND)
        if counted := _COUNT.fullmatch(text):
            return Reply(text, Status.OK, float(counted[1]), "", quantity="count")
        plain = _BOX.sub("", text)
        measured = _MEASURE.fullmatch(plain)
        if measured is None:
            return Reply(NOT_UNDERSTOOD, Status.NOT_UNDERSTOOD)
        quantity = "distance" if " closer: " in plain else _QUANTITIES.get(measured[2], "")
        boxes = tuple(filter(None, (read_box(box[1], size_px) for box in _BOX.finditer(text))))
        return Reply(plain, Status.OK, float(measured[1]), "m", boxes, quantity)

    def box_text(self, edges_px: tuple[float, float, float, float], width_px: int, height_px: int) -> str:
        """Returns pixel edges (left, top, right, bottom; an image begins at edge 0) as text for a reply."""
        left, top, right, bottom = edges_px
        corners = ((left, width_px), (top, height_px), (right, width_px), (bottom, height_px))
        return "".join(place_text(edge / extent) for edge, extent in corners)


def place_text(share: float) -> str:
    """Returns a share (0 to 1) of the image's width or height as text."""
    return f"<{PLACE_STEP * round(min(max(share, 0.0), 1.0) * PLACE_SCALE / PLACE_STEP)}>"


def point_mark(u_px: float, v_px: float, size_px: tuple[int, int]) -> str:
    """Returns a pixel in the form in which it follows a question. A pixel's centre lies half a pixel inside."""
    return place_text((u_px + 0.5) / size_px[0]) + place_text((v_px + 0.5) / size_px[1])


def region_text(region: Region, size_px: tuple[int, int]) -> str:
    """Returns a region in the form in which it follows a question."""
    edges = (region.x_px, region.y_px, region.x_px + region.width_px, region.y_px + region.height_px)
    return "".join(place_text(edge / extent) for edge, extent in zip(edges, (*size_px, *size_px), strict=True))


def read_box(text: str, size_px: tuple[int, int]) -> Region | None:
    """Returns the region of four places, None if its corners are not in order."""
    return region_from_corners(map(int, _PLACE.findall(text)), (PLACE_SCALE, PLACE_SCALE), size_px)


def point_text(depth_m: float) -> str:
    """Returns the reply to a question for the depth of a pixel."""
    return f"{depth_m:.2f}"
