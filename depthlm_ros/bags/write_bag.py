# SPDX-License-Identifier: Apache-2.0
"""Writes the messages of all images of a finished run as one mcap bag: a folder that `ros2 bag` takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from depthlm_ros.bags.bag_messages import typestore
from depthlm_ros.bags.frame_messages import messages_in
from depthlm_ros.data.labelling import RECORDS
from depthlm_ros.progress import progress_bar

METADATA = "metadata.yaml"


def write_bag(out: Path) -> int:
    """Writes OUT/OUT.mcap and OUT/metadata.yaml from the run in OUT, and returns the number of messages of this call.

    metadata.yaml is written last: with it the bag is complete, and a further call does nothing. Raises OSError.
    """
    if (out / METADATA).exists():
        _remove_parts(out)
        return 0
    lines = [json.loads(line) for line in (out / f"{RECORDS}.jsonl").read_text(encoding="utf-8").splitlines()]
    part = out / "partial-bag" / out.name
    shutil.rmtree(part.parent, ignore_errors=True)
    part.parent.mkdir(parents=True)
    count = _write(part, lines, out)
    (part / f"{out.name}.mcap").replace(out / f"{out.name}.mcap")
    (part / METADATA).replace(out / METADATA)
    _remove_parts(out)
    return count


def _write(bag: Path, lines: list[dict], out: Path) -> int:
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

    count = 0
    writer = Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP)
    # Chunks are compressed, so that each can be read alone.
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer, progress_bar("writing", len(lines), unit="frames") as bar:
        connections = {}
        for line in lines:
            for topic, kind, data in messages_in(line, (out / line["file"]).read_bytes()):
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, kind, typestore=typestore())
                writer.write(connections[topic], line["time_ns"], data)
                count += 1
            bar.update()
    return count


def _remove_parts(out: Path) -> None:
    for name in ("partial-bag", "frames"):
        shutil.rmtree(out / name, ignore_errors=True)
