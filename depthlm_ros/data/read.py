# SPDX-License-Identifier: Apache-2.0
"""Reads JSON Lines files of labels, one object per line, and reports what is wrong with which line.

`read_records` and `iter_records` read labelled images in DepthLM's or DepthVLM's schema:
    DepthLM:  {"image": path, "intrinsics": [fx, fy, cx, cy, W, H], "pixel_coords": [[u, v], ...], "depth": [m, ...]}
    DepthVLM: {"image", "depth_path", "depth_scale", "original_rgb_size": [W, H], "original_depth_size": [W, H],
               "original_fx", ...}; only its benchmark has "pixel_coords" and "depth", in pixels of the depth map.
Both may also have "depth_type" (records.DEPTH_TYPES), "caps_m": [near, far], "scene" or "scene_id", "camera", "split",
"mask_valid_path" and "mask_transp_path". A DepthVLM line may have "intrinsics" too; without them its camera is the one
that DepthVLM's own code assumes: fx on both axes and the principal point in the middle. "image_path" is read as
"image", because DepthLM's Matterport3D script writes it.

`iter_pairs` reads pairs of views as `depthlm data pairs` writes them:
    {"images": [path, path], "intrinsics": [[fx, fy, cx, cy, W, H], [...]], "pixel_coords": [[u, v], ...],
     "matched_coords": [[u, v], ...], "rotation": 3x3, "translation": [x, y, z] metres, "covisibility": 0 to 1, "scene"}

`parse_object_conversation` reads a line of questions about objects as in SpatialRGPT's data set, whose published array
`jq -c '.[]'` turns into lines:
    {"image": path, "intrinsics": [fx, fy, cx, cy, W, H], "bbox": [[x1, y1, x2, y2], ...] in pixels,
     "conversations": [{"from": "human", "value": "<image>\\nIs <mask> <depth> taller than <mask> <depth>?"},
                       {"from": "gpt", "value": "No, Region [0] is shorter than Region [1]."}, ...]}
The masks of a conversation take the boxes in their order. "Region [i]" in an answer is the i-th box of its question; if
the question has no masks, it is the i-th box of the record.

A problem costs only its line or its points. It is counted by reason, and is an error only if nothing usable is left.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from depthlm_ros.core import Intrinsics, Region
from depthlm_ros.data.records import (
    NO_CAPS_M,
    BadRecord,
    DepthFile,
    PairRecord,
    Record,
    RecordProblem,
    depth_caps_m,
    first_text,
    parse_array,
    parse_depth_type,
    parse_file_path,
    parse_intrinsics,
    parse_points,
    parse_positive,
    parse_rows,
    parse_size,
    rescale_pixels,
    unusable_file_error,
)
from depthlm_ros.errors import BadInput, BadQuestion
from depthlm_ros.families.parsing import format_box
from depthlm_ros.families.vlm3 import REGION, fill_placeholders
from depthlm_ros.file_io import parse_json
from depthlm_ros.geometry.focal_estimation import unit_doubts
from depthlm_ros.geometry.pinhole import pixels_inside

POINT_KEYS = ("pixel_coords", "depth")
DEPTHLM_KEYS = ("image", "intrinsics", *POINT_KEYS)
DEPTHVLM_KEYS = ("image", "depth_path", "depth_scale", "original_rgb_size", "original_depth_size", "original_fx")
PAIR_KEYS = ("images", "intrinsics", "pixel_coords", "matched_coords", "rotation", "translation", "covisibility")
# A key of another kind of line -> what that line holds, for messages.
OTHER_LINE_KINDS = {
    "question": "a question that `depthlm eval` scores",
    "conversations": "a conversation that `depthlm finetune vlm3-object` reads",
    "images": "a pair of views",
}
# A rotation whose entries were rounded to nine digits is orthonormal up to this error.
ORTHONORMAL = 1e-5
IMAGE_MARK = "<image>"
# SpatialRGPT's token for a mask, with the token for its depth, which VLM3 does not use.
_MASK = re.compile(r"<mask>(?:\s*<depth>)?")


@dataclass(frozen=True)
class Roots:
    """The folders that paths in a file are relative to, and the meaning of its depths if the file states it wrongly.

    DepthVLM keeps images and depth maps in two folders. depth_type: "" uses what the file states; "range" is right for
    DepthVLM's published Argoverse 2 and Waymo files, which state z_depth.
    """

    images: Path
    depths: Path
    depth_type: str = ""


@dataclass(frozen=True)
class RecordSet:
    """The usable records of one file, in its order, and the problems of the others."""

    path: Path
    records: tuple[Record, ...]
    problems: tuple[RecordProblem, ...]


def read_records(path: Path, roots: Roots | None = None) -> RecordSet:
    """Reads a whole file. Relative paths are relative to it unless `roots` is given.

    Raises BadInput if the file cannot be read, is empty, or holds no usable record.
    """
    problems: list[RecordProblem] = []
    records = tuple(iter_records(path, problems, roots))
    if not records:
        raise unusable_file_error(path, problems)
    return RecordSet(path, records, tuple(problems))


def iter_records(path: Path, problems: list[RecordProblem], roots: Roots | None = None) -> Iterator[Record]:
    """Yields the records of a file one by one, and appends the problems that it meets to `problems`.

    Raises BadInput if the file cannot be read.
    """
    roots = roots or Roots(path.parent, path.parent)
    caps_m = depth_caps_m(path)
    for where, line in iter_numbered_lines(path):
        try:
            record, dropped = parse_record(line, where, roots, caps_m)
        except BadRecord as exc:
            problems.append(RecordProblem(where, exc.reason, str(exc)))
            continue
        problems.extend(dropped)
        yield record


def iter_numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yields ("file:line", line) of every line that is not blank.

    Bytes that are not UTF-8 become U+FFFD, and cost only their line. Raises BadInput if the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}:{number}", line
    except OSError as exc:
        raise BadInput(f"{path}: cannot be read ({exc.strerror}): give a JSONL file of labels.") from exc


def parse_record(
    line: str, where: str, roots: Roots, caps_m: tuple[float, float] = NO_CAPS_M
) -> tuple[Record, list[RecordProblem]]:
    """Returns the record of one line and the problems of its points and its camera.

    Raises BadRecord if the line is not usable.
    caps_m: limits of the depth map if the line states none.
    """
    fields = parse_json_object(line)
    if "image" not in fields and "image_path" in fields:
        fields = {**fields, "image": fields["image_path"]}
    dense = "depth_path" in fields
    require_keys(fields, DEPTHVLM_KEYS if dense else DEPTHLM_KEYS)
    path = parse_file_path(fields["image"], roots.images)
    intrinsics = parse_camera(fields)
    depth = _depth_file(fields, roots, caps_m) if dense else None
    grid_px = depth.size_px if depth and depth.size_px else intrinsics.size_px
    uv_px, depth_m, problems = _points(fields, where, intrinsics, grid_px, dense)
    if doubt := unit_doubts(intrinsics):
        problems = [*problems, RecordProblem(where, "intrinsics doubtful", f"{doubt} It is used all the same.")]
    record = Record(
        where=where,
        image=path,
        intrinsics=intrinsics,
        uv_px=uv_px,
        depth_m=depth_m,
        depth_type=parse_depth_type(roots.depth_type or fields.get("depth_type", "z")),
        depth=depth,
        scene=first_text(fields, "scene", "scene_id"),
        camera=first_text(fields, "camera"),
        split=first_text(fields, "split"),
    )
    return record, problems


def parse_json_object(line: str) -> Mapping[str, object]:
    """Returns the fields of a line. Raises BadRecord if the line is not a JSON object, or holds half characters."""
    try:
        fields = parse_json(line)
    except json.JSONDecodeError as exc:
        raise BadRecord("not JSON", f"the line is not a JSON object: {exc}.") from exc
    if not isinstance(fields, dict):
        kind = "null" if fields is None else f"JSON {type(fields).__name__}"
        raise BadRecord("not JSON", f"the line is a {kind}, expected a JSON object with an image and its labels.")
    if "\\ud" in line.lower():
        _check_no_half_character(fields)
    return fields


def _check_no_half_character(fields: Mapping[str, object]) -> None:
    """Raises BadRecord if a text holds a lone surrogate, which no file and no tokenizer takes."""
    try:
        json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError as exc:
        half = str(exc.object)[exc.start : exc.start + 1]
        raise BadRecord(
            "half a character",
            f"a text of the line holds half a character ({half!r}, a lone surrogate): write it again.",
        ) from exc


def require_keys(fields: Mapping[str, object], keys: tuple[str, ...]) -> None:
    """Raises BadRecord if keys are missing, and names them."""
    if missing := [key for key in keys if key not in fields]:
        kinds = (kind for key, kind in OTHER_LINE_KINDS.items() if key in fields and key not in keys)
        hint = next((f" The line seems to hold {kind}." for kind in kinds), "")
        present = ", ".join(map(repr, fields)) or "none"
        raise BadRecord(
            "key missing", f"no key {', '.join(map(repr, missing))}; the line has the keys {present}.{hint}"
        )


def parse_camera(fields: Mapping[str, object]) -> Intrinsics:
    """Returns the camera of a line in either schema, which has "intrinsics", or "original_fx" and the image's size."""
    if "intrinsics" in fields:
        return parse_intrinsics(fields["intrinsics"])
    width, height = parse_size("original_rgb_size", fields["original_rgb_size"])
    fx = parse_positive("original_fx", fields["original_fx"])
    return parse_intrinsics([fx, fx, (width - 1) / 2, (height - 1) / 2, width, height])


