"""Files of records, read line by line as they are needed: millions of them are not held in memory.

This is the one place where training meets the readers of depthlm_ros.data.

Which record is shown when. A position in training decides it, with the seed, and nothing else: so a run can stop
anywhere, go on, and be the same run.
"""

from __future__ import annotations

import json
from array import array
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from depthlm_ros.data.read import ObjectRecord, Roots, json_object, parse_objects, parse_pair, parse_record
from depthlm_ros.data.records import BadRecord, PairRecord, Problem, Record, caps_for
from depthlm_ros.data.records import image as image_path
from depthlm_ros.errors import BadImage, BadInput, BadIntrinsics
from depthlm_ros.geometry.focal_estimation import FocalEstimator, estimated_camera
from depthlm_ros.training.finetune.recipe import DataSettings, named

_ROUNDS = 6
_WORD = (1 << 64) - 1


@dataclass(frozen=True)
class Order:
    """sizes: records of each data set. weights: of each, None to show every record once in an epoch. nominal: an
    epoch's samples per record, of weighted sets."""

    sizes: tuple[int, ...]
    weights: tuple[float, ...] | None
    seed: int
    nominal: int = 1

    @property
    def epoch(self) -> int:
        """Samples in an epoch."""
        return sum(self.sizes) * (self.nominal if self.weights else 1)

    def at(self, position: int, attempt: int = 0) -> tuple[int, int]:
        """Data set and record shown at a position; attempt: how many before it turned out to be unusable there, each
        of which is replaced by the next one, as in DepthLM's code."""
        epoch, index = divmod(position, self.epoch)
        number = shuffled(index, self.epoch, (self.seed << 20) + epoch)
        if self.weights is None:
            number = (number + attempt) % self.epoch
            starts = list(accumulate(self.sizes, initial=0))
            which = bisect_right(starts, number) - 1
            return which, number - starts[which]
        limits = np.cumsum(self.weights)
        drawn = self.rng(position, attempt, stream=1).random() * limits[-1]
        which = min(int(np.searchsorted(limits, drawn, side="right")), len(self.sizes) - 1)
        return which, (number + attempt) % self.sizes[which]

    def rng(self, position: int, attempt: int = 0, stream: int = 0) -> np.random.Generator:
        """The source of everything random about a sample."""
        return np.random.default_rng([self.seed, position, attempt, stream])


