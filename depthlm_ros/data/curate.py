# SPDX-License-Identifier: Apache-2.0
"""Turns a public data set into records: parallel workers, a journal that survives a killed run, and a report.

`curate` does the whole job. `run_job` does the same with another function per item (data/pairs.py uses it).
`process_items` is the loop below both, and the one of labelling.py; `Journal` writes the files.

NAME.jsonl.part grows item by item. After each item, NAME.journal gets one line with the item, the length of the part
file up to there, and what was wrong. When the run is started again, everything beyond the last such length is removed,
because it belongs to an unfinished item. Journal lines whose length the part file has not reached, which only a power
loss can cause, are removed too. At the end the part file is renamed to NAME.jsonl in one step.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypedDict, TypeVar

import cv2

from depthlm_ros.data.depthfile import BadDepthMap
from depthlm_ros.data.records import EXAMPLES, BadRecord, RecordProblem, count_by_reason
from depthlm_ros.data.sample_points import WriteOptions, write_view
from depthlm_ros.data.sets import data_set
from depthlm_ros.data.source_view import DataSet, LazyView, ReadOptions, SourceView
from depthlm_ros.data.worker_pool import GIVEN_UP, WorkerResult, Workers, map_in_order
from depthlm_ros.errors import BadImage, BadInput, BadIntrinsics, SetupError
from depthlm_ros.file_io import JsonLinesFile, write_atomically
from depthlm_ros.progress import progress_bar

T = TypeVar("T")
ItemT = TypeVar("ItemT")
# Written data are forced to the disk after at most this time. Killing the process loses nothing in between.
SYNC_S = 5.0
# Errors of the disk that is written to. They stop the run; finished items stay complete.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
NO_ROOM_HINT = "Make room and run the same command again; it continues from there."
# After so many failures one after another, none of which is the item's own fault, the run is stopped.
MOST_FAILURES = 20


@dataclass(frozen=True)
class CurationJob:
    """Which data set is read from which folder, how it is read, and how its records are written."""

    name: str
    root: Path
    read_options: ReadOptions
    write_options: WriteOptions


@dataclass(frozen=True)
class ItemResult:
    """The result of one item: its lines of JSON without line ends, their number of points, and what was left out.

    failed: whether a worker or a model failed, which need not be the fault of the item.
    """

    lines: tuple[str, ...]
    points: int
    problems: tuple[RecordProblem, ...] = ()
    failed: bool = False


class CurationSummary(TypedDict):
    """Counts over all runs of a job. problems: reason -> count; examples: reason -> the first messages."""

    items: int
    records: int
    points: int
    problems: dict[str, int]
    examples: dict[str, list[str]]


class _JournalEntry(TypedDict):
    item: str
    end: int
    records: int
    points: int
    problems: dict[str, int]
    examples: dict[str, list[str]]


def curate(job: CurationJob, workers: int) -> dict[str, object]:
    """Writes NAME.jsonl, the files that it needs, and NAME.report.json to the output folder; returns the report.

    The same job continues where an earlier run was killed. Raises BadInput if the root folder holds nothing of the
    data set, if the output folder holds another run, or if the disk is full; UnknownName for an unknown data set.
    """
    chosen = data_set(job.name)
    write_options = replace(job.write_options, depth_scale=chosen.depth_scale)
    if write_options.format == "depthlm":
        write_options = replace(write_options, focal_px=chosen.focal_px)
    return run_job(replace(job, write_options=write_options), job.name, workers, curate_item)


def run_job(
    job: CurationJob,
    name: str,
    workers: int,
    process_item: Callable[[CurationJob, str], ItemResult],
    extra: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Processes all items of a job that are not finished yet and writes their lines to NAME.jsonl.

    extra: further settings that must be equal for a run to be continued. Returns the report. Raises as `curate` does.
    """
    out = job.write_options.out
    items = list_items(data_set(job.name), job)
    header = {**_describe_job(job), **(extra or {})}
    try:
        with closing(Journal(out, name, header)) as journal:
            process_items(journal, {item: item for item in items}, partial(process_item, job), workers, lambda one: one)
            report = {**header, **journal.summary(), "file": str(journal.path)}
        write_atomically(out / f"{name}.report.json", json.dumps(report, indent=1) + "\n")
    except OSError as exc:
        raise BadInput(f"{out}: {exc}. {NO_ROOM_HINT}") from exc
    return report


