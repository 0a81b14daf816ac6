"""DepthLM: depth at a pixel that a red arrow marks in the image itself.

Its other tasks (speed, time, ...) are questions too: see depthlm_tasks.

DepthLM's other tasks: what to ask, and what the reply says.

The wording is that of a figure of the paper; the strings it was trained on, and which released checkpoint knows these
tasks, are unpublished. A reply states the distance first and then, for speed and time, their quotient.

The red arrow with which DepthLM is shown a pixel, drawn exactly as its checkpoints were trained (SPEC: nine pixels
of pure red to the left of the target, which itself stays untouched, head against it).

Around a target (u, v): shaft (u - k, v) for k = 1 to 5, head (u - 2, v +- 1) and (u - 3, v +- 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from depthlm_ros.core import Region, Status
from depthlm_ros.errors import BadQuestion
from depthlm_ros.families.base import Family, Prompt, Reply
from depthlm_ros.families.parsing import Number, alone, answered_metres, last, numbers, quantity_of, without_control
from depthlm_ros.families.vlm3 import POINT_REPLY_START  # both were trained on the same reply

UNITS = ("m", "m/s", "s")


@dataclass(frozen=True)
class Task:
    """A question, the unit of its answer, the pixels that are to be marked for it and the images it is about."""

    question: str
    unit: str
    points: int
    images: int = 1

    def read(self, reply: str) -> Reply:
        """The reply to this question; a number without unit is in the task's; none, or one in another
        unit, is NOT_UNDERSTOOD."""
        read = read_task(reply)
        if not math.isfinite(read.value) or read.unit not in ("", self.unit):
            return Reply(read.text, Status.NOT_UNDERSTOOD)
        return replace(read, unit=self.unit)


def forward_distance() -> Task:
    """Distance along the optical axis (so the depth z; the paper does not say it in other words)."""
    return Task("How far is this point from the camera in the forward backward direction?", "m", points=1)


def speed(seconds: float) -> Task:
    """Speed at which the point is reached in so many seconds."""
    wanted = _written(seconds, "seconds")
    return Task(
        f"How many meters per second should we move in order to reach this point in exactly {wanted} seconds?",
        "m/s",
        points=1,
    )


def travel_time(speed_mps: float) -> Task:
    """Seconds to the point at so many metres per second."""
    wanted = _written(speed_mps, "metres per second")
    return Task(
        f"How many seconds do we need to reach this point if we move towards it with the speed of {wanted}m/s?",
        "s",
        points=1,
    )


def two_point_distance() -> Task:
    """Metres between two marked pixels."""
    return Task("How far are these 2 points from each other?", "m", points=2)


def camera_motion() -> Task:
    """Metres that the camera has moved from the first to the second image."""
    return Task("How many meters has the camera moved between these 2 images?", "m", points=0, images=2)


def read_task(reply: str) -> Reply:
    """The last number of a reply, or the one in its answer tag, with its unit: metres, m/s or s.

    A number in the tag has no unit there: it takes that of the same number before the tag, else "" (unknown). NaN if
    there is no plain number.
    """
    text = reply.strip()
    if not text:
        return Reply(text, Status.NOT_UNDERSTOOD)
    number = _final(text)
    if number is None or not number.exact or not 0 <= number.value < math.inf or number.unit not in ("", *UNITS):
        return Reply(text)
    quantity = quantity_of(text) if number.unit == "m" else ""
    return Reply(text, Status.OK, number.value, number.unit, quantity=quantity)


def _final(text: str) -> Number | None:
    before, closed, _ = text.rpartition("</answer>")
    if not closed:
        thought = text.partition("<answer>")[0]
        said = [number for number in numbers(thought) if number.unit in UNITS]
        return said[-1] if said else last(thought)
    thought, _, inside = before.rpartition("<answer>")
    number = alone(inside)
    if number is None or number.unit:
        return number
    same = [other for other in numbers(thought) if other.unit in UNITS and other.value == number.value]
    return same[-1] if same else number


def _written(value: float, what: str) -> str:
    """4 as "4.0", as the trained questions have it; at most two decimals."""
    if not 0.01 <= value <= 1000.0:
        raise BadQuestion(f"{value:g} {what}: ask for 0.01 to 1000.")
    return str(round(float(value), 2))


POINT_QUESTION = (
    "Given this image, how far is the point pointed by the red arrow from the camera? Output the thinking process in "
    "<think> </think> and final answer (the meter number only, without the unit) in <answer> </answer> tags."
)
# The released code allows 4096; replies in the trained form take about 30.
REPLY_TOKENS = 256


class DepthLM(Family):
    """facebook/DepthLM and the checkpoints of 3B and 7B. What its metres mean (along the ray or the axis) differs by
    the data set it learned from; the model's spec says which is taken."""

    name = "depthlm"
    abilities = frozenset({"points", "questions", "pairs"})

    def point_prompt(self, u_px: float, v_px: float, size_px: tuple[int, int]) -> Prompt:
        """The question is the same for every pixel: the arrow tells them apart. Only the number is decoded."""
        return Prompt(POINT_QUESTION, POINT_REPLY_START, number_only=True, max_new_tokens=8, marks_px=((u_px, v_px),))

    def read_point(self, reply: str) -> float:
        """Metres from a whole reply or what follows POINT_REPLY_START: the answer tag's number, else the last one."""
        return answered_metres(reply)

    def question_prompt(
        self, question: str, uv_px: np.ndarray, regions: Sequence[Region], size_px: tuple[int, int]
    ) -> Prompt:
        """The question as it is, with an arrow at every pixel. Raises BadQuestion for regions."""
        if regions:
            raise BadQuestion(
                f"a model of family {self.name} is shown pixels, not regions: give a pixel of the thing, or use "
                "vlm3-object."
            )
        marks = tuple((float(u), float(v)) for u, v in uv_px)
        return Prompt(without_control(question).strip(), max_new_tokens=REPLY_TOKENS, marks_px=marks)

    def read_reply(self, reply: str, size_px: tuple[int, int]) -> Reply:
        return read_task(reply)


