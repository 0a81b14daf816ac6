"""Tables for people: one's own score among the published ones, object questions by category."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from depthlm_ros.eval.published import NOTES, OBJECT_BENCH, TABLES
from depthlm_ros.eval.published_table import Table

Run = Mapping[str, Any]


def beside(table: Table, column: str, name: str, value: float) -> list[str]:
    """Lines of a published column with one's own value in its place; empty if the table has no such column."""
    rows = table.column(column)
    if not rows or not math.isfinite(value):
        return []
    mine = f"> {name}"
    ordered = sorted({**rows, mine: value}.items(), key=lambda item: -item[1] if table.up else item[1])
    note = f"; {NOTES[table.title, column]}" if (table.title, column) in NOTES else ""
    head = f"published: {table.title}, {column} ({table.score}{note})"
    return [head, *(f"  {number:8.3f}  {row}" for row, number in ordered)]


def published(run: Run) -> str:
    """The run's score among the published ones of its task, protocol and data set; "" if there are none.

    Questions about objects are told by category: those of another benchmark are no easier or harder for having a
    category of the same name, and are put beside nothing."""
    tables = TABLES.get(run["protocol"] if run["task"] == "depth" else run["task"], ())
    lines = []
    if run["task"] == "objects":
        for table in tables if run["data_set"] == OBJECT_BENCH else ():
            for column in table.columns:
                lines += beside(table, column, run["model"], _object_score(run, table, column))
    else:
        for table in tables:
            value = run.get(table.key)
            scaled = math.nan if value is None else value * table.scale
            lines += beside(table, str(run["data_set"]), run["model"], scaled)
    return "\n".join(lines)


def _object_score(run: Run, table: Table, column: str) -> float:
    group = run["scores"].get(column)
    if group is None:
        return math.nan
    if table.score == "right, %":
        return 100 * float(group["right"])
    value = group.get({"AbsRel": "absrel", "error, degrees": "error_deg"}[table.score])
    return math.nan if value is None else value


def every_table(tables: Iterable[Table]) -> str:
    """All that was published, for people."""
    lines = []
    for table in tables:
        width = max(map(len, table.rows))
        lines.append(f"{table.title} ({table.score}): {' / '.join(table.columns)}")
        for row, values in table.rows.items():
            told = " ".join(f"{value:8.3f}" if math.isfinite(value) else f"{'-':>8}" for value in values)
            lines.append(f"  {row:{width}} {told}")
    return "\n".join(lines)


def object_table(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """Right answers by category."""
    lines = [f"{'':16}  right   AbsRel  error deg      n  unread"]
    for name, group in scores.items():
        numbers = f"{group['right']:7.3f}  {group['absrel']:7.3f}  {group['error_deg']:9.1f}"
        lines.append(f"{name:16}{numbers}  {group['n']:5}  {group['unread']:6}".replace("nan", "  -"))
    return "\n".join(lines)


def score_lines(scores: Mapping[str, Any]) -> str:
    """One line per score."""
    return "\n".join(f"{name:22}  {value:.4g}" for name, value in scores.items() if isinstance(value, (int, float)))
