# SPDX-License-Identifier: Apache-2.0
"""Results of an evaluation, record by record, in a file from which a stopped evaluation continues.

`ResultStore` is the file, `evaluate_records` fills it, and `ImageResult` is the result of one image with depth labels.
Several processes or machines can evaluate a share of the records each (`Shard`), in files of their own; `merge` takes
the results of such files. A result belongs to its record by key, and scores are sums in the order of the records, so
that they do not depend on who made the results.

The file is JSON Lines. Its first line is {"settings": {...}, "backend": ...}: everything but the records that the
results depend on, and what ran the model. Every other line is {"key": ..., "found": {...}}. NaN is written as null.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypedDict, TypeVar, cast

import numpy as np

from depthlm_ros.data.records import BadRecord, RecordProblem
from depthlm_ros.data.worker_pool import GIVEN_UP, Workers, map_in_order
from depthlm_ros.errors import BadInput, SetupError
from depthlm_ros.eval.metrics import DepthErrorSums, EdgeCounts, EdgeCountsAsList, align_medians, sum_depth_errors
from depthlm_ros.file_io import JsonLinesFile, JsonObject, parse_json, to_json_value


class NoResult(SetupError):
    """A record has no result, and there is no loaded model that could make one."""


class LabelledRecord(Protocol):
    """A record of any kind. where: "file:line"."""

    @property
    def where(self) -> str: ...


RecordT = TypeVar("RecordT", bound=LabelledRecord)
# A result is a TypedDict: plain types that JSON can hold.
ResultT = TypeVar("ResultT", bound=Mapping[str, object])
# The first bytes of every file of results. A file that starts with others is not changed.
FILE_START = b'{"settings": '
# A record that kills its worker process has no result.
KILLED = BadRecord(*GIVEN_UP)
# Called with (records done, all records).
ProgressCallback = Callable[[int, int], None]


@dataclass(frozen=True)
class Shard:
    """The share of the records that one of several commands evaluates: number `index` (from 1) of `count`."""

    index: int
    count: int

    def take(self, records: Sequence[RecordT]) -> tuple[RecordT, ...]:
        """Returns every count-th record, so that the shards are equally long and equally hard."""
        return tuple(records[self.index - 1 :: self.count])

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


class ResultStore:
    """Results by key, in memory. With a path they are also read from that file and appended to it.

    settings: settings of this run. backend: what runs the model; it may differ between runs of one file, and is told.
    Raises BadInput if the file belongs to a run with other settings, is not a file of results, is not a regular file,
    or is being written by another process.
    """

    def __init__(
        self, path: Path | None = None, settings: Mapping[str, object] | None = None, backend: str = ""
    ) -> None:
        self.results: dict[str, JsonObject] = {}
        self.backend = backend
        self._settings: JsonObject = dict(to_json_value(settings or {}))
        self._path = path
        self._file: JsonLinesFile | None = None
        self._open_files = ExitStack()
        if path is not None:
            try:
                self._file = self._open(path)
                self._read()
            except BaseException:
                self._open_files.close()
                raise

    def __enter__(self) -> ResultStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open_files.close()

    def add(self, key: str, result: Mapping[str, object]) -> None:
        """Adds a result. Raises SetupError if it cannot be written; the results before it stay in the file."""
        self.results[key] = to_json_value(result)
        self._append({"key": key, "found": self.results[key]})

    def merge(self, paths: Sequence[Path]) -> int:
        """Adds the results of other files, which are not changed, and returns the number of doubtful ones.

        A result that several files hold is taken from the first one; it is doubtful if they differ in more than the
        time that it took. Raises BadInput for a file of a run with other settings, or that is not a file of results.
        """
        backends, doubtful = [], 0
        for path in paths:
            header, results = _read_results(path)
            self._check_settings(path, header)
            backends.append(str(header.get("backend", "")))
            for key, result in results.items():
                if key not in self.results:
                    self.add(key, result)
                elif _without_time(self.results[key]) != _without_time(result):
                    doubtful += 1
        self.backend = "+".join(dict.fromkeys(filter(None, backends))) or self.backend
        return doubtful

    def _open(self, path: Path) -> JsonLinesFile:
        """Locks and checks the file before JsonLinesFile reads it and removes a line that is not complete."""
        if path.exists() and not path.is_file():
            raise BadInput(f"{path} is not a regular file: results are also read from it, so name a regular file.")
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = self._open_files.enter_context(path.open("ab"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise BadInput(f"{path}: another evaluation is writing it: wait, or name another file.") from exc
        with path.open("rb") as file:
            start = file.read(len(FILE_START))
        if not FILE_START.startswith(start):
            raise _not_results(path, f"it starts with {start.decode(errors='replace')!r}")
        try:
            return self._open_files.enter_context(closing(JsonLinesFile(path)))
        except ValueError as exc:
            raise _not_results(path, repr(exc)) from exc

    def _read(self) -> None:
        assert self._file is not None
        if not self._file.lines:
            self._append({"settings": self._settings, "backend": self.backend})
            return
        header, self.results = _split_lines(self._file.path, self._file.lines)
        self._check_settings(self._file.path, header)

    def _check_settings(self, path: Path, header: JsonObject) -> None:
        settings, file_settings = self._settings, dict(cast("JsonObject", header["settings"]))
        differing = [key for key in {**settings, **file_settings} if settings.get(key) != file_settings.get(key)]
        if differing:
            differences = ", ".join(
                f"{key} {file_settings.get(key)!r} instead of {settings.get(key)!r}" for key in differing
            )
            raise BadInput(f"{path} holds results of another run ({differences}): name another file, or remove it.")

    def _append(self, line: Mapping[str, object]) -> None:
        if self._file is None:
            return
        try:
            self._file.append(line)
        except OSError as exc:
            raise SetupError(
                f"{self._path} cannot be written ({exc.strerror}): free some disk space, and repeat the command; it "
                "continues from there."
            ) from exc


def _not_results(path: Path, cause: str) -> BadInput:
    return BadInput(f"{path} is not a file of results ({cause}): name another file.")


def _read_results(path: Path) -> tuple[JsonObject, dict[str, JsonObject]]:
    """Returns the header and the results of a file. A line that is not complete yet is left out. Raises BadInput."""
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise BadInput(f"{path} cannot be read ({exc.strerror}): give a file that --results wrote.") from exc
    if not content.startswith(FILE_START):
        raise _not_results(path, f"it starts with {content[: len(FILE_START)].decode(errors='replace')!r}")
    try:
        lines = [parse_json(line) for line in content.rpartition(b"\n")[0].splitlines()]
    except ValueError as exc:
        raise _not_results(path, repr(exc)) from exc
    return _split_lines(path, lines)


def _split_lines(path: Path, lines: Sequence[JsonObject]) -> tuple[JsonObject, dict[str, JsonObject]]:
    """Returns the header and the results by key. Raises BadInput."""
    try:
        header, *entries = lines
        dict(cast("JsonObject", header["settings"]))
        return header, {cast(str, entry["key"]): cast("JsonObject", entry["found"]) for entry in entries}
    except (KeyError, TypeError, ValueError) as exc:
        raise _not_results(path, repr(exc)) from exc


def _without_time(result: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in result.items() if key != "seconds"}


def make_key(where: str, *content: object) -> str:
    """Returns the key of a record's result: the number of its line and a digest of what is in the record.

    It does not depend on the folder of the labels.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in content:
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return f"{where.rpartition(':')[2]}:{digest.hexdigest()}"


