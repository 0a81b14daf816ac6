"""Looks at every record of a file and at the files that it names, and counts what is wrong; nothing is changed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from depthlm_ros.data.depthfile import believed, depth_size, stored_depth
from depthlm_ros.data.read import Roots, iter_records, numbered_lines
from depthlm_ros.data.records import RAW_FLOAT32, DepthFile, Problem, Record, Z
from depthlm_ros.errors import BadImage
from depthlm_ros.image_io import image_size

# DepthVLM's published files of these data sets hold distances along the ray and call them z_depth.
RAY_CALLED_Z = ("argoverse", "waymo")


def checked_records(
    path: Path,
    problems: list[Problem],
    roots: Roots | None = None,
    seen: Callable[[np.ndarray], None] | None = None,
) -> Iterator[Record]:
    """As reading.iter_records; besides, what is wrong with the sizes of the named files, and lines that stand twice.

    seen: if it is given, depth maps are looked into, and it is told each one, float32 (h, w), metres, NaN unknown.
    """
    problems.extend(duplicate_lines(path))
    for record in iter_records(path, problems, roots):
        found = file_problems(record)
        if seen and record.depth and not any(problem.reason.startswith("depth map") for problem in found):
            found += map_problems(record.where, record.depth, seen)
        problems.extend(found)
        yield record


def map_problems(where: str, file: DepthFile, seen: Callable[[np.ndarray], None]) -> list[Problem]:
    """What is wrong with the values of a depth map, which `seen` is told."""
    try:
        stored_m = stored_depth(file)
        depth_m = believed(file, stored_m)
    except BadImage as exc:
        return [Problem(where, "depth map unusable", str(exc))]
    seen(depth_m)
    found, negative = [], int(np.sum(stored_m < 0))
    if negative:
        told = f"{file.path}: {negative} of its {stored_m.size} depths are negative: taken for unknown"
        found.append(Problem(where, "depth map with negative depths", told))
    if not np.isfinite(depth_m).any():
        told = f"{file.path}: nothing of it is known: all is 0, negative, NaN, masked or beyond the caps"
        found.append(Problem(where, "depth map without a depth", told))
    return found


def duplicate_lines(path: Path) -> list[Problem]:
    """One problem for every line that an earlier line equals to the letter."""
    first: dict[bytes, str] = {}
    problems = []
    for where, line in numbered_lines(path):
        earlier = first.setdefault(hashlib.blake2b(line.strip().encode(), digest_size=16).digest(), where)
        if earlier != where:
            problems.append(Problem(where, "duplicate line", f"the same as line {earlier.rpartition(':')[2]}"))
    return problems


def file_problems(record: Record) -> list[Problem]:
    """What is wrong with the image and the depth map of a record, as far as their first bytes tell."""
    found = [
        size_problem(record.where, record.image, record.intrinsics.size_px),
        _depth_problem(record.where, record.depth) if record.depth else None,
        _doubtful(record),
    ]
    return [problem for problem in found if problem]


def size_problem(where: str, image: Path, size_px: tuple[int, int]) -> Problem | None:
    """What is wrong with an image that should be of this size; None if nothing is."""
    return _compare(where, "image", image, image_size, size_px)


def _compare(where: str, kind: str, path: Path, measure, expected: tuple[int, int]) -> Problem | None:
    try:
        found = measure(path)
    except BadImage as exc:
        return Problem(where, f"{kind} unusable", str(exc))
    if found is None or found == expected:
        return None
    says = f"the record says {expected[0]} x {expected[1]}"
    return Problem(where, f"{kind} of another size", f"{path} is {found[0]} x {found[1]}, {says}")


def _depth_problem(where: str, depth: DepthFile) -> Problem | None:
    if depth.size_px is None:
        return None
    if depth.format == RAW_FLOAT32:
        expected = 4 * depth.size_px[0] * depth.size_px[1]
        size = depth.path.stat().st_size
        if size == expected:
            return None
        return Problem(where, "depth map of another size", f"{depth.path} has {size} bytes, expected {expected}")
    return _compare(where, "depth map", depth.path, lambda _: depth_size(depth), depth.size_px)


def _doubtful(record: Record) -> Problem | None:
    """DepthVLM's mislabelled files; ours say what they mean with a camera of their own."""
    path = record.depth.path.as_posix().lower() if record.depth else ""
    middle = record.intrinsics.cx_px == (record.intrinsics.width_px - 1) / 2
    if record.depth_type != Z or not middle or not any(name in path for name in RAY_CALLED_Z):
        return None
    return Problem(
        record.where,
        "depth_type doubtful",
        "says z, but DepthVLM's files of Argoverse 2 and Waymo hold distances along the ray: give --depth-type range",
    )
