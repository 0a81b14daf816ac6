"""Tables for people: one's own score among the published ones, object questions by category.

Several runs of `depthlm eval` in one table.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from depthlm_ros.errors import BadInput
from depthlm_ros.eval.published import NOTES, OBJECT_BENCH, TABLES, Table

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
SAME = ("task", "protocol", "as_released", "data_set", "labels", "n")
# What tells runs of one title apart, in this order, as far as needed.
APART = ("data_set", "as_released", "labels", "file")


def read_run(path: Path) -> Run:
    """What `depthlm eval --json` wrote. Raises BadInput if it is not that."""
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as exc:
        raise BadInput(f"{path}: cannot be read ({exc}): give a file that depthlm eval --json wrote.") from exc
    if not isinstance(run, dict) or run.get("task") not in COLUMNS:
        raise BadInput(f"{path}: holds no scores: give a file that depthlm eval --json wrote.")
    return run | {"file": str(path)}


def comparison(runs: Sequence[Run]) -> str:
    """Several runs of one task in one table, a row each, with the baselines that they hold; says where they are not
    comparable. Runs of one model on several data sets also have their mean, beside the published averages if these are
    of the same data sets.

    Raises BadInput for runs of different tasks.
    """
    tasks = {run["task"] for run in runs}
    if len(tasks) > 1:
        raise BadInput(f"the runs are of different tasks ({', '.join(sorted(tasks))}): compare those of one.")
    columns = COLUMNS[tasks.pop()]
    rows = [*_models(runs), *_baselines(runs)]
    sets = _data_sets(runs)
    if sets:
        rows.append((f"mean of {len(sets)} data sets", _mean(runs, columns)))
    width = max((len(name) for name, _ in rows), default=0)
    lines = ["  ".join([" " * width, *(f"{title:>8}" for title, _ in columns)])]
    lines += ["  ".join([f"{name:{width}}", *(_cell(run, keys) for _, keys in columns)]) for name, run in rows]
    for key in SAME:
        values = {json.dumps(run.get(key)) for run in runs}
        if len(values) > 1 and not (sets and key in ("data_set", "labels", "n")):
            lines.append(f"not comparable: {key} is {', '.join(sorted(values))}")
    return "\n".join([*lines, *_beside_averages(runs, sets)])


def _models(runs: Sequence[Run]) -> list[tuple[str, Run]]:
    scored = [run for run in runs if run.get("model")]
    return list(zip(_told_apart([_title(run) for run in scored], scored), scored, strict=True))


def _baselines(runs: Sequence[Run]) -> list[tuple[str, Run]]:
    """Each once, however many runs of the same labels hold it."""
    names: list[str] = []
    owners: list[Run] = []
    found: list[Run] = []
    for run in runs:
        for name, given in run.get("baselines", {}).items():
            if (name, given) not in zip(names, found, strict=True):
                names.append(name)
                owners.append(run)
                found.append(given)
    named = [f"{name} [baseline]" for name in _told_apart(names, owners)]
    return list(zip(named, found, strict=True))


def _told_apart(names: Iterable[str], runs: Sequence[Run]) -> list[str]:
    """The names, and behind those that several runs share what differs between these."""
    told = list(names)
    for key in APART:
        counts = Counter(told)
        values: dict[str, set[object]] = {}
        for name, run in zip(told, runs, strict=True):
            values.setdefault(name, set()).add(run.get(key))
        told = [
            f"{name} {_said(key, run.get(key))}".rstrip() if counts[name] > 1 and len(values[name]) > 1 else name
            for name, run in zip(told, runs, strict=True)
        ]
    return told


def _said(key: str, value: object) -> str:
    if key == "as_released":
        return "as released" if value else ""
    return f"({value})"


def _data_sets(runs: Sequence[Run]) -> tuple[str, ...]:
    """Those of runs of one model that differ in nothing else; none of other runs."""
    named = tuple(str(run.get("data_set") or "") for run in runs)
    same = {(_title(run), run.get("as_released")) for run in runs}
    alone = len(runs) > 1 and len(same) == 1 and all(named) and len(set(named)) == len(named)
    return named if alone and runs[0].get("model") else ()


def _mean(runs: Sequence[Run], columns: Iterable[tuple[str, str]]) -> Run:
    """Of each score that all runs have; numbers of records are added up."""
    mean: dict[str, Any] = {}
    for _, keys in columns:
        values = [_value(run, keys) for run in runs]
        if all(isinstance(value, (int, float)) for value in values):
            mean[keys] = sum(values) if keys.split(".")[-1] in ("n", "unread") else sum(values) / len(values)
    return mean


def _beside_averages(runs: Sequence[Run], sets: Sequence[str]) -> list[str]:
    """The published averages over exactly these data sets, with one's own among them."""
    lines: list[str] = []
    if not sets:
        return lines
    first = runs[0]
    protocol = str(first.get("protocol")) if first["task"] == "depth" else first["task"]
    for table in TABLES.get(protocol, ()):
        values = [_value(run, table.key) for run in runs]
        mine = math.nan if None in values else sum(values) / len(values) * table.scale
        for column, averaged in table.averaged.items():
            if set(averaged) == set(sets):
                lines += beside(table, column, str(first["model"]), mine)
    return lines


def _title(run: Run) -> str:
    words = " ".join(str(run[key]) for key in ("model", "backend", "points") if run.get(key))
    return f"{words} {run['protocol']}" if run.get("protocol") else words


def _value(run: Run, keys: str) -> Any:
    """Of a mean, whose keys are whole, or by the way down into what a run holds."""
    if keys in run:
        return run[keys]
    value: Any = run
    for key in keys.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _cell(run: Run, keys: str) -> str:
    value = _value(run, keys)
    if value is None:
        return f"{'-':>8}"
    return f"{value:8d}" if isinstance(value, int) else f"{value:8.3f}"
