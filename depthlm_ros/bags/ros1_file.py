# SPDX-License-Identifier: Apache-2.0
"""Reads a bag of ROS 1 (version 2.0) record by record, also one that was not closed, cut short or has damaged chunks.

A record is a head of named fields and data; a chunk is a record whose data hold others. A closed bag repeats its
connections and lists its chunks at its end: where a record is damaged, reading goes on at the next chunk.
http://wiki.ros.org/Bags/Format/2.0
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from depthlm_ros.bags.bag_messages import BagMessage, Chunk, Place, Report, content_of, problem

MAGIC = b"#ROSBAG V2.0\n"
MESSAGE, BAG_HEAD, CHUNK, CHUNK_INFO, CONNECTION = 2, 3, 5, 6, 7
# A head has a few short fields, or the definition of a message type.
MOST_HEAD_BYTES = 1 << 20
# No file is as large.
MOST_BYTES = 1 << 62
NS_PER_S = 1_000_000_000


class _Record(NamedTuple):
    """fields: of the head. at, size: bytes of the data."""

    fields: Mapping[str, bytes]
    at: int
    size: int

    @property
    def opcode(self) -> int:
        return self.fields["op"][0]

    def until(self, end: int) -> _Record:
        """Returns what an uncompressed chunk holds before a byte of its file."""
        size = min(self.size, end - self.at)
        return _Record({**self.fields, "size": struct.pack("<I", size)}, self.at, size)

    def number(self, name: str, form: str = "<I") -> int:
        return int(struct.unpack(form, self.fields[name])[0])


def read_messages(path: Path, report: Report) -> Iterator[BagMessage]:
    """Yields the messages of a file in the order in which they lie there. Raises OSError."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        topics, chunks, index_at = _read_index(file, size)
        if not index_at:
            report(problem(path, "bag damaged", "it was not closed, so it has no index: it is read without."))
        at = len(MAGIC)
        while at < (index_at or size):
            record = _read_record(file, at, size)
            if record is None:
                following = next((chunk_at for chunk_at in chunks if chunk_at > at), None)
                lost = "nothing after it can be read" if following is None else f"reading goes on at byte {following}"
                report(problem(path, "bag damaged", f"it is damaged or cut short at byte {at} of {size}; {lost}."))
                cut = _read_record(file, at, MOST_BYTES)
                if cut and cut.opcode == CHUNK and cut.fields.get("compression") == b"none" and cut.at < size:
                    yield from _chunk_messages(path, file, cut.until(size), topics, report)
                if following is None:
                    return
                at = following
                continue
            if record.opcode == CHUNK:
                yield from _chunk_messages(path, file, record, topics, report)
            at = record.at + record.size


def _read_record(file: BinaryIO, at: int, size: int) -> _Record | None:
    """Returns the record at a byte; None if there is none that fits the file."""
    file.seek(at)
    head = file.read(4)
    if len(head) < 4:
        return None
    (head_bytes,) = struct.unpack("<I", head)
    if head_bytes > MOST_HEAD_BYTES:
        return None
    return _parse(head + file.read(head_bytes + 4), at, size)


def _parse(data: bytes | memoryview, at: int, size: int) -> _Record | None:
    """Returns the record whose head begins `data`; at: where that is. size: where all records end."""
    try:
        (head_bytes,) = struct.unpack_from("<I", data)
        fields = _fields(bytes(data[4 : 4 + head_bytes]))
        (data_bytes,) = struct.unpack_from("<I", data, 4 + head_bytes)
    except (struct.error, ValueError):
        return None
    start = at + 8 + head_bytes
    return _Record(fields, start, data_bytes) if fields.get("op") and start + data_bytes <= size else None


def _fields(head: bytes) -> dict[str, bytes]:
    """Raises struct.error or ValueError for bytes that are no fields."""
    fields, at = {}, 0
    while at < len(head):
        (size,) = struct.unpack_from("<I", head, at)
        name, equals, value = head[at + 4 : at + 4 + size].partition(b"=")
        if not equals or at + 4 + size > len(head):
            raise ValueError("no field")
        fields[name.decode()] = value
        at += 4 + size
    return fields


def _chunk_messages(
    path: Path, file: BinaryIO, record: _Record, topics: dict[int, tuple[str, str]], report: Report
) -> Iterator[BagMessage]:
    """Yields the messages of a chunk, and keeps what it says of topics."""
    file.seek(record.at)
    try:
        chunk = Chunk(record.at, record.size, record.fields["compression"].decode(), record.number("size"))
        inside = content_of(file.read(record.size), chunk, is_ros1=True)
    except (KeyError, ValueError, struct.error) as exc:
        report(problem(path, "part of the bag damaged", f"the chunk at byte {record.at} is damaged: {exc}."))
        return
    view, at = memoryview(inside), 0
    while at < len(inside):
        inner = _parse(view[at:], at, len(inside))
        try:
            if inner is None:
                raise ValueError("it ends within a message")
            if inner.opcode == CONNECTION:
                _add_topic(topics, inner, inside[inner.at : inner.at + inner.size])
            elif inner.opcode == MESSAGE:
                topic, type_name = topics[inner.number("conn")]
                place = Place(path, inner.at, inner.size, chunk, is_ros1=True)
                data = inside[inner.at : inner.at + inner.size]
                yield BagMessage(topic, type_name, _time_ns(inner.fields["time"]), place, data)
        except (KeyError, ValueError, struct.error) as exc:
            message = f"the chunk at byte {record.at} is damaged after its byte {at}: {exc}."
            report(problem(path, "part of the bag damaged", message))
            return
        at = inner.at + inner.size


def _add_topic(topics: dict[int, tuple[str, str]], record: _Record, data: bytes) -> None:
    package, _, name = _fields(data)["type"].decode().partition("/")
    topics[record.number("conn")] = (record.fields["topic"].decode(), f"{package}/msg/{name}")


def _time_ns(value: bytes) -> int:
    seconds, nanoseconds = struct.unpack("<II", value)
    return int(seconds * NS_PER_S + nanoseconds)


def _read_index(file: BinaryIO, size: int) -> tuple[dict[int, tuple[str, str]], list[int], int]:
    """Returns the topics, the places of the chunks and where the index begins; empty and 0 for a bag without index."""
    topics, chunks = dict[int, tuple[str, str]](), list[int]()
    head = _read_record(file, len(MAGIC), size)
    if head is None or head.opcode != BAG_HEAD or len(head.fields.get("index_pos", b"")) != 8:
        return topics, chunks, 0
    index_at = at = head.number("index_pos", "<Q")
    if not 0 < index_at < size:
        return topics, chunks, 0
    while at < size and (record := _read_record(file, at, size)):
        try:
            if record.opcode == CONNECTION:
                _add_topic(topics, record, file.read(record.size))
            elif record.opcode == CHUNK_INFO:
                chunks.append(record.number("chunk_pos", "<Q"))
        except (KeyError, ValueError, struct.error):
            break
        at = record.at + record.size
    return topics, sorted(chunks), index_at
