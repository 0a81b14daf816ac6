# SPDX-License-Identifier: Apache-2.0
"""The messages that are written for one image of a bag: depth, its calibration, a cloud, answers.

The topics lie beside the images, as those of a node in their namespace do: depth/image, depth/camera_info,
depth/points, and answers (std_msgs/String, the JSON of `depthlm ask --json` for each question). Header and time are
those of the image.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from depthlm_ros.bags.bag_images import NAMED_COMPRESSED, BagImage
from depthlm_ros.bags.bag_messages import CAMERA_INFO, COMPRESSED, IMAGE, decode, encode, typestore
from depthlm_ros.core import Answer
from depthlm_ros.data.frame_labels import ask_each
from depthlm_ros.data.labelling import PictureRecord
from depthlm_ros.data.records import RecordProblem
from depthlm_ros.file_io import JsonObject
from depthlm_ros.model import Model
from depthlm_ros.ros.camera_info_sync import CameraImage, stamp_ns
from depthlm_ros.ros.frame_processing import CLOUD_FIELDS, FrameProcessor, FrameResult, cached_cloud_builder
from depthlm_ros.ros.message_fields import mark_out_of_range, set_cloud, set_depth_image, set_rectified_camera
from depthlm_ros.ros.statistics import ProblemLog

CLOUD, FIELD, TEXT = "sensor_msgs/msg/PointCloud2", "sensor_msgs/msg/PointField", "std_msgs/msg/String"
LoadModel = Callable[[], Model]


@dataclass(frozen=True)
class BagOptions:
    """What is written for an image.

    encoding: of depth, "32FC1", "16UC1" or "" for none. cloud_stride: 0 for no cloud. rectified: the images are
    rectified already. topics: of images -> namespace of what is written for them.
    """

    encoding: str
    cloud_stride: int
    min_depth_m: float
    max_depth_m: float
    rectified: bool
    questions: tuple[str, ...]
    namespaces: tuple[tuple[str, str], ...]

    @property
    def settings(self) -> dict[str, object]:
        """The options as JSON values, to tell whether two runs are the same."""
        return dict(json.loads(json.dumps(asdict(self))))


@dataclass(frozen=True)
class FrameLabeller:
    """Makes the messages of one image. It is called in worker processes.

    load: returns the model, the same one at each call in a process. describe: returns an answer as JSON values.
    """

    load: LoadModel
    describe: Callable[[Answer], JsonObject]
    options: BagOptions

    def __call__(self, image: BagImage) -> PictureRecord:
        """Returns the serialised messages as one file, and a line that says what is in it.

        Raises BadInput for an unusable image or calibration, OSError, BackendFailed, SetupError.
        """
        message, info = image.load(), decode(image.info, CAMERA_INFO)
        processor, notes = _processor(self.load, image.topic, image.type_name == COMPRESSED, self.options.rectified)
        notes.clear()
        at_ns = stamp_ns(message.header)
        result = processor.process(CameraImage(message, at_ns, image.time_ns, image.time_ns, image.number, info))
        made, answers = self._messages(result), self._answers(result)
        if answers:
            lines = json.dumps({"stamp_ns": at_ns, "frame_id": message.header.frame_id, "answers": answers})
            made["answers"] = (TEXT, _new(TEXT, data=lines))
        namespace = dict(self.options.namespaces)[image.topic]
        serialised = {name: (kind, encode(one, kind)) for name, (kind, one) in made.items()}
        file = f"frames/{image.key}.cdr"
        line = {
            "topic": image.topic,
            "time_ns": image.time_ns,
            "stamp_ns": at_ns,
            "frame_id": message.header.frame_id,
            "file": file,
            "messages": [[f"{namespace}/{name}", kind, len(data)] for name, (kind, data) in serialised.items()],
            "answers": answers,
        }
        found = tuple(RecordProblem(image.name, reason, text) for reason, text in notes)
        return PictureRecord(line, {file: b"".join(data for _, data in serialised.values())}, notes=found)

    def _messages(self, result: FrameResult) -> dict[str, tuple[str, Any]]:
        """Returns name -> (type, message) of what shows depth."""
        options, frame, header = self.options, result.view.frame, result.image.message.header
        info = _new(CAMERA_INFO, d=np.zeros(5), binning_x=0, binning_y=0, roi=_no_window())
        set_rectified_camera(info, header, frame.intrinsics)
        made: dict[str, tuple[str, Any]] = {"depth/camera_info": (CAMERA_INFO, info)}
        if not (options.encoding or options.cloud_stride):
            return made
        depth_m = result.view.depth(with_std=False).depth_m
        if options.encoding:
            image = _new(IMAGE)
            marked_m = mark_out_of_range(depth_m, options.min_depth_m, options.max_depth_m)
            image.data = _bytes_of(set_depth_image(image, header, marked_m, options.encoding))
            made["depth/image"] = (IMAGE, image)
        if options.cloud_stride:
            limits_m = options.min_depth_m, options.max_depth_m
            points = cached_cloud_builder(frame.intrinsics, options.cloud_stride, *limits_m).build(depth_m, frame.rgb)
            cloud = _new(CLOUD)
            set_cloud(cloud, header, points, CLOUD_FIELDS, typestore().types[FIELD])
            cloud.data = _bytes_of(points)
            made["depth/points"] = (CLOUD, cloud)
        return made

    def _answers(self, result: FrameResult) -> list[dict[str, object]]:
        return [line for line, _ in ask_each(result.view, self.options.questions, self.describe)]


class _Notes(ProblemLog):
    """Keeps what the frame processor reports of one image, instead of logging it."""

    def __init__(self, notes: list[tuple[str, str]]) -> None:
        super().__init__(lambda line: None)
        self._notes = notes

    def report(self, reason: str, message: str) -> None:
        """Keeps a problem."""
        self._notes.append((reason, message))


@lru_cache(maxsize=32)
def _processor(
    load: LoadModel, topic: str, is_compressed: bool, is_rectified: bool
) -> tuple[FrameProcessor, list[tuple[str, str]]]:
    """Returns the processor of one camera, which keeps its rectification, and the list of what it reports."""
    notes: list[tuple[str, str]] = []
    return FrameProcessor(load(), is_compressed, is_rectified, _Notes(notes)), notes


def output_namespaces(topics: Iterable[str]) -> dict[str, str]:
    """Returns topic of images -> namespace of its outputs, of all of which no two are equal.

    That is the namespace of the topic; if several topics share that, the topic, without "/compressed" if possible.
    """
    topics = list(dict.fromkeys(topics))
    raw = {topic: topic.removesuffix(NAMED_COMPRESSED) for topic in topics}
    choices = {topic: (name.rpartition("/")[0], name, topic) for topic, name in raw.items()}
    uses = Counter(choice for names in choices.values() for choice in dict.fromkeys(names))
    return {topic: next((name for name in names if uses[name] == 1), topic) for topic, names in choices.items()}


def _new(type_name: str, **fields: object) -> Any:
    """Returns a message object of which only these fields are set; the others are set before it is serialised."""
    message = object.__new__(typestore().types[type_name])
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def _no_window() -> Any:
    return SimpleNamespace(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)


def _bytes_of(values: np.ndarray) -> np.ndarray:
    """uint8 (N,): the bytes of an array."""
    return np.ascontiguousarray(values).view(np.uint8).ravel()


def messages_in(line: Mapping[str, Any], content: bytes) -> Iterable[tuple[str, str, bytes]]:
    """Yields topic, type and bytes of each message of a file that FrameLabeller wrote. line: its line."""
    at = 0
    for topic, kind, size in line["messages"]:
        yield topic, kind, content[at : at + size]
        at += size
