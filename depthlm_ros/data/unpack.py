"""Shards as files again: NAME.tar becomes NAME.jsonl with a folder NAME/ beside it, which everything here reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from depthlm_ros.data.shards import keys, read_shards
from depthlm_ros.data.wholefile import write_text
from depthlm_ros.errors import BadInput

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