def list_items(chosen: DataSet, job: CurationJob) -> Sequence[str]:
    """Returns the items of a job. Raises BadInput if the root folder holds nothing of the data set."""
    items = chosen.items(job.root, job.read_options) if job.root.is_dir() else ()
    if not items:
        split = f" of its split '{job.read_options.split}'" if job.read_options.split else ""
        raise BadInput(f"{job.root}: nothing of {chosen.title}{split} found. Expected: {chosen.layout}")
    return items


def curate_item(job: CurationJob, item: str) -> ItemResult:
    """Writes all views of one item and returns their lines. Runs in a worker process."""
    lines, points = [], 0
    problems: list[RecordProblem] = []
    for name, load_view in iter_lazy_views(job, item, problems):
        load_and_write = partial(_load_and_write, load_view, job.write_options)
        written = call_or_record_problem(f"{item}: {name}", load_and_write, problems)
        if written is not None:
            lines.append(written[0])
            points += written[1]
    return ItemResult(tuple(lines), points, tuple(problems))


def iter_lazy_views(job: CurationJob, item: str, problems: list[RecordProblem]) -> Iterator[LazyView]:
    """Yields the views of an item, not loaded yet. An error of the item itself ends them and is added to `problems`."""
    chosen = data_set(job.name)
    views = call_or_record_problem(item, lambda: chosen.views(job.root, item, job.read_options), problems)
    while views is not None:
        lazy_view = call_or_record_problem(item, partial(_next_view, views), problems)
        if lazy_view is None:
            return
        yield lazy_view


def call_or_record_problem(where: str, function: Callable[[], T], problems: list[RecordProblem]) -> T | None:
    """Returns what `function` returns, or None after an error of the data, which is added to `problems`.

    Raises OSError if the disk that is written to is full.
    """
    try:
        return function()
    except BadRecord as exc:
        reason, message = exc.reason, str(exc)
    except BadIntrinsics as exc:
        reason, message = "intrinsics unusable", str(exc)
    except BadDepthMap as exc:
        reason, message = "depth map unusable", str(exc)
    except BadImage as exc:
        reason, message = "image unusable", str(exc)
    except OSError as exc:
        if exc.errno in DISK_ERRORS:
            raise
        reason, message = "file unreadable", str(exc)
    except (KeyError, IndexError, TypeError, ValueError, cv2.error) as exc:
        reason, message = "data malformed", f"{type(exc).__name__}: {exc}"
    problems.append(RecordProblem(where, reason, message))
    return None


