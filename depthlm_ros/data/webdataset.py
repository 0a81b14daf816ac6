# SPDX-License-Identifier: Apache-2.0
"""WebDataset shards: packs records into tar files, unpacks them, and reads single samples of shards where they lie.

`ShardIndex` gives random access to the samples of shards; `SamplePlace` is one of them, for another process to read.
`write_shard` writes one shard. `pack_shards` packs records, and `unpack_shards` writes them as files again. One sample
of a record holds KEY.json (the line of the record without paths), KEY.jpg or KEY.png (the bytes of the image) and, for
a depth map, KEY.depth.png (or .npy, .bin) and KEY.mask0.png ... (the bytes of the depth map and its masks). The package
webdataset reads the same files.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np

from depthlm_ros.data.check import find_duplicate_lines, find_file_problems
from depthlm_ros.data.read import Roots, iter_records
from depthlm_ros.data.records import RAW_FLOAT32, Record, RecordProblem
from depthlm_ros.data.write import depthlm_line, depthvlm_line
from depthlm_ros.errors import BadInput
from depthlm_ros.file_io import parse_json, replacing, to_json_value, write_atomically
from depthlm_ros.image_io import is_truncated

# A sample of a shard: bytes by suffix, and the decoded "json". "__key__" is its key, "__url__" the path of its shard.
Sample: TypeAlias = dict[str, Any]
# Files that a killed run or an operating system leaves beside shards.
NOT_SHARDS = ("partial-", ".")
# A tar file consists of blocks, and ends with blocks of zeros.
TAR_BLOCK_BYTES = 512

# Reasons of problems with files begin with these words. Other problems are doubts about what a record states.
FILE_KINDS = ("image", "depth map")
# Keys of a line that hold paths, which mean nothing inside a shard.
PATH_KEYS = ("image", "depth_path", "mask_valid_path", "mask_transp_path")
# First part of the suffix of a sample's file -> key of its path in the line. The image is the file with another suffix.
PATH_KEY_OF_SUFFIX = {"depth": "depth_path", "mask0": "mask_valid_path", "mask1": "mask_transp_path"}


def pack_shards(
    path: Path, out: Path, per_shard: int, problems: list[RecordProblem], roots: Roots | None = None
) -> Iterator[tuple[Path, int]]:
    """Packs the records of a file into out/NAME-000000.tar ..., and yields each shard with its number of samples.

    A shard is written completely or not at all, and an existing shard is not written again, so that a killed run can be
    continued. Problems are appended to `problems`, also those of existing shards: records whose image or depth map is
    damaged or has another size are left out; duplicate lines are packed and reported. Raises BadInput if the folder
    holds shards of another file or size, or if a shard cannot be written (a full disk).
    """
    if per_shard < 1:
        raise BadInput(f"--images is {per_shard}: a shard must hold at least one record.")
    check_same_settings(out / f"{path.stem}.pack.json", {"file": str(path.resolve()), "per_shard": per_shard})
    problems.extend(find_duplicate_lines(path))
    records = _with_intact_files(iter_records(path, problems, roots), problems)
    index = 0
    while batch := list(islice(records, per_shard)):
        shard = out / f"{path.stem}-{index:06d}.tar"
        keyed = {f"{number:08d}": record for number, record in enumerate(batch, start=index * per_shard)}
        if not shard.exists():
            write_shard(shard, _read_samples(keyed))
        packed = set(open_whole_shard(shard).keys)
        missing = [record for key, record in keyed.items() if key not in packed]
        message = f"a file of the record could not be read: the record is not in {shard}"
        problems.extend(RecordProblem(record.where, "file unreadable", message) for record in missing)
        yield shard, len(packed)
        index += 1


@dataclass(frozen=True)
class SamplePlace:
    """Where the files of a sample lie in its shard. members: suffix, offset and size in bytes of each file."""

    shard: Path
    key: str
    members: tuple[tuple[str, int, int], ...]

    def read(self) -> Sample:
        """Reads the sample. Raises BadInput, with the shard and the key, if it cannot be read any more."""
        sample: Sample = {"__key__": self.key, "__url__": str(self.shard)}
        where = f"{self.shard}: sample {self.key}"
        try:
            with self.shard.open("rb", buffering=0) as file:
                for suffix, offset, size in self.members:
                    sample[suffix] = data = os.pread(file.fileno(), size, offset)
                    if len(data) < size:
                        raise BadInput(f"{where}: the shard became shorter while it was in use.")
        except OSError as exc:
            raise BadInput(f"{where} cannot be read ({exc.strerror}).") from exc
        try:
            return {**sample, "json": parse_json(sample["json"])} if "json" in sample else sample
        except ValueError as exc:
            raise BadInput(f"{where}: its json is damaged ({exc}): write the shard again.") from exc


class ShardIndex(Sequence[Sample]):
    """The samples of WebDataset shards, by index. A sample is read from its shard when it is asked for.

    At first only the headers of the tar files are read. Samples are ordered by the name of their shard, then by their
    place in it. No file stays open, so that the index can be pickled and be used by several processes and threads.

    shards: a folder with .tar files (without its subfolders), or these files. required: suffixes that a sample must
    have, such as ("jpg", "depth.png").
    keys: the key of each sample. problems: shards that are damaged, and samples without a required file. Of a shard
    that was cut short, all samples but the last are used, because that one may lack files.
    Raises BadInput if there are no shards, or if they have problems and not one usable sample.
    """

    def __init__(self, shards: Path | Sequence[Path], required: Sequence[str] = ()) -> None:
        self.shards = _list_shards(shards) if isinstance(shards, Path) else sorted(shards, key=lambda one: one.name)
        self.problems: list[RecordProblem] = []
        self._required = frozenset(required)
        self.keys: list[str] = []
        self._suffixes: dict[str, int] = {}
        # Flat arrays, because a list of tuples would take several times the memory, and every loader process has one.
        self._shard_of_sample, self._first_member = array("l"), array("q", [0])
        self._members = array("q")  # number of the suffix, offset, size
        for number, shard in enumerate(self.shards):
            self._add_shard(number, shard)
        self._suffix_names = tuple(self._suffixes)
        if self.problems and not self.keys:
            raise BadInput(f"{self.problems[0]}. No sample is usable.")

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """Reads a sample. Raises BadInput, with the shard and the key, if it cannot be read any more."""
        if isinstance(index, slice):
            return [self.place(number).read() for number in range(len(self))[index]]
        return self.place(range(len(self))[index]).read()

    def place(self, number: int) -> SamplePlace:
        """Returns where a sample lies, which takes little memory to send to another process."""
        members = []
        for member in range(self._first_member[number], self._first_member[number + 1]):
            suffix, offset, size = self._members[3 * member : 3 * member + 3]
            members.append((self._suffix_names[suffix], offset, size))
        return SamplePlace(self.shards[self._shard_of_sample[number]], self.keys[number], tuple(members))

    @property
    def skipped(self) -> int:
        """Number of samples that lack a required file."""
        return sum(problem.count for problem in self.problems if problem.reason == "sample incomplete")

    def _add_shard(self, number: int, shard: Path) -> None:
        try:
            samples, is_whole = _read_headers(shard)
        except (OSError, tarfile.TarError) as exc:
            self._report(shard, "shard unreadable", f"not a shard ({exc}): remove the file or write it again")
            return
        if not is_whole:
            samples = samples[:-1]
            self._report(shard, "shard cut short", f"cut short after {len(samples)} whole samples: copy it again")
        complete = [(key, members) for key, members in samples if self._required <= members.keys()]
        if missing := len(samples) - len(complete):
            names = " and ".join(sorted(self._required))
            self._report(shard, "sample incomplete", f"{missing} samples do not have {names}: left out", missing)
        for key, members in complete:
            self._add_sample(number, key, members)

    def _add_sample(self, shard_number: int, key: str, members: Mapping[str, tuple[int, int]]) -> None:
        self.keys.append(key)
        self._shard_of_sample.append(shard_number)
        for suffix, (offset, size) in members.items():
            self._members.extend((self._suffixes.setdefault(suffix, len(self._suffixes)), offset, size))
        self._first_member.append(len(self._members) // 3)

    def _report(self, shard: Path, reason: str, message: str, count: int = 1) -> None:
        self.problems.append(RecordProblem(str(shard), reason, message, count))


def open_whole_shard(shard: Path) -> ShardIndex:
    """Opens one shard. Raises BadInput if it is not a tar file, or if it was cut short."""
    index = ShardIndex([shard])
    if index.problems:
        raise BadInput(f"{index.problems[0]}.")
    return index


def write_shard(shard: Path, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> int:
    """Writes (key, bytes by suffix) of samples to a shard, completely or not at all; returns the number of samples.

    Equal samples give equal files. Raises BadInput if the shard cannot be written (a full disk).
    """
    count = 0
    try:
        with replacing(shard) as partial_path, tarfile.open(partial_path, "w") as tar:
            for key, members in samples:
                for suffix, data in members.items():
                    header = tarfile.TarInfo(f"{key}.{suffix}")
                    header.size, header.mode = len(data), 0o444
                    tar.addfile(header, io.BytesIO(data))
                count += 1
    except OSError as exc:
        hint = "The shards before it are complete. Make room and run the same command again."
        raise BadInput(f"{shard}: {exc}. {hint}") from exc
    return count


def check_same_settings(note: Path, settings: Mapping[str, object]) -> None:
    """Writes how a folder's shards are made to a file, or raises BadInput if that file states other settings."""
    stated = to_json_value(settings)
    if not note.exists():
        write_atomically(note, json.dumps(stated, indent=1) + "\n")
    try:
        held = dict(parse_json(note.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as exc:
        raise BadInput(f"{note}: cannot be read ({exc}): remove it, or choose another folder.") from exc
    changed = [key for key in {**held, **stated} if held.get(key) != stated.get(key)]
    if changed:
        found = ", ".join(f"{key} {held.get(key)!r} instead of {stated.get(key)!r}" for key in changed)
        raise BadInput(f"{note.parent} holds shards that were made otherwise ({found}): choose another folder.")


def unpack_shards(shards: Sequence[Path], out: Path) -> Iterator[tuple[Path, int]]:
    """Writes the records of each NAME.tar to out/NAME.jsonl and their files to out/NAME/.

    Yields the JSONL file of each shard and its number of records. An existing JSONL file is not written again, so that
    a killed run can be continued. Raises BadInput for a file that is not a shard, or if a file cannot be written (a
    full disk).
    """
    for shard in shards:
        path = out / f"{shard.stem}.jsonl"
        samples = open_whole_shard(shard)
        if not path.exists():
            try:
                lines = [_unpack_sample(sample, out, shard.stem) for sample in samples]
                write_atomically(path, "".join(line + "\n" for line in lines))
            except OSError as exc:
                hint = "Make room and run the same command again; it continues from there."
                raise BadInput(f"{path}: {exc}. {hint}") from exc
        yield path, len(samples)


def _with_intact_files(records: Iterable[Record], problems: list[RecordProblem]) -> Iterator[Record]:
    """Yields the records whose files are complete and of the size that the record states."""
    for record in records:
        found = [problem for problem in find_file_problems(record) if problem.reason.startswith(FILE_KINDS)]
        found = found or _find_truncation(record)
        problems.extend(found)
        if not found:
            yield record


def _find_truncation(record: Record) -> list[RecordProblem]:
    """Returns the problem of an image that was cut short. An unreadable image is found when it is packed."""
    try:
        if not is_truncated(np.fromfile(record.image, np.uint8)):
            return []
    except OSError:
        return []
    return [RecordProblem(record.where, "image unusable", f"{record.image}: the file was cut short: copy it again.")]


def _list_shards(folder: Path) -> list[Path]:
    """Returns the shards in a folder, by name. Raises BadInput if there are none."""
    found = sorted(path for path in folder.glob("*.tar") if not path.name.startswith(NOT_SHARDS))
    if not found:
        state = "holds no shards (*.tar)" if folder.is_dir() else "is not a folder"
        raise BadInput(f"{folder} {state}: give the folder of the shards.")
    return found


def _read_headers(shard: Path) -> tuple[list[tuple[str, dict[str, tuple[int, int]]]], bool]:
    """Returns the samples of a shard, and whether the shard has its end.

    A sample is its key and (offset, size) in bytes by suffix: consecutive files of one key, as webdataset groups them.
    Raises OSError, TarError for a file that is not a tar file.
    """
    samples: list[tuple[str, dict[str, tuple[int, int]]]] = []
    end, file_bytes = 0, shard.stat().st_size
    with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        with suppress(tarfile.ReadError):  # the last file is not complete
            for header in tar:
                end = header.offset_data + -(-header.size // TAR_BLOCK_BYTES) * TAR_BLOCK_BYTES
                folder, _, name = header.name.rpartition("/")
                stem, dot, suffix = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if not header.isfile() or not stem or not dot:
                    continue
                suffix = suffix.lower()
                if not samples or samples[-1][0] != key or suffix in samples[-1][1]:
                    samples.append((key, {}))
                if header.offset_data + header.size > file_bytes:
                    break
                samples[-1][1][suffix] = (header.offset_data, header.size)
        file.seek(end)
        return samples, file.read(TAR_BLOCK_BYTES) == bytes(TAR_BLOCK_BYTES)


def _read_samples(records: Mapping[str, Record]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yields the samples of records by key, without those whose files cannot be read."""
    for key, record in records.items():
        try:
            sample = _read_sample(record)
        except OSError:
            continue
        yield key, sample


def _read_sample(record: Record) -> dict[str, bytes]:
    line = depthlm_line(record, record.image.parent) if record.depth is None else depthvlm_line(record, Path.cwd())
    fields = {key: value for key, value in parse_json(line).items() if key not in PATH_KEYS}
    files = {_suffix(record.image): record.image}
    if record.depth is not None:
        depth_suffix = "bin" if record.depth.format == RAW_FLOAT32 else _suffix(record.depth.path)
        files[f"depth.{depth_suffix}"] = record.depth.path
        files |= {f"mask{i}.{_suffix(mask)}": mask for i, mask in enumerate(record.depth.masks)}
    return {"json": json.dumps(fields).encode(), **{name: file.read_bytes() for name, file in files.items()}}


def _suffix(path: Path) -> str:
    """Returns the suffix of a file without its dot, in lower case; "bin" for a file without one."""
    return path.suffix.lower().removeprefix(".") or "bin"


def _unpack_sample(sample: Sample, out: Path, name: str) -> str:
    """Writes the files of a sample and returns its line."""
    key = Path(sample["__key__"]).name
    files = {suffix: data for suffix, data in sample.items() if not suffix.startswith("__") and suffix != "json"}
    paths = {}
    for suffix, data in files.items():
        file = Path(name) / f"{key}.{suffix}"
        (out / name).mkdir(parents=True, exist_ok=True)
        (out / file).write_bytes(data)
        paths[PATH_KEY_OF_SUFFIX.get(suffix.partition(".")[0], "image")] = file.as_posix()
    return json.dumps(paths | sample["json"])
