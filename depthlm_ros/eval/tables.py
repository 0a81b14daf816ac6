# SPDX-License-Identifier: Apache-2.0
"""Tables for people: a score among the published ones, object questions by category, and several runs in one table.

`compare_with_published` and `compare_runs` take runs: what `depthlm eval --json` wrote (`read_run`). `published_tables`
prints the published scores, `object_table` and `score_lines` the scores of one evaluation.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from depthlm_ros.errors import BadInput
from depthlm_ros.eval.object_questions import CategoryScores
from depthlm_ros.eval.published import NOTES, OBJECT_BENCH, TABLES, PublishedTable
from depthlm_ros.file_io import parse_json

# The scores of one run, as JSON has them.
Run: TypeAlias = Mapping[str, Any]

# Task -> columns of a comparison: (title, path of keys in the JSON of a run).
RUN_COLUMNS = {
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
# Two runs are comparable if they have the same values of these keys.
COMPARABLE_KEYS = ("task", "protocol", "as_released", "data_set", "labels", "n")
# Runs with the same title are distinguished by these keys, in this order, as far as needed.
DISTINGUISHING_KEYS = ("data_set", "as_released", "labels", "file")


def rank_among_published(table: PublishedTable, column: str, name: str, value: float) -> list[str]:
    """Returns the lines of a published column with another value at its rank; empty if there is no such column.

    name: name of the other value.
    """
    rows = table.column(column)
    if not rows or not math.isfinite(value):
        return []
    own_row = f"> {name}"
    ordered = sorted({**rows, own_row: value}.items(), key=lambda item: -item[1] if table.up else item[1])
    note = f"; {NOTES[table.title, column]}" if (table.title, column) in NOTES else ""
    head = f"published: {table.title}, {column} ({table.score}{note})"
    return [head, *(f"  {number:8.3f}  {row}" for row, number in ordered)]


def compare_with_published(run: Run) -> str:
    """Returns the run's scores among the published ones of its task, protocol and data set; "" if there are none.

    Scores of questions about objects are compared by category, and only if the questions are those of the benchmark:
    questions of another benchmark in a category of the same name may be easier or harder.
    """
    tables = TABLES.get(run["protocol"] if run["task"] == "depth" else run["task"], ())
    lines = []
    if run["task"] == "objects":
        for table in tables if run["data_set"] == OBJECT_BENCH else ():
            for column in table.columns:
                lines += rank_among_published(table, column, run["model"], _object_score(run, table, column))
    else:
        for table in tables:
            value = run.get(table.key)
            scaled = math.nan if value is None else value * table.scale
            lines += rank_among_published(table, str(run["data_set"]), run["model"], scaled)
    return "\n".join(lines)


def _object_score(run: Run, table: PublishedTable, column: str) -> float:
    group = run["scores"].get(column)
    if group is None:
        return math.nan
    if table.score == "right, %":
        return 100 * float(group["right"])
    value = group.get({"AbsRel": "absrel", "error, degrees": "error_deg"}[table.score])
    return math.nan if value is None else value


def published_tables(tables: Iterable[PublishedTable]) -> str:
    """Returns published tables as text."""
    lines = []
    for table in tables:
        width = max(map(len, table.rows))
        lines.append(f"{table.title} ({table.score}): {' / '.join(table.columns)}")
        for row, values in table.rows.items():
            cells = " ".join(f"{value:8.3f}" if math.isfinite(value) else f"{'-':>8}" for value in values)
            lines.append(f"  {row:{width}} {cells}")
    return "\n".join(lines)


def object_table(scores: Mapping[str, CategoryScores]) -> str:
    """Returns the scores of questions about objects, with one line per category."""
    lines = [f"{'':16}  right   AbsRel  error deg      n  unread"]
    for name, group in scores.items():
        numbers = f"{group['right']:7.3f}  {group['absrel']:7.3f}  {group['error_deg']:9.1f}"
        lines.append(f"{name:16}{numbers}  {group['n']:5}  {group['unread']:6}".replace("nan", "  -"))
    return "\n".join(lines)


def score_lines(scores: Mapping[str, float]) -> str:
    """Returns one line per score."""
    return "\n".join(f"{name:22}  {value:.4g}" for name, value in scores.items())


def read_run(path: Path) -> Run:
    """Reads what `depthlm eval --json` wrote. Raises BadInput if the file holds something else."""
    try:
        run = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as exc:
        raise BadInput(f"{path} cannot be read ({exc}): give a file that depthlm eval --json wrote.") from exc
    if not isinstance(run, dict) or run.get("task") not in RUN_COLUMNS:
        raise BadInput(f"{path} holds no scores: give a file that depthlm eval --json wrote.")
    return run | {"file": str(path)}


def compare_runs(runs: Sequence[Run]) -> str:
    """Returns several runs of one task in one table, one row each, with the baselines that they hold.

    The table says in what the runs are not comparable. Runs of one model on several data sets also have their mean,
    among the published averages if these are over the same data sets. Raises BadInput for runs of different tasks.
    """
    tasks = {run["task"] for run in runs}
    if len(tasks) > 1:
        raise BadInput(f"the runs are of different tasks ({', '.join(sorted(tasks))}): compare runs of one task.")
    columns = RUN_COLUMNS[tasks.pop()]
    rows = [*_model_rows(runs), *_baseline_rows(runs)]
    data_sets = _averaged_data_sets(runs)
    if data_sets:
        rows.append((f"mean of {len(data_sets)} data sets", _mean(runs, columns)))
    width = max((len(name) for name, _ in rows), default=0)
    lines = ["  ".join([" " * width, *(f"{title:>8}" for title, _ in columns)])]
    lines += ["  ".join([f"{name:{width}}", *(_cell(run, keys) for _, keys in columns)]) for name, run in rows]
    for key in COMPARABLE_KEYS:
        values = {json.dumps(run.get(key)) for run in runs}
        if len(values) > 1 and not (data_sets and key in ("data_set", "labels", "n")):
            lines.append(f"not comparable: {key} is {', '.join(sorted(values))}")
    return "\n".join([*lines, *_rank_among_averages(runs, data_sets)])


def _model_rows(runs: Sequence[Run]) -> list[tuple[str, Run]]:
    with_model = [run for run in runs if run.get("model")]
    return list(zip(_unique_names([_title(run) for run in with_model], with_model), with_model, strict=True))


def _baseline_rows(runs: Sequence[Run]) -> list[tuple[str, Run]]:
    """Returns each baseline once, even if several runs of the same labels hold it."""
    names: list[str] = []
    owners: list[Run] = []
    baselines: list[Run] = []
    for run in runs:
        for name, scores in run.get("baselines", {}).items():
            if (name, scores) not in zip(names, baselines, strict=True):
                names.append(name)
                owners.append(run)
                baselines.append(scores)
    titles = [f"{name} [baseline]" for name in _unique_names(names, owners)]
    return list(zip(titles, baselines, strict=True))


def _unique_names(names: Iterable[str], runs: Sequence[Run]) -> list[str]:
    """Returns the names. A name that several runs share is followed by the values in which these runs differ."""
    unique = list(names)
    for key in DISTINGUISHING_KEYS:
        counts = Counter(unique)
        values: dict[str, set[object]] = {}
        for name, run in zip(unique, runs, strict=True):
            values.setdefault(name, set()).add(run.get(key))
        unique = [
            f"{name} {_describe(key, run.get(key))}".rstrip() if counts[name] > 1 and len(values[name]) > 1 else name
            for name, run in zip(unique, runs, strict=True)
        ]
    return unique


def _describe(key: str, value: object) -> str:
    if key == "as_released":
        return "as released" if value else ""
    return f"({value})"


def _averaged_data_sets(runs: Sequence[Run]) -> tuple[str, ...]:
    """Returns the data sets of runs of one model that differ in nothing else; empty for other runs."""
    data_sets = tuple(str(run.get("data_set") or "") for run in runs)
    settings = {(_title(run), run.get("as_released")) for run in runs}
    is_one_series = len(runs) > 1 and len(settings) == 1 and all(data_sets) and len(set(data_sets)) == len(data_sets)
    return data_sets if is_one_series and runs[0].get("model") else ()


def _mean(runs: Sequence[Run], columns: Iterable[tuple[str, str]]) -> Run:
    """Returns the mean of each score that all runs have; numbers of records are summed."""
    mean: dict[str, float] = {}
    for _, keys in columns:
        values = [value for run in runs if isinstance(value := _value(run, keys), (int, float))]
        if len(values) == len(runs):
            mean[keys] = sum(values) if keys.split(".")[-1] in ("n", "unread") else sum(values) / len(values)
    return mean


def _rank_among_averages(runs: Sequence[Run], data_sets: Sequence[str]) -> list[str]:
    """Returns the published averages over exactly these data sets, with the mean of the runs among them."""
    lines: list[str] = []
    if not data_sets:
        return lines
    first = runs[0]
    protocol = str(first.get("protocol")) if first["task"] == "depth" else first["task"]
    for table in TABLES.get(protocol, ()):
        values = [value for run in runs if isinstance(value := _value(run, table.key), (int, float))]
        mean = sum(values) / len(values) * table.scale if len(values) == len(runs) else math.nan
        for column, averaged in table.averaged.items():
            if set(averaged) == set(data_sets):
                lines += rank_among_published(table, column, str(first["model"]), mean)
    return lines


def _title(run: Run) -> str:
    words = " ".join(str(run[key]) for key in ("model", "backend", "points") if run.get(key))
    return f"{words} {run['protocol']}" if run.get("protocol") else words


def _value(run: Run, keys: str) -> object:
    """Returns the value at a path of keys, "outer.inner"; in a mean of runs the whole path is one key."""
    if keys in run:
        return run[keys]
    value: object = run
    for key in keys.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _cell(run: Run, keys: str) -> str:
    value = _value(run, keys)
    if not isinstance(value, (int, float)):
        return f"{'-':>8}"
    return f"{value:8d}" if isinstance(value, int) else f"{value:8.3f}"
