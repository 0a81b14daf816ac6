"""Labelled images in DepthLM's JSONL schema, for evaluation and for training.

One JSON object per line: {"image": path relative to this file, "intrinsics": [fx, fy, cx, cy, W, H],
"pixel_coords": [[u, v], ...], "depth": [metres, ...]}, and optionally "depth_type": "z" (the default, also written
"z_depth") or "ray" (distance along the viewing ray, converted here to z).

What is wrong with one line costs that line, or those of its points; it is counted by reason and never fatal unless
nothing is left.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadInput, BadIntrinsics
from depthlm_ros.eval.metrics import has_depth
from depthlm_ros.pinhole import z_from_range

KEYS = ("image", "intrinsics", "pixel_coords", "depth")


@dataclass(frozen=True)
class Record:
    """One labelled image. uv_px: float64 (N, 2), inside the image. depth_m: float64 (N,), z, positive. N >= 1.

    where: "file:line" of the label, for messages.
    """

    where: str
    image: Path
    intrinsics: Intrinsics
    uv_px: np.ndarray
    depth_m: np.ndarray


@dataclass(frozen=True)
class Problem:
    """What was left out: `count` points of a record, or the record itself (count 1); `reason` is a short fixed name."""

    where: str
    reason: str
    message: str
    count: int = 1

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(frozen=True)
class LabelSet:
    """The usable records of one file, in its order, and what was left out."""

    path: Path
    records: tuple[Record, ...]
    problems: tuple[Problem, ...]


class BadRecord(BadInput):
    """A line that is no usable record; `reason` is the short name under which it is counted."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def read_records(path: Path) -> LabelSet:
    """Read a JSONL file of labels. Raises BadInput if it cannot be read, is empty, or holds no usable record."""
    records: list[Record] = []
    problems: list[Problem] = []
    for where, line in _lines(path):
        try:
            record, dropped = parse_record(line, where, path.parent)
        except BadRecord as exc:
            problems.append(Problem(where, exc.reason, str(exc)))
            continue
        records.append(record)
        problems.extend(dropped)
    if not records:
        first = f"the first is {problems[0]}" if problems else "it has no lines"
        raise BadInput(f"{path}: no usable record among {len(problems)}; {first}")
    return LabelSet(path, tuple(records), tuple(problems))


def count_by_reason(problems: Iterable[Problem]) -> dict[str, int]:
    """How many records or points each reason cost."""
    counts: Counter[str] = Counter()
    for problem in problems:
        counts[problem.reason] += problem.count
    return dict(counts)


def parse_record(line: str, where: str, folder: Path) -> tuple[Record, list[Problem]]:
    """Turn one line into a record and the problems of its points. Raises BadRecord if nothing of it is usable.

    `folder`: what the image path is relative to.
    """
    fields = _fields(line)
    image = _image(fields["image"], folder)
    intrinsics = _intrinsics(fields["intrinsics"])
    uv_px, depth_m = _points(fields["pixel_coords"], fields["depth"])
    inside, labelled = inside_image(uv_px, intrinsics), has_depth(depth_m)
    problems = _dropped(where, uv_px, depth_m, inside, labelled)
    keep = inside & labelled
    if not keep.any():
        causes = "; ".join(p.message for p in problems) or "the lists are empty"
        raise BadRecord("record without a usable point", f"no usable point: {causes}.")
    depth_m = _as_z(fields.get("depth_type", "z"), depth_m[keep], uv_px[keep], intrinsics)
    return Record(where, image, intrinsics, uv_px[keep], depth_m), problems


def inside_image(uv_px: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """bool (N,): which pixels (N, 2) lie on the image, whose first pixel reaches from -0.5 to 0.5."""
    return np.all((uv_px > -0.5) & (uv_px < np.array(intrinsics.size_px) - 0.5), axis=1)


def _lines(path: Path) -> list[tuple[str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise BadInput(f"{path}: cannot be read ({exc}): give a JSONL file of labels.") from exc
    numbered = enumerate(text.splitlines(), start=1)
    return [(f"{path}:{number}", line) for number, line in numbered if line.strip()]


def _fields(line: str) -> Mapping[str, object]:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as exc:
        raise BadRecord("not JSON", f"not a JSON object: {exc}.") from exc
    if not isinstance(fields, dict):
        raise BadRecord("not JSON", f"a JSON {type(fields).__name__}, expected an object with {', '.join(KEYS)}.")
    missing = [key for key in KEYS if key not in fields]
    if missing:
        raise BadRecord(
            "key missing", f"no key {', '.join(map(repr, missing))}; it has {', '.join(map(repr, fields)) or 'none'}."
        )
    return fields


def _image(name: object, folder: Path) -> Path:
    if not isinstance(name, str) or not name:
        raise BadRecord("image path malformed", f"image is {name!r}: expected a path relative to the labels.")
    path = folder / name
    if not path.is_file():
        raise BadRecord("image missing", f"image {path} does not exist.")
    return path


def _intrinsics(values: object) -> Intrinsics:
    numbers = _numbers("intrinsics", values)
    if numbers.shape != (6,):
        raise BadRecord(
            "intrinsics malformed", f"intrinsics have shape {numbers.shape}: expected [fx, fy, cx, cy, W, H]."
        )
    fx, fy, cx, cy, width, height = numbers.tolist()
    if not (float(width).is_integer() and float(height).is_integer()):
        raise BadRecord("intrinsics malformed", f"image size {width} x {height}: expected whole pixels.")
    try:
        return Intrinsics(fx, fy, cx, cy, int(width), int(height))
    except BadIntrinsics as exc:
        raise BadRecord("intrinsics unusable", str(exc)) from exc


def _points(pixel_coords: object, depth: object) -> tuple[np.ndarray, np.ndarray]:
    uv_px, depth_m = _numbers("pixel_coords", pixel_coords), _numbers("depth", depth)
    uv_px = uv_px.reshape(0, 2) if uv_px.size == 0 else uv_px
    if uv_px.ndim != 2 or uv_px.shape[1] != 2 or depth_m.shape != (len(uv_px),):
        raise BadRecord(
            "points malformed",
            f"pixel_coords have shape {uv_px.shape} and depth {depth_m.shape}: expected (N, 2) and (N,).",
        )
    return uv_px, depth_m


def _numbers(key: str, values: object) -> np.ndarray:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError) as exc:
        raise BadRecord(f"{key} malformed", f"{key} is not an even list of numbers ({exc}).") from exc


def _as_z(depth_type: object, depth_m: np.ndarray, uv_px: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    if depth_type in ("z", "z_depth"):
        return depth_m
    if depth_type != "ray":
        raise BadRecord("depth_type unknown", f"depth_type is {depth_type!r}: expected 'z', 'z_depth' or 'ray'.")
    return z_from_range(uv_px, depth_m, intrinsics)


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
