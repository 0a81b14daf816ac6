"""What could not be shown in training, counted: records that were passed over, and points left out of the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from depthlm_ros.data.records import Problem


@dataclass
class LeftOut:
    """counts: by reason, each time that it happened. first: by reason, what was wrong the first time."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, problems: Iterable[Problem]) -> None:
        """Count problems in."""
        for problem in problems:
            self._count(problem.reason, problem.count, str(problem))

    def merge(self, other: LeftOut) -> None:
        """Count those of another process in."""
        for reason, count in other.counts.items():
            self._count(reason, count, other.first[reason])

    def set(self, kept: Mapping[str, Any]) -> None:
        """Take over what was kept as JSON, of `vars`."""
        self.counts, self.first = dict(kept["counts"]), dict(kept["first"])

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def lines(self) -> Iterator[str]:
        """For people, the commonest first."""
        for reason, count in sorted(self.counts.items(), key=lambda item: -item[1]):
            yield f"left out {count} times: {reason}, the first: {self.first[reason]}"

    def _count(self, reason: str, count: int, told: str) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + count
        self.first.setdefault(reason, told)