def evaluate_records(
    records: Sequence[RecordT],
    key_of: Callable[[RecordT], str],
    evaluate: Callable[[RecordT], ResultT],
    store: ResultStore,
    on_progress: ProgressCallback | None = None,
    workers: Workers | None = None,
) -> tuple[list[ResultT], list[RecordProblem]]:
    """Returns the result of each record, in order, and the problems of the records that cannot be used.

    A result that the store holds already is taken from there. evaluate: returns a result, or raises BadRecord. workers:
    where `evaluate` is called, if not here; it is pickled then.
    """
    results, left_out = [], []
    keys = [key_of(record) for record in records]
    todo = {key: record for key, record in zip(keys, records, strict=True) if key not in store.results}
    outcomes = map_in_order(partial(_result_or_problem, evaluate), list(todo.values()), workers or 1)
    problems: dict[str, BadRecord] = {}
    for done, (key, record) in enumerate(zip(keys, records, strict=True), start=1):
        if key not in store.results and key not in problems:
            try:
                outcome = next(outcomes).result
            except NoResult as exc:
                missing = sum(one not in store.results and one not in problems for one in keys)
                raise BadInput(
                    f"{record.where} has no result ({missing} of {len(records)} records have none): evaluate every "
                    "shard to its end, and give all their files."
                ) from exc
            if outcome is None or isinstance(outcome, BadRecord):
                problems[key] = outcome or KILLED
            else:
                store.add(key, outcome)
        if key in problems:
            left_out.append(RecordProblem(record.where, problems[key].reason, str(problems[key])))
        else:
            results.append(cast(ResultT, store.results[key]))
        if on_progress:
            on_progress(done, len(records))
    return results, left_out