class Journal:
    """Writes NAME.jsonl item by item, so that a killed run can be continued.

    header: describes what is written. A journal with an equal header is continued; one with another header is refused.
    finished: whether NAME.jsonl is complete. records: number of records written so far.
    Raises BadInput if the folder holds another run, a file of another origin, or a damaged journal.
    """

    def __init__(self, folder: Path, name: str, header: Mapping[str, object]) -> None:
        self.path = folder / f"{name}.jsonl"
        self._part_path = folder / f"{name}.jsonl.part"
        self._journal_path = folder / f"{name}.journal"
        if self.path.exists() and not self._journal_path.exists():
            raise BadInput(f"{self.path} already exists, and no journal says how it was made: choose another folder.")
        self._journal = _open_journal(self._journal_path, header)
        self._entries: list[_JournalEntry] = [line for line in self._journal.lines[1:] if "item" in line]
        self.finished = any(line.get("finished") for line in self._journal.lines[1:]) or self._was_renamed()
        if not self.finished:
            self._remove_lost_entries()
            _truncate(self._part_path, self._end)
        self.records = sum(entry["records"] for entry in self._entries)
        self._synced_s = time.monotonic()

    @property
    def done(self) -> set[str]:
        """Names of the items that are completely written."""
        return {entry["item"] for entry in self._entries}

    def append(self, item: str, result: ItemResult) -> None:
        """Adds an item. Raises OSError, for example on a full disk; what was written before stays complete."""
        data = "".join(line + "\n" for line in result.lines).encode()
        entry: _JournalEntry = {
            "item": item,
            "end": self._end + len(data),
            "records": len(result.lines),
            "points": result.points,
            "problems": count_by_reason(result.problems),
            "examples": select_examples(result.problems),
        }
        sync = time.monotonic() - self._synced_s > SYNC_S
        try:
            _append_bytes(self._part_path, data, sync)
            self._journal.append(entry, sync)
        except OSError:
            _truncate(self._part_path, self._end)
            raise
        self._synced_s = time.monotonic() if sync else self._synced_s
        self._entries.append(entry)
        self.records += len(result.lines)

    def finish(self) -> None:
        """Renames the part file to its final name."""
        if not self.finished:
            _append_bytes(self._part_path, b"", sync=True)
            self._part_path.replace(self.path)
            self._journal.append({"finished": True}, sync=True)
            self.finished = True

    def close(self) -> None:
        """Closes the journal's file."""
        self._journal.close()

    def summary(self) -> CurationSummary:
        """Returns the counts over all runs."""
        problems: Counter[str] = Counter()
        examples: dict[str, list[str]] = {}
        for entry in self._entries:
            problems.update(entry["problems"])
            for reason, messages in entry["examples"].items():
                examples[reason] = [*examples.get(reason, []), *messages][:EXAMPLES]
        return {
            "items": len(self._entries),
            "records": sum(entry["records"] for entry in self._entries),
            "points": sum(entry["points"] for entry in self._entries),
            "problems": dict(problems),
            "examples": examples,
        }

    @property
    def _end(self) -> int:
        """Length of the part file up to the end of the last finished item, in bytes."""
        return self._entries[-1]["end"] if self._entries else 0

    def _remove_lost_entries(self) -> None:
        """Removes journal lines whose records are not in the part file."""
        size = self._part_path.stat().st_size if self._part_path.exists() else 0
        kept = [entry for entry in self._entries if entry["end"] <= size]
        if len(kept) < len(self._entries):
            self._entries = kept
            lines = (self._journal.lines[0], *kept)
            self._journal.close()
            write_atomically(self._journal_path, "".join(json.dumps(line) + "\n" for line in lines))
            self._journal = JsonLinesFile(self._journal_path)

    def _was_renamed(self) -> bool:
        """Returns whether a run was killed between the renaming of the part file and the journal's last line."""
        return self.path.exists() and not self._part_path.exists() and self.path.stat().st_size == self._end


def _open_journal(path: Path, header: Mapping[str, object]) -> JsonLinesFile:
    """Opens or creates a journal whose first line is the header. Raises BadInput if it has another header."""
    try:
        journal = JsonLinesFile(path)
    except ValueError as exc:
        raise BadInput(f"{path}: the journal is damaged ({exc}): choose another folder, or empty this one.") from exc
    if not journal.lines:
        journal.append(header, sync=True)
    found = journal.lines[0]
    if found != header:
        journal.close()
        changed = [key for key in {**found, **header} if found.get(key) != header.get(key)]
        differences = ", ".join(f"{key} {found.get(key)!r}" for key in changed)
        raise BadInput(f"{path.parent} holds another run ({differences}): choose another folder, or empty this one.")
    return journal


def _append_bytes(path: Path, data: bytes, sync: bool) -> None:
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        if sync:
            os.fsync(file.fileno())


def _truncate(path: Path, size: int) -> None:
    """Shortens a file to this size if it is longer."""
    if path.exists() and path.stat().st_size > size:
        os.truncate(path, size)


def select_examples(problems: Sequence[RecordProblem]) -> dict[str, list[str]]:
    """Returns the first messages of each reason."""
    found: dict[str, list[str]] = {}
    for problem in problems:
        found.setdefault(problem.reason, []).append(str(problem))
    return {reason: messages[:EXAMPLES] for reason, messages in found.items()}


