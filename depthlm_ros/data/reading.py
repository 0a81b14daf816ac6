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
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.caps import NO_CAPS_M, caps_for
from depthlm_ros.data.fields import camera, depth_type, image, numbers, points, positive, size, text
from depthlm_ros.data.grids import between_grids
from depthlm_ros.data.problems import BadRecord, Problem, nothing_usable
from depthlm_ros.data.records import DepthFile, Record, inside_image
from depthlm_ros.errors import BadInput

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
