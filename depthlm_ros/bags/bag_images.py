# SPDX-License-Identifier: Apache-2.0
"""The images of a bag and the cameras that they were taken with.

`list_images` reads a bag once. A topic of images has the CameraInfo beside it (<namespace>/camera_info), else the one
that carries its frame id. As in the node, an image has the calibration with its own stamp, else the newest one of its
camera; images before the first calibration have the first one.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from depthlm_ros.bags import mcap_file, ros1_file, sqlite_file
from depthlm_ros.bags.bag_messages import (
    CAMERA_INFO,
    COMPRESSED,
    IMAGE,
    BagMessage,
    Place,
    Report,
    decode,
    encode,
    problem,
    read_bytes,
)
from depthlm_ros.data.records import BadRecord, RecordProblem
from depthlm_ros.errors import BadInput
from depthlm_ros.progress import progress_bar
from depthlm_ros.ros.camera_info_sync import INFO_TIMEOUT_NS, CameraImage, CameraInfoSync, stamp_ns

FORMATS = {module.MAGIC: module for module in (mcap_file, ros1_file, sqlite_file)}
SUFFIXES = (".mcap", ".db3", ".bag", ".active")
# Encodings of images that show no light but a measurement.
NOT_SEEN = re.compile(r"(8|16|32|64)[SUF]C\d+", re.IGNORECASE)
NAMED_COMPRESSED = "/compressed"


@dataclass(frozen=True)
class TopicChoice:
    """Which images are taken. cameras: topic of images -> topic of its CameraInfo, "" to find it; empty for all topics.

    every: take every n-th image of a topic.
    """

    cameras: Mapping[str, str] = field(default_factory=dict)
    every: int = 1


@dataclass(frozen=True)
class BagImage:
    """One image of a bag and its calibration (info: a CameraInfo as ROS 2 serialises it). number: in its bag."""

    number: int
    topic: str
    type_name: str
    time_ns: int
    place: Place
    info: bytes

    @property
    def name(self) -> str:
        """Names it in messages."""
        return f"{self.topic} at {self.time_ns / 1e9:.3f}"

    @property
    def key(self) -> str:
        """Names its file; unique within the bag."""
        return f"{self.number:07d}"

    @property
    def fields(self) -> dict[str, object]:
        """What its depth depends on beside its pixels."""
        return {"topic": self.topic, "time_ns": self.time_ns, "camera": zlib.crc32(self.info)}

    def load(self) -> Any:
        """Returns the message object. Raises BadRecord, OSError or ValueError."""
        is_row = not self.place.size
        data = sqlite_file.read_row(self.place) if is_row else read_bytes(self.place)
        return decode(data, self.type_name, self.place.is_ros1)


@dataclass(frozen=True)
class ImageList:
    """The images of a bag in the order of their times, and what is wrong with the bag."""

    images: tuple[BagImage, ...]
    problems: tuple[RecordProblem, ...]


@dataclass
class _Found:
    """What one reading of the bag found. headers: of the images; bytes are not kept."""

    images: dict[str, list[tuple[CameraImage, str, Place]]] = field(default_factory=lambda: defaultdict(list))
    infos: dict[str, list[tuple[int, Any, bytes]]] = field(default_factory=lambda: defaultdict(list))
    not_seen: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Header:
    """Stands for an image in CameraInfoSync, which looks at headers only."""

    header: Any


def list_images(bag: Path, choice: TopicChoice) -> ImageList:
    """Returns the images to look at. Raises BadInput if the bag is none, or holds no image with a calibration."""
    problems: list[RecordProblem] = []
    found = _read(bag_files(bag, problems.append), problems.append, choice.cameras)
    if missing := [topic for topic in choice.cameras if topic not in found.images]:
        there = ", ".join([*found.images, *found.not_seen]) or "none"
        raise BadInput(f"{bag}: no image of topic {missing[0]} can be read; topics of images that were read: {there}.")
    topics = choice.cameras or {topic: "" for topic in _without_doubles(found.images)}
    for topic, encoding in found.not_seen.items():
        problems.append(RecordProblem(topic, "no colour image", f"its images are {encoding}, which shows no light."))
    taken: list[tuple[CameraImage, str, str, Place, bytes]] = []
    for topic, info_topic in topics.items():
        taken += _with_cameras(found, topic, info_topic, choice.every, problems)
    taken.sort(key=lambda one: one[0].arrived_ns)
    if not taken:
        raise BadInput(f"{bag}: it holds no image that can be used. {_reasons(problems)}")
    images = [
        BagImage(number, topic, kind, image.arrived_ns, place, info)
        for number, (image, topic, kind, place, info) in enumerate(taken)
    ]
    return ImageList(tuple(images), tuple(problems))


def bag_files(bag: Path, report: Report) -> list[Path]:
    """Returns the files of a bag: the path itself, or the files of its folder. Raises BadInput."""
    if bag.is_dir():
        files = [path for path in bag.iterdir() if path.suffix in SUFFIXES and path.is_file()]
        _report_missing(bag, files, report)
    elif bag.is_file():
        files = [bag]
    elif bag.exists():
        raise BadInput(f"{bag} is not an ordinary file: give a bag.")
    else:
        raise BadInput(f"{bag}: there is no such file or folder: give a bag.")
    if not files:
        packed = next((path for path in sorted(bag.iterdir()) if path.suffix in (".zst", ".zstd")), None)
        advice = f"unpack it first: zstd -d {packed}" if packed else f"expected files that end in {', '.join(SUFFIXES)}"
        raise BadInput(f"{bag}: no bag in this folder; {advice}.")
    return sorted(
        files, key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
    )


def _report_missing(bag: Path, files: Collection[Path], report: Report) -> None:
    """Reports files that the bag's own list names and that are not there."""
    try:
        listed = re.findall(
            r"^\s*-\s+['\"]?(\S+?\.(?:mcap|db3))['\"]?\s*$", (bag / "metadata.yaml").read_text(), re.MULTILINE
        )
    except (OSError, UnicodeDecodeError):
        return  # The list says nothing that the files do not say themselves.
    for name in dict.fromkeys(Path(name).name for name in listed):
        if name not in {path.name for path in files}:
            report(problem(bag / name, "file of the bag missing", "metadata.yaml names it, but it is not there."))


