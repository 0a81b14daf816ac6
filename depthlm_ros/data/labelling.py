"""Labels many pictures and writes them as WebDataset shards, in runs that can be killed and continued.

`label_pictures` does the whole job with a function that labels one picture, in parallel processes. `list_pictures`
finds the pictures of a folder or of a file of records.

The pictures are split into shards of equal numbers. A shard is written completely or not at all, and a run writes only
the shards that do not exist yet. Beside the shards lie NAME.labels.json (how they are made: other pictures or settings
are refused), NAME.problems.jsonl (pictures that could not be labelled, with the reason; it describes the existing
shards and no others) and NAME.lock (the process that writes, so that no two write at the same time).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

from depthlm_ros.data.curate import call_or_record_problem
from depthlm_ros.data.read import iter_records
from depthlm_ros.data.records import RecordProblem
from depthlm_ros.data.webdataset import check_same_settings, write_shard
from depthlm_ros.data.worker_pool import WorkerResult, map_in_order
from depthlm_ros.data.write import relative_path
from depthlm_ros.errors import BadInput
from depthlm_ros.file_io import JsonLinesFile, write_atomically
from depthlm_ros.progress import progress_bar

T = TypeVar("T")
PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
NO_ROOM_HINT = "The shards before it are complete. Make room and run the same command again; it continues from there."

# Labels one picture: (its path, its name in the source) -> the files of its sample by suffix. It runs in worker
# processes, so it can be pickled. It raises BadInput or OSError for a picture that it cannot label.
PictureLabeller: TypeAlias = Callable[[Path, str], Mapping[str, bytes]]


@dataclass(frozen=True)
class LabellingJob:
    """Which pictures are labelled, and where their shards are written.

    source: a folder of pictures, or a JSONL file of records. settings: what else the labels depend on, as values that
    JSON can hold. name: the shards are NAME-000000.tar and so on.
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


def label_pictures(job: LabellingJob, label: PictureLabeller, workers: int = 1) -> LabellingSummary:
    """Labels all pictures of a job whose shards do not exist yet, in `workers` processes, and writes their shards.

    Raises BadInput if there are no pictures, if the output folder holds shards of other pictures or settings, if
    another process is writing there, or if the disk is full; and whatever else `label` raises, such as SetupError.
    """
    if job.per_shard < 1:
        raise BadInput(f"{job.per_shard} pictures in a shard: a shard must hold at least one.")
    root, names = list_pictures(job.source)
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
            return _write_missing_shards(job, names, partial(_label_or_report, label, root), workers)
    except OSError as exc:
        raise BadInput(f"{job.out}: {exc}. {NO_ROOM_HINT}") from exc


def list_pictures(source: Path) -> tuple[Path, list[str]]:
    """Returns a folder, and the paths of the pictures relative to it, with forward slashes.

    source: a folder, whose pictures in all subfolders are returned in the order of their paths; or a JSONL file of
    records, whose images are returned in its order, each once. Raises BadInput if there are no pictures.
    """
    if source.is_dir():
        found = (Path(folder) / name for folder, _, files in os.walk(source) for name in files)
        names = sorted(path.relative_to(source).as_posix() for path in found if path.suffix.lower() in PICTURE_SUFFIXES)
        if not names:
            raise BadInput(f"{source}: no pictures found (looked for {', '.join(PICTURE_SUFFIXES)} in all subfolders).")
        return source, names
    if not source.is_file():
        raise BadInput(f"{source} does not exist: give a folder of pictures, or a JSONL file of records.")
    problems: list[RecordProblem] = []
    names = list(dict.fromkeys(relative_path(record.image, source.parent) for record in iter_records(source, problems)))
    if not names:
        first = f": {problems[0]}" if problems else ""
        raise BadInput(f"{source}: no record with an image{first}")
    return source.parent, names


def _write_missing_shards(
    job: LabellingJob, names: Sequence[str], label: Callable[[str], _LabelledPicture], workers: int
) -> LabellingSummary:
    """Labels the pictures of the shards that do not exist yet, and writes these shards in their order."""
    batches = [range(start, min(start + job.per_shard, len(names))) for start in range(0, len(names), job.per_shard)]
    shards = [job.out / f"{job.name}-{number:06d}.tar" for number in range(len(batches))]
    missing = [number for number, shard in enumerate(shards) if not shard.exists()]
    todo = [names[picture] for number in missing for picture in batches[number]]
    started_s = time.perf_counter()
    problems_path = job.out / f"{job.name}.problems.jsonl"
    with (
        closing(_open_problems(problems_path, set(missing))) as problems,
        progress_bar("labelling", len(names), len(names) - len(todo), "pictures") as bar,
    ):
        # One pool serves all shards, because every worker process loads the teachers.
        results = _call_for_each(bar.update, map_in_order(label, todo, min(workers, len(todo))))
        for number in missing:
            report = partial(_append_problem, problems, number)
            write_shard(shards[number], _iter_samples(batches[number], results, report))
        failed = len(problems.lines)
    seconds = time.perf_counter() - started_s
    return LabellingSummary(len(shards), len(names) - failed, failed, problems_path, len(todo), seconds)


def _digest(names: Sequence[str]) -> str:
    return hashlib.blake2b("\n".join(names).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _iter_samples(
    pictures: Iterable[int],
    results: Iterator[WorkerResult[_LabelledPicture]],
    report: Callable[[RecordProblem], None],
) -> Iterator[tuple[str, Mapping[str, bytes]]]:
    """Yields the key and the files of the next pictures, whose numbers are given, and reports those without labels."""
    # The numbers come first, so that zip ends before it takes the result of the next shard's first picture.
    for picture, outcome in zip(pictures, results, strict=False):
        if outcome.result is None:
            message = "it killed its worker process, and killed it again when it ran alone: left out"
            report(RecordProblem(outcome.item, "worker killed twice", message))
        elif outcome.result.problem is not None:
            report(outcome.result.problem)
        elif outcome.result.members is not None:
            yield f"{picture:08d}", outcome.result.members


def _call_for_each(function: Callable[[], object], results: Iterator[T]) -> Iterator[T]:
    """Yields the results, and calls a function for each."""
    for result in results:
        function()
        yield result


def _label_or_report(label: PictureLabeller, root: Path, name: str) -> _LabelledPicture:
    """Labels one picture. Runs in a worker process."""
    problems: list[RecordProblem] = []
    members = call_or_record_problem(name, lambda: label(root / name, name), problems)
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
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            lock.seek(0)
            owner = lock.read().strip() or "(it has just started)"
            message = f"process {owner} is writing shards there: wait until it is done, or choose another folder"
            raise BadInput(f"{path.parent}: {message}.") from exc
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
