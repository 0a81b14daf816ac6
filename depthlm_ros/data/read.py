"""Reads DepthLM's and DepthVLM's JSONL files, one object per line, and says what was wrong with which line.

DepthLM:  {"image": path, "intrinsics": [fx, fy, cx, cy, W, H], "pixel_coords": [[u, v], ...], "depth": [metres, ...]}
DepthVLM: {"image", "depth_path", "depth_scale", "original_rgb_size": [W, H], "original_depth_size": [W, H],
           "original_fx", ...}; "pixel_coords" and "depth" only in its benchmark, there in pixels of the depth map.
Either may also say "depth_type" (records.MEANINGS), "caps_m": [near, far], "scene" or "scene_id", "camera", "split",
"mask_valid_path", "mask_transp_path"; DepthVLM's may say "intrinsics" too, else its camera is taken as DepthVLM's own
code takes it: fx on both axes and the principal point in the middle. "image_path" is read as "image" (DepthLM's
Matterport3D script writes that).

What is wrong with one line costs that line, or those of its points; it is counted by reason and never fatal unless
nothing is left.

Reads pairs of views, one JSON object per line, as `depthlm data pairs` writes them.

{"images": [path, path], "intrinsics": [[fx, fy, cx, cy, W, H], [...]], "pixel_coords": [[u, v], ...],
 "matched_coords": [[u, v], ...], "rotation": 3x3, "translation": [x, y, z] metres, "covisibility": 0 to 1, "scene"}

Records of questions about objects, as SpatialRGPT's data set has them, one JSON object per line:

{"image": path, "intrinsics": [fx, fy, cx, cy, W, H], "bbox": [[x1, y1, x2, y2], ...], pixels,
 "conversations": [{"from": "human", "value": "<image>\\nIs <mask> <depth> taller than <mask> <depth>?"},
                   {"from": "gpt", "value": "No, Region [0] is shorter than Region [1]."}, ...]}

The masks of a conversation take the boxes in their order; "Region [i]" in an answer is the question's own i-th. In a
question without masks it is the record's i-th box. `jq -c '.[]'` makes such lines of the published array.
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
    Problem,
    Record,
    between_grids,
    camera,
    caps_for,
    depth_type,
    image,
    inside_image,
    nothing_usable,
    numbers,
    points,
    positive,
    size,
    text,
)
from depthlm_ros.errors import BadInput, BadQuestion
from depthlm_ros.families.parsing import box_text
from depthlm_ros.families.vlm3 import REGION, placed

POINT_KEYS = ("pixel_coords", "depth")
DEPTHLM_KEYS = ("image", "intrinsics", *POINT_KEYS)
OTHERS = {
    "question": "the questions that `depthlm eval` scores",
    "conversations": "the conversations that `depthlm finetune vlm3-object` takes",
    "images": "pairs of views",
}
DEPTHVLM_KEYS = ("image", "depth_path", "depth_scale", "original_rgb_size", "original_depth_size", "original_fx")


@dataclass(frozen=True)
class Roots:
    """What relative paths of a file are relative to, and what its depths mean where that is known better than it says.

    DepthVLM keeps pictures and depth maps under one folder each. depth_type: "" believes the file; "range" is true of
    DepthVLM's published Argoverse 2 and Waymo files, which call it z_depth.
    """

    images: Path
    depths: Path
    depth_type: str = ""


@dataclass(frozen=True)
class RecordSet:
    """The usable records of one file, in its order, and what was left out."""

    path: Path
    records: tuple[Record, ...]
    problems: tuple[Problem, ...]


def read_records(path: Path, roots: Roots | None = None) -> RecordSet:
    """Read a whole file; relative paths are relative to it unless `roots` says otherwise.

    Raises BadInput if it cannot be read, is empty, or holds no usable record.
    """
    problems: list[Problem] = []
    records = tuple(iter_records(path, problems, roots))
    if not records:
        raise nothing_usable(path, problems)
    return RecordSet(path, records, tuple(problems))


def iter_records(path: Path, problems: list[Problem], roots: Roots | None = None) -> Iterator[Record]:
    """The records of a file one by one, whatever its length; what is wrong is appended to `problems` as it is met.

    Raises BadInput if the file cannot be read.
    """
    roots = roots or Roots(path.parent, path.parent)
    caps_m = caps_for(path)
    for where, line in numbered_lines(path):
        try:
            record, dropped = parse_record(line, where, roots, caps_m)
        except BadRecord as exc:
            problems.append(Problem(where, exc.reason, str(exc)))
            continue
        problems.extend(dropped)
        yield record


def numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
    """("file:line", line) of every line that is not blank; bytes that are no UTF-8 become U+FFFD, which costs no
    more than their line. Raises BadInput if the file cannot be read."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}:{number}", line
    except OSError as exc:
        raise BadInput(f"{path}: cannot be read ({exc.strerror}): give a JSONL file of labels.") from exc