def shuffled(index: int, length: int, key: int) -> int:
    """Where a shuffle of range(length) has put `index`, without making the shuffle: lists of samples are too long.

    A Feistel network on the next power of four, walked until it lands inside (Black and Rogaway, "Ciphers with
    arbitrary finite domains", 2002).
    """
    half = max(1, ((length - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(_ROUNDS):
            left, right = right, left ^ (_mixed(right + (turn << 40), key) & mask)
        index = (left << half) | right
        if index < length:
            return index


def held_back(count: int, share: float) -> np.ndarray:
    """bool (count,): the records that are kept from training: the last `share` of the file, which is what DepthLM's
    evaluation reads of it (eval/released.py), counted as there. Files are in the order of their scenes: so these are
    other scenes, too."""
    return np.arange(count) >= int(count * (1 - share))


def _mixed(value: int, key: int) -> int:
    """64 bits without pattern (the finaliser of splitmix64, Steele, Lea and Flood 2014)."""
    value = (value + key * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & _WORD
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _WORD
    return value ^ (value >> 31)


# (line, "file:line", file) -> the record, and what was left out of it. Raises BadRecord if the line is none.
Parse = Callable[[str, str, Path], tuple[Any, Sequence[Problem]]]


@dataclass(frozen=True)
class Source:
    """One data set: a JSONL file, what a line of it is, and which lines are shown."""

    path: Path
    parse: Parse
    weight: float | None = None
    held_out: float = 0.0

    @cached_property
    def lines(self) -> Lines:
        return read_lines(self.path)

    @cached_property
    def starts(self) -> np.ndarray:
        """int64 (N, 2): number (from 1) and first byte of every line that is shown."""
        starts = self.lines.starts
        return starts[~held_back(len(starts), self.held_out)] if self.held_out else starts

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[Any, Sequence[Problem]]:
        """The record, and what was left out of it. Raises BadRecord if the line is none."""
        with self.path.open("rb") as file:
            file.seek(int(self.starts[index][1]))
            line = file.readline().decode("utf-8", errors="replace")
        return self.parse(line, self.where(index), self.path)

    def where(self, index: int) -> str:
        """ "file:line", for messages."""
        return f"{self.path}:{self.starts[index][0]}"


@dataclass(frozen=True)
class Lines:
    """Of a file. starts: int64 (N, 2), number and first byte of every line that is not blank. repeated: how many of
    these equal an earlier one to the letter."""

    starts: np.ndarray
    repeated: int


def read_lines(path: Path) -> Lines:
    """Raises BadInput if the file cannot be read or has no lines."""
    found, digests, at = array("q"), array("Q"), 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    found.extend((number, at))
                    # Eight bytes a line suffice for files of millions: different lines pass for the same in one of
                    # a million such files.
                    digests.append(int.from_bytes(blake2b(line.strip(), digest_size=8).digest(), "little"))
                at += len(line)
    except OSError as exc:
        raise BadInput(f"{path}: cannot be read ({exc.strerror}): give a JSONL file of records.") from exc
    if not found:
        raise BadInput(f"{path}: it has no lines.")
    return Lines(
        np.frombuffer(found, np.int64).reshape(-1, 2), len(digests) - len(np.unique(np.frombuffer(digests, np.uint64)))
    )


def open_sources(data: Sequence[str], parse: Parse, settings: DataSettings) -> tuple[Source, ...]:
    """The files FILE or FILE=WEIGHT of a command line. A weight that is not given is that of the recipe's table.

    Raises BadInput if a file cannot be read, or if the table knows some of the files only.
    """
    if not data:
        raise BadInput("no data: give at least one JSONL file of records (--data FILE).")
    return tuple(_source(item, parse, settings) for item in data)


def weights_of(sources: Sequence[Source]) -> tuple[float, ...]:
    """All the same where none is known. Raises BadInput where some are."""
    unknown = [source.path for source in sources if source.weight is None]
    if len(unknown) == len(sources):
        return (1.0,) * len(sources)
    if unknown:
        raise BadInput(
            f"{unknown[0]}: no weight is known for this data set, though for others there is: give it as "
            f"--data {unknown[0]}=WEIGHT, or rename the file so that the recipe's data.weights names it."
        )
    return tuple(float(source.weight or 0.0) for source in sources)


def _source(item: str, parse: Parse, settings: DataSettings) -> Source:
    name, given, weight = item.rpartition("=")
    path = Path(name if given else item)
    try:
        known = float(weight) if given else named(settings.weights, path)
    except ValueError as exc:
        raise BadInput(f"--data {item}: the weight {weight!r} is no number: write FILE or FILE=WEIGHT.") from exc
    if known is not None and not known > 0:
        raise BadInput(f"--data {item}: the weight must be positive.")
    source = Source(path, parse, known, float(named(settings.held_out, path) or 0.0))
    if not len(source):
        raise BadInput(f"{path}: every record is held out.")
    return source


def point_records(settings: DataSettings, estimator: FocalEstimator) -> Parse:
    """Lines of DepthLM's and DepthVLM's kind; a camera that a line does not give is estimated."""

    def parse(line: str, where: str, path: Path) -> tuple[Record, Sequence[Problem]]:
        fields, images = json_object(line), Path(settings.images or path.parent)
        if not {"intrinsics", "original_fx"} & set(fields):
            line = json.dumps({**fields, "intrinsics": _estimated(fields, images, estimator)})
        roots = Roots(images, Path(settings.depths or path.parent), named(settings.labels_mean, path) or "")
        return parse_record(line, where, roots, caps_for(path))

    return parse


def pair_records(settings: DataSettings, estimator: FocalEstimator) -> Parse:
    """Lines of two views each."""

    def parse(line: str, where: str, path: Path) -> tuple[PairRecord, Sequence[Problem]]:
        fields, folder = json_object(line), Path(settings.images or path.parent)
        problems: list[Problem] = []
        if "intrinsics" not in fields:
            names = fields.get("images")
            both = [{"image": name} for name in names] if isinstance(names, list) else []
            line = json.dumps({**fields, "intrinsics": [_estimated(one, folder, estimator) for one in both]})
        return parse_pair(line, where, folder, problems), problems

    return parse


def object_records(settings: DataSettings, estimator: FocalEstimator) -> Parse:
    """Lines of SpatialRGPT's kind (see objects.py)."""

    def parse(line: str, where: str, path: Path) -> tuple[ObjectRecord, Sequence[Problem]]:
        fields, folder = json_object(line), Path(settings.images or path.parent)
        if "intrinsics" not in fields:
            fields = {**fields, "intrinsics": _estimated(fields, folder, estimator)}
        return parse_objects(fields, where, folder), ()

    return parse


def _estimated(fields: Mapping[str, object], folder: Path, estimator: FocalEstimator) -> list[float]:
    """[fx, fy, cx, cy, W, H]."""
    path = image_path(fields.get("image", fields.get("image_path")), folder)
    try:
        camera = estimated_camera(path, estimator)
    except (BadImage, BadIntrinsics) as exc:
        raise BadRecord("camera unknown", f"{path}: no camera can be estimated ({exc})") from exc
    return [camera.fx_px, camera.fy_px, camera.cx_px, camera.cy_px, camera.width_px, camera.height_px]
