"""What was wrong with data, counted by reason: nothing is dropped without a trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from depthlm_ros.errors import BadInput


@dataclass(frozen=True)
class Problem:
    """What was left out: `count` points of a record, or the record itself (count 1); `reason` is a short fixed name."""

    where: str
    reason: str
    message: str
    count: int = 1

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class BadRecord(BadInput):
    """A line, an image or a depth map that is no usable data; `reason` is the short name under which it is counted."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadRecord], tuple[str, str]]:
        return type(self), (self.reason, str(self))  # it comes back from worker processes


def count_by_reason(problems: Iterable[Problem]) -> dict[str, int]:
    """How many records or points each reason cost."""
    counts: Counter[str] = Counter()
    for problem in problems:
        counts[problem.reason] += problem.count
    return dict(counts)
