# SPDX-License-Identifier: Apache-2.0
"""Checks the records of a file and the files that they name, without changing anything.

`check_records` yields the records of a file and collects their problems. The `find_*` functions are its single checks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from depthlm_ros.data.depthfile import mask_unknown, read_depth_size, read_stored_depth
from depthlm_ros.data.read import Roots, iter_numbered_lines, iter_records
from depthlm_ros.data.records import RAW_FLOAT32, DepthFile, Record, RecordProblem, Z
from depthlm_ros.errors import BadImage
from depthlm_ros.image_io import image_size

# DepthVLM's published files of these data sets hold distances along the ray, although they state z_depth.
RAY_STATED_AS_Z = ("argoverse", "waymo")


def check_records(
    path: Path,
    problems: list[RecordProblem],
    roots: Roots | None = None,
    on_depth_map: Callable[[np.ndarray], None] | None = None,
) -> Iterator[Record]:
    """Yields the records of a file as read.iter_records does, and appends all problems to `problems`.

    In addition to read.iter_records it finds named files of a wrong size and duplicate lines. on_depth_map: if given,
    the values of depth maps are checked too, and each depth map, float32 (h, w), metres, NaN unknown, is passed to it.
    """
    problems.extend(find_duplicate_lines(path))
    for record in iter_records(path, problems, roots):
        found = find_file_problems(record)
        if on_depth_map and record.depth and not any(problem.reason.startswith("depth map") for problem in found):
            found += find_depth_map_problems(record.where, record.depth, on_depth_map)
        problems.extend(found)
        yield record


def find_depth_map_problems(
    where: str, file: DepthFile, on_depth_map: Callable[[np.ndarray], None]
) -> list[RecordProblem]:
    """Returns the problems of the values of a depth map, and passes the depth map to `on_depth_map`."""
    try:
        stored_m = read_stored_depth(file)
        depth_m = mask_unknown(file, stored_m)
    except BadImage as exc:
        return [RecordProblem(where, "depth map unusable", str(exc))]
    on_depth_map(depth_m)
    found, negative = [], int(np.sum(stored_m < 0))
    if negative:
        message = f"{file.path}: {negative} of its {stored_m.size} depths are negative: they count as unknown"
        found.append(RecordProblem(where, "depth map with negative depths", message))
    if not np.isfinite(depth_m).any():
        message = f"{file.path}: no depth is known: all are 0, negative, NaN, masked or beyond the limits"
        found.append(RecordProblem(where, "depth map without a depth", message))
    return found


def find_duplicate_lines(path: Path) -> list[RecordProblem]:
    """Returns one problem for every line that is identical to an earlier line."""
    first: dict[bytes, str] = {}
    problems = []
    for where, line in iter_numbered_lines(path):
        earlier = first.setdefault(hashlib.blake2b(line.strip().encode(), digest_size=16).digest(), where)
        if earlier != where:
            number = earlier.rpartition(":")[2]
            problems.append(RecordProblem(where, "duplicate line", f"identical to line {number}"))
    return problems


def find_file_problems(record: Record) -> list[RecordProblem]:
    """Returns the problems of a record's image and depth map that the first bytes of the files show."""
    found = [
        find_size_problem(record.where, record.image, record.intrinsics.size_px),
        _find_depth_size_problem(record.where, record.depth) if record.depth else None,
        _find_doubtful_depth_type(record),
    ]
    return [problem for problem in found if problem]


def find_size_problem(where: str, image: Path, size_px: tuple[int, int]) -> RecordProblem | None:
    """Returns the problem of an image that does not have this size, or None."""
    return _compare_sizes(where, "image", image, lambda: image_size(image), size_px)


def _compare_sizes(
    where: str, kind: str, path: Path, read_size: Callable[[], tuple[int, int] | None], expected: tuple[int, int]
) -> RecordProblem | None:
    try:
        size = read_size()
    except BadImage as exc:
        return RecordProblem(where, f"{kind} unusable", str(exc))
    if size is None or size == expected:
        return None
    message = f"{path} is {size[0]} x {size[1]}, the record says {expected[0]} x {expected[1]}"
    return RecordProblem(where, f"{kind} of another size", message)


def _find_depth_size_problem(where: str, depth: DepthFile) -> RecordProblem | None:
    if depth.size_px is None:
        return None
    if depth.format == RAW_FLOAT32:
        expected = 4 * depth.size_px[0] * depth.size_px[1]
        size = depth.path.stat().st_size
        if size == expected:
            return None
        message = f"{depth.path} has {size} bytes, expected {expected}"
        return RecordProblem(where, "depth map of another size", message)
    return _compare_sizes(where, "depth map", depth.path, lambda: read_depth_size(depth), depth.size_px)


def _find_doubtful_depth_type(record: Record) -> RecordProblem | None:
    """Returns a problem for records of DepthVLM's files that state z but hold distances along the ray.

    DepthVLM's files state no principal point, so that it is exactly in the middle. Files that were curated here state
    their own camera, and are correct.
    """
    path = record.depth.path.as_posix().lower() if record.depth else ""
    in_middle = record.intrinsics.cx_px == (record.intrinsics.width_px - 1) / 2
    if record.depth_type != Z or not in_middle or not any(name in path for name in RAY_STATED_AS_Z):
        return None
    return RecordProblem(
        record.where,
        "depth_type doubtful",
        "states z, but DepthVLM's files of Argoverse 2 and Waymo hold distances along the ray: use --depth-type range",
    )