def _depth_file(fields: Mapping[str, object], roots: Roots, caps_m: tuple[float, float]) -> DepthFile:
    path = parse_file_path(fields["depth_path"], roots.depths, "depth map", "depth_path")
    masks = tuple(
        parse_file_path(fields[key], roots.depths, "mask", key)
        for key in ("mask_valid_path", "mask_transp_path")
        if fields.get(key)
    )
    if "caps_m" in fields:
        near_m, far_m = parse_array("caps_m", fields["caps_m"], (2,))
        caps_m = float(near_m), float(far_m)
    scale = parse_positive("depth_scale", fields["depth_scale"])
    size_px = parse_size("original_depth_size", fields["original_depth_size"])
    return DepthFile(path, scale, size_px, first_text(fields, "depth_format"), masks, caps_m)


def _points(
    fields: Mapping[str, object], where: str, intrinsics: Intrinsics, grid_px: tuple[int, int], dense: bool
) -> tuple[np.ndarray, np.ndarray, list[RecordProblem]]:
    """Returns the usable points, in pixels of the image, their depths, and the problems of the other points."""
    if dense and not any(key in fields for key in POINT_KEYS):
        return np.zeros((0, 2)), np.zeros(0), []
    require_keys(fields, POINT_KEYS)
    uv_px, depth_m = parse_points(fields["pixel_coords"], fields["depth"])
    on_image_px = rescale_pixels(uv_px, grid_px, intrinsics.size_px)
    inside, labelled = pixels_inside(on_image_px, intrinsics.size_px), np.isfinite(depth_m) & (depth_m > 0)
    problems = _point_problems(where, uv_px, depth_m, inside, labelled)
    keep = inside & labelled
    if not keep.any() and not dense:
        causes = "; ".join(problem.message for problem in problems) or "the lists are empty"
        raise BadRecord("record without a usable point", f"no usable point: {causes}.")
    return on_image_px[keep], depth_m[keep], problems