def parse_record(
    line: str, where: str, roots: Roots, caps_m: tuple[float, float] = NO_CAPS_M
) -> tuple[Record, list[Problem]]:
    """Turn one line into a record and the problems of its points. Raises BadRecord if nothing of it is usable.

    caps_m: those of the depth map where the line says none.
    """
    fields = json_object(line)
    if "image" not in fields and "image_path" in fields:
        fields = {**fields, "image": fields["image_path"]}
    dense = "depth_path" in fields
    require(fields, DEPTHVLM_KEYS if dense else DEPTHLM_KEYS)
    path = image(fields["image"], roots.images)
    intrinsics = _camera(fields)
    depth = _depth_file(fields, roots, caps_m) if dense else None
    grid_px = depth.size_px if depth and depth.size_px else intrinsics.size_px
    uv_px, depth_m, problems = _points(fields, where, intrinsics, grid_px, dense)
    said = depth_type(roots.depth_type or fields.get("depth_type", "z"))
    scene, split = text(fields, "scene", "scene_id"), text(fields, "split")
    return Record(where, path, intrinsics, uv_px, depth_m, said, depth, scene, text(fields, "camera"), split), problems


def json_object(line: str) -> Mapping[str, object]:
    """Raises BadRecord if the line is no JSON object."""
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as exc:
        raise BadRecord("not JSON", f"not a JSON object: {exc}.") from exc
    if not isinstance(fields, dict):
        kind = "null" if fields is None else f"JSON {type(fields).__name__}"
        raise BadRecord("not JSON", f"a {kind}, expected an object with image and what is known of it.")
    return fields


def require(fields: Mapping[str, object], keys: tuple[str, ...]) -> None:
    """Raises BadRecord naming the keys that are missing."""
    if missing := [key for key in keys if key not in fields]:
        # What else such a line may be.
        meant = next((f" It is of {what}." for key, what in OTHERS.items() if key in fields and key not in keys), "")
        there = ", ".join(map(repr, fields)) or "none"
        raise BadRecord("key missing", f"no key {', '.join(map(repr, missing))}; it has {there}.{meant}")


def _camera(fields: Mapping[str, object]) -> Intrinsics:
    if "intrinsics" in fields:
        return camera(fields["intrinsics"])
    width, height = size("original_rgb_size", fields["original_rgb_size"])
    fx = positive("original_fx", fields["original_fx"])
    return camera([fx, fx, (width - 1) / 2, (height - 1) / 2, width, height])


def _depth_file(fields: Mapping[str, object], roots: Roots, caps_m: tuple[float, float]) -> DepthFile:
    path = image(fields["depth_path"], roots.depths, "depth map", "depth_path")
    masks = tuple(
        image(fields[key], roots.depths, "mask", key)
        for key in ("mask_valid_path", "mask_transp_path")
        if fields.get(key)
    )
    if "caps_m" in fields:
        near_m, far_m = numbers("caps_m", fields["caps_m"], (2,))
        caps_m = float(near_m), float(far_m)
    scale = positive("depth_scale", fields["depth_scale"])
    size_px = size("original_depth_size", fields["original_depth_size"])
    return DepthFile(path, scale, size_px, text(fields, "depth_format"), masks, caps_m)


def _points(
    fields: Mapping[str, object], where: str, intrinsics: Intrinsics, grid_px: tuple[int, int], dense: bool
) -> tuple[np.ndarray, np.ndarray, list[Problem]]:
    """The points that are usable, in pixels of the image, and what was wrong with the others."""
    if dense and not any(key in fields for key in POINT_KEYS):
        return np.zeros((0, 2)), np.zeros(0), []
    require(fields, POINT_KEYS)
    uv_px, depth_m = points(fields["pixel_coords"], fields["depth"])
    on_image_px = between_grids(uv_px, grid_px, intrinsics.size_px)
    inside, labelled = inside_image(on_image_px, intrinsics), np.isfinite(depth_m) & (depth_m > 0)
    problems = _dropped(where, uv_px, depth_m, inside, labelled)
    keep = inside & labelled
    if not keep.any() and not dense:
        causes = "; ".join(p.message for p in problems) or "the lists are empty"
        raise BadRecord("record without a usable point", f"no usable point: {causes}.")
    return on_image_px[keep], depth_m[keep], problems


