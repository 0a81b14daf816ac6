"""Checks of single values of a line of labels. Each raises BadRecord saying what was wrong with the value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.problems import BadRecord
from depthlm_ros.data.records import MEANINGS
from depthlm_ros.errors import BadIntrinsics


def image(name: object, folder: Path, kind: str = "image", key: str = "image") -> Path:
    """The file that a relative path names. kind: what it is, for messages."""
    if not isinstance(name, str) or not name:
        raise BadRecord(f"{kind} path malformed", f"{key} is {name!r}: expected a path relative to the labels.")
    path = folder / name
    if not path.is_file():
        raise BadRecord(f"{kind} missing", f"{kind} {path} does not exist.")
    return path


def camera(values: object) -> Intrinsics:
    """From [fx, fy, cx, cy, W, H]."""
    found = numbers("intrinsics", values)
    if found.shape != (6,):
        raise BadRecord(
            "intrinsics malformed", f"intrinsics have shape {found.shape}: expected [fx, fy, cx, cy, W, H]."
        )
    fx, fy, cx, cy, width, height = found.tolist()
    if not (float(width).is_integer() and float(height).is_integer()):
        raise BadRecord("intrinsics malformed", f"image size {width} x {height}: expected whole pixels.")
    try:
        return Intrinsics(fx, fy, cx, cy, int(width), int(height))
    except BadIntrinsics as exc:
        raise BadRecord("intrinsics unusable", str(exc)) from exc


def points(pixel_coords: object, depth: object) -> tuple[np.ndarray, np.ndarray]:
    """float64 (N, 2) and (N,)."""
    uv_px, depth_m = numbers("pixel_coords", pixel_coords), numbers("depth", depth)
    uv_px = uv_px.reshape(0, 2) if uv_px.size == 0 else uv_px
    if uv_px.ndim != 2 or uv_px.shape[1] != 2 or depth_m.shape != (len(uv_px),):
        raise BadRecord(
            "points malformed",
            f"pixel_coords have shape {uv_px.shape} and depth {depth_m.shape}: expected (N, 2) and (N,).",
        )
    return uv_px, depth_m


def numbers(key: str, values: object, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """float64, of this shape where one is asked for."""
    try:
        found = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError) as exc:
        raise BadRecord(f"{key} malformed", f"{key} is not an even list of numbers ({exc}).") from exc
    if shape is not None and found.shape != shape:
        raise BadRecord(f"{key} malformed", f"{key} has shape {found.shape}: expected {shape}.")
    return found


def rows(key: str, values: object, width: int) -> np.ndarray:
    """float64 (N, width), N may be 0."""
    found = numbers(key, values)
    found = found.reshape(0, width) if found.size == 0 else found
    if found.ndim != 2 or found.shape[1] != width:
        raise BadRecord(f"{key} malformed", f"{key} has shape {found.shape}: expected (N, {width}).")
    return found


def size(key: str, values: object) -> tuple[int, int]:
    """(width, height), both at least one pixel."""
    width, height = numbers(key, values, (2,)).tolist()
    if not (float(width).is_integer() and float(height).is_integer() and min(width, height) >= 1):
        raise BadRecord(f"{key} malformed", f"{key} is {width:g} x {height:g}: expected whole pixels.")
    return int(width), int(height)


def positive(key: str, value: object) -> float:
    """A positive finite number."""
    found = float(numbers(key, value, ()))
    if not (math.isfinite(found) and found > 0):
        raise BadRecord(f"{key} malformed", f"{key} is {value!r}: expected a positive number.")
    return found


def depth_type(said: object) -> str:
    """One of records.Z, RANGE, MIXED."""
    if not isinstance(said, str) or said not in MEANINGS:
        known = "', '".join(MEANINGS)
        raise BadRecord("depth_type unknown", f"depth_type is {said!r}: expected one of '{known}'.")
    return MEANINGS[said]


def text(fields: Mapping[str, object], *keys: str) -> str:
    """The first of these keys that is there, as text; "" if none is."""
    return next((str(fields[key]) for key in keys if fields.get(key) not in (None, "")), "")