def _point_problems(
    where: str, uv_px: np.ndarray, depth_m: np.ndarray, inside: np.ndarray, labelled: np.ndarray
) -> list[RecordProblem]:
    """Returns one problem for the points outside of the image and one for those without a depth."""
    u, v = uv_px[~inside][0] if not inside.all() else (0, 0)
    unlabelled = inside & ~labelled
    first_m = depth_m[unlabelled][0] if unlabelled.any() else 0
    kinds = (
        ("point outside the image", int(np.sum(~inside)), f"pixel ({u:g}, {v:g})"),
        ("point without a depth", int(np.sum(unlabelled)), f"{first_m:g} m"),
    )
    return [
        RecordProblem(where, reason, f"{count} points of the record left out: {reason}, the first is {first}", count)
        for reason, count, first in kinds
        if count
    ]


def iter_pairs(path: Path, problems: list[RecordProblem], root: Path | None = None) -> Iterator[PairRecord]:
    """Yields the pairs of a file one by one, and appends the problems that it meets to `problems`.

    root: folder of the image paths (default: the folder of the file). Raises BadInput if the file cannot be read.
    """
    for where, line in iter_numbered_lines(path):
        try:
            yield parse_pair(line, where, root or path.parent, problems)
        except BadRecord as exc:
            problems.append(RecordProblem(where, exc.reason, str(exc)))


