# SPDX-License-Identifier: Apache-2.0
"""The queue in front of the inference thread: at most one image, the newest, and a few questions.

One condition variable guards both, so that the inference thread waits in one place. Images never pile up: a newer image
replaces the one that waits. Some images of the last seconds are kept for questions about a moment ago.

Public names: RequestQueue, PendingQuestion, ImageHistory, QueueFull, QueueClosed.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from depthlm_ros.core import Question
from depthlm_ros.ros.camera_info_sync import NS_PER_S, CameraImage, CameraInfoSync, stamp_ns
from depthlm_ros.ros.frame_processing import FrameResult
from depthlm_ros.ros.rate_limit import RateLimit
from depthlm_ros.ros.statistics import ProblemLog

if TYPE_CHECKING:
    from rclpy.clock import Clock
    from sensor_msgs.msg import CameraInfo, CompressedImage, Image

# An image that is older than the newest one by less than this is late. If it is older by more, the camera's time has
# started again: a bag was restarted, or a simulation was reset.
RESTART_NS = NS_PER_S
# The history is divided into so many steps. It holds about one image per step, so that its memory does not grow with
# the frame rate.
HISTORY_STEPS = 8
# How often the inference thread looks up: while an image waits for its calibration, and otherwise.
_SHORT_WAIT_S, _LONG_WAIT_S = 0.005, 0.5

AnswerT = TypeVar("AnswerT")


class QueueFull(Exception):
    """Too many questions wait."""


class QueueClosed(Exception):
    """The queue was closed because the node stops; no more questions are answered."""


@dataclass(eq=False)
class PendingQuestion(Generic[AnswerT]):
    """A question that waits for the inference thread. `future` receives the answer.

    work: makes the answer from a frame result, in the inference thread.
    is_fresh: the frame must be of an image that was taken after the request.
    question: the words that `work` asks the model, if they may be asked in one batch with those of other questions.
    `work` then returns the frame result and the answer.
    needs_frame: False if the question brings its own images. `work` must then ignore its argument.
    asked_clock_ns, asked_number: the node's clock and the number of the newest image when the question was put in.
    frame_result: set when the question is taken out; None if there is none and none is needed.
    """

    work: Callable[[FrameResult], AnswerT]
    is_fresh: bool
    question: Question | None = None
    needs_frame: bool = True
    asked_clock_ns: int = 0
    asked_number: int = 0
    frame_result: FrameResult | None = None
    future: Future[AnswerT] = field(default_factory=Future)

    def accepts(self, image: CameraImage) -> bool:
        """Whether this question can be answered from an image, with regard to the image's time.

        If the camera's clock is not the node's (a bag without simulated time, a driver that is not synchronised), the
        stamp does not tell when the image was taken. Then only the order of arrival counts.
        """
        if not (self.needs_frame and self.is_fresh):
            return self.needs_frame
        is_taken_later = image.stamp_ns > self.asked_clock_ns or not image.is_stamped_by_node_clock
        return image.number > self.asked_number and is_taken_later


class ImageHistory:
    """Images at even intervals, each with its calibration. Not thread-safe. span_s: seconds to keep; 0 keeps none."""

    def __init__(self, span_s: float = 0.0) -> None:
        self._span_ns = round(span_s * NS_PER_S)
        self._images: deque[CameraImage] = deque()

    def add(self, image: CameraImage, find_info: Callable[[CameraImage], CameraImage]) -> None:
        """Stores an image unless the previous one is too near or the image has no calibration.

        Call it when the next image has arrived: by then the calibration has arrived too. find_info: returns the image
        with its calibration.
        """
        if self._span_ns == 0:
            return
        if self._images and image.stamp_ns - self._images[-1].stamp_ns < self._span_ns // HISTORY_STEPS:
            return
        image = find_info(image)
        if image.info is None:
            return
        self._images.append(image)
        while len(self._images) > 1 and self._images[1].stamp_ns <= image.stamp_ns - self._span_ns:
            self._images.popleft()

    def find_before(self, image: CameraImage, back_ns: int) -> CameraImage | None:
        """Returns, of the images before this one, the nearest to the time back_ns before it; None if there is none."""
        earlier = [each for each in self._images if each.number < image.number]
        wanted_ns = image.stamp_ns - back_ns
        return min(earlier, key=lambda each: abs(each.stamp_ns - wanted_ns), default=None)

    def reaches_back(self, image: CameraImage, back_ns: int) -> bool:
        """Whether an image is kept that was taken at least back_ns before this one."""
        return any(each.number < image.number and image.stamp_ns - each.stamp_ns >= back_ns for each in self._images)

    def clear(self) -> None:
        """Forgets all images."""
        self._images.clear()


class RequestQueue:
    """Filled by the node's callbacks, emptied by one inference thread. Thread-safe.

    newest: the newest image. arrived: all images that arrived. received: those that were not late. dropped: those that
    a newer one replaced. is_closed: whether `close` was called.
    """

    def __init__(
        self,
        clock: Clock,
        problems: ProblemLog,
        max_questions: int,
        history_s: float = 0.0,
        is_sure_of_source: Callable[[], bool] = lambda: False,
        rate_limit: RateLimit | None = None,
        image_topic: str = "image",
    ) -> None:
        """clock: the node's. max_questions: places for questions. history_s: how long earlier images are kept.

        is_sure_of_source: see CameraInfoSync. rate_limit: of the images, but not of those that a question needs.
        image_topic: for messages.
        """
        self.image_topic = image_topic
        self._clock, self._problems, self._max_questions = clock, problems, max_questions
        self._rate_limit = rate_limit or RateLimit()
        self._changed = threading.Condition()
        self._info_sync, self._history = CameraInfoSync(is_sure_of_source), ImageHistory(history_s)
        self._image: CameraImage | None = None
        self._frame_result: FrameResult | None = None
        self._questions: list[PendingQuestion] = []
        self._places_taken = 0
        self._first_number = 0
        self._is_idle = True
        self._is_processing = False
        self._answered_last = False
        self.newest: CameraImage | None = None
        self.arrived = self.received = self.dropped = 0
        self.is_closed = False

    def put_image(self, message: Image | CompressedImage) -> None:
        """Puts an image in, in the place of one that still waits. A late image is left out and reported."""
        clock_ns = self._clock.now().nanoseconds
        with self._changed:
            self.arrived += 1
            stamp = stamp_ns(message.header)
            behind_ns = self.newest.stamp_ns - stamp if self.newest else 0
            if behind_ns > RESTART_NS:
                self._restart(
                    f"the stamp of the images on {self.image_topic} went back by {behind_ns / NS_PER_S:.1f} s"
                )
            elif behind_ns > 0:
                self._problems.report("late image", _late_image(self.image_topic, behind_ns))
                return
            if self.newest:
                self._history.add(self.newest, self._info_sync.find)
            self.received += 1
            self.dropped += self._image is not None and not self._is_idle
            self._image = self.newest = CameraImage(message, stamp, time.monotonic_ns(), clock_ns, self.received)
            self._changed.notify()

    def put_info(self, info: CameraInfo) -> None:
        """Puts a calibration in."""
        with self._changed:
            self._info_sync.add(info)
            self._changed.notify()

    def forget_infos(self) -> None:
        """Forgets all calibrations, because they come from another topic from now on."""
        with self._changed:
            self._info_sync.clear()

    @contextmanager
    def reserve_place(self) -> Iterator[None]:
        """Holds one of the places for questions from the request to the response. Raises QueueFull."""
        with self._changed:
            if self._places_taken >= self._max_questions:
                raise QueueFull(
                    f"{self._max_questions} questions wait already (parameter max_waiting_questions): ask again later."
                )
            self._places_taken += 1
        try:
            yield
        finally:
            with self._changed:
                self._places_taken -= 1
                self._changed.notify_all()

    def put_question(self, question: PendingQuestion) -> None:
        """Puts a question in. Raises QueueClosed."""
        question.asked_clock_ns = self._clock.now().nanoseconds
        with self._changed:
            if self.is_closed:
                raise QueueClosed
            question.asked_number = self.received
            self._questions.append(question)
            self._changed.notify()

    @property
    def has_info(self) -> bool:
        """Whether any calibration has arrived."""
        with self._changed:
            return self._info_sync.has_info

    @property
    def can_answer(self) -> bool:
        """Whether a question can be answered without a new image.

        True if a frame was processed, is being processed, or waits together with a calibration.
        """
        with self._changed:
            is_waiting = self._image is not None and self._info_sync.has_info
            return self._frame_result is not None or self._is_processing or is_waiting

    def find_earlier(self, image: CameraImage, back_ns: int) -> CameraImage | None:
        """Returns, of the kept earlier images, the nearest to the time back_ns before this one; None without any."""
        with self._changed:
            return self._history.find_before(image, back_ns)

    def reaches_back(self, image: CameraImage, back_ns: int) -> bool:
        """Whether an image is kept that was taken at least back_ns before this one."""
        with self._changed:
            return self._history.reaches_back(image, back_ns)

    def take(self, is_watched: Callable[[], bool]) -> CameraImage | list[PendingQuestion] | None:
        """Waits for the next work and returns it: an image, or questions that one frame answers. None: closed.

        is_watched: whether anybody receives what is published. If nobody does, an image is only processed if a question
        needs it. Images and questions take turns while both wait.
        """
        work: CameraImage | list[PendingQuestion] | None
        with self._changed:
            self._is_processing = False  # the thread that asks for work has finished or failed the last
            while not self.is_closed:
                self._is_idle = not is_watched()
                if self._answered_last:
                    work = self._take_image() or self._take_questions()
                else:
                    work = self._take_questions() or self._take_image()
                self._answered_last = bool(work) and isinstance(work, list)
                if work:
                    return work
                self._changed.wait(self._patience_s())
        return None

    def take_image_now(self) -> CameraImage | None:
        """Returns the image that `take` would return, or None, without waiting."""
        with self._changed:
            return None if self.is_closed else self._take_image()

    def take_questions_now(self) -> list[PendingQuestion]:
        """Returns the questions that can be answered, without waiting."""
        with self._changed:
            return [] if self.is_closed else self._take_questions()

    def set_frame_result(self, result: FrameResult) -> None:
        """Stores the result for a frame; questions are answered from it from now on."""
        with self._changed:
            self._is_processing = False
            if result.image.number >= self._first_number and not self.is_closed:
                self._frame_result = result

    def restart(self, why: str) -> None:
        """Forgets images and frames because time went back. why: what has jumped, for the log."""
        with self._changed:
            self._restart(why)

    def close(self) -> None:
        """Closes the queue: the inference thread ends, and all questions that wait fail with QueueClosed."""
        with self._changed:
            self.is_closed = True
            questions, self._questions = self._questions, []
            self._changed.notify_all()
        for question in questions:
            if question.future.set_running_or_notify_cancel():
                question.future.set_exception(QueueClosed())

    def wait_until_left(self, timeout_s: float) -> bool:
        """Waits until no request holds a place any more; returns whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: self._places_taken == 0, timeout_s)

    def forget(self) -> None:
        """Forgets all images and the frame result, which holds the model. ROS may hold a closed queue for a while."""
        with self._changed:
            self._forget()

    def _take_image(self) -> CameraImage | None:
        if self._image is None or not self._is_wanted(self._image) or self._turn_in_s(self._image) > 0:
            return None
        paired = self._info_sync.pair(self._image, time.monotonic_ns())
        if paired is not None:
            self._image, self._is_processing = None, True
            self._rate_limit.begin(time.monotonic())
        return paired

    def _patience_s(self) -> float:
        """Returns how long nothing needs to be done if nothing arrives."""
        if self._image is None or not self._is_wanted(self._image) or not self._info_sync.has_info:
            return _LONG_WAIT_S
        return min(max(_SHORT_WAIT_S, self._turn_in_s(self._image)), _LONG_WAIT_S)

    def _turn_in_s(self, image: CameraImage) -> float:
        """Returns the seconds until an image may be processed; 0 if a question needs it."""
        is_needed = any(each.accepts(image) and not self._is_answerable(each) for each in self._questions)
        return 0.0 if is_needed else self._rate_limit.wait_s(time.monotonic())

    def _is_wanted(self, image: CameraImage) -> bool:
        return not self._is_idle or any(question.accepts(image) for question in self._questions)

    def _take_questions(self) -> list[PendingQuestion]:
        self._questions = [question for question in self._questions if not question.future.cancelled()]
        ready = [question for question in self._questions if self._is_answerable(question)]
        if ready:
            self._questions = [question for question in self._questions if question not in ready]
        for question in ready:
            question.frame_result = self._frame_result
        return ready

    def _is_answerable(self, question: PendingQuestion) -> bool:
        if not question.needs_frame:
            return True
        if self._frame_result is None or not question.accepts(self._frame_result.image):
            return False
        # While nobody watches, the last frame may be old: an image that waits is processed first.
        return not self._is_idle or self._image is None or self._frame_result.image.number >= question.asked_number

    def _restart(self, why: str) -> None:
        self._problems.report(
            "time went back",
            f"{why}: all images so far are forgotten; if no bag was restarted, check the camera's clock.",
        )
        self._forget()
        self._is_processing = False
        self._first_number = self.received + 1

    def _forget(self) -> None:
        self._history.clear()
        self._image = self._frame_result = self.newest = None


def _late_image(topic: str, behind_ns: int) -> str:
    return (
        f"an image on {topic} is {behind_ns / 1e6:.1f} ms older than the one before and is left out: stamps must "
        "not go back; check whether two cameras publish on this topic."
    )
