# SPDX-License-Identifier: Apache-2.0
"""Frames of depth sensors: real images with a measured depth map, and what each may be used for.

A folder holds labels.jsonl, one JSON object a line:
    {"image": path, "depth": path of a 16-bit PNG, "depth_scale": metres of one step, "depth_type": "z",
     "intrinsics": [fx, fy, cx, cy, W, H], "intrinsics_from": "given" or how they were assumed, "scene": name,
     "kind": "room", "tabletop" or "driving", "use": "train" or "evaluate"}
The depth map may be smaller than the image, which it covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from depthlm_ros.data.read import iter_numbered_lines, parse_json_object, require_keys
from depthlm_ros.data.records import (
    BadRecord,
    DepthFile,
    Record,
    RecordProblem,
    first_text,
    parse_depth_type,
    parse_file_path,
    parse_intrinsics,
    parse_positive,
    unusable_file_error,
)
from depthlm_ros.errors import BadInput

LABELS_FILE = "labels.jsonl"
FRAME_KEYS = ("image", "depth", "depth_scale", "intrinsics", "intrinsics_from", "scene", "kind", "use")
TRAIN, EVALUATE, GIVEN = "train", "evaluate", "given"
ROOM, TABLETOP, DRIVING = "room", "tabletop", "driving"
KINDS = (ROOM, TABLETOP, DRIVING)


@dataclass(frozen=True)
class SensorFrame:
    """A frame of a depth sensor.

    record: the image with its depth map. intrinsics_given: whether the source states the camera, so that scale can be
    trusted; otherwise the camera was assumed.
    """

    record: Record
    kind: str
    intrinsics_given: bool


def read_sensor_frames(
    folder: Path, use: str, problems: list[RecordProblem], kinds: Sequence[str] = KINDS
) -> tuple[SensorFrame, ...]:
    """Returns the frames of this use ("train" or "evaluate") and of these kinds, in the order of the file.

    problems: takes what is wrong with the lines that are left out. Raises BadInput if no frame is usable.
    """
    path, wrong = folder / LABELS_FILE, len(problems)
    frames: list[SensorFrame] = []
    for where, line in iter_numbered_lines(path):
        try:
            frame = parse_sensor_frame(line, where, folder, use, kinds)
        except BadRecord as exc:
            problems.append(RecordProblem(where, exc.reason, str(exc)))
            continue
        if frame is not None:
            frames.append(frame)
    if not frames and len(problems) == wrong:
        raise BadInput(f"{path} has no frame of use {use!r} and kind {' or '.join(kinds)}: choose another folder.")
    if not frames:
        raise unusable_file_error(path, problems[wrong:], "frame")
    return tuple(frames)


def parse_sensor_frame(line: str, where: str, folder: Path, use: str, kinds: Sequence[str]) -> SensorFrame | None:
    """Returns the frame of one line, None if it is of another use or kind. Raises BadRecord if it is not usable."""
    fields = parse_json_object(line)
    require_keys(fields, FRAME_KEYS)
    kind = first_text(fields, "kind")
    if fields["use"] != use or kind not in kinds:
        return None
    # A DepthFile divides by its scale.
    steps_per_m = 1.0 / parse_positive("depth_scale", fields["depth_scale"])
    record = Record(
        where=where,
        image=parse_file_path(fields["image"], folder),
        intrinsics=parse_intrinsics(fields["intrinsics"]),
        depth_type=parse_depth_type(fields.get("depth_type", "z")),
        depth=DepthFile(parse_file_path(fields["depth"], folder, "depth map", "depth"), steps_per_m),
        scene=first_text(fields, "scene"),
    )
    return SensorFrame(record, kind, fields["intrinsics_from"] == GIVEN)