def parse_pair(line: str, where: str, folder: Path, problems: list[RecordProblem]) -> PairRecord:
    """Returns the pair of one line. Raises BadRecord if the line is not usable.

    Points outside of one of the images are left out, and added to `problems`.
    """
    fields = parse_json_object(line)
    require_keys(fields, PAIR_KEYS)
    images, cameras = _images_and_cameras(fields)
    paths = parse_file_path(images[0], folder), parse_file_path(images[1], folder)
    intrinsics = parse_intrinsics(cameras[0]), parse_intrinsics(cameras[1])
    uv_px, matched_px = _pair_points(fields, where, intrinsics, problems)
    covisibility = float(parse_array("covisibility", fields["covisibility"], ()))
    if not 0 <= covisibility <= 1:
        raise BadRecord("covisibility malformed", f"covisibility is {covisibility:g}: expected a number from 0 to 1.")
    translation_m = parse_array("translation", fields["translation"], (3,))
    if not np.isfinite(translation_m).all():
        raise BadRecord("translation malformed", f"translation is {translation_m.tolist()}: expected three metres.")
    rotation = _rotation(fields["rotation"])
    return PairRecord(
        where, paths, intrinsics, uv_px, matched_px, rotation, translation_m, covisibility, first_text(fields, "scene")
    )


def _images_and_cameras(fields: Mapping[str, object]) -> tuple[list, list]:
    images, cameras = fields["images"], fields["intrinsics"]
    for key, value in (("images", images), ("intrinsics", cameras)):
        if not isinstance(value, list) or len(value) != 2:
            raise BadRecord(f"{key} malformed", f"{key} is {value!r}: expected a list of two.")
    assert isinstance(images, list) and isinstance(cameras, list)
    return images, cameras


def _pair_points(
    fields: Mapping[str, object], where: str, intrinsics: tuple[Intrinsics, Intrinsics], problems: list[RecordProblem]
) -> tuple[np.ndarray, np.ndarray]:
    uv_px, matched_px = (parse_array(key, fields[key]) for key in ("pixel_coords", "matched_coords"))
    if uv_px.ndim != 2 or uv_px.shape[1:] != (2,) or matched_px.shape != uv_px.shape:
        shapes = f"pixel_coords have shape {uv_px.shape}, matched_coords {matched_px.shape}"
        raise BadRecord("points malformed", f"{shapes}: expected (N, 2) for both.")
    keep = pixels_inside(uv_px, intrinsics[0].size_px) & pixels_inside(matched_px, intrinsics[1].size_px)
    if not keep.all():
        lost = int(np.sum(~keep))
        message = f"{lost} points of the pair left out: outside an image"
        problems.append(RecordProblem(where, "point outside the image", message, lost))
    return uv_px[keep], matched_px[keep]


def _rotation(values: object) -> np.ndarray:
    rotation = parse_array("rotation", values, (3, 3))
    if not (np.abs(rotation @ rotation.T - np.eye(3)).max() < ORTHONORMAL and np.linalg.det(rotation) > 0):
        raise BadRecord("rotation malformed", "rotation is not a rotation matrix: its rows are not orthonormal.")
    return rotation


