"""Turns a public data set into records: items in parallel workers, a journal that survives being killed, a report.

An append-only file of lines that survives being killed: what is in it belongs to whole items, listed in a journal.

NAME.jsonl.part grows item by item; after each, NAME.journal gets one line with the item, the length of the file up to
there, and what was wrong. Whatever is beyond the last such length was cut off and is cut away at the next start; so is
a line whose length the file has not reached, which only a loss of power can leave. When all is done the file is renamed
to NAME.jsonl, at once.

Items worked on in parallel processes, results in the order of the items, whatever happens to a process.

Where a worker is killed (by the kernel for want of memory, say), the pool is lost with all it was working on. Each item
that was under way is then done again, by itself, so that it is known which one it was; one that so kills its worker
twice is given up, and the others go on. A worker ends with the process that started it, however that was ended: else it
would wait for work forever, and go on writing beside a run that was started again.

How far a long run is, on stderr: one line that is redrawn on a terminal, a line now and then elsewhere.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TextIO, TypeVar

import cv2

from depthlm_ros.data.depthfile import BadDepthMap
from depthlm_ros.data.records import EXAMPLES, BadRecord, Problem, count_by_reason
from depthlm_ros.data.sample_points import Plan, write_view
from depthlm_ros.data.sets import data_set
from depthlm_ros.data.source_view import Choice, DataSet, Maker, View
from depthlm_ros.data.write import write_text
from depthlm_ros.errors import BadImage, BadInput, BadIntrinsics

# The disk is made to keep what is written at least this often; a killed process loses nothing in between.
SYNC_S = 5.0


@dataclass(frozen=True)
class ItemResult:
    """What one item gave: its lines, without line ends, and what was left out of it."""

    lines: tuple[str, ...]
    points: int
    problems: tuple[Problem, ...] = ()


class Journal:
    """Open it with the header that says what is being made; the same header continues, another one is refused."""

    def __init__(self, folder: Path, name: str, header: Mapping[str, object]) -> None:
        self.path = folder / f"{name}.jsonl"
        self._part = folder / f"{name}.jsonl.part"
        self._journal = folder / f"{name}.journal"
        self._header = dict(header)
        self._entries: list[dict[str, Any]] = []
        self.finished = False
        self.records = 0
        self._synced_s = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        self._read()

    @property
    def done(self) -> set[str]:
        """Items that are written whole."""
        return {entry["item"] for entry in self._entries}

    def append(self, item: str, result: ItemResult) -> None:
        """Add an item. Raises OSError if the disk is full, say; what was written before stays whole."""
        data = "".join(line + "\n" for line in result.lines).encode()
        end = self._end + len(data)
        entry = {
            "item": item,
            "end": end,
            "records": len(result.lines),
            "points": result.points,
            "problems": count_by_reason(result.problems),
            "examples": _examples(result.problems),
        }
        journal_end = self._journal.stat().st_size
        sync = time.monotonic() - self._synced_s > SYNC_S
        try:
            _append(self._part, data, sync)
            _append(self._journal, _line(entry), sync)
        except OSError:
            _cut(self._part, self._end)
            _cut(self._journal, journal_end)
            raise
        self._synced_s = time.monotonic() if sync else self._synced_s
        self._entries.append(entry)
        self.records += len(result.lines)

    def finish(self) -> None:
        """Give the file its name."""
        if not self.finished:
            _append(self._part, b"", sync=True)
            self._part.replace(self.path)
            _append(self._journal, _line({"finished": True}), sync=True)
            self.finished = True

    def summary(self) -> dict[str, Any]:
        """Items, records, points, problems by reason and examples of them, over all runs."""
        problems: Counter[str] = Counter()
        examples: dict[str, list[str]] = {}
        for entry in self._entries:
            problems.update(entry["problems"])
            for reason, messages in entry["examples"].items():
                examples[reason] = [*examples.get(reason, []), *messages][:EXAMPLES]
        totals = {key: sum(entry[key] for entry in self._entries) for key in ("records", "points")}
        return {"items": len(self._entries), **totals, "problems": dict(problems), "examples": examples}

    @property
    def _end(self) -> int:
        return int(self._entries[-1]["end"]) if self._entries else 0

    def _read(self) -> None:
        if not self._journal.exists():
            if self.path.exists():
                raise BadInput(f"{self.path} is there already, and was not made here: name another folder.")
            _append(self._journal, _line(self._header), sync=True)
        header, *rest = self._whole_lines()
        if header != self._header:
            was = ", ".join(f"{key} {header.get(key)!r}" for key in header if header.get(key) != self._header.get(key))
            raise BadInput(f"{self._journal.parent} holds another run ({was}): name another folder, or empty this one.")
        self._entries = [entry for entry in rest if "item" in entry]
        self.finished = any(entry.get("finished") for entry in rest) or self._renamed()
        if not self.finished:
            self._forget_lost_lines()
            _cut(self._part, self._end)
        self.records = sum(entry["records"] for entry in self._entries)

    def _forget_lost_lines(self) -> None:
        size = self._part.stat().st_size if self._part.exists() else 0
        kept = [entry for entry in self._entries if entry["end"] <= size]
        if len(kept) < len(self._entries):
            self._entries = kept
            again = self._journal.with_suffix(".again")
            again.write_bytes(b"".join(_line(entry) for entry in (self._header, *kept)))
            again.replace(self._journal)

    def _whole_lines(self) -> list[dict[str, Any]]:
        """The journal's lines; a last one that was cut off is cut away."""
        data = self._journal.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            _cut(self._journal, len(whole))
        lines = [json.loads(line) for line in whole.splitlines()]
        if lines:
            return lines
        _append(self._journal, _line(self._header), sync=True)
        return [self._header]

    def _renamed(self) -> bool:
        """Whether the run was killed after the last step but one."""
        return self.path.exists() and not self._part.exists() and self.path.stat().st_size == self._end


