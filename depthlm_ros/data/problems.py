"""What was wrong with data, counted by reason: nothing is dropped without a trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from depthlm_ros.errors import BadInput

# So many problems of a kind are told in full.
EXAMPLES = 3


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


def nothing_usable(path: Path, problems: Sequence[Problem], what: str = "record") -> BadInput:
    """The error of a file of which nothing is left."""
    if not problems:
        return BadInput(f"{path}: it has no lines: give a JSONL file of labels.")
    return BadInput(f"{path}: no usable {what}: {len(problems)} problems, the first is {problems[0]}")


def told(problems: Iterable[Problem], examples: int = EXAMPLES) -> list[str]:
    """Lines for people: each reason with its count, the commonest first, and its first examples."""
    by_reason: dict[str, list[Problem]] = {}
    for problem in problems:
        by_reason.setdefault(problem.reason, []).append(problem)
    counts = {reason: sum(problem.count for problem in found) for reason, found in by_reason.items()}
    lines = []
    for reason in sorted(counts, key=lambda name: -counts[name]):
        lines += [f"{counts[reason]} x {reason}", *(f"    {one}" for one in by_reason[reason][:examples])]
    return lines


def count_by_reason(problems: Iterable[Problem]) -> dict[str, int]:
    """How many records or points each reason cost."""
    counts: Counter[str] = Counter()
    for problem in problems:
        counts[problem.reason] += problem.count
    return dict(counts)