@dataclass(frozen=True)
class ObjectConversation:
    """Questions about the objects of one image. turns: (question, answer), in which boxes are written as words."""

    where: str
    image: Path
    intrinsics: Intrinsics
    turns: tuple[tuple[str, str], ...]


def parse_object_conversation(fields: Mapping[str, object], where: str, folder: Path) -> ObjectConversation:
    """Returns the conversation of one line. Raises BadRecord if the line is not usable."""
    require_keys(fields, ("image", "intrinsics", "bbox", "conversations"))
    path, intrinsics = parse_file_path(fields["image"], folder), parse_intrinsics(fields["intrinsics"])
    boxes = [_parse_region(box, intrinsics) for box in parse_rows("bbox", fields["bbox"], 4).tolist()]
    box_words = [REGION.format(box=format_box(box, intrinsics.size_px)) for box in boxes]
    try:
        turns = tuple(_insert_boxes(_parse_turns(fields["conversations"]), box_words))
    except BadQuestion as exc:
        raise BadRecord("regions malformed", str(exc)) from exc
    if not turns:
        raise BadRecord("record without a question", "conversations hold no question with an answer.")
    return ObjectConversation(where, path, intrinsics, turns)


def _parse_region(box: Sequence[float], intrinsics: Intrinsics) -> Region:
    x1, y1, x2, y2 = box
    if not (x1 < x2 and y1 < y2):
        raise BadRecord("bbox malformed", f"bbox is {list(box)}: expected x1 < x2 and y1 < y2 in pixels.")
    if x1 >= intrinsics.width_px or y1 >= intrinsics.height_px or x2 <= 0 or y2 <= 0:
        raise BadRecord("bbox malformed", f"bbox {list(box)} is outside the image, whose size is {intrinsics.size_px}.")
    return Region(x1, y1, x2 - x1, y2 - y1)


def _parse_turns(conversations: object) -> list[tuple[str, str]]:
    """Returns the (question, answer) turns with the masks and regions of the file."""
    if not isinstance(conversations, list) or len(conversations) % 2:
        raise BadRecord("conversations malformed", "conversations is not a list of alternating questions and answers.")
    turns = []
    for human_turn, gpt_turn in zip(conversations[::2], conversations[1::2], strict=True):
        try:
            speakers = human_turn["from"], gpt_turn["from"]
            question, answer = human_turn["value"], gpt_turn["value"]
        except (TypeError, KeyError) as exc:
            raise BadRecord("conversations malformed", f"a turn lacks {exc}: expected from and value.") from exc
        if speakers != ("human", "gpt") or not isinstance(question, str) or not isinstance(answer, str):
            raise BadRecord("conversations malformed", f"turns are from {speakers}: expected text of human, then gpt.")
        turns.append((question.replace(IMAGE_MARK, "").strip(), answer.strip()))
    return turns


def _insert_boxes(turns: Sequence[tuple[str, str]], boxes: Sequence[str]) -> list[tuple[str, str]]:
    """Replaces the masks and regions in (question, answer) turns by the words of their boxes."""
    with_boxes, used = [], 0
    for question, answer in turns:
        question = _MASK.sub("<mask>", question)
        count = question.count("<mask>")
        own_boxes = list(boxes[used : used + count]) if count else list(boxes)
        if len(own_boxes) < count:
            raise BadRecord(
                "regions malformed", f"the questions have more masks than the record has boxes ({len(boxes)})."
            )
        used += count
        question = fill_placeholders(question, own_boxes) if count else _insert_regions(question, own_boxes)
        with_boxes.append((question, _insert_regions(answer, own_boxes)))
    return with_boxes


def _insert_regions(text: str, boxes: Sequence[str]) -> str:
    """Replaces each "Region [i]" by box i."""

    def box_of(match: re.Match[str]) -> str:
        index = int(match[1])
        if index >= len(boxes):
            raise BadRecord("regions malformed", f"a text names region {index}, but there are {len(boxes)} boxes.")
        return boxes[index]

    return re.sub(r"\bRegion \[([0-9]{1,3})\]", box_of, text)