def _examples(problems: Sequence[Problem]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for problem in problems:
        found.setdefault(problem.reason, []).append(str(problem))
    return {reason: messages[:EXAMPLES] for reason, messages in found.items()}


def _line(entry: Mapping[str, object]) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def _append(path: Path, data: bytes, sync: bool) -> None:
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        if sync:
            os.fsync(file.fileno())


def _cut(path: Path, size: int) -> None:
    """Shorten a file to this size, if it is longer."""
    if path.exists() and path.stat().st_size > size:
        os.truncate(path, size)


T = TypeVar("T")
# So many items for each worker are under way at once: enough to keep all busy while one is slow.
AHEAD = 2
# So often an item is tried by itself.
ALONE = 2


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """result: what the work gave; None if the item killed its worker twice. kills: 0, 1 (it was under way when a worker
    was killed) or 2 (given up)."""

    item: str
    result: T | None
    kills: int = 0


def in_order(work: Callable[[str], T], items: Sequence[str], workers: int) -> Iterator[Outcome[T]]:
    """Work on all items, in so many processes (1: in this one). Whatever `work` raises is raised here."""
    if workers <= 1:
        yield from (Outcome(item, work(item)) for item in items)
        return
    waiting = deque(items)
    while waiting:
        yield from _until_broken(work, waiting, workers)


def _until_broken(work: Callable[[str], T], waiting: deque[str], workers: int) -> Iterator[Outcome[T]]:
    """Work off `waiting` with one pool; if that breaks, see to what was under way and return."""
    running: deque[tuple[str, Future[T]]] = deque()
    pool = _pool(workers)
    try:
        while waiting or running:
            while waiting and len(running) < AHEAD * workers:
                running.append((waiting[0], pool.submit(work, waiting[0])))
                waiting.popleft()
            item, future = running[0]
            result = future.result()
            running.popleft()
            yield Outcome(item, result)
    except BrokenProcessPool:
        yield from _again(work, running)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _again(work: Callable[[str], T], running: Iterable[tuple[str, Future[T]]]) -> Iterator[Outcome[T]]:
    """Items whose pool broke: their results if they were there already, else done once more, one after the other."""
    lone = _pool(1)
    try:
        for item, future in running:
            if future.done() and not isinstance(future.exception(), BrokenProcessPool):
                yield Outcome(item, future.result())
                continue
            outcome: Outcome[T] = Outcome(item, None, kills=ALONE)
            for _ in range(ALONE):
                try:
                    outcome = Outcome(item, lone.submit(work, item).result(), kills=1)
                    break
                except BrokenProcessPool:
                    lone.shutdown(wait=False)
                    lone = _pool(1)
            yield outcome
    finally:
        lone.shutdown(wait=False, cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: OpenCV and Arrow keep threads of their own.
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    # Ctrl-C reaches all processes of a terminal: it is for the one that was started there.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


REDRAW_S, LINE_S = 0.2, 15.0


class Progress:
    """Counts items of a run of `total`, of which `done` were there before."""

    def __init__(self, what: str, total: int, done: int = 0, out: TextIO | None = None, unit: str = "records") -> None:
        self._what, self._unit, self._total, self._before, self._done = what, unit, total, done, done
        self._out = out or sys.stderr
        self._live = self._out.isatty()
        self._began_s = self._told_s = time.monotonic()
        if done:
            print(f"{what}: {done} of {total} were done before", file=self._out)

    def step(self, records: int) -> None:
        """One item more; `records` of the unit are written by now."""
        self._done += 1
        now_s = time.monotonic()
        if now_s - self._told_s < (REDRAW_S if self._live else LINE_S) and self._done < self._total:
            return
        self._told_s = now_s
        left_s = (now_s - self._began_s) / (self._done - self._before) * (self._total - self._done)
        text = f"{self._what}: {self._done} of {self._total}, {records} {self._unit}, {_span(left_s)} left"
        end = "\r" if self._live and self._done < self._total else "\n"
        print(f"{text:70}" if self._live else text, end=end, file=self._out, flush=True)


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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
