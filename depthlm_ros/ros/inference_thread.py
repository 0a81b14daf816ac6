# SPDX-License-Identifier: Apache-2.0
"""The thread that runs the model: it processes the newest image, and answers questions between images.

Only this thread looks at images. Beside it, a long question (long_questions.py) asks the model in a thread of its own,
which every backend allows. An error costs one image or one question; the thread goes on.

Before the model, an image is decoded, rectified and resized, for a published checkpoint exactly as it was trained: 10
to 30 ms of the processor at 1920 x 1080. While a model on a GPU looks, a helper does this for the next image, at the
last moment, so that it is a new one. Beside a model on the CPU it would take the cores that the model needs.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import cast

from depthlm_ros.core import Question
from depthlm_ros.errors import BackendFailed, BadImage, BadInput, BadIntrinsics
from depthlm_ros.ros.frame_processing import FrameProcessor, FrameResult, PreparedFrame
from depthlm_ros.ros.request_queue import PendingQuestion, RequestQueue
from depthlm_ros.ros.statistics import FrameStatistics, ProblemLog

# Classes of errors, the most special first, and the reason under which each is counted.
REASONS: tuple[tuple[type[Exception], str], ...] = (
    (BadImage, "bad image"),
    (BadIntrinsics, "bad camera_info"),
    (BadInput, "bad input"),
    (BackendFailed, "model failed"),
)
# The pause after an error that does not belong to one frame, so that a lasting one does not take a whole core.
PAUSE_S = 0.1
# The next image is taken so many times its preparation, and this share of the look, before the look is expected to end.
EARLY, EARLY_SHARE = 1.5, 0.1
# If none is there, so often is looked for one.
ARRIVAL_PERIOD_S = 0.002


class InferenceThread(threading.Thread):
    """Runs from start() until the queue is closed.

    publish: called with every frame result. is_watched: whether anybody receives what is published. prepares_ahead:
    whether the next image is prepared while the model looks.
    """

    def __init__(
        self,
        queue: RequestQueue,
        processor: FrameProcessor,
        publish: Callable[[FrameResult], None],
        is_watched: Callable[[], bool],
        statistics: FrameStatistics,
        problems: ProblemLog,
        prepares_ahead: bool = False,
    ) -> None:
        super().__init__(name="depth_inference", daemon=True)
        self._queue, self._processor, self._publish, self._is_watched = queue, processor, publish, is_watched
        self._statistics, self._problems = statistics, problems
        self._ahead = _Ahead(queue, processor, is_watched) if prepares_ahead else None

    def run(self) -> None:
        """Works until the queue is closed."""
        while not self._queue.is_closed:
            try:
                if self._ahead and (following := self._ahead.collect()):
                    self._answer(self._queue.take_questions_now())
                    self._process(following.result)
                else:
                    work = self._queue.take(self._is_watched)
                    if isinstance(work, list):
                        self._answer(work)
                    elif work is not None:
                        self._process(partial(self._processor.prepare, work))
            except Exception as error:  # of the queue or of ROS; without this thread the node would do nothing
                self._report(error, self._statistics.count_failure)
                time.sleep(PAUSE_S)
        if self._ahead:
            self._ahead.close()

    def _process(self, prepare: Callable[[], PreparedFrame]) -> None:
        try:
            prepared = prepare()
            with self._ahead.beside(prepared) if self._ahead else nullcontext():
                result = self._processor.look(prepared)
            self._queue.set_frame_result(result)
            self._publish(result)
        except Exception as error:  # whatever it is, one frame is lost; the next one may be fine
            self._report(error, self._statistics.count_failure, f"{self._queue.image_topic}: ")
        else:
            stages_ms = result.stopwatch.stages_ms
            since_ms = (time.monotonic_ns() - result.image.arrived_ns) / 1e6
            self._statistics.count_frame(since_ms - sum(stages_ms.values()), stages_ms)

    def _answer(self, questions: list[PendingQuestion]) -> None:
        """Answers questions from one frame result; those in words together, in one batch of the model."""
        waiting = [question for question in questions if not question.future.cancelled()]
        in_words = {question: question.question for question in waiting if question.question is not None}
        if len(in_words) > 1 and self._answer_in_batch(in_words):
            waiting = [question for question in waiting if question not in in_words]
        for question in waiting:
            self._answer_one(question)

    def _answer_in_batch(self, questions: dict[PendingQuestion, Question]) -> bool:
        """Returns False without any answer if one bad question spoils the batch: each must get its own error."""
        result = cast(FrameResult, next(iter(questions)).frame_result)
        started_s = time.perf_counter()
        try:
            answers = result.view.ask_all(list(questions.values()))
        except Exception:  # asked alone, each question gets the error that belongs to it
            return False
        took_ms = 1e3 * (time.perf_counter() - started_s)
        for question, answer in zip(questions, answers, strict=True):
            if question.future.set_running_or_notify_cancel():
                self._statistics.count_question(took_ms)
                question.future.set_result((result, answer))
        return True

    def _answer_one(self, question: PendingQuestion) -> None:
        if not question.future.set_running_or_notify_cancel():
            return
        started_s = time.perf_counter()
        try:
            # A question that needs no frame ignores the argument, so None does no harm.
            answer = question.work(cast(FrameResult, question.frame_result))
        except Exception as error:  # the service that asked reports it to its caller
            if not isinstance(error, BadInput):
                self._report(error, self._statistics.count_failed_answer)
            # Without the traceback, which holds the question: a circle that nobody breaks if the caller has left.
            question.future.set_exception(error.with_traceback(None))
        else:
            took_ms = 1e3 * (time.perf_counter() - started_s)
            self._statistics.count_question(took_ms if question.question is not None else None)
            question.future.set_result(answer)

    def _report(self, error: Exception, count: Callable[[], None], source: str = "") -> None:
        """Logs an error. count: counts it in the statistics, unless bad input is the cause. source: of bad input."""
        reason = next((name for kind, name in REASONS if isinstance(error, kind)), "internal error")
        if not isinstance(error, BadInput):
            count()
        message = f"{source}{error}" if isinstance(error, BadInput) else str(error)
        if reason == "internal error":
            frames = traceback.extract_tb(error.__traceback__)
            where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"
            message = f"this frame is lost: {type(error).__name__}: {error} ({where}); please report it."
        self._problems.report(reason, message)


class _Ahead:
    """Takes and prepares the next image while the model looks. Used by the inference thread, which owns the helper."""

    def __init__(self, queue: RequestQueue, processor: FrameProcessor, is_watched: Callable[[], bool]) -> None:
        self._queue, self._processor, self._is_watched = queue, processor, is_watched
        self._helper = ThreadPoolExecutor(1, "depth_preparation")
        self._next: Future[Future[PreparedFrame] | None] | None = None
        self._look_s = 0.0

    @contextmanager
    def beside(self, prepared: PreparedFrame) -> Iterator[None]:
        """Lets the helper work while the model looks at a prepared frame."""
        ended, began_s = threading.Event(), time.monotonic()
        prepare_s = sum(prepared.stopwatch.stages_ms.values()) / 1e3
        self._next = self._helper.submit(
            self._prepare_next, ended, (1 - EARLY_SHARE) * self._look_s - EARLY * prepare_s
        )
        try:
            yield
        finally:
            ended.set()
            self._look_s = time.monotonic() - began_s

    def collect(self) -> Future[PreparedFrame] | None:
        """Returns the outcome of the next image's preparation, once it has ended; None if no image was taken."""
        following, self._next = self._next, None
        return following.result() if following else None

    def close(self) -> None:
        """Ends the helper."""
        self._helper.shutdown()
        self._next = None

    def _prepare_next(self, ended: threading.Event, delay_s: float) -> Future[PreparedFrame] | None:
        """Takes an image before the look ends, and prepares it."""
        ended.wait(max(0.0, delay_s))
        while not ended.is_set() and self._is_watched():
            if (image := self._queue.take_image_now()) is not None:
                outcome: Future[PreparedFrame] = Future()
                try:
                    outcome.set_result(self._processor.prepare(image))
                except Exception as error:  # costs this image; the inference thread reports it
                    outcome.set_exception(error)
                return outcome
            ended.wait(ARRIVAL_PERIOD_S)
        return None
