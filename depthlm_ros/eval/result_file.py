"""Results of an evaluation, record by record, in a file from which a stopped evaluation continues.

`ResultStore` is the file, `evaluate_records` fills it, and `ImageResult` is the result of one image with depth labels.

The file is JSON Lines. Its first line is {"settings": {...}}: everything but the records that the results depend on.
Every other line is {"key": ..., "found": {...}}. NaN is written as null.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypedDict, TypeVar, cast

import numpy as np

from depthlm_ros.data.records import BadRecord, RecordProblem
from depthlm_ros.errors import BadInput, SetupError
from depthlm_ros.eval.metrics import DepthErrorSums, EdgeCounts, EdgeCountsAsList, align_medians, sum_depth_errors
from depthlm_ros.file_io import JsonLinesFile, JsonObject, to_json_value


class LabelledRecord(Protocol):
    """A record of any kind. where: "file:line"."""

    @property
    def where(self) -> str: ...


RecordT = TypeVar("RecordT", bound=LabelledRecord)
# A result is a TypedDict: plain types that JSON can hold.
ResultT = TypeVar("ResultT", bound=Mapping[str, object])
# The first bytes of every file of results. A file that starts with others is not changed.
FILE_START = b'{"settings": '
# Called with (records done, all records).
ProgressCallback = Callable[[int, int], None]


class ResultStore:
    """Results by key, in memory. With a path they are also read from that file and appended to it.

    settings: settings of this run. Raises BadInput if the file belongs to a run with other settings, is not a file of
    results, is not a regular file, or is being written by another process.
    """

    def __init__(self, path: Path | None = None, settings: Mapping[str, object] | None = None) -> None:
        self.results: dict[str, JsonObject] = {}
        self._path = path
        self._file: JsonLinesFile | None = None
        self._open_files = ExitStack()
        if path is not None:
            try:
                self._file = self._open(path)
                self._read(dict(to_json_value(settings or {})))
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

    def _read(self, settings: JsonObject) -> None:
        assert self._file is not None
        if not self._file.lines:
            self._append({"settings": settings})
            return
        header, *entries = self._file.lines
        try:
            file_settings = header["settings"]
            self.results = {entry["key"]: entry["found"] for entry in entries}
            keys = {**settings, **file_settings}
        except (KeyError, TypeError) as exc:
            raise _not_results(self._file.path, repr(exc)) from exc
        differing = [key for key in keys if settings.get(key) != file_settings.get(key)]
        if differing:
            differences = ", ".join(
                f"{key} {file_settings.get(key)!r} instead of {settings.get(key)!r}" for key in differing
            )
            raise BadInput(
                f"{self._file.path} holds results of another run ({differences}): name another file, or remove it."
            )

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
) -> tuple[list[ResultT], list[RecordProblem]]:
    """Returns the result of each record, in order, and the problems of the records that cannot be used.

    A result that the store holds already is taken from there. evaluate: returns a result, or raises BadRecord.
    """
    results, left_out = [], []
    for done, record in enumerate(records, start=1):
        key = key_of(record)
        try:
            if key not in store.results:
                store.add(key, evaluate(record))
            results.append(cast(ResultT, store.results[key]))
        except BadRecord as exc:
            left_out.append(RecordProblem(record.where, exc.reason, str(exc)))
        if on_progress:
            on_progress(done, len(records))
    return results, left_out


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
