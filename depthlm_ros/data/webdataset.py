"""Packs records into WebDataset shards (tar files), and unpacks such shards; needs webdataset (extra "data").

`pack_shards` writes shards, `read_shards` reads their samples, and `unpack_shards` writes them as files again. One
sample holds KEY.json (the line of the record without paths), KEY.jpg or KEY.png (the bytes of the image) and, for a
depth map, KEY.depth.png (or .npy, .bin) and KEY.mask0.png ... (the bytes of the depth map and its masks).
"""

from __future__ import annotations

import importlib
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from depthlm_ros.data.check import find_duplicate_lines, find_file_problems
from depthlm_ros.data.read import Roots, iter_records
from depthlm_ros.data.records import RAW_FLOAT32, Record, RecordProblem
from depthlm_ros.data.write import depthlm_line, depthvlm_line
from depthlm_ros.errors import BadInput, SetupError
from depthlm_ros.file_io import replacing, write_atomically
from depthlm_ros.image_io import is_truncated

# A sample of a shard: bytes by suffix, and the decoded "json".
Sample: TypeAlias = dict[str, Any]

INSTALL_HINT = "shards need the package webdataset: pip install 'depthlm_ros[data]'."
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
    holds shards of another file or size, or if a shard cannot be written (a full disk); SetupError without webdataset.
    """
    _import_webdataset()
    if per_shard < 1:
        raise BadInput(f"--images is {per_shard}: a shard must hold at least one record.")
    _check_contents(out / f"{path.stem}.pack.json", {"file": str(path.resolve()), "per_shard": per_shard})
    problems.extend(find_duplicate_lines(path))
    records = _with_intact_files(iter_records(path, problems, roots), problems)
    index = 0
    while batch := list(islice(records, per_shard)):
        shard = out / f"{path.stem}-{index:06d}.tar"
        keyed = {f"{number:08d}": record for number, record in enumerate(batch, start=index * per_shard)}
        if not shard.exists():
            _write_shard(shard, keyed)
        packed = read_sample_keys(shard)
        missing = [record for key, record in keyed.items() if key not in packed]
        message = f"a file of the record could not be read: the record is not in {shard}"
        problems.extend(RecordProblem(record.where, "file unreadable", message) for record in missing)
        yield shard, len(packed)
        index += 1


def read_sample_keys(shard: Path) -> set[str]:
    """Returns the keys of the samples in a shard. Raises BadInput if it is not a tar file."""
    try:
        with tarfile.open(shard) as file:
            return {name.partition(".")[0] for name in file.getnames()}
    except (OSError, tarfile.TarError) as exc:
        raise BadInput(f"{shard}: not a shard ({exc}): remove the file, so that it is written again.") from exc


def read_shards(urls: str | Sequence[str]) -> Iterator[Sample]:
    """Yields the samples of shards, as webdataset reads them, with "json" decoded."""
    for sample in _import_webdataset().WebDataset(urls, shardshuffle=False):
        yield {**sample, "json": json.loads(sample["json"])}


def unpack_shards(shards: Sequence[Path], out: Path) -> Iterator[tuple[Path, int]]:
    """Writes the records of each NAME.tar to out/NAME.jsonl and their files to out/NAME/.

    Yields the JSONL file of each shard and its number of records. An existing JSONL file is not written again, so that
    a killed run can be continued. Raises BadInput for a file that is not a shard, or if a file cannot be written (a
    full disk).
    """
    for shard in shards:
        path = out / f"{shard.stem}.jsonl"
        count = len(read_sample_keys(shard))
        if not path.exists():
            try:
                lines = [_unpack_sample(sample, out, shard.stem) for sample in read_shards(str(shard))]
                write_atomically(path, "".join(line + "\n" for line in lines))
            except OSError as exc:
                hint = "Make room and run the same command again; it continues from there."
                raise BadInput(f"{path}: {exc}. {hint}") from exc
        yield path, count


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


def _check_contents(note: Path, contents: dict[str, object]) -> None:
    """Writes which file a folder's shards are made of, or raises BadInput if they are made of something else."""
    if not note.exists():
        write_atomically(note, json.dumps(contents) + "\n")
    try:
        held = json.loads(note.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise BadInput(f"{note}: cannot be read ({exc}): remove it, or choose another folder.") from exc
    if held != contents:
        found = f"shards of {held['file']} with {held['per_shard']} records each"
        raise BadInput(f"{note.parent} holds {found}: choose another folder.")


def _import_webdataset() -> ModuleType:
    try:
        return importlib.import_module("webdataset")
    except ModuleNotFoundError as exc:
        raise SetupError(INSTALL_HINT) from exc


def _write_shard(shard: Path, records: Mapping[str, Record]) -> None:
    """Writes the samples whose files can be read. Raises BadInput if the shard cannot be written."""
    from webdataset.writer import TarWriter

    try:
        with replacing(shard) as partial_path, partial_path.open("wb") as file:
            writer = TarWriter(file, encoder=False, mtime=0.0)
            for key, record in records.items():
                try:
                    sample = _read_sample(record)
                except OSError:
                    continue
                writer.write({"__key__": key, **sample})
            writer.close()
    except OSError as exc:
        hint = "The shards before it are complete. Make room and run the same command again."
        raise BadInput(f"{shard}: {exc}. {hint}") from exc


def _read_sample(record: Record) -> dict[str, bytes]:
    line = depthlm_line(record, record.image.parent) if record.depth is None else depthvlm_line(record, Path.cwd())
    fields = {key: value for key, value in json.loads(line).items() if key not in PATH_KEYS}
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
