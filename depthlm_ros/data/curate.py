"""Turns a public data set into records: items in parallel workers, a journal that survives being killed, a report."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from depthlm_ros.data.depthfile import BadDepthMap
from depthlm_ros.data.journal import ItemResult, Journal
from depthlm_ros.data.problems import BadRecord, Problem
from depthlm_ros.data.progress import Progress
from depthlm_ros.data.sampler import Plan, write_view
from depthlm_ros.data.sets import data_set
from depthlm_ros.data.view import Choice, DataSet, Maker, View
from depthlm_ros.data.wholefile import write_text
from depthlm_ros.data.workers import Outcome, in_order
from depthlm_ros.errors import BadImage, BadInput, BadIntrinsics

# Errors of the disk that is written to: the run stops, with what is written whole.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


@dataclass(frozen=True)
class Job:
    """Which data set, from where, read how, written how."""

    name: str
    root: Path
    choice: Choice
    plan: Plan


def curate(job: Job, workers: int) -> dict[str, Any]:
    """Write job.plan.out/NAME.jsonl and what it needs, and NAME.report.json; returns the report.

    The same job again goes on where it was killed. Raises BadInput if there is nothing of the data set at its root,
    if the folder holds another run, or if the disk is full; UnknownName for an unknown data set.
    """
    chosen = data_set(job.name)
    plan = replace(job.plan, depth_scale=chosen.depth_scale)
    if job.plan.format == "depthlm":
        plan = replace(plan, focal_px=chosen.focal_px)
    return run(replace(job, plan=plan), job.name, workers, work)


def run(
    job: Job,
    name: str,
    workers: int,
    work_on: Callable[[Job, str], ItemResult],
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Do all items of a job that are not done yet; lines go to NAME.jsonl. extra: what else makes two runs differ."""
    items = list_items(data_set(job.name), job)
    header = {**_header(job), **(extra or {})}
    try:
        journal = Journal(job.plan.out, name, header)
        _work_off(journal, items, partial(work_on, job), workers)
        report = {**header, **journal.summary(), "file": str(journal.path)}
        write_text(job.plan.out / f"{name}.report.json", json.dumps(report, indent=1) + "\n")
    except OSError as exc:
        raise BadInput(
            f"{job.plan.out}: {exc}. Make room and run the same command again: it goes on from there."
        ) from exc
    return report


def _work_off(journal: Journal, items: Sequence[str], work_on: Callable[[str], ItemResult], workers: int) -> None:
    """Do what is not done yet, and finish the journal. Raises OSError, with how much is done, if the disk is full."""
    todo = [item for item in items if item not in journal.done]
    if journal.finished:
        if todo:
            raise BadInput(
                f"{journal.path} was finished without {len(todo)} items that are there now, such as {todo[0]}: name "
                "another folder."
            )
        return
    progress = Progress(journal.path.stem, len(items), len(items) - len(todo))
    try:
        for outcome in in_order(work_on, todo, min(workers, len(todo))):
            journal.append(outcome.item, _result(outcome))
            progress.step(journal.records)
        journal.finish()
    except OSError as exc:
        raise OSError(f"{exc}; {len(journal.done)} of {len(items)} items are written whole") from exc


def list_items(chosen: DataSet, job: Job) -> Sequence[str]:
    """Raises BadInput if the root holds nothing of the data set."""
    items = chosen.items(job.root, job.choice) if job.root.is_dir() else ()
    if not items:
        split = f" of its split '{job.choice.split}'" if job.choice.split else ""
        raise BadInput(f"{job.root}: nothing of {chosen.title}{split} found. Expected: {chosen.layout}")
    return items


def work(job: Job, item: str) -> ItemResult:
    """All views of one item, written; in a worker process."""
    lines, points = [], 0
    problems: list[Problem] = []
    for name, make in guarded_views(job, item, problems):
        made = attempt(f"{item}: {name}", partial(_write, make, job.plan), problems)
        if made is not None:
            lines.append(made[0])
            points += made[1]
    return ItemResult(tuple(lines), points, tuple(problems))


def _write(make: Callable[[], View], plan: Plan) -> tuple[str, int]:
    return write_view(make(), plan)


def guarded_views(job: Job, item: str, problems: list[Problem]) -> Iterator[Maker]:
    """The makers of an item's views one by one; what is wrong with the item as a whole ends them, and is counted."""
    views = attempt(item, lambda: data_set(job.name).views(job.root, item, job.choice), problems)
    while views is not None:
        maker = attempt(item, partial(next, views, None), problems)
        if maker is None:
            return
        yield maker


def attempt(where: str, do: Callable[[], Any], problems: list[Problem]) -> Any:
    """What `do` returns; None if the data are at fault, which is then counted by reason. A full disk is raised."""
    try:
        return do()
    except BadRecord as exc:
        reason, message = exc.reason, str(exc)
    except BadIntrinsics as exc:
        reason, message = "intrinsics unusable", str(exc)
    except BadDepthMap as exc:
        reason, message = "depth map unusable", str(exc)
    except BadImage as exc:
        reason, message = "image unusable", str(exc)
    except OSError as exc:
        if exc.errno in FULL:
            raise
        reason, message = "file unreadable", str(exc)
    except (KeyError, IndexError, TypeError, ValueError, cv2.error) as exc:
        reason, message = "data malformed", f"{type(exc).__name__}: {exc}"
    problems.append(Problem(where, reason, message))
    return None


def _result(outcome: Outcome[ItemResult]) -> ItemResult:
    """The item's result, and its kills among the problems."""
    if outcome.result is None:
        lost = Problem(
            outcome.item, "worker killed twice", "it killed its worker, and killed it again by itself: left out"
        )
        return ItemResult((), 0, (lost,))
    if not outcome.kills:
        return outcome.result
    again = Problem(outcome.item, "worker killed once", "a worker was killed while it was under way; done again")
    return replace(outcome.result, problems=(*outcome.result.problems, again))


def _header(job: Job) -> dict[str, Any]:
    """What makes two runs the same."""
    plan = {key: value for key, value in asdict(job.plan).items() if key != "out"}
    return {"data_set": job.name, "root": str(job.root.resolve()), **asdict(job.choice), **plan}
