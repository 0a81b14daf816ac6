# SPDX-License-Identifier: Apache-2.0
"""Labels many pictures, in parallel processes and in runs that can be killed and continued.

`label_records` writes a folder of depth maps and a JSONL file of records, picture by picture. `label_pictures` writes
WebDataset shards. Both take a function that labels one picture; picture_source.py finds the pictures.

`label_records` keeps labels.journal (curate.Journal): a picture is finished when its files are written and its line is
in the journal. `label_pictures` splits the pictures into shards of equal numbers. A shard is written completely or not
at all, and a run writes only the shards that do not exist yet. Beside the shards lie NAME.labels.json (how they are
made: other pictures or settings are refused), NAME.problems.jsonl (pictures that could not be labelled, with the
reason; it describes the existing shards and no others) and NAME.lock (the process that writes, so that no two write at
the same time).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar

from depthlm_ros.data.curate import (
    NO_ROOM_HINT,
    ItemResult,
    Journal,
    call_or_record_problem,
    process_items,
    select_examples,
)
from depthlm_ros.data.picture_source import Picture, PictureList, list_pictures
from depthlm_ros.data.records import RecordProblem, count_by_reason
from depthlm_ros.data.webdataset import check_same_settings, write_shard
from depthlm_ros.data.worker_pool import GIVEN_UP, WorkerResult, Workers, map_in_order
from depthlm_ros.errors import BackendFailed, BadInput
from depthlm_ros.file_io import JsonLinesFile, write_atomically
from depthlm_ros.progress import progress_bar

T = TypeVar("T")
# Name of the JSONL file of records, and of the files beside it.
RECORDS = "labels"
# Reason of a problem that need not be the picture's own fault.
MODEL_FAILED = "model failed"
SHARDS_HINT = "The shards before it are complete. Make room and run the same command again; it continues from there."

# Labels one picture: the files of its sample by suffix. It runs in worker processes, so it can be pickled. It raises
# BadInput or OSError for a picture that it cannot label.
PictureLabeller: TypeAlias = "Callable[[Picture], Mapping[str, bytes]]"


@dataclass(frozen=True)
class PictureRecord:
    """The labels of one picture.

    line: the fields of its record, with paths relative to the output folder. files: path in that folder -> content.
    points: number of labelled points. notes: what is doubtful about the labels.
    """

    line: Mapping[str, object]
    files: Mapping[str, bytes] = field(default_factory=dict)
    points: int = 0
    notes: tuple[RecordProblem, ...] = ()


class Labelled(Protocol):
    """A picture of any kind, as picture_source.Picture.

    name: in messages. key: unique. fields: what its labels depend on beside its pixels, as values that JSON can hold.
    """

    @property
    def name(self) -> str: ...

    @property
    def key(self) -> str: ...

    @property
    def fields(self) -> Mapping[str, object]: ...


PictureT = TypeVar("PictureT", bound=Labelled)
# Labels one picture as a record; as PictureLabeller.
RecordLabeller: TypeAlias = "Callable[[Picture], PictureRecord]"
# The labels of a picture, or why there are none.
LabelledRecord: TypeAlias = "tuple[PictureRecord | None, RecordProblem | None]"


@dataclass(frozen=True)
class LabellingJob:
    """Which pictures are labelled, and where their shards are written.

    source: what list_pictures takes. settings: what else the labels depend on, as values that JSON can hold. name: the
    shards are NAME-000000.tar and so on.
    """

    source: Path
    out: Path
    settings: Mapping[str, object]
    per_shard: int = 1100
    name: str = "photos"


@dataclass(frozen=True)
class LabellingSummary:
    """Counts over all runs of a job; the last two are of this run.

    failed: pictures that could not be labelled, which `problems_path` lists.
    """

    shards: int
    labelled: int
    failed: int
    problems_path: Path
    pictures_now: int
    seconds_now: float

    def __str__(self) -> str:
        text = f"{self.labelled} pictures in {self.shards} shards"
        if self.failed:
            text += f", {self.failed} left out (see {self.problems_path})"
        if self.pictures_now:
            rate = self.pictures_now / max(self.seconds_now, 1e-9)
            text += f"; this run: {self.pictures_now} in {self.seconds_now:.1f} s, {rate:.1f} pictures/s"
        return text


@dataclass(frozen=True)
class _LabelledPicture:
    """What a worker process returns: the files of a sample, or why there are none."""

    members: Mapping[str, bytes] | None
    problem: RecordProblem | None


def label_records(
    source: Path,
    out: Path,
    label: RecordLabeller,
    settings: Mapping[str, object],
    workers: int | Workers = 1,
    listed: PictureList | None = None,
) -> dict[str, object]:
    """Labels the pictures of a source that are not labelled yet, and writes OUT/labels.jsonl with the files of `label`.

    settings: what the labels depend on, as values that JSON can hold; a run with other ones is refused. listed: the
    pictures, if they were listed before. Returns the report that is written to OUT/labels.report.json: the counts of
    curate.CurationSummary over all runs. Raises BadInput if there are no pictures, if OUT holds another run, if another
    process is writing there, or if the disk is full; SetupError if worker after worker fails, and what else `label`
    raises.
    """
    listed = listed or list_pictures(source, out)
    return label_listed(source, out, label, settings, workers, listed.pictures, listed.problems)


def label_listed(
    source: Path,
    out: Path,
    label: Callable[[PictureT], PictureRecord],
    settings: Mapping[str, object],
    workers: int | Workers,
    listed: Sequence[PictureT],
    found_problems: Sequence[RecordProblem] = (),
) -> dict[str, object]:
    """Does what label_records does for pictures of any kind. found_problems: of the source; they are reported too."""
    pictures = {picture.key: picture for picture in listed}
    # The cameras of records decide about their labels.
    digest = _digest([json.dumps([key, picture.fields]) for key, picture in pictures.items()])
    stated = {"source": str(source.resolve()), "pictures": len(pictures), "digest_of_pictures": digest, **settings}
    try:
        with _lock(out / f"{RECORDS}.lock"), closing(Journal(out, RECORDS, stated)) as journal:
            process_items(journal, pictures, label_record(label), workers, partial(keep_files, out))
            summary = journal.summary()
            problems = dict(Counter(count_by_reason(found_problems)) + Counter(summary["problems"]))
            examples = {**select_examples(found_problems), **summary["examples"]}
            report = {**stated, **summary, "problems": problems, "examples": examples, "file": str(journal.path)}
        write_atomically(out / f"{RECORDS}.report.json", json.dumps(report, indent=1) + "\n")
    except OSError as exc:
        raise BadInput(f"{out}: {exc}. {NO_ROOM_HINT}") from exc
    return report


def label_record(label: Callable[[PictureT], PictureRecord]) -> Callable[[PictureT], LabelledRecord]:
    """Returns what a worker process does with a picture: it returns its labels, or why there are none."""
    return partial(_label_or_explain, label)


def _label_or_explain(label: Callable[[PictureT], PictureRecord], picture: PictureT) -> LabelledRecord:
    problems: list[RecordProblem] = []
    try:
        record = call_or_record_problem(picture.name, lambda: label(picture), problems)
    except BackendFailed as exc:
        return None, RecordProblem(picture.name, MODEL_FAILED, str(exc))
    return record, problems[0] if problems else None


def keep_files(out: Path, labelled: LabelledRecord) -> ItemResult:
    """Writes the files of a picture, and returns its line. Raises OSError."""
    record, problem = labelled
    if record is None:
        assert problem is not None
        return ItemResult((), 0, (problem,), failed=problem.reason == MODEL_FAILED)
    for name, content in record.files.items():
        write_atomically(out / name, content, sync=False)
    return ItemResult((json.dumps(record.line),), record.points, record.notes)


def label_pictures(job: LabellingJob, label: PictureLabeller, workers: int | Workers = 1) -> LabellingSummary:
    """Labels all pictures of a job whose shards do not exist yet, and writes their shards.

    Raises BadInput if there are no pictures, if the output folder holds shards of other pictures or settings, if
    another process is writing there, or if the disk is full; and whatever else `label` raises, such as SetupError.
    """
    if job.per_shard < 1:
        raise BadInput(f"{job.per_shard} pictures in a shard: a shard must hold at least one.")
    listed = list_pictures(job.source, job.out)
    names = [picture.name for picture in listed.pictures]
    stated = {
        "source": str(job.source.resolve()),
        "pictures": len(names),
        "digest_of_names": _digest(names),
        "per_shard": job.per_shard,
        **job.settings,
    }
    try:
        with _lock(job.out / f"{job.name}.lock"):
            check_same_settings(job.out / f"{job.name}.labels.json", stated)
            return _write_missing_shards(job, listed.pictures, partial(_label_or_report, label), workers)
    except OSError as exc:
        raise BadInput(f"{job.out}: {exc}. {SHARDS_HINT}") from exc


def _write_missing_shards(
    job: LabellingJob, pictures: Sequence[Picture], label: Callable[[Picture], _LabelledPicture], workers: int | Workers
) -> LabellingSummary:
    """Labels the pictures of the shards that do not exist yet, and writes these shards in their order."""
    count = len(pictures)
    batches = [range(start, min(start + job.per_shard, count)) for start in range(0, count, job.per_shard)]
    shards = [job.out / f"{job.name}-{number:06d}.tar" for number in range(len(batches))]
    missing = [number for number, shard in enumerate(shards) if not shard.exists()]
    todo = [pictures[picture] for number in missing for picture in batches[number]]
    started_s = time.perf_counter()
    problems_path = job.out / f"{job.name}.problems.jsonl"
    with (
        closing(_open_problems(problems_path, set(missing))) as problems,
        progress_bar("labelling", count, count - len(todo), "pictures") as bar,
    ):
        # One pool serves all shards, because every worker process loads the teachers.
        results = _call_for_each(bar.update, map_in_order(label, todo, workers))
        for number in missing:
            report = partial(_append_problem, problems, number)
            write_shard(shards[number], _iter_samples(batches[number], results, report))
        failed = len(problems.lines)
    seconds = time.perf_counter() - started_s
    return LabellingSummary(len(shards), count - failed, failed, problems_path, len(todo), seconds)


def _digest(names: Sequence[str]) -> str:
    return hashlib.blake2b("\n".join(names).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _iter_samples(
    pictures: Iterable[int],
    results: Iterator[WorkerResult[Picture, _LabelledPicture]],
    report: Callable[[RecordProblem], None],
) -> Iterator[tuple[str, Mapping[str, bytes]]]:
    """Yields the key and the files of the next pictures, whose numbers are given, and reports those without labels."""
    # The numbers come first, so that zip ends before it takes the result of the next shard's first picture.
    for picture, outcome in zip(pictures, results, strict=False):
        if outcome.result is None:
            report(RecordProblem(outcome.item.name, *GIVEN_UP))
        elif outcome.result.problem is not None:
            report(outcome.result.problem)
        elif outcome.result.members is not None:
            yield f"{picture:08d}", outcome.result.members


def _call_for_each(function: Callable[[], object], results: Iterator[T]) -> Iterator[T]:
    """Yields the results, and calls a function for each."""
    for result in results:
        function()
        yield result


def _label_or_report(label: PictureLabeller, picture: Picture) -> _LabelledPicture:
    """Labels one picture. Runs in a worker process."""
    problems: list[RecordProblem] = []
    members = call_or_record_problem(picture.name, lambda: label(picture), problems)
    return _LabelledPicture(members, problems[0] if problems else None)


def _append_problem(file: JsonLinesFile, shard: int, problem: RecordProblem) -> None:
    entry = {"shard": shard, "file": problem.where, "reason": problem.reason, "message": problem.message}
    file.append(entry, sync=True)


def _open_problems(path: Path, missing: Set[int]) -> JsonLinesFile:
    """Opens the file of problems without the lines of shards that do not exist. Raises BadInput if it is damaged."""
    try:
        file = JsonLinesFile(path)
        kept = [line for line in file.lines if line["shard"] not in missing]
    except (KeyError, TypeError, ValueError) as exc:
        raise BadInput(f"{path}: the file of problems is damaged ({exc!r}): choose another folder.") from exc
    if len(kept) == len(file.lines):
        return file
    file.close()
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
    return JsonLinesFile(path)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Locks a file for this process; the system releases it when the process ends. Raises BadInput if it is locked."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as exc:
        raise BadInput(f"{path.parent}: this is a file, or lies in one: choose another folder to write to.") from exc
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            lock.seek(0)
            owner = lock.read().strip() or "(it has just started)"
            message = f"process {owner} is writing there: wait until it is done, or choose another folder"
            raise BadInput(f"{path.parent}: {message}.") from exc
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
