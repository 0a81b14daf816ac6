"""Tables for people: one's own score among the published ones, object questions by category, several runs together."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from depthlm_ros.errors import BadInput
from depthlm_ros.eval.published import NOTES, TABLES, Table

Run = Mapping[str, Any]

# Task -> columns of a comparison: title, path of keys in the JSON of a run.
COLUMNS = {
    "depth": (
        ("delta1", "delta1"),
        ("AbsRel", "absrel"),
        ("RMSE", "rmse"),
        ("aligned", "delta1_aligned"),
        ("by image", "delta1_image_mean"),
        ("in 1 std", "reliability.within_1std"),
        ("AUSE", "reliability.ause"),
        ("edge F1", "boundary.f1"),
        ("flying", "boundary.flying_share"),
        ("s/image", "seconds_per_image"),
        ("n", "n"),
    ),
    "objects": (
        ("right", "scores.all.right"),
        ("qualit.", "scores.qualitative.right"),
        ("quantit.", "scores.quantitative.right"),
        ("AbsRel", "scores.quantitative.absrel"),
        ("n", "scores.all.n"),
    ),
    "matches": (("EPE", "epe"), ("EPE px", "epe_px"), ("in 20", "within_20"), ("unread", "unread"), ("n", "n")),
    "pose": (
        ("AUC@30", "auc30"),
        ("rot deg", "rotation_deg"),
        ("dir deg", "direction_deg"),
        ("unread", "unread"),
        ("n", "n"),
    ),
}
# What says whether two runs scored the same things.
SAME = ("task", "protocol", "as_released", "labels", "n")


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
    """The run's score among the published ones of its task, protocol and data set; "" if there are none."""
    tables = TABLES.get(run["protocol"] if run["task"] == "depth" else run["task"], ())
    lines = []
    if run["task"] == "objects":
        for table in tables:
            for column in table.columns:
                lines += beside(table, column, run["model"], _object_score(run, table, column))
    else:
        value = {"depth": run.get("delta1"), "matches": run.get("epe"), "pose": run.get("auc30")}[run["task"]]
        value = math.nan if value is None else value * (100 if run["task"] == "pose" else 1)
        for table in tables:
            lines += beside(table, str(run["data_set"]), run["model"], value)
    return "\n".join(lines)


def _object_score(run: Run, table: Table, column: str) -> float:
    group = run["scores"].get(column)
    if group is None:
        return math.nan
    value = group["absrel"] if table.score == "AbsRel" else 100 * group["right"]
    return math.nan if value is None else value


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


def read_run(path: Path) -> Run:
    """What `depthlm eval --json` wrote. Raises BadInput if it is not that."""
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as exc:
        raise BadInput(f"{path}: cannot be read ({exc}): give a file that depthlm eval --json wrote.") from exc
    if not isinstance(run, dict) or run.get("task") not in COLUMNS:
        raise BadInput(f"{path}: holds no scores: give a file that depthlm eval --json wrote.")
    return run


def comparison(runs: Sequence[Run]) -> str:
    """Several runs of one task in one table, with the baselines that they hold; says where they are not comparable.

    Raises BadInput for runs of different tasks.
    """
    tasks = {run["task"] for run in runs}
    if len(tasks) > 1:
        raise BadInput(f"the runs are of different tasks ({', '.join(sorted(tasks))}): compare those of one.")
    columns = COLUMNS[tasks.pop()]
    rows = {_title(run): run for run in runs if run.get("model")}
    for run in runs:
        rows.update({f"{name} [baseline]": given for name, given in run.get("baselines", {}).items()})
    width = max(map(len, rows), default=0)
    lines = ["  ".join([" " * width, *(f"{title:>8}" for title, _ in columns)])]
    lines += ["  ".join([f"{name:{width}}", *(_cell(run, keys) for _, keys in columns)]) for name, run in rows.items()]
    for key in SAME:
        values = {json.dumps(run.get(key)) for run in runs}
        if len(values) > 1:
            lines.append(f"not comparable: {key} is {', '.join(sorted(values))}")
    return "\n".join(lines)


def _title(run: Run) -> str:
    words = " ".join(str(run[key]) for key in ("model", "backend", "points") if run.get(key))
    return f"{words} {run['protocol']}" if run.get("protocol") else words


def _cell(run: Run, keys: str) -> str:
    value: Any = run
    for key in keys.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    if value is None:
        return f"{'-':>8}"
    return f"{value:8d}" if isinstance(value, int) else f"{value:8.3f}"
