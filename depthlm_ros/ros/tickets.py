"""Questions on their way to the worker."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from depthlm_ros.core import Question
from depthlm_ros.ros.pairing import Arrival


class Busy(Exception):
    """Too many questions wait."""


class Closed(Exception):
    """The node stops; nothing will be answered any more."""


@dataclass(eq=False)
class Ticket:
    """A question that waits. work: called with what was seen, in the worker; its result ends up in `future`.

    question: the words that `work` asks the model, if they can be asked together with those of others: the future then
    holds what was seen and the answer. fresh: only an image taken after the request will do. asked_clock_ns: the node's
    clock at the request. needs_look: False for a question that brings its images with it. asked_number: number of the
    newest image that had arrived by then.
    """

    work: Callable[[Any], Any]
    fresh: bool
    asked_clock_ns: int
    question: Question | None = None
    needs_look: bool = True
    asked_number: int = 0
    future: Future = field(default_factory=Future)

    def accepts(self, image: Arrival) -> bool:
        """Whether this ticket waits for an image, and this one is new enough.

        A camera whose clock is not the node's (a bag without simulated time, an unsynchronised driver) cannot tell
        when an image was taken; then its arrival must do.
        """
        if not (self.needs_look and self.fresh):
            return self.needs_look
        taken_later = image.stamp_ns > self.asked_clock_ns or not image.same_clock
        return image.number > self.asked_number and taken_later


@dataclass(frozen=True)
class Questions:
    """Work: answer these from what was seen last; None if nothing was, and they need it not."""

    seen: Any
    tickets: list[Ticket]
