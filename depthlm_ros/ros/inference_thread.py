# SPDX-License-Identifier: Apache-2.0
"""The thread that runs the model: it processes the newest image, and answers questions between images.

Only this thread looks at images. Beside it, a long question (long_questions.py) asks the model in a thread of its own,
which every backend allows. An error costs one image or one question; the thread goes on.

Beside a model on a GPU, a second thread prepares the next frame while the model looks at the one before.

Public names: InferenceThread, FramePreparer.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from typing import cast

from depthlm_ros.core import Question
from depthlm_ros.errors import BackendFailed, BadImage, BadInput, BadIntrinsics
from depthlm_ros.ros.camera_info_sync import CameraImage
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


class InferenceThread(threading.Thread):
    """Runs from start() until the queue is closed.

    process: that of a FrameProcessor or a FramePreparer. publish: called with every frame result. is_watched: whether
    anybody receives what is published.
    """

    def __init__(
        self,
        queue: RequestQueue,
        process: Callable[[CameraImage], FrameResult],
        publish: Callable[[FrameResult], None],
        is_watched: Callable[[], bool],
        statistics: FrameStatistics,
        problems: ProblemLog,
    ) -> None:
        super().__init__(name="depth_inference", daemon=True)
        self._queue, self._process_image, self._publish, self._is_watched = queue, process, publish, is_watched
        self._statistics, self._problems = statistics, problems

    def run(self) -> None:
        """Works until the queue is closed."""
        while not self._queue.is_closed:
            try:
                work = self._queue.take(self._is_watched)
                if isinstance(work, list):
                    self._answer(work)
                elif work is not None:
                    self._process(work)
            except Exception as error:  # of the queue or of ROS; without this thread the node would do nothing
                self._report(error, self._statistics.count_failure)
                time.sleep(PAUSE_S)

    def _process(self, image: CameraImage) -> None:
        waited_ms = (time.monotonic_ns() - image.arrived_ns) / 1e6
        try:
            result = self._process_image(image)
            self._queue.set_frame_result(result)
            self._publish(result)
        except Exception as error:  # whatever it is, one frame is lost; the next one may be fine
            self._report(error, self._statistics.count_failure, f"{self._queue.image_topic}: ")
        else:
            self._statistics.count_frame(waited_ms, result.stopwatch.stages_ms)

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


class FramePreparer(threading.Thread):
    """Prepares each image when it arrives, from start() until the queue is closed.

    Decoding, rectifying and the exact resizing of a published checkpoint take 10 to 30 ms of the processor for an image
    of 1920 x 1080, in which the GPU would wait. The model still gets the newest image. Images that are then dropped are
    prepared in vain, so that beside a model on the CPU it would be a loss. `process` takes the place of the
    processor's. prepared_ahead: the number of frames that were ready when the model wanted them.
    """

    def __init__(self, queue: RequestQueue, processor: FrameProcessor) -> None:
        super().__init__(name="depth_preparation", daemon=True)
        self._queue, self._processor = queue, processor
        self._preparing = threading.Lock()
        self._ready: PreparedFrame | None = None
        self.prepared_ahead = 0

    def run(self) -> None:
        """Prepares every image that waits for the model, until the queue is closed."""
        number = 0
        while (image := self._queue.wait_for_newer(number)) is not None:
            number = image.number
            with self._preparing:
                try:
                    self._ready = self._processor.prepare(image)
                except Exception:  # `process` meets it again, and the inference thread reports it
                    self._ready = None
        self._ready = None

    def process(self, image: CameraImage) -> FrameResult:
        """Does what FrameProcessor.process does, with what is prepared already. Raises the same errors."""
        with self._preparing:
            ready, self._ready = self._ready, None
            if ready is not None and ready.image.number == image.number and ready.image.info is image.info:
                self.prepared_ahead += 1
            else:
                ready = self._processor.prepare(image)
        return self._processor.look(ready)