def read_messages(path: Path, report: Report) -> Iterator[BagMessage]:
    """Yields the messages of one file. Raises BadInput if it is no bag, OSError if it cannot be read."""
    with path.open("rb") as file:
        start = file.read(max(map(len, FORMATS)))
    for magic, module in FORMATS.items():
        if start.startswith(magic):
            yield from module.read_messages(path, report)
            return
    raise BadInput(f"{path}: it begins with {start[:8]!r}: it is no bag (mcap, sqlite3 or ROS 1 version 2.0).")


def _read(files: Sequence[Path], report: Report, wanted: Collection[str]) -> _Found:
    """Reads the headers of the images and the calibrations. Raises BadInput if no file is a bag."""
    found, refused = _Found(), list[str]()
    with progress_bar("reading", None, unit="messages") as bar:
        for path in files:
            try:
                for message in read_messages(path, report):
                    _keep(found, message, report, wanted)
                    bar.update()
            except (BadInput, OSError) as exc:
                refused.append(str(exc))
                report(problem(path, "file of the bag unreadable", str(exc)))
    if len(refused) == len(files):
        raise BadInput(refused[0])
    return found


def _keep(found: _Found, message: BagMessage, report: Report, wanted: Collection[str]) -> None:
    if message.type_name not in (IMAGE, COMPRESSED, CAMERA_INFO):
        return
    if wanted and message.type_name != CAMERA_INFO and message.topic not in wanted:
        return
    try:
        decoded = decode(message.data, message.type_name, message.place.is_ros1)
    except BadRecord as exc:
        report(RecordProblem(f"{message.topic} at {message.time_ns / 1e9:.3f}", exc.reason, str(exc)))
        return
    if message.type_name == CAMERA_INFO:
        found.infos[message.topic].append((message.time_ns, decoded, encode(decoded, CAMERA_INFO)))
        return
    encoding = decoded.encoding if message.type_name == IMAGE else decoded.format
    if message.topic not in wanted and (NOT_SEEN.match(encoding) or "compressedDepth" in encoding):
        found.not_seen[message.topic] = encoding
        return
    image = CameraImage(_Header(decoded.header), stamp_ns(decoded.header), message.time_ns, message.time_ns, 0)
    found.images[message.topic].append((image, message.type_name, message.place))


def _without_doubles(topics: Collection[str]) -> list[str]:
    """Returns the topics without the compressed ones of which the raw images are there too."""
    return [
        topic
        for topic in topics
        if topic.removesuffix(NAMED_COMPRESSED) == topic or topic.removesuffix(NAMED_COMPRESSED) not in topics
    ]


def _with_cameras(
    found: _Found, topic: str, info_topic: str, every: int, problems: list[RecordProblem]
) -> list[tuple[CameraImage, str, str, Place, bytes]]:
    """Returns the images of one topic with their calibrations, and adds to `problems` how many have none."""
    images = sorted(found.images[topic], key=lambda one: one[0].arrived_ns)[::every]
    info_topic = info_topic or _info_topic(found, topic)
    infos = sorted(found.infos.get(info_topic, []), key=lambda one: one[0])
    serialised = {id(info): cdr for _, info, cdr in infos}
    taken, others = [], Counter[str]()
    calibration_of = _pairing(infos)
    for image, kind, place in images:
        paired = calibration_of(image)
        if paired.info is None:
            others[paired.other_frame_id] += 1
        else:
            taken.append((image, topic, kind, place, serialised[id(paired.info)]))
    for frame_id, count in others.items():
        if infos:
            message = f"{count} images have another frame id than {frame_id!r} of {info_topic}."
        else:
            there = ", ".join(found.infos) or "none"
            message = f"{count} images have no {info_topic}; there: {there}. Name it: --topics {topic}=CAMERA_INFO"
        problems.append(RecordProblem(topic, "no camera_info", message, count))
    return taken


def _pairing(infos: Sequence[tuple[int, Any, bytes]]) -> Callable[[CameraImage], CameraImage]:
    """Returns a function that gives images, in the order of their times, the calibrations that the node gives them."""
    sync, first, waiting = CameraInfoSync(), CameraInfoSync(), list(reversed(infos))
    for _, info, _ in reversed(infos):
        first.add(info)

    def find(image: CameraImage) -> CameraImage:
        while waiting and waiting[-1][0] <= image.arrived_ns + INFO_TIMEOUT_NS:
            sync.add(waiting.pop()[1])
        paired = sync.find(image)
        return paired if paired.info is not None else first.find(image)

    return find


def _info_topic(found: _Found, topic: str) -> str:
    """Returns the topic of the calibration that belongs to a topic of images."""
    raw = topic.removesuffix(NAMED_COMPRESSED)
    beside = f"{raw.rpartition('/')[0]}/camera_info"
    if beside in found.infos:
        return beside
    frame_ids = {image.message.header.frame_id for image, _, _ in found.images[topic]} - {""}
    same = [name for name, infos in found.infos.items() if frame_ids & {info.header.frame_id for _, info, _ in infos}]
    return same[0] if len(same) == 1 else beside


def _reasons(problems: Sequence[RecordProblem]) -> str:
    return " ".join(str(one) for one in problems[:3]) or "It has no topic of sensor_msgs Image or CompressedImage."
