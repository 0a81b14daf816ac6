# SPDX-License-Identifier: Apache-2.0
"""Statistics of the node's work, and a log of its problems.

FrameStatistics holds rate, latency by stage and failures in a row. The inference thread writes it, diagnostics reads
it. ProblemLog counts problems by reason and logs each reason now and then, less and less often. (rclpy's own throttle
works per line of code; this one works per reason and says how many messages it held back.)
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

MAX_FRAMES = 300
RATE_WINDOW_S = 5.0
# Stages of a frame in which the model runs. The node adds all others.
MODEL_STAGES = ("look", "tell")
# So many failures in a row are an error; fewer are a warning.
MAX_FAILURES_IN_A_ROW = 5
LOG_PERIOD_S, MAX_LOG_PERIOD_S = 5.0, 600.0
# After so long without it, a problem is logged as if it were new.
FORGOTTEN_S = 60.0


@dataclass(frozen=True)
class StatisticsSnapshot:
    """The state of FrameStatistics at one moment.

    total_p50_ms, total_p99_ms: percentiles of the time from an image's arrival to its last publication, over the last
    frames. stages_ms: medians; "waited" is the time in the queue, "outside" everything except the model and the
    waiting. answer_p50_ms: median time of the model for a question in words, or for several that were answered
    together; NaN before the first. last_frame_age_s: since the last processed frame; NaN before the first one.
    failures: frames that failed in a row. failed_answers: questions that failed in a row.
    """

    frames: int
    questions: int
    rate_hz: float
    total_p50_ms: float
    total_p99_ms: float
    stages_ms: Mapping[str, float]
    answer_p50_ms: float
    last_frame_age_s: float
    failures: int
    failed_answers: int


class FrameStatistics:
    """Counts frames, questions and failures, and keeps the latencies of the last frames. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frames = self._questions = self._failures = self._failed_answers = 0
        self._stages: deque[dict[str, float]] = deque(maxlen=MAX_FRAMES)
        self._finished_s: deque[float] = deque(maxlen=MAX_FRAMES)
        self._answers_ms: deque[float] = deque(maxlen=MAX_FRAMES)

    def count_frame(self, waited_ms: float, stages_ms: Mapping[str, float]) -> None:
        """Counts a frame that succeeded. waited_ms: its time in the queue. stages_ms: its time in each stage."""
        outside_ms = sum(ms for stage, ms in stages_ms.items() if stage not in MODEL_STAGES)
        total_ms = waited_ms + sum(stages_ms.values())
        with self._lock:
            self._frames += 1
            self._failures = 0
            self._stages.append({**stages_ms, "waited": waited_ms, "outside": outside_ms, "total": total_ms})
            self._finished_s.append(time.monotonic())

    def count_question(self, in_words_ms: float | None = None) -> None:
        """Counts a question that was answered. in_words_ms: the time of the model if it was one in words."""
        with self._lock:
            if in_words_ms is not None:
                self._answers_ms.append(in_words_ms)
            self._questions += 1
            self._failed_answers = 0

    def count_failure(self) -> None:
        """Counts a frame at which the model or this program failed. Bad input is not a failure."""
        with self._lock:
            self._failures += 1

    def count_failed_answer(self) -> None:
        """Counts a question at which the model or this program failed.

        Frames and questions are counted apart: old frames can be asked about while all new frames fail, and the other
        way round.
        """
        with self._lock:
            self._failed_answers += 1

    def snapshot(self) -> StatisticsSnapshot:
        """Returns the present state."""
        with self._lock:
            stages, finished_s, answers_ms = list(self._stages), list(self._finished_s), list(self._answers_ms)
            counts = self._frames, self._questions
            failures = self._failures, self._failed_answers
        now_s = time.monotonic()
        totals = [stage["total"] for stage in stages] or [float("nan")]
        names = sorted({name for stage in stages for name in stage})
        medians = {name: float(np.median([stage.get(name, 0.0) for stage in stages])) for name in names}
        p50, p99 = np.percentile(totals, (50, 99))
        age_s = now_s - finished_s[-1] if finished_s else float("nan")
        rate_hz = _rate_hz(finished_s, now_s)
        answer_p50_ms = float(np.median(answers_ms or [float("nan")]))
        return StatisticsSnapshot(*counts, rate_hz, float(p50), float(p99), medians, answer_p50_ms, age_s, *failures)


def _rate_hz(finished_s: list[float], now_s: float) -> float:
    """Frames per second over the last seconds, or over less if the first frame came later."""
    recent = [moment_s for moment_s in finished_s if now_s - moment_s <= RATE_WINDOW_S]
    return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 else 0.0


class ProblemLog:
    """Counts every problem and logs each reason now and then. Thread-safe.

    The time between two lines of one reason is LOG_PERIOD_S at first and doubles with each line, up to
    MAX_LOG_PERIOD_S: a problem that lasts must not fill the log.

    log: writes one line, for example the method `warning` of a logger. clock: returns seconds; tests replace it.
    """

    def __init__(self, log: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock = log, clock
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._occurred_s: dict[str, float] = {}
        self._silent_until_s: dict[str, float] = {}
        self._period_s: dict[str, float] = {}
        self._held_back: Counter[str] = Counter()
        self._last_message = ""
        self._last_s = -math.inf

    def report(self, reason: str, message: str) -> None:
        """Counts a problem. reason: a short fixed name. message: what is wrong and what to do."""
        with self._lock:
            self._counts[reason] += 1
            self._last_message = message
            now_s = self._last_s = self._clock()
            if now_s - self._occurred_s.get(reason, -math.inf) > FORGOTTEN_S:
                self._forget(reason)
            self._occurred_s[reason] = now_s
            if now_s < self._silent_until_s.get(reason, -math.inf):
                self._held_back[reason] += 1
                return
            period_s = self._period_s.get(reason, LOG_PERIOD_S)
            self._silent_until_s[reason] = now_s + period_s
            self._period_s[reason] = min(2.0 * period_s, MAX_LOG_PERIOD_S)
            held_back = self._held_back.pop(reason, 0)
        self._log(f"{message} ({held_back} more like this before)" if held_back else message)

    def settle(self, reason: str) -> None:
        """Ends a problem: the next one of this reason is logged at once. The counts stay."""
        with self._lock:
            self._forget(reason)

    def _forget(self, reason: str) -> None:
        self._silent_until_s.pop(reason, None)
        self._period_s.pop(reason, None)

    @property
    def counts(self) -> dict[str, int]:
        """How often each reason occurred."""
        with self._lock:
            return dict(self._counts)

    @property
    def last_message(self) -> str:
        """The last message; empty if there was no problem yet."""
        with self._lock:
            return self._last_message

    @property
    def quiet_s(self) -> float:
        """Seconds since the last problem; infinite if there was none."""
        with self._lock:
            return self._clock() - self._last_s
