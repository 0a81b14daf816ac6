"""DepthLM's other tasks: what to ask, and what the reply says.

The wording is that of a figure of the paper; the strings it was trained on, and which released checkpoint knows these
tasks, are unpublished. A reply states the distance first and then, for speed and time, their quotient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from depthlm_ros.core import Status
from depthlm_ros.errors import BadQuestion
from depthlm_ros.families.base import Reply
from depthlm_ros.families.numbers import Number, alone, last, numbers, quantity_of

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
