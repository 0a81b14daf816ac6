# SPDX-License-Identifier: Apache-2.0
"""The order of samples, and the files of records that they come from.

`SampleOrder` decides which record is used at which position of a training. It depends on the seed and the position
only, so that a run can stop anywhere and continue as the same run. `RecordFile` reads single lines of a JSONL file when
they are needed: millions of records are not held in memory.
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
from typing import Generic, TypeAlias, TypeVar

import numpy as np

from depthlm_ros.data.read import (
    ObjectConversation,
    Roots,
    parse_json_object,
    parse_object_conversation,
    parse_pair,
    parse_record,
)
from depthlm_ros.data.records import BadRecord, PairRecord, Record, RecordProblem, depth_caps_m, parse_file_path
from depthlm_ros.errors import BadImage, BadInput, BadIntrinsics
from depthlm_ros.geometry.focal_estimation import FocalEstimator, estimated_camera
from depthlm_ros.training.finetune.recipe import FinetuneDataSettings, value_for_data_set

R = TypeVar("R")
# (line, "file:line", file) -> the record, and the problems of its points. Raises BadRecord for an unusable line.
RecordParser: TypeAlias = Callable[[str, str, Path], tuple[R, Sequence[RecordProblem]]]

_FEISTEL_ROUNDS = 6
_MASK_64 = (1 << 64) - 1


@dataclass(frozen=True)
class SampleOrder:
    """Which record is used at which position.

    sizes: number of records of each data set. weights: of each data set, None to use every record once in an epoch.
    nominal: samples of an epoch per record, for weighted data sets.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...] | None
    seed: int
    nominal: int = 1

    @property
    def epoch_samples(self) -> int:
        """Returns the number of samples in an epoch."""
        return sum(self.sizes) * (self.nominal if self.weights else 1)

    def record_at(self, position: int, attempt: int = 0) -> tuple[int, int]:
        """Returns the numbers of data set and record at a position.

        attempt: how many records before it were unusable at this position; each is replaced by the next record of its
        file, as in DepthLM's code.
        """
        epoch, index = divmod(position, self.epoch_samples)
        number = shuffled_index(index, self.epoch_samples, (self.seed << 20) + epoch)
        if self.weights is None:
            number = (number + attempt) % self.epoch_samples
            starts = list(accumulate(self.sizes, initial=0))
            data_set = bisect_right(starts, number) - 1
            return data_set, number - starts[data_set]
        limits = np.cumsum(self.weights)
        drawn = self.rng(position, attempt, stream=1).random() * limits[-1]
        data_set = min(int(np.searchsorted(limits, drawn, side="right")), len(self.sizes) - 1)
        return data_set, (number + attempt) % self.sizes[data_set]

    def rng(self, position: int, attempt: int = 0, stream: int = 0) -> np.random.Generator:
        """Returns the source of all random choices about a sample."""
        return np.random.default_rng([self.seed, position, attempt, stream])