def _dropped(
    where: str, uv_px: np.ndarray, depth_m: np.ndarray, inside: np.ndarray, labelled: np.ndarray
) -> list[Problem]:
    problems = []
    if not inside.all():
        u, v = uv_px[~inside][0]
        problems.append(_left_out(where, "point outside the image", f"pixel ({u:g}, {v:g})", int(np.sum(~inside))))
    unlabelled = inside & ~labelled
    if unlabelled.any():
        first = f"{depth_m[unlabelled][0]:g} m"
        problems.append(_left_out(where, "point without a depth", first, int(np.sum(unlabelled))))
    return problems


def _left_out(where: str, reason: str, first: str, count: int) -> Problem:
    return Problem(where, reason, f"{count} of its points left out: {reason}, the first {first}", count)


KEYS = ("images", "intrinsics", "pixel_coords", "matched_coords", "rotation", "translation", "covisibility")
# A rotation that was rounded to nine digits is still orthonormal up to this.
ORTHONORMAL = 1e-5


def iter_pairs(path: Path, problems: list[Problem], root: Path | None = None) -> Iterator[PairRecord]:
    """The pairs of a file one by one; what is wrong is appended to `problems` as it is met.

    root: what the image paths are relative to (default: the file). Raises BadInput if the file cannot be read.
    """
    for where, line in numbered_lines(path):
        try:
            yield parse_pair(line, where, root or path.parent, problems)
        except BadRecord as exc:
            problems.append(Problem(where, exc.reason, str(exc)))


def parse_pair(line: str, where: str, folder: Path, problems: list[Problem]) -> PairRecord:
    """Raises BadRecord if the line is no usable pair; points outside either image are left out and counted."""
    fields = json_object(line)
    require(fields, KEYS)
    images, cameras = _two(fields)
    paths = image(images[0], folder), image(images[1], folder)
    intrinsics = camera(cameras[0]), camera(cameras[1])
    uv_px, matched_px = _pair_points(fields, where, intrinsics, problems)
    covisibility = float(numbers("covisibility", fields["covisibility"], ()))
    if not 0 <= covisibility <= 1:
        raise BadRecord("covisibility malformed", f"covisibility is {covisibility:g}: expected a share from 0 to 1.")
    translation_m = numbers("translation", fields["translation"], (3,))
    if not np.isfinite(translation_m).all():
        raise BadRecord("translation malformed", f"translation is {translation_m.tolist()}: expected three metres.")
    rotation = _rotation(fields["rotation"])
    return PairRecord(
        where, paths, intrinsics, uv_px, matched_px, rotation, translation_m, covisibility, text(fields, "scene")
    )


def _two(fields: Mapping[str, object]) -> tuple[list, list]:
    images, cameras = fields["images"], fields["intrinsics"]
    for key, value in (("images", images), ("intrinsics", cameras)):
        if not isinstance(value, list) or len(value) != 2:
            raise BadRecord(f"{key} malformed", f"{key} is {value!r}: expected a list of two.")
    assert isinstance(images, list) and isinstance(cameras, list)
    return images, cameras


def _pair_points(
    fields: Mapping[str, object], where: str, intrinsics: tuple[Intrinsics, Intrinsics], problems: list[Problem]
) -> tuple[np.ndarray, np.ndarray]:
    uv_px, matched_px = (numbers(key, fields[key]) for key in ("pixel_coords", "matched_coords"))
    if uv_px.ndim != 2 or uv_px.shape[1:] != (2,) or matched_px.shape != uv_px.shape:
        shapes = f"pixel_coords have shape {uv_px.shape}, matched_coords {matched_px.shape}"
        raise BadRecord("points malformed", f"{shapes}: expected (N, 2) twice.")
    keep = inside_image(uv_px, intrinsics[0]) & inside_image(matched_px, intrinsics[1])
    if not keep.all():
        lost = int(np.sum(~keep))
        problems.append(
            Problem(where, "point outside the image", f"{lost} of its points left out: outside an image", lost)
        )
    return uv_px[keep], matched_px[keep]


