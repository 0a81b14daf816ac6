"""What was found for each record, in a file that only grows: an evaluation that was killed goes on where it was.

JSONL. The first line is {"settings": {...}}, what the results depend on beside the records; every other line is
{"key": ..., "found": {...}}. A last line that was cut off is taken away. NaN is written as null.

What was found at the labelled points of one image: the plain numbers from which every score is made.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

import numpy as np

from depthlm_ros.data.records import BadRecord, Problem
from depthlm_ros.errors import BadInput, SetupError
from depthlm_ros.eval.metrics import Edges, Sums, median_aligned, sums
from depthlm_ros.file_io import to_json_value

Found = dict[str, Any]


class Evaluated(Protocol):
    """A record, as far as it matters here. where: "file:line"."""

    @property
    def where(self) -> str: ...


R = TypeVar("R", bound=Evaluated)


class Results:
    """Found results by key; with a path they are read from there and appended as they come.

    settings: of this run. Raises BadInput if the file is that of a run with other settings, is no such file, or is
    being written by another process or no regular file.
    """

    def __init__(self, path: Path | None = None, settings: Mapping[str, Any] | None = None) -> None:
        self.found: dict[str, Found] = {}
        self._path = path
        if path is not None and path.exists() and not path.is_file():
            raise BadInput(f"{path}: is no regular file: results are read from it, too.")
        self._file = None if path is None else path.open("a+b")
        if self._file is not None:
            self._lock()
            self._read(dict(to_json_value(settings or {})))

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, key: str, found: Found) -> None:
        """Keeps a result. Raises SetupError if it cannot be written; what was written before stays."""
        self.found[key] = to_json_value(found)
        self._write({"key": key, "found": self.found[key]})

    def _lock(self) -> None:
        assert self._file is not None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise BadInput(f"{self._path}: another evaluation is writing it: wait, or name another file.") from exc

    def _read(self, settings: Found) -> None:
        assert self._file is not None
        self._file.seek(0)
        whole, _, rest = self._file.read().rpartition(b"\n")
        if rest:
            self._file.truncate(len(whole) + 1 if whole else 0)
        lines = whole.splitlines()
        if not lines:
            self._write({"settings": settings})
            return
        try:
            header, *results = map(json.loads, lines)
            theirs = header["settings"]
            self.found = {result["key"]: result["found"] for result in results}
        except (ValueError, KeyError, TypeError) as exc:
            raise BadInput(f"{self._path}: is no file of results ({exc!r}): name another file.") from exc
        self._check(settings, theirs)

    def _check(self, mine: Found, theirs: Found) -> None:
        differ = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
        if differ:
            told = ", ".join(f"{key} {theirs.get(key)!r} instead of {mine.get(key)!r}" for key in differ)
            raise BadInput(f"{self._path}: holds results of another run ({told}): name another file, or remove it.")

    def _write(self, line: Found) -> None:
        if self._file is None:
            return
        try:
            self._file.write((json.dumps(line) + "\n").encode())
            self._file.flush()
        except OSError as exc:
            # What is still in its buffer would be tried again, and fail again, when it is closed at the end.
            with suppress(OSError):
                self._file.close()
            raise SetupError(
                f"{self._path}: cannot be written ({exc.strerror}): make room; the same command goes on from there."
            ) from exc


def key_of(where: str, *content: object) -> str:
    """Tells records apart by the number of their line and by what is in them, wherever the file lies."""
    digest = hashlib.blake2b(digest_size=8)
    for part in content:
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return f"{where.rpartition(':')[2]}:{digest.hexdigest()}"


def work_through(
    records: Sequence[R],
    key: Callable[[R], str],
    work: Callable[[R], Found],
    results: Results,
    watch: Callable[[int, int], None] | None = None,
) -> tuple[list[Found], list[Problem]]:
    """What was found for each record, in order, by `work` or earlier, and the records that are unusable.

    work: raises BadRecord for such a record. watch: told (done, all) after each.
    """
    found, left_out = [], []
    for done, record in enumerate(records, start=1):
        name = key(record)
        try:
            if name not in results.found:
                results.add(name, work(record))
            found.append(results.found[name])
        except BadRecord as exc:
            left_out.append(Problem(record.where, exc.reason, str(exc)))
        if watch:
            watch(done, len(records))
    return found, left_out


@dataclass(frozen=True)
class Whole:
    """Sums over all pixels of a depth map, and the same after the image is scaled by its median."""

    raw: Sums
    aligned: Sums
    edges: Edges


@dataclass(frozen=True)
class Outcome:
    """true_m, predicted_m, std_m: float64 (N,), NaN unknown; slope: float64 (N,), baselines.row_slopes of the points.

    seconds: that the prediction took. refused: why the model would not take the image, "" if it did. whole: of a
    whole depth map, of which the points are then a sample.
    """

    where: str
    true_m: np.ndarray
    predicted_m: np.ndarray
    std_m: np.ndarray
    slope: np.ndarray
    seconds: float
    refused: str = ""
    whole: Whole | None = None

    @property
    def raw(self) -> Sums:
        """Sums over everything that counts in this image."""
        return self.whole.raw if self.whole else sums(self.predicted_m, self.true_m)

    @property
    def aligned(self) -> Sums:
        """The same after scaling by the ratio of medians."""
        if self.whole:
            return self.whole.aligned
        return sums(median_aligned(self.predicted_m, self.true_m), self.true_m)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; without `where`, which depends on where the labels lie."""
        arrays = {name: getattr(self, name).tolist() for name in ("true_m", "predicted_m", "std_m", "slope")}
        kept = arrays | {"seconds": self.seconds, "refused": self.refused}
        if self.whole:
            sides = (astuple(self.whole.raw), astuple(self.whole.aligned), self.whole.edges.as_list())
            kept["whole"] = dict(zip(("raw", "aligned", "edges"), sides, strict=True))
        return kept

    @classmethod
    def from_dict(cls, where: str, kept: dict[str, Any]) -> Outcome:
        """Inverse of as_dict; null is NaN."""
        arrays = {name: np.array(kept[name], np.float64) for name in ("true_m", "predicted_m", "std_m", "slope")}
        whole = None
        if given := kept.get("whole"):
            whole = Whole(Sums(*given["raw"]), Sums(*given["aligned"]), Edges.from_list(given["edges"]))
        return cls(where, **arrays, seconds=kept["seconds"], refused=kept["refused"], whole=whole)
