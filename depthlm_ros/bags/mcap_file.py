# SPDX-License-Identifier: Apache-2.0
"""Reads an mcap file record by record, also one that was cut short or has damaged chunks.

A file is a sequence of records (opcode, length, content); a chunk is a record that holds others. At its end a healthy
file repeats its channels and lists its chunks: where a record is damaged, reading goes on at the next chunk.
https://mcap.dev/spec
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from depthlm_ros.bags.bag_messages import BagMessage, Chunk, Place, Report, content_of, problem

MAGIC = b"\x89MCAP0\r\n"
RECORD_HEAD, MESSAGE_HEAD, CHUNK_HEAD = struct.Struct("<BQ"), struct.Struct("<HIQQ"), struct.Struct("<QQQI")
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, CHUNK_INDEX, DATA_END = 0x02, 0x03, 0x04, 0x05, 0x06, 0x08, 0x0F
# The footer (opcode, length, three numbers) and the magic after it.
FOOTER_BYTES = 9 + 20 + 8


@dataclass
class _Topics:
    """What the file says of its topics. types: schema -> type. channels: channel -> (topic, type)."""

    types: dict[int, str] = field(default_factory=dict)
    channels: dict[int, tuple[str, str]] = field(default_factory=dict)

    def add(self, opcode: int, content: bytes) -> None:
        """Adds a schema or a channel. Raises ValueError or struct.error if it is damaged."""
        if opcode == SCHEMA:
            (number,) = struct.unpack_from("<H", content)
            self.types[number] = _string(content, 2)
        elif opcode == CHANNEL:
            number, schema = struct.unpack_from("<HH", content)
            self.channels[number] = (_string(content, 4), self.types.get(schema, ""))


def _string(content: bytes, at: int) -> str:
    (size,) = struct.unpack_from("<I", content, at)
    return content[at + 4 : at + 4 + size].decode()


def read_messages(path: Path, report: Report) -> Iterator[BagMessage]:
    """Yields the messages of a file in the order in which they lie there. Raises OSError."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        topics, chunks = _read_summary(file, size)
        at = len(MAGIC)
        while at < size:
            record = _read_head(file, at, size)
            if record is None:
                following = next((chunk_at for chunk_at in chunks if chunk_at > at), None)
                lost = "nothing after it can be read" if following is None else f"reading goes on at byte {following}"
                report(problem(path, "bag damaged", f"it is damaged or cut short at byte {at} of {size}; {lost}."))
                yield from _cut_chunk(path, file, at, size, topics, report)
                if following is None:
                    return
                at = following
                continue
            if record[0] in (FOOTER, DATA_END):
                return
            opcode, start, length = record
            yield from _messages_of(path, file, opcode, start, length, topics, report)
            at = start + length
        report(problem(path, "bag damaged", f"it was cut short: it ends after {size} bytes without its index."))


def _read_head(file: BinaryIO, at: int, size: int) -> tuple[int, int, int] | None:
    """Returns opcode, start and length of the content of a record; None if there is no record that fits the file."""
    file.seek(at)
    head = file.read(RECORD_HEAD.size)
    if len(head) < RECORD_HEAD.size:
        return None
    opcode, length = RECORD_HEAD.unpack(head)
    start = at + RECORD_HEAD.size
    # Opcodes from 0x80 on are private ones of other programs.
    is_known = 0 < opcode <= DATA_END or opcode >= 0x80
    return (opcode, start, length) if is_known and start + length <= size else None


def _messages_of(
    path: Path, file: BinaryIO, opcode: int, start: int, length: int, topics: _Topics, report: Report
) -> Iterator[BagMessage]:
    """Yields the messages of one record, and keeps what it says of topics."""
    if opcode not in (SCHEMA, CHANNEL, MESSAGE, CHUNK):
        return
    file.seek(start)
    content = file.read(length)
    try:
        if opcode == CHUNK:
            chunk = _chunk(content, start)
            inside = content_of(content[chunk.at - start :][: chunk.stored_bytes], chunk, is_ros1=False)
        elif opcode == MESSAGE:
            yield from _message(path, content, start, None, topics, report)
            return
        else:
            topics.add(opcode, content)
            return
    except (ValueError, struct.error) as exc:
        report(problem(path, "part of the bag damaged", f"the record at byte {start} is damaged: {exc}."))
        return
    yield from _inside(path, inside, chunk, topics, report)