def _result_or_problem(evaluate: Callable[[RecordT], ResultT], record: RecordT) -> ResultT | BadRecord:
    """Returns the result of a record, or why it cannot be used. May run in a worker process."""
    try:
        return evaluate(record)
    except BadRecord as exc:
        return exc


class _MapFields(TypedDict):
    raw: list[float]
    aligned: list[float]
    edges: EdgeCountsAsList


class _PointFields(TypedDict):
    true_m: list[float]
    predicted_m: list[float]
    std_m: list[float]
    slope: list[float]
    seconds: float
    refused: str


class ImageResultFields(_PointFields, total=False):
    """An ImageResult as JSON values, without `where`."""

    whole: _MapFields


@dataclass(frozen=True)
class DepthMapSums:
    """Sums over all pixels of a depth map, and the same after the prediction was aligned by medians."""

    raw: DepthErrorSums
    aligned: DepthErrorSums
    edges: EdgeCounts


@dataclass(frozen=True)
class ImageResult:
    """Depth at the labelled points of one image, from which every score is computed.

    true_m, predicted_m, std_m: float64 (N,), NaN for unknown. slope: float64 (N,), baselines.row_slopes of the points.
    seconds: time of the prediction. refused: why the model refused the image, "" if it did not. map_sums: sums over a
    whole depth map; the points are then a sample of its pixels.
    """

    where: str
    true_m: np.ndarray
    predicted_m: np.ndarray
    std_m: np.ndarray
    slope: np.ndarray
    seconds: float
    refused: str = ""
    map_sums: DepthMapSums | None = None

    @property
    def raw(self) -> DepthErrorSums:
        """Sums over everything that counts in this image."""
        return self.map_sums.raw if self.map_sums else sum_depth_errors(self.predicted_m, self.true_m)

    @property
    def aligned(self) -> DepthErrorSums:
        """The same after the prediction was aligned by medians."""
        if self.map_sums:
            return self.map_sums.aligned
        return sum_depth_errors(align_medians(self.predicted_m, self.true_m), self.true_m)

    def as_dict(self) -> ImageResultFields:
        """Returns JSON values. `where` is left out, because it depends on the folder of the labels."""
        fields = ImageResultFields(
            true_m=self.true_m.tolist(),
            predicted_m=self.predicted_m.tolist(),
            std_m=self.std_m.tolist(),
            slope=self.slope.tolist(),
            seconds=self.seconds,
            refused=self.refused,
        )
        if self.map_sums:
            raw, aligned = (list(astuple(sums)) for sums in (self.map_sums.raw, self.map_sums.aligned))
            fields["whole"] = {"raw": raw, "aligned": aligned, "edges": self.map_sums.edges.as_list()}
        return fields

    @classmethod
    def from_dict(cls, where: str, fields: ImageResultFields) -> ImageResult:
        """Returns the result that `as_dict` gave; null becomes NaN."""
        map_sums = None
        if whole := fields.get("whole"):
            raw, aligned = (_error_sums(whole["raw"]), _error_sums(whole["aligned"]))
            map_sums = DepthMapSums(raw, aligned, EdgeCounts.from_list(whole["edges"]))
        return cls(
            where,
            true_m=np.array(fields["true_m"], np.float64),
            predicted_m=np.array(fields["predicted_m"], np.float64),
            std_m=np.array(fields["std_m"], np.float64),
            slope=np.array(fields["slope"], np.float64),
            seconds=fields["seconds"],
            refused=fields["refused"],
            map_sums=map_sums,
        )


def _error_sums(values: Sequence[float]) -> DepthErrorSums:
    n, predicted, correct, relative, square_m2 = values
    return DepthErrorSums(int(n), int(predicted), int(correct), relative, square_m2)
