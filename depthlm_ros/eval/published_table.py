"""What a table of published scores is.

Marks: F official table, N quoted by third parties from the paper, A an independent repetition. A row holds one value
per column, "-" where none was published. Where a source's average is not the mean of its row, the average is theirs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """A published table. column: the score that each column holds, in the units of the paper; up: larger is better.

    key: what the score is called in the JSON of a run, "" for scores by category; scale: what it is to be multiplied
    with. averaged: of each column that holds an average, the columns that it is of.
    """

    title: str
    score: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[float, ...]]
    up: bool = True
    key: str = ""
    scale: float = 1.0
    averaged: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def column(self, name: str) -> dict[str, float]:
        """Row name -> value, of those that have one, the best first; empty if there is no such column."""
        if name not in self.columns:
            return {}
        index = self.columns.index(name)
        found = {row: values[index] for row, values in self.rows.items() if math.isfinite(values[index])}
        return dict(sorted(found.items(), key=lambda item: -item[1] if self.up else item[1]))


def table(
    title: str,
    score: str,
    columns: str,
    text: str,
    *,
    up: bool = True,
    key: str = "",
    scale: float = 1.0,
    averaged: Mapping[str, str] | None = None,
) -> Table:
    """From columns "a/b/c" and lines "row: 1/2/-". averaged: "a/b" of each average; without it, "average" is of all the
    other columns. Raises ValueError for a row of another length."""
    names = tuple(columns.split("/"))
    rows = {}
    for line in text.strip().splitlines():
        row, values = line.strip().split(": ")
        numbers = tuple(math.nan if value == "-" else float(value) for value in values.split("/"))
        if len(numbers) != len(names):
            raise ValueError(f"{title}, row {row}: {len(numbers)} values for {len(names)} columns.")
        rows[row] = numbers
    means = {name: tuple(of.split("/")) for name, of in (averaged or {}).items()}
    if averaged is None and "average" in names:
        means["average"] = tuple(name for name in names if name != "average")
    return Table(title, score, names, rows, up, key, scale, means)