def _chunk(content: bytes, start: int) -> Chunk:
    """Reads the head of a chunk; `start` is where its content begins. Raises struct.error or ValueError."""
    _, _, content_bytes, crc = CHUNK_HEAD.unpack_from(content)
    compression = _string(content, CHUNK_HEAD.size)
    at = CHUNK_HEAD.size + 4 + len(compression.encode())
    (stored_bytes,) = struct.unpack_from("<Q", content, at)
    return Chunk(start + at + 8, stored_bytes, compression, content_bytes, crc)


def _inside(path: Path, inside: bytes, chunk: Chunk, topics: _Topics, report: Report) -> Iterator[BagMessage]:
    """Yields the messages in the content of a chunk, as far as it goes."""
    at = 0
    while at < len(inside):
        if at + RECORD_HEAD.size > len(inside):
            break
        opcode, length = RECORD_HEAD.unpack_from(inside, at)
        start = at + RECORD_HEAD.size
        if start + length > len(inside):
            break
        content = inside[start : start + length]
        try:
            if opcode == MESSAGE:
                yield from _message(path, content, start, chunk, topics, report)
            else:
                topics.add(opcode, content)
        except (ValueError, struct.error) as exc:
            report(problem(path, "part of the bag damaged", f"a record in the chunk at byte {chunk.at}: {exc}."))
        at = start + length
    if at < len(inside):
        report(problem(path, "part of the bag damaged", f"the chunk at byte {chunk.at} ends within a message."))


def _message(
    path: Path, content: bytes, start: int, chunk: Chunk | None, topics: _Topics, report: Report
) -> Iterator[BagMessage]:
    channel, _, time_ns, _ = MESSAGE_HEAD.unpack_from(content)
    if channel not in topics.channels:
        report(problem(path, "message of an unknown topic", f"its channel {channel} is not described in the file."))
        return
    topic, type_name = topics.channels[channel]
    place = Place(path, start + MESSAGE_HEAD.size, len(content) - MESSAGE_HEAD.size, chunk)
    yield BagMessage(topic, type_name, time_ns, place, content[MESSAGE_HEAD.size :])


def _cut_chunk(path: Path, file: BinaryIO, at: int, size: int, topics: _Topics, report: Report) -> Iterator[BagMessage]:
    """Yields the whole messages of an uncompressed chunk that the end of the file cuts."""
    file.seek(at)
    head = file.read(RECORD_HEAD.size)
    if len(head) < RECORD_HEAD.size or head[0] != CHUNK:
        return
    start = at + RECORD_HEAD.size
    content = file.read(size - start)
    try:
        chunk = _chunk(content, start)
    except (ValueError, struct.error):
        return
    if not chunk.compression and chunk.at + chunk.stored_bytes > size:
        stored_bytes = size - chunk.at
        cut = Chunk(chunk.at, stored_bytes, "", stored_bytes)
        yield from _inside(path, content[chunk.at - start :], cut, topics, report)


def _read_summary(file: BinaryIO, size: int) -> tuple[_Topics, list[int]]:
    """Returns the topics and the places of the chunks that the end of the file lists; empty ones if it is damaged."""
    topics, chunks = _Topics(), list[int]()
    file.seek(max(0, size - FOOTER_BYTES))
    footer = file.read()
    if len(footer) < FOOTER_BYTES or not footer.endswith(MAGIC) or footer[0] != FOOTER:
        return topics, chunks
    (at,) = struct.unpack_from("<Q", footer, RECORD_HEAD.size)
    while at and (record := _read_head(file, at, size)) and record[0] != FOOTER:
        opcode, start, length = record
        content = file.read(length)
        try:
            topics.add(opcode, content)
            if opcode == CHUNK_INDEX:
                chunks.append(struct.unpack_from("<Q", content, 16)[0])
        except (ValueError, struct.error):
            break
        at = start + length
    return topics, sorted(chunks)
