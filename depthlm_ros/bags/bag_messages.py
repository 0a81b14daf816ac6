# SPDX-License-Identifier: Apache-2.0
"""Messages of a bag, where they lie in its files, and how they are decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from depthlm_ros.data.records import BadRecord, RecordProblem

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

IMAGE, COMPRESSED, CAMERA_INFO = (f"sensor_msgs/msg/{name}" for name in ("Image", "CompressedImage", "CameraInfo"))
# A message that rosbag2 compressed itself begins so; a serialised message cannot.
ZSTD_START = b"\x28\xb5\x2f\xfd"

# Takes what is damaged in a file.
Report: TypeAlias = "Callable[[RecordProblem], None]"


@dataclass(frozen=True)
class Chunk:
    """A part of a file that holds several messages, perhaps compressed. crc: of its content, 0 for unknown."""

    at: int
    stored_bytes: int
    compression: str
    content_bytes: int
    crc: int = 0


@dataclass(frozen=True)
class Place:
    """Where a message lies.

    chunk: the part of the file that `at` counts from; None for the file itself. at, size: bytes; in a database `at` is
    the row, and size is 0. is_ros1: serialised as ROS 1 does.
    """

    file: Path
    at: int
    size: int
    chunk: Chunk | None = None
    is_ros1: bool = False


@dataclass(frozen=True)
class BagMessage:
    """One message. type_name: as ROS 2 writes it, "sensor_msgs/msg/Image". time_ns: when it was recorded."""

    topic: str
    type_name: str
    time_ns: int
    place: Place
    data: bytes


def problem(file: Path, reason: str, message: str, count: int = 1) -> RecordProblem:
    """Returns something that is wrong with a file of a bag."""
    return RecordProblem(file.name, reason, message, count)


def content_of(stored: bytes, chunk: Chunk, is_ros1: bool) -> bytes:
    """Returns the content of a chunk. Raises ValueError if it is damaged."""
    try:
        if is_ros1:
            from rosbags.rosbag1.reader import decompressors

            content = decompressors[chunk.compression](stored)
            if len(content) != chunk.content_bytes:
                raise ValueError(f"it holds {len(content)} bytes instead of {chunk.content_bytes}")
            return content
        from rosbags.rosbag2.storage_mcap import decompress

        return decompress(stored, chunk.compression, chunk.content_bytes, chunk.crc)
    # Each codec has errors of its own, and all mean that these bytes are no such content.
    except Exception as exc:
        raise ValueError(str(exc)) from exc


@lru_cache(maxsize=2)
def _content_at(file: Path, chunk: Chunk, is_ros1: bool) -> bytes:
    with file.open("rb") as opened:
        opened.seek(chunk.at)
        return content_of(opened.read(chunk.stored_bytes), chunk, is_ros1)


def read_bytes(place: Place) -> bytes:
    """Returns the bytes of a message in a file of records. Raises OSError, or ValueError if they are damaged."""
    if place.chunk:
        return _content_at(place.file, place.chunk, place.is_ros1)[place.at : place.at + place.size]
    with place.file.open("rb") as opened:
        opened.seek(place.at)
        return opened.read(place.size)


@lru_cache(maxsize=1)
def typestore() -> Typestore:
    """Returns the message types of ROS 2. Those of images and cameras are the same in every distribution."""
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.LATEST)


@lru_cache(maxsize=1)
def _ros1_typestore() -> Typestore:
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS1_NOETIC)


def decode(data: bytes, type_name: str, is_ros1: bool = False) -> Any:
    """Returns the message object, always one of ROS 2. Raises BadRecord if the bytes are no such message."""
    try:
        if is_ros1:
            return _as_ros2(_ros1_typestore().deserialize_ros1(data, type_name))
        if data.startswith(ZSTD_START):
            from rosbags.rosbag2.storage_mcap import zstd

            data = zstd.decompress(data)
        return typestore().deserialize_cdr(data, type_name)
    except Exception as exc:  # the library's own errors, struct's, numpy's and the codec's; all mean the same here
        raise _malformed(type_name, data, exc) from exc


def _as_ros2(message: Any) -> Any:
    """Returns a message of ROS 1 as one of ROS 2: headers have no seq, and CameraInfo has k for K."""
    kind: Any = typestore().types[message.__msgtype__]
    values = {}
    for name in (one.name for one in fields(kind) if one.init):
        value = getattr(message, name) if hasattr(message, name) else getattr(message, name.upper())
        values[name] = _as_ros2(value) if hasattr(value, "__msgtype__") else value
    return kind(**values)


def encode(message: Any, type_name: str) -> bytes:
    """Returns a message as ROS 2 serialises it."""
    return bytes(typestore().serialize_cdr(message, type_name))


def _malformed(type_name: str, data: bytes, exc: Exception) -> BadRecord:
    return BadRecord("message malformed", f"{len(data)} bytes are no {type_name} ({type(exc).__name__}: {exc}).")
