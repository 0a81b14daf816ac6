"""How the work goes: rate, latency by stage, failures in a row. Written by the worker, read by diagnostics.

What goes wrong, counted by reason and logged now and then.

rclpy's own throttle is per line of code; this one is per reason, and says how often it held its tongue.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

KEPT_FRAMES = 300
RATE_OVER_S = 5.0
# Stages of a frame that are the model's own; the rest is what the node adds to them.
MODEL_STAGES = ("look", "tell")
FAILURES_THAT_COUNT = 5


@dataclass(frozen=True)
class Reading:
    """A reading of the meter.

    total_ms: from the image's arrival to the last publication, percentiles 50 and 99 of the last frames. stages_ms:
    medians; "waited" is the time in the inbox, "outside" all but the model and the waiting. age_s: since the last look;
    NaN before the first. failures: looks that failed in a row. failed_answers: questions that did.
    """

    frames: int
    questions: int
    rate_hz: float
    total_p50_ms: float
    total_p99_ms: float
    stages_ms: Mapping[str, float]
    age_s: float
    failures: int
    failed_answers: int


class Meter:
    """Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frames = self._questions = self._failures = self._failed_answers = 0
        self._stages: deque[dict[str, float]] = deque(maxlen=KEPT_FRAMES)
        self._done_s: deque[float] = deque(maxlen=KEPT_FRAMES)

    def frame(self, waited_ms: float, stages_ms: Mapping[str, float]) -> None:
        """A frame is done. waited_ms: in the inbox. stages_ms: of each stage."""
        outside_ms = sum(ms for stage, ms in stages_ms.items() if stage not in MODEL_STAGES)
        total_ms = waited_ms + sum(stages_ms.values())
        with self._lock:
            self._frames += 1
            self._failures = 0
            self._stages.append({**stages_ms, "waited": waited_ms, "outside": outside_ms, "total": total_ms})
            self._done_s.append(time.monotonic())

    def question(self) -> None:
        """A question is answered."""
        with self._lock:
            self._questions += 1
            self._failed_answers = 0

    def failure(self) -> None:
        """The model, or this program, has failed at a look (bad input is no failure)."""
        with self._lock:
            self._failures += 1

    def failed_answer(self) -> None:
        """It has failed at a question. Old looks can be asked while no new one succeeds, and the other way round."""
        with self._lock:
            self._failed_answers += 1

    def read(self) -> Reading:
        """The state now."""
        with self._lock:
            stages, done_s = list(self._stages), list(self._done_s)
            counts = self._frames, self._questions
            failures = self._failures, self._failed_answers
        now_s = time.monotonic()
        totals = [stage["total"] for stage in stages] or [float("nan")]
        names = sorted({name for stage in stages for name in stage})
        medians = {name: float(np.median([stage.get(name, 0.0) for stage in stages])) for name in names}
        p50, p99 = np.percentile(totals, (50, 99))
        age_s = now_s - done_s[-1] if done_s else float("nan")
        return Reading(*counts, _rate(done_s, now_s), float(p50), float(p99), medians, age_s, *failures)


def _rate(done_s: list[float], now_s: float) -> float:
    """Frames per second over the last seconds; over less if the first frame came later than that."""
    recent = [moment for moment in done_s if now_s - moment <= RATE_OVER_S]
    return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 else 0.0


REPEAT_AFTER_S = 5.0


class Troubles:
    """Counts every trouble and logs each reason at most every few seconds. Safe to use from several threads.

    log: writes one line, for example a logger's `warning`. clock: seconds, for tests.
    """

    def __init__(self, log: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock = log, clock
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._logged_s: dict[str, float] = {}
        self._silent: Counter[str] = Counter()
        self._last = ""
        self._last_s = -math.inf

    def note(self, reason: str, message: str) -> None:
        """Count a trouble. reason: a short fixed name. message: what was wrong, and what to do."""
        with self._lock:
            self._counts[reason] += 1
            self._last = message
            now_s = self._last_s = self._clock()
            if now_s - self._logged_s.get(reason, -REPEAT_AFTER_S) < REPEAT_AFTER_S:
                self._silent[reason] += 1
                return
            self._logged_s[reason] = now_s
            silent = self._silent.pop(reason, 0)
        self._log(f"{message} ({silent} more like this before)" if silent else message)

    @property
    def counts(self) -> dict[str, int]:
        """How often each reason occurred."""
        with self._lock:
            return dict(self._counts)

    @property
    def last(self) -> str:
        """The last message; empty if there was none."""
        with self._lock:
            return self._last

    @property
    def quiet_s(self) -> float:
        """Seconds since the last trouble; inf if there was none."""
        with self._lock:
            return self._clock() - self._last_s
