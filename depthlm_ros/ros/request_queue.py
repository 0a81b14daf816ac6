"""What waits for the worker: at most one image, the newest, and a few questions.

One condition variable guards both, so that the worker sleeps in one place. Frames never queue: a newer image takes
the place of the one that waits.

Questions on their way to the worker.

A camera's images of the last seconds, for questions about how things were a moment ago.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from depthlm_ros.core import Question
from depthlm_ros.ros.camera_info_sync import NS_PER_S, Arrival, Pair, Pairing, stamp_ns
from depthlm_ros.ros.statistics import Troubles


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


# The span is kept in so many steps, so that the memory is that of a few images, however fast the camera.
STEPS = 8


class Recent:
    """Images evenly apart, each as it came, with its calibration. Not thread-safe. span_s: 0 keeps none."""

    def __init__(self, span_s: float = 0.0) -> None:
        self._span_ns = round(span_s * NS_PER_S)
        self._kept: deque[Pair] = deque()

    def keep(self, image: Arrival, pair: Callable[[Arrival], Pair]) -> None:
        """An image that is not the newest any more, so that its calibration has come. pair: finds that."""
        if self._span_ns == 0:
            return
        if self._kept and image.stamp_ns - self._kept[-1].image.stamp_ns < self._span_ns // STEPS:
            return
        found = pair(image)
        if found.info is None:
            return
        self._kept.append(found)
        while len(self._kept) > 1 and self._kept[1].image.stamp_ns <= image.stamp_ns - self._span_ns:
            self._kept.popleft()

    def before(self, image: Arrival, back_ns: int) -> Pair | None:
        """Of the images before this one, the nearest to so long before it."""
        earlier = [pair for pair in self._kept if pair.image.number < image.number]
        wanted_ns = image.stamp_ns - back_ns
        return min(earlier, key=lambda pair: abs(pair.image.stamp_ns - wanted_ns), default=None)

    def forget(self) -> None:
        """Time has begun anew."""
        self._kept.clear()


# An image older than the newest by less than this is late; by more, the camera's time has begun anew (a bag that
# starts again, a simulation that was reset).
RESTART_NS = NS_PER_S
_NAP_S = 0.005
_SLEEP_S = 0.5


class HasImage(Protocol):
    """What the worker has made of an image."""

    @property
    def image(self) -> Arrival: ...


class Inbox:
    """Filled by the node's callbacks, emptied by one worker. `newest`, `received`, `dropped`: for diagnostics."""

    def __init__(self, troubles: Troubles, max_questions: int, history_s: float = 0.0) -> None:
        """history_s: how long earlier images are kept."""
        self._troubles, self._max_questions = troubles, max_questions
        self._changed = threading.Condition()
        self._pairing, self._recent = Pairing(), Recent(history_s)
        self._image: Arrival | None = None
        self._seen: HasImage | None = None
        self._tickets: list[Ticket] = []
        self._places_taken = 0
        self._first_number = 0
        self._idle = True
        self._looking = False
        self._answered_last = False
        self._closed = False
        self.newest: Arrival | None = None
        self.received = self.dropped = 0

    def put_image(self, message: Any, clock_ns: int) -> None:
        """An image has arrived. clock_ns: the node's clock."""
        with self._changed:
            stamp = stamp_ns(message.header)
            behind_ns = self.newest.stamp_ns - stamp if self.newest else 0
            if behind_ns > RESTART_NS:
                self._forget(f"the image's stamp went back by {behind_ns / NS_PER_S:.1f} s")
            elif behind_ns > 0:
                self._troubles.note("late image", _late(behind_ns))
                return
            if self.newest:
                self._recent.keep(self.newest, self._pairing.find)
            self.received += 1
            self.dropped += self._image is not None and not self._idle
            self._image = self.newest = Arrival(message, stamp, time.monotonic_ns(), clock_ns, self.received)
            self._changed.notify()

    def put_info(self, info: Any) -> None:
        """A calibration has arrived."""
        with self._changed:
            self._pairing.keep(info)
            self._changed.notify()

    @property
    def has_info(self) -> bool:
        """Whether any calibration has arrived."""
        with self._changed:
            return self._pairing.has_info

    @property
    def can_answer(self) -> bool:
        """Whether there is anything to answer from: a look, one that is under way, or an image with a calibration."""
        with self._changed:
            waits = self._image is not None and self._pairing.has_info
            return self._seen is not None or self._looking or waits

    def before(self, image: Arrival, back_ns: int) -> Pair | None:
        """Of the earlier images that are kept, the nearest to so long before this one; None: there is none."""
        with self._changed:
            return self._recent.before(image, back_ns)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Holds one of the places for questions, from the request to the response. Raises Busy if all are taken."""
        with self._changed:
            if self._places_taken >= self._max_questions:
                raise Busy
            self._places_taken += 1
        try:
            yield
        finally:
            with self._changed:
                self._places_taken -= 1

    def ask(self, ticket: Ticket) -> None:
        """Put a question in. Raises Closed."""
        with self._changed:
            if self._closed:
                raise Closed
            ticket.asked_number = self.received
            self._tickets.append(ticket)
            self._changed.notify()

    def next(self, is_watched: Callable[[], bool]) -> Pair | Questions | None:
        """The next piece of work; waits for it. None: the inbox is closed.

        is_watched: whether anybody receives what is published. If nobody does, only questions make an image
        worth a look. Images and rounds of questions take turns where both wait.
        """
        with self._changed:
            self._looking = False  # whoever asks for work has done, or failed at, the last
            while not self._closed:
                self._idle = not is_watched()
                work = self._turn()
                if work is not None:
                    return work
                self._changed.wait(_NAP_S if self._has_an_impatient_image() else _SLEEP_S)
        return None

    def done(self, seen: HasImage) -> None:
        """The worker has looked; questions are answered from this now."""
        with self._changed:
            self._looking = False
            if seen.image.number >= self._first_number:
                self._seen = seen

    def forget(self, why: str) -> None:
        """Time has jumped back: what was seen before is not the latest any more."""
        with self._changed:
            self._forget(why)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Let the worker go, and everybody who waits."""
        with self._changed:
            self._closed = True
            tickets, self._tickets = self._tickets, []
            self._changed.notify_all()
        for ticket in tickets:
            if ticket.future.set_running_or_notify_cancel():
                ticket.future.set_exception(Closed())

    def _turn(self) -> Pair | Questions | None:
        kinds = (self._pair, self._questions) if self._answered_last else (self._questions, self._pair)
        work = kinds[0]() or kinds[1]()
        self._answered_last = isinstance(work, Questions)
        return work

    def _questions(self) -> Questions | None:
        self._tickets = [ticket for ticket in self._tickets if not ticket.future.cancelled()]
        ready = [ticket for ticket in self._tickets if self._answerable(ticket)]
        if not ready:
            return None
        self._tickets = [ticket for ticket in self._tickets if ticket not in ready]
        return Questions(self._seen, ready)

    def _answerable(self, ticket: Ticket) -> bool:
        if not ticket.needs_look:
            return True
        if self._seen is None or not ticket.accepts(self._seen.image):
            return False
        # While nobody watches, the last look may be old: the image that waits is looked at first.
        return not self._idle or self._image is None or self._seen.image.number >= ticket.asked_number

    def _pair(self) -> Pair | None:
        image = self._image
        if image is None or not self._is_wanted(image) or not self._pairing.ready(image, time.monotonic_ns()):
            return None
        self._image, self._looking = None, True
        return self._pairing.pair(image)

    def _has_an_impatient_image(self) -> bool:
        """Whether an image will soon have waited long enough for the calibration of its own stamp."""
        return self._is_wanted(self._image) and self._pairing.has_info

    def _is_wanted(self, image: Arrival | None) -> bool:
        return image is not None and (not self._idle or any(ticket.accepts(image) for ticket in self._tickets))

    def _forget(self, why: str) -> None:
        self._troubles.note(
            "time went back", f"{why}: starting anew; if no bag was restarted, check the clock of the camera."
        )
        self._recent.forget()
        self._image = self._seen = self.newest = None
        self._looking = False
        self._first_number = self.received + 1


def _late(behind_ns: int) -> str:
    return (
        f"an image is {behind_ns / 1e6:.1f} ms older than the one before and is left out: stamps must not go back; "
        "check whether two cameras publish on the same topic."
    )