def shuffled_index(index: int, length: int, key: int) -> int:
    """Returns the place of `index` in a shuffle of range(length), without making the shuffle, which may be too long.

    A Feistel network on the next power of four, repeated until the result is below length (Black and Rogaway, "Ciphers
    with arbitrary finite domains", 2002).
    """
    half = max(1, ((length - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(_FEISTEL_ROUNDS):
            left, right = right, left ^ (_hash_64(right + (turn << 40), key) & mask)
        index = (left << half) | right
        if index < length:
            return index


def _hash_64(value: int, key: int) -> int:
    """Returns 64 bits without pattern (the finaliser of splitmix64, Steele, Lea and Flood 2014)."""
    value = (value + key * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & _MASK_64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return value ^ (value >> 31)


@dataclass(frozen=True)
class LineIndex:
    """The lines of a file. starts: int64 (N, 2), number and first byte of every line that is not blank.

    repeated: the number of lines that are equal to an earlier one.
    """

    starts: np.ndarray
    repeated: int


@dataclass(frozen=True)
class RecordFile(Generic[R]):
    """One data set: a JSONL file and the parser of its lines. held_out: the share of its lines that is never used."""

    path: Path
    parse: RecordParser[R]
    weight: float | None = None
    held_out: float = 0.0

    @cached_property
    def lines(self) -> LineIndex:
        return index_lines(self.path)

    @cached_property
    def starts(self) -> np.ndarray:
        """Returns int64 (N, 2): number (from 1) and first byte of every line that is used."""
        starts = self.lines.starts
        return starts[~is_held_out(len(starts), self.held_out)] if self.held_out else starts

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[R, Sequence[RecordProblem]]:
        """Returns a record and the problems of its points. Raises BadRecord if the line is not usable."""
        with self.path.open("rb") as file:
            file.seek(int(self.starts[index][1]))
            line = file.readline().decode("utf-8", errors="replace")
        return self.parse(line, self.where(index), self.path)

    def where(self, index: int) -> str:
        """Returns "file:line", for messages."""
        return f"{self.path}:{self.starts[index][0]}"


def is_held_out(count: int, share: float) -> np.ndarray:
    """Returns bool (count,): whether a record is kept out of training.

    These are the last records of the file, as DepthLM's evaluation counts the ones that it reads (eval/released.py).
    Files are in the order of their scenes, so held-out records are mostly of other scenes.
    """
    return np.arange(count) >= int(count * (1 - share))


def index_lines(path: Path) -> LineIndex:
    """Reads a file once. Raises BadInput if it cannot be read or has no lines."""
    places, digests, start = array("q"), array("Q"), 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    places.extend((number, start))
                    # Eight bytes per line are enough for millions of lines: two different lines are confused in one of
                    # a million such files.
                    digests.append(int.from_bytes(blake2b(line.strip(), digest_size=8).digest(), "little"))
                start += len(line)
    except OSError as exc:
        raise BadInput(f"{path} cannot be read ({exc.strerror}): give a JSONL file of records.") from exc
    if not places:
        raise BadInput(f"{path} has no lines: give a JSONL file of records.")
    repeated = len(digests) - len(np.unique(np.frombuffer(digests, np.uint64)))
    return LineIndex(np.frombuffer(places, np.int64).reshape(-1, 2), repeated)


def open_record_files(
    data: Sequence[str], parse: RecordParser[R], settings: FinetuneDataSettings
) -> tuple[RecordFile[R], ...]:
    """Opens the files FILE or FILE=WEIGHT of a command line. Without a weight, that of the recipe's table holds.

    Raises BadInput if a file cannot be read, or if a weight is not a positive number.
    """
    if not data:
        raise BadInput("no data: give at least one JSONL file of records (--data FILE).")
    return tuple(_open_record_file(item, parse, settings) for item in data)


def _open_record_file(item: str, parse: RecordParser[R], settings: FinetuneDataSettings) -> RecordFile[R]:
    name, equals, text = item.rpartition("=")
    path = Path(name if equals else item)
    try:
        weight = float(text) if equals else value_for_data_set(settings.weights, path)
    except ValueError as exc:
        raise BadInput(f"--data {item}: the weight {text!r} is not a number: write FILE or FILE=WEIGHT.") from exc
    if weight is not None and not weight > 0:
        raise BadInput(f"--data {item}: the weight is {weight}: it must be greater than 0.")
    file = RecordFile(path, parse, weight, float(value_for_data_set(settings.held_out, path) or 0.0))
    if not len(file):
        raise BadInput(f"{path}: every record is held out: data.held_out in the recipe says how many are.")
    return file


def weights_of_files(files: Sequence[RecordFile[R]]) -> tuple[float, ...]:
    """Returns the weight of each file, all the same if none is known. Raises BadInput if only some are known."""
    unknown = [file.path for file in files if file.weight is None]
    if len(unknown) == len(files):
        return (1.0,) * len(files)
    if unknown:
        raise BadInput(
            f"{unknown[0]}: the weight of this data set is unknown, but weights of others are known: give it as "
            f"--data {unknown[0]}=WEIGHT, or rename the file so that the recipe's data.weights names it."
        )
    return tuple(float(file.weight or 0.0) for file in files)


def point_parser(settings: FinetuneDataSettings, estimator: FocalEstimator) -> RecordParser[Record]:
    """Returns the parser of labelled points and depth maps. A camera that a line does not give is estimated."""

    def parse(line: str, where: str, path: Path) -> tuple[Record, Sequence[RecordProblem]]:
        fields, images = parse_json_object(line), Path(settings.images or path.parent)
        if not {"intrinsics", "original_fx"} & set(fields):
            line = json.dumps({**fields, "intrinsics": _estimate_camera(fields, images, estimator)})
        depth_type = value_for_data_set(settings.labels_mean, path) or ""
        return parse_record(
            line, where, Roots(images, Path(settings.depths or path.parent), depth_type), depth_caps_m(path)
        )

    return parse


def pair_parser(settings: FinetuneDataSettings, estimator: FocalEstimator) -> RecordParser[PairRecord]:
    """Returns the parser of pairs of views. Cameras that a line does not give are estimated."""

    def parse(line: str, where: str, path: Path) -> tuple[PairRecord, Sequence[RecordProblem]]:
        fields, folder = parse_json_object(line), Path(settings.images or path.parent)
        problems: list[RecordProblem] = []
        if "intrinsics" not in fields:
            names = fields.get("images")
            images = [{"image": name} for name in names] if isinstance(names, list) else []
            cameras = [_estimate_camera(image, folder, estimator) for image in images]
            line = json.dumps({**fields, "intrinsics": cameras})
        return parse_pair(line, where, folder, problems), problems

    return parse


def object_parser(settings: FinetuneDataSettings, estimator: FocalEstimator) -> RecordParser[ObjectConversation]:
    """Returns the parser of SpatialRGPT's conversations about objects (data/read.py)."""

    def parse(line: str, where: str, path: Path) -> tuple[ObjectConversation, Sequence[RecordProblem]]:
        fields, folder = parse_json_object(line), Path(settings.images or path.parent)
        if "intrinsics" not in fields:
            fields = {**fields, "intrinsics": _estimate_camera(fields, folder, estimator)}
        return parse_object_conversation(fields, where, folder), ()

    return parse


def _estimate_camera(fields: Mapping[str, object], folder: Path, estimator: FocalEstimator) -> list[float]:
    """Returns [fx, fy, cx, cy, W, H]. Raises BadRecord if no camera can be estimated."""
    path = parse_file_path(fields.get("image", fields.get("image_path")), folder)
    try:
        camera = estimated_camera(path, estimator)
    except (BadImage, BadIntrinsics) as exc:
        raise BadRecord("camera unknown", f"{path}: no camera can be estimated ({exc})") from exc
    return [camera.fx_px, camera.fy_px, camera.cx_px, camera.cy_px, camera.width_px, camera.height_px]