def _rotation(values: object) -> np.ndarray:
    rotation = numbers("rotation", values, (3, 3))
    if not (np.abs(rotation @ rotation.T - np.eye(3)).max() < ORTHONORMAL and np.linalg.det(rotation) > 0):
        raise BadRecord("rotation malformed", "rotation is no rotation: its rows are not orthonormal.")
    return rotation


IMAGE_MARK = "<image>"
# The region token that stands for a mask, and the one for its depth, which VLM3 has no use for.
_MASK = re.compile(r"<mask>(?:\s*<depth>)?")


@dataclass(frozen=True)
class ObjectRecord:
    """turns: (question, answer) with the boxes in words."""

    where: str
    image: Path
    intrinsics: Intrinsics
    turns: tuple[tuple[str, str], ...]


def parse_objects(fields: Mapping[str, object], where: str, folder: Path) -> ObjectRecord:
    """Raises BadRecord if the line is no usable record."""
    require(fields, ("image", "intrinsics", "bbox", "conversations"))
    path, intrinsics = image(fields["image"], folder), camera(fields["intrinsics"])
    boxes = [_region(box, intrinsics) for box in _boxes(fields["bbox"])]
    words = [REGION.format(box=box_text(box, intrinsics.size_px)) for box in boxes]
    try:
        turns = tuple(_in_words(_texts(fields["conversations"]), words))
    except BadQuestion as exc:
        raise BadRecord("regions malformed", str(exc)) from exc
    if not turns:
        raise BadRecord("record without a question", "conversations hold no question with its answer.")
    return ObjectRecord(where, path, intrinsics, turns)


def _boxes(values: object) -> list[list[float]]:
    found = numbers("bbox", values)
    if found.size and (found.ndim != 2 or found.shape[1] != 4):
        raise BadRecord("bbox malformed", f"bbox has shape {found.shape}: expected (N, 4), [x1, y1, x2, y2] each.")
    return list(found.tolist())


def _region(box: Sequence[float], intrinsics: Intrinsics) -> Region:
    x1, y1, x2, y2 = box
    if not (x1 < x2 and y1 < y2):
        raise BadRecord("bbox malformed", f"bbox {list(box)}: expected x1 < x2 and y1 < y2, pixels.")
    if x1 >= intrinsics.width_px or y1 >= intrinsics.height_px or x2 <= 0 or y2 <= 0:
        raise BadRecord("bbox malformed", f"bbox {list(box)} is outside the image of {intrinsics.size_px}.")
    return Region(x1, y1, x2 - x1, y2 - y1)


def _texts(conversations: object) -> list[tuple[str, str]]:
    """(question, answer) as they stand in the file."""
    if not isinstance(conversations, list) or len(conversations) % 2:
        raise BadRecord("conversations malformed", "conversations are no list of questions and answers in turn.")
    texts = []
    for asked, said in zip(conversations[::2], conversations[1::2], strict=True):
        try:
            who, question, answer = (asked["from"], said["from"]), asked["value"], said["value"]
        except (TypeError, KeyError) as exc:
            raise BadRecord("conversations malformed", f"a turn lacks {exc}: expected from and value.") from exc
        if who != ("human", "gpt") or not isinstance(question, str) or not isinstance(answer, str):
            raise BadRecord("conversations malformed", f"turns are from {who}: expected texts of human, then gpt.")
        texts.append((question.replace(IMAGE_MARK, "").strip(), answer.strip()))
    return texts


def _in_words(texts: Sequence[tuple[str, str]], boxes: Sequence[str]) -> list[tuple[str, str]]:
    turns, taken = [], 0
    for question, answer in texts:
        question = _MASK.sub("<mask>", question)
        count = question.count("<mask>")
        own = list(boxes[taken : taken + count]) if count else list(boxes)
        if len(own) < count:
            raise BadRecord("regions malformed", f"there are more masks in the questions than boxes ({len(boxes)}).")
        taken += count
        turns.append((placed(question, own) if count else _named(question, own), _named(answer, own)))
    return turns


def _named(text: str, boxes: Sequence[str]) -> str:
    """Each "Region [i]" as box i."""

    def box(match: re.Match[str]) -> str:
        index = int(match[1])
        if index >= len(boxes):
            raise BadRecord("regions malformed", f"a text names region {index} of {len(boxes)}.")
        return boxes[index]

    return re.sub(r"\bRegion \[([0-9]{1,3})\]", box, text)