def process_items(
    journal: Journal,
    items: Mapping[str, ItemT],
    process: Callable[[ItemT], T],
    workers: int | Workers,
    keep: Callable[[T], ItemResult],
) -> None:
    """Processes the items that are not finished yet, by name, and finishes the journal.

    process: runs in the workers. keep: runs here, and writes the files of what `process` returned. Raises OSError, with
    the number of finished items, if the disk is full; BadInput if items were added after the run was finished;
    SetupError after MOST_FAILURES failures one after another, or if nothing but failures were found: these items are
    not written to the journal, so that the next run tries them again.
    """
    finished_items = journal.done
    todo = {name: item for name, item in items.items() if name not in finished_items}
    if journal.finished:
        if todo:
            raise BadInput(
                f"{journal.path} was finished without {len(todo)} items that exist now, such as {next(iter(todo))}: "
                "choose another folder."
            )
        return
    title, done = journal.path.stem, len(items) - len(todo)
    if done:
        print(f"{title}: {done} of {len(items)} items were finished by an earlier run", file=sys.stderr)
    try:
        with progress_bar(title, len(items), done) as bar:
            outcomes = map_in_order(process, list(todo.values()), workers)
            named = (_with_kills(name, outcome, keep) for name, outcome in zip(todo, outcomes, strict=True))
            for name, result in _hold_failures(named, bool(journal.records)):
                journal.append(name, result)
                bar.set_postfix(records=journal.records, refresh=False)
                bar.update()
        journal.finish()
    except OSError as exc:
        raise OSError(f"{exc}; {len(journal.done)} of {len(items)} items are completely written") from exc


def _hold_failures(results: Iterable[tuple[str, ItemResult]], has_success: bool) -> Iterator[tuple[str, ItemResult]]:
    """Yields the results, but holds failures back until an item has a record, because then they were the items' own.

    Items without a record that did not fail, such as unreadable pictures, tell nothing about the cause: they are held
    back with the failures before them. has_success: whether an earlier run wrote a record. Raises SetupError, as
    `process_items` says.
    """
    held: list[tuple[str, ItemResult]] = []
    failures: list[ItemResult] = []
    for name, result in results:
        held.append((name, result))
        failures += [result] if result.failed else []
        if len(failures) == MOST_FAILURES:
            raise _all_failed(failures)
        if failures and not result.lines:
            continue
        yield from held
        held, failures, has_success = [], [], has_success or bool(result.lines)
    if failures and not has_success:
        raise _all_failed(failures)
    yield from held


def _all_failed(failures: Sequence[ItemResult]) -> SetupError:
    return SetupError(
        f"{len(failures)} of the items failed one after another, the last with: {failures[-1].problems[-1]}. What was "
        "finished is kept. Remove the cause and run the same command: it tries these again."
    )


def _with_kills(name: str, outcome: WorkerResult[ItemT, T], keep: Callable[[T], ItemResult]) -> tuple[str, ItemResult]:
    """Returns an item's name and result, with killed workers among its problems."""
    if outcome.result is None:
        return name, ItemResult((), 0, (RecordProblem(name, *GIVEN_UP),), failed=True)
    result = keep(outcome.result)
    if not outcome.kills:
        return name, result
    message = "a worker process was killed while this item was in progress; the item was processed again"
    problem = RecordProblem(name, "worker killed once", message)
    return name, replace(result, problems=(*result.problems, problem))


def _load_and_write(load_view: Callable[[], SourceView], write_options: WriteOptions) -> tuple[str, int]:
    return write_view(load_view(), write_options)


def _next_view(views: Iterator[LazyView]) -> LazyView | None:
    return next(views, None)


def _describe_job(job: CurationJob) -> dict[str, object]:
    """Returns the settings that two runs must share for one to continue the other."""
    write_options = {key: value for key, value in asdict(job.write_options).items() if key != "out"}
    return {"data_set": job.name, "root": str(job.root.resolve()), **asdict(job.read_options), **write_options}
