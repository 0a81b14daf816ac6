"""The one thread that runs the model: it looks at the newest image, and answers questions between images.

A model's session is never entered twice at a time, because nobody else runs it. Whatever fails, fails for one image or
one question; the thread goes on.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable

from depthlm_ros.errors import BackendFailed, BadImage, BadInput, BadIntrinsics
from depthlm_ros.ros.camera_info_sync import Pair
from depthlm_ros.ros.frame_processing import Eye, Seen
from depthlm_ros.ros.request_queue import Inbox, Questions, Ticket
from depthlm_ros.ros.statistics import Meter, Troubles

# An error's class, most special first, and the name under which it is counted.
REASONS: tuple[tuple[type[Exception], str], ...] = (
    (BadImage, "bad image"),
    (BadIntrinsics, "bad camera_info"),
    (BadInput, "bad input"),
    (BackendFailed, "model failed"),
)

# After a failure that is not of one frame, so that a lasting one does not take a whole core.
PAUSE_S = 0.1


class Worker(threading.Thread):
    """Runs from start() until the inbox is closed.

    publish: called with every look. is_watched: whether anybody receives what is published.
    """

    def __init__(
        self,
        inbox: Inbox,
        eye: Eye,
        publish: Callable[[Seen], None],
        is_watched: Callable[[], bool],
        meter: Meter,
        troubles: Troubles,
    ) -> None:
        super().__init__(name="depth_worker", daemon=True)
        self._inbox, self._eye, self._publish, self._is_watched = inbox, eye, publish, is_watched
        self._meter, self._troubles = meter, troubles

    def run(self) -> None:
        """Work until the inbox is closed."""
        while not self._inbox.closed:
            try:
                self._work(self._inbox.next(self._is_watched))
            except Exception as error:  # of the inbox or of ROS; without this thread the node would be deaf and dumb
                self._note(error, self._meter.failure)
                time.sleep(PAUSE_S)

    def _work(self, work: Pair | Questions | None) -> None:
        if isinstance(work, Questions):
            for ticket in self._answer_together(work):
                self._answer(ticket, work.seen)
        elif work is not None:
            self._look(work)

    def _look(self, pair: Pair) -> None:
        waited_ms = (time.monotonic_ns() - pair.image.arrived_ns) / 1e6
        try:
            seen = self._eye.look(pair)
            self._inbox.done(seen)
            self._publish(seen)
        except Exception as error:  # one frame is lost, whatever it was; the next may be fine
            self._note(error, self._meter.failure)
        else:
            self._meter.frame(waited_ms, seen.watch.stages_ms)

    def _answer_together(self, work: Questions) -> list[Ticket]:
        """Ask the model all questions in words at once; the tickets that are still to be answered one by one."""
        waiting = [ticket for ticket in work.tickets if not ticket.future.cancelled()]
        asked = {ticket: ticket.question for ticket in waiting if ticket.question is not None}
        if len(asked) < 2:
            return waiting
        try:
            answers = work.seen.view.ask_all(list(asked.values()))
        except Exception:  # one bad question spoils a batch; asked alone, each gets the error that is its own
            return waiting
        for ticket, answer in zip(asked, answers, strict=True):
            if ticket.future.set_running_or_notify_cancel():
                self._meter.question()
                ticket.future.set_result((work.seen, answer))
        return [ticket for ticket in waiting if ticket not in asked]

    def _answer(self, ticket: Ticket, seen: Seen | None) -> None:
        if not ticket.future.set_running_or_notify_cancel():
            return
        try:
            result = ticket.work(seen)
        except Exception as error:  # it is told to the one who asked
            if not isinstance(error, BadInput):
                self._note(error, self._meter.failed_answer)
            ticket.future.set_exception(error)
        else:
            self._meter.question()
            ticket.future.set_result(result)

    def _note(self, error: Exception, count: Callable[[], None]) -> None:
        """count: the meter's counter of such failures."""
        reason = next((name for kind, name in REASONS if isinstance(error, kind)), "internal error")
        if not isinstance(error, BadInput):
            count()
        message = str(error)
        if reason == "internal error":
            frames = traceback.extract_tb(error.__traceback__)
            where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"
            message = f"this frame is lost: {type(error).__name__}: {error} ({where}); please report it."
        self._troubles.note(reason, message)