RED = (255, 0, 0)
# Columns and rows that an arrow needs around its target, by the released rule.
BORDER_PX = 5
# (du, dv) of the nine pixels.
ARROW_PX = np.array([(-k, 0) for k in range(1, 6)] + [(-2, -1), (-2, 1), (-3, -2), (-3, 2)])


def marked_pixels(uv_px: np.ndarray) -> np.ndarray:
    """int64 (N, 2): the pixel in which each (u, v) lies, which is the nearest, halves upwards.

    The released code cuts the fraction off instead; on whole pixels both are the same.
    """
    return np.floor(np.asarray(uv_px, np.float64).reshape(-1, 2) + 0.5).astype(np.int64)


def fits(uv_px: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """bool (N,): the released border rule, 5 <= u < W - 5 and 5 <= v < H - 5, for (u, v) in an image of (W, H).

    The released evaluation leaves out what does not fit; `pad_for_marks` makes room for it instead.
    """
    uv_px = np.asarray(uv_px, np.float64).reshape(-1, 2)
    inside = np.zeros(len(uv_px), bool)
    known = np.isfinite(uv_px).all(1)
    pixels = marked_pixels(uv_px[known])
    inside[known] = ((pixels >= BORDER_PX) & (pixels < np.array(size_px) - BORDER_PX)).all(1)
    return inside


def draw_marks(image: np.ndarray, uv_px: np.ndarray) -> np.ndarray:
    """A copy of an image uint8 (H, W, 3), red first, with an arrow at each pixel (N, 2), in their order.

    Raises BadQuestion for a pixel at which no whole arrow fits.
    """
    height, width = image.shape[:2]
    uv_px = np.asarray(uv_px, np.float64).reshape(-1, 2)
    for u, v in uv_px[~fits(uv_px, (width, height))]:
        raise BadQuestion(
            f"no arrow fits at pixel ({u:g}, {v:g}) of a {width} x {height} image: it must be {BORDER_PX} pixels away "
            "from every side, or the image padded."
        )
    marked = image.copy()
    u, v = (marked_pixels(uv_px)[:, None] + ARROW_PX).reshape(-1, 2).T
    marked[v, u] = RED
    return marked


def pad_for_marks(image: np.ndarray, px: int) -> np.ndarray:
    """The image uint8 (H, W, 3) with its edge pixels repeated over px >= 5 more on every side, so that an arrow fits
    at all of it. Pixel (u, v) becomes (u + px, v + px); focal lengths stay."""
    if px < BORDER_PX:
        raise ValueError(f"padding of {px} pixels: an arrow needs {BORDER_PX}.")
    return np.pad(image, ((px, px), (px, px), (0, 0)), mode="edge")
