"""Reads pairs of views, one JSON object per line, as `depthlm data pairs` writes them.

{"images": [path, path], "intrinsics": [[fx, fy, cx, cy, W, H], [...]], "pixel_coords": [[u, v], ...],
 "matched_coords": [[u, v], ...], "rotation": 3x3, "translation": [x, y, z] metres, "covisibility": 0 to 1, "scene"}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.fields import camera, image, numbers, text
from depthlm_ros.data.problems import BadRecord, Problem
from depthlm_ros.data.reading import json_object, numbered_lines, require
from depthlm_ros.data.records import PairRecord, inside_image

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
    uv_px, matched_px = _points(fields, where, intrinsics, problems)
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


def _points(
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
