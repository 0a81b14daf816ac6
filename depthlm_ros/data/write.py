"""Writes records as lines of DepthLM's and DepthVLM's JSONL schemas (reading.py says what they are).

Files that appear whole or not at all, whatever happens while they are written.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.records import DepthFile, PairRecord, Record, between_grids
from depthlm_ros.families.qwen_vl import DepthVLM

FORMATS = ("depthlm", "depthvlm")
CANONICAL_FX_PX = 1000.0
# Tenths of a millimetre are kept of depths, as DepthVLM's benchmark does, and thousandths of pixels.
DEPTH_DIGITS, PIXEL_DIGITS = 4, 3


def depthlm_line(record: Record, folder: Path, image_key: str = "image") -> str:
    """One line, paths relative to `folder`. image_key: what the image is called (as released: image_path)."""
    fields = {image_key: relative(record.image, folder), "intrinsics": camera_numbers(record.intrinsics)}
    return json.dumps(fields | _points(record.uv_px, record.depth_m) | _about(record))


def depthvlm_line(record: Record, folder: Path) -> str:
    """One line, paths relative to `folder`; its points are in pixels of the depth map. Needs a depth map with a size.

    "intrinsics" and "caps_m" are ours; DepthVLM's loader does not look at them.
    """
    depth, camera = record.depth, record.intrinsics
    if depth is None or depth.size_px is None:
        raise ValueError(f"{record.where}: DepthVLM's schema needs a depth map and its size.")
    scale = CANONICAL_FX_PX / camera.fx_px
    fields: dict[str, object] = {
        "image": relative(record.image, folder),
        **_depth_fields(depth, folder),
        "original_rgb_size": list(camera.size_px),
        "original_fx": round(camera.fx_px, 2),
        "canonical_fx": CANONICAL_FX_PX,
        "canonical_size": [round(camera.width_px * scale), round(camera.height_px * scale)],
        "prompt": DepthVLM.DEPTH_QUESTION,
        "solution": DepthVLM.DEPTH_REPLY,
        "intrinsics": camera_numbers(camera),
    }
    if len(record.uv_px):
        fields |= _points(between_grids(record.uv_px, camera.size_px, depth.size_px), record.depth_m)
    return json.dumps(fields | _about(record))


def pair_line(pair: PairRecord, folder: Path) -> str:
    """One line of two views, paths relative to `folder`."""
    fields = {
        "images": [relative(path, folder) for path in pair.images],
        "intrinsics": [camera_numbers(camera) for camera in pair.intrinsics],
        "pixel_coords": _rounded(pair.uv_px, PIXEL_DIGITS),
        "matched_coords": _rounded(pair.matched_px, PIXEL_DIGITS),
        "rotation": _rounded(pair.rotation, 9),
        "translation": _rounded(pair.translation_m, 6),
        "covisibility": round(pair.covisibility, 4),
    }
    return json.dumps(fields | ({"scene": pair.scene} if pair.scene else {}))


def relative(path: Path, folder: Path) -> str:
    """The way from a folder to a file, with forward slashes."""
    return Path(os.path.relpath(path, folder)).as_posix()


def _depth_fields(depth: DepthFile, folder: Path) -> dict[str, object]:
    fields: dict[str, object] = {
        "depth_path": relative(depth.path, folder),
        "depth_scale": depth.scale,
        "original_depth_size": list(depth.size_px or ()),
    }
    if depth.format:
        fields["depth_format"] = depth.format
    fields |= dict(
        zip(("mask_valid_path", "mask_transp_path"), (relative(m, folder) for m in depth.masks), strict=False)
    )
    if math.isfinite(depth.caps_m[1]):
        fields["caps_m"] = list(depth.caps_m)
    return fields


def _points(uv_px: np.ndarray, depth_m: np.ndarray) -> dict[str, object]:
    return {"pixel_coords": _rounded(uv_px, PIXEL_DIGITS), "depth": _rounded(depth_m, DEPTH_DIGITS)}


def _about(record: Record) -> dict[str, str]:
    named = {"scene": record.scene, "camera": record.camera, "split": record.split}
    return {"depth_type": record.depth_type} | {key: value for key, value in named.items() if value}


def camera_numbers(camera: Intrinsics) -> list[float]:
    """[fx, fy, cx, cy, W, H], as fields.camera reads them."""
    return [camera.fx_px, camera.fy_px, camera.cx_px, camera.cy_px, camera.width_px, camera.height_px]


def _rounded(values: np.ndarray, digits: int) -> list:
    """Nested lists; whole numbers are written as such, as DepthLM writes its pixels."""
    rounded = np.round(np.asarray(values, np.float64), digits)
    return (rounded.astype(int) if np.array_equal(rounded, np.rint(rounded)) else rounded).tolist()


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Where to write what is then called `path`; its folders are made. After an error nothing of it is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial-{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """The whole text, or what was there before."""
    with appearing(path) as partial:
        partial.write_text(text, encoding="utf-8")
