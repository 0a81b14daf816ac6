"""Records packed into WebDataset shards (tar files), for data that outgrow one machine; needs webdataset (extra data).

One sample: KEY.json, the line of its record without paths; KEY.jpg or .png, the image's own bytes; KEY.depth.png (.npy,
.bin) and KEY.mask0.png ..., the bytes of its depth map and masks where it has them.

Shards as files again: NAME.tar becomes NAME.jsonl with a folder NAME/ beside it, which everything here reads.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from depthlm_ros.data.check import duplicate_lines, file_problems
from depthlm_ros.data.read import Roots, iter_records
from depthlm_ros.data.records import RAW_FLOAT32, Problem, Record
from depthlm_ros.data.write import appearing, depthlm_line, depthvlm_line, write_text
from depthlm_ros.errors import BadInput, SetupError
from depthlm_ros.image_io import cut_short

HINT = "shards need the package webdataset: pip install 'depthlm_ros[data]'."
# Problems whose names begin so are those of files; others are doubts about what a record says.
FILES = ("image", "depth map")
# Paths mean nothing inside a shard.
PATH_KEYS = ("image", "depth_path", "mask_valid_path", "mask_transp_path")


def pack(
    path: Path, out: Path, per_shard: int, problems: list[Problem], roots: Roots | None = None
) -> Iterator[tuple[Path, int]]:
    """Pack the records of a file, so many a shard, into out/NAME-000000.tar ...; yields each shard and its samples.

    A shard appears whole or not at all, and one that is there is not packed again, so that a run that was killed goes
    on where it was. What is wrong with files is counted in `problems`, those of such a shard too: records whose image
    or depth map is of another size or damaged are left out, doubles are packed and counted. Raises BadInput if the
    folder holds shards of another file or size, or if a shard cannot be written (a full disk); SetupError without
    webdataset.
    """
    _library()
    if per_shard < 1:
        raise BadInput(f"--images is {per_shard}: at least one record in a shard.")
    _check_plan(out / f"{path.stem}.pack.json", {"file": str(path.resolve()), "per_shard": per_shard})
    problems.extend(duplicate_lines(path))
    records = _whole(iter_records(path, problems, roots), problems)
    index = 0
    while batch := list(islice(records, per_shard)):
        shard = out / f"{path.stem}-{index:06d}.tar"
        keyed = {f"{number:08d}": record for number, record in enumerate(batch, start=index * per_shard)}
        if not shard.exists():
            _write_or_say(shard, keyed)
        held = keys(shard)
        lost = [record for key, record in keyed.items() if key not in held]
        problems.extend(
            Problem(one.where, "file unreadable", f"a file of it could not be read: not in {shard}") for one in lost
        )
        yield shard, len(held)
        index += 1


def _whole(records: Iterable[Record], problems: list[Problem]) -> Iterator[Record]:
    """Those whose files are whole and of the size that the record says."""
    for record in records:
        found = [problem for problem in file_problems(record) if problem.reason.startswith(FILES)]
        found = found or [problem for problem in [_cut_problem(record)] if problem]
        problems.extend(found)
        if not found:
            yield record


def _cut_problem(record: Record) -> Problem | None:
    """A file that cannot even be read is found, and told, when it is packed."""
    try:
        cut = cut_short(np.fromfile(record.image, np.uint8))
    except OSError:
        return None
    return Problem(record.where, "image unusable", f"{record.image}: was cut short; copy it again.") if cut else None


def keys(shard: Path) -> set[str]:
    """Those of the samples that a shard holds. Raises BadInput if it is no tar file."""
    try:
        with tarfile.open(shard) as file:
            return {name.partition(".")[0] for name in file.getnames()}
    except (OSError, tarfile.TarError) as exc:
        raise BadInput(f"{shard}: is no shard ({exc}): remove it, and it is made again.") from exc


def _check_plan(note: Path, plan: dict[str, object]) -> None:
    """A folder holds the shards of one file, so many records in each: a note says which."""
    if not note.exists():
        write_text(note, json.dumps(plan) + "\n")
    try:
        held = json.loads(note.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise BadInput(f"{note}: cannot be read ({exc}): remove it, or name another folder.") from exc
    if held != plan:
        raise BadInput(
            f"{note.parent} holds shards of {held['file']} with {held['per_shard']} records each: name another folder."
        )


def read_shards(urls: str | Sequence[str]) -> Iterator[dict[str, Any]]:
    """The samples of shards, as webdataset reads them: bytes by suffix, "json" already decoded."""
    for sample in _library().WebDataset(urls, shardshuffle=False):
        yield {**sample, "json": json.loads(sample["json"])}


def _library() -> Any:
    try:
        import webdataset
    except ModuleNotFoundError as exc:
        raise SetupError(HINT) from exc
    return webdataset


def _write_or_say(shard: Path, records: Mapping[str, Record]) -> None:
    try:
        _write(shard, records)
    except OSError as exc:
        raise BadInput(
            f"{shard}: {exc}. The shards before it are whole. Make room and run the same command again."
        ) from exc


def _write(shard: Path, records: Mapping[str, Record]) -> None:
    """Write the samples whose files can be read."""
    from webdataset.writer import TarWriter

    with appearing(shard) as partial, partial.open("wb") as file:
        writer = TarWriter(file, encoder=False, mtime=0.0)
        for key, record in records.items():
            try:
                sample = _sample(record)
            except OSError:
                continue
            writer.write({"__key__": key, **sample})
        writer.close()


def _sample(record: Record) -> dict[str, bytes]:
    line = depthlm_line(record, record.image.parent) if record.depth is None else depthvlm_line(record, Path.cwd())
    fields = {key: value for key, value in json.loads(line).items() if key not in PATH_KEYS}
    files = {_suffix(record.image): record.image}
    if record.depth is not None:
        kind = ".bin" if record.depth.format == RAW_FLOAT32 else _suffix(record.depth.path, dot=True)
        files[f"depth{kind}"] = record.depth.path
        files |= {f"mask{i}{_suffix(mask, dot=True)}": mask for i, mask in enumerate(record.depth.masks)}
    return {"json": json.dumps(fields).encode(), **{name: file.read_bytes() for name, file in files.items()}}


def _suffix(path: Path, dot: bool = False) -> str:
    suffix = path.suffix.lower() or ".bin"
    return suffix if dot else suffix[1:]


# What a sample's files are called in a line; any other file is the image.
PATHS = {"depth": "depth_path", "mask0": "mask_valid_path", "mask1": "mask_transp_path"}


def unpack(shards: Sequence[Path], out: Path) -> Iterator[tuple[Path, int]]:
    """Yields the JSONL file of each shard and its records. One that is there is left as it is, so that a run that was
    killed goes on where it was.

    Raises BadInput for what is no shard, or if the files cannot be written (a full disk).
    """
    for shard in shards:
        path = out / f"{shard.stem}.jsonl"
        held = keys(shard)
        if not path.exists():
            try:
                lines = [_unpacked(sample, out, shard.stem) for sample in read_shards(str(shard))]
                write_text(path, "".join(line + "\n" for line in lines))
            except OSError as exc:
                raise BadInput(f"{path}: {exc}. Make room and run the same command again: it goes on there.") from exc
        yield path, len(held)


def _unpacked(sample: Mapping[str, Any], out: Path, name: str) -> str:
    """The line of a sample, its files written."""
    key = Path(sample["__key__"]).name
    files = {suffix: data for suffix, data in sample.items() if not suffix.startswith("__") and suffix != "json"}
    paths = {}
    for suffix, data in files.items():
        file = Path(name) / f"{key}.{suffix}"
        (out / name).mkdir(parents=True, exist_ok=True)
        (out / file).write_bytes(data)
        paths[PATHS.get(suffix.partition(".")[0], "image")] = file.as_posix()
    return json.dumps(paths | sample["json"])
