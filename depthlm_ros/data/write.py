# SPDX-License-Identifier: Apache-2.0
"""Formats records as lines of DepthLM's and DepthVLM's JSONL schemas, which data/read.py describes."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.records import DepthFile, PairRecord, Record, rescale_pixels
from depthlm_ros.families.qwen_vl import DepthVLM

FORMATS = ("depthlm", "depthvlm")
CANONICAL_FX_PX = 1000.0
# Depths are written to a tenth of a millimetre, as in DepthVLM's benchmark, and pixels to a thousandth.
DEPTH_DIGITS, PIXEL_DIGITS = 4, 3


def depthlm_line(record: Record, folder: Path, image_key: str = "image") -> str:
    """Returns one line in DepthLM's schema, with paths relative to `folder`.

    image_key: key of the image; a released script writes image_path.
    """
    fields = {image_key: relative_path(record.image, folder), "intrinsics": intrinsics_to_list(record.intrinsics)}
    return json.dumps(fields | _point_fields(record.uv_px, record.depth_m) | _description_fields(record))


def depthvlm_line(record: Record, folder: Path) -> str:
    """Returns one line in DepthVLM's schema, with paths relative to `folder` and points in pixels of the depth map.

    The keys "intrinsics" and "caps_m" are extensions that DepthVLM's loader ignores. Raises ValueError for a record
    without a depth map of known size.
    """
    depth, camera = record.depth, record.intrinsics
    if depth is None or depth.size_px is None:
        raise ValueError(f"{record.where}: DepthVLM's schema needs a depth map and its size.")
    scale = CANONICAL_FX_PX / camera.fx_px
    fields: dict[str, object] = {
        "image": relative_path(record.image, folder),
        **_depth_fields(depth, folder),
        "original_rgb_size": list(camera.size_px),
        "original_fx": round(camera.fx_px, 2),
        "canonical_fx": CANONICAL_FX_PX,
        "canonical_size": [round(camera.width_px * scale), round(camera.height_px * scale)],
        "prompt": DepthVLM.DEPTH_QUESTION,
        "solution": DepthVLM.DEPTH_REPLY,
        "intrinsics": intrinsics_to_list(camera),
    }
    if len(record.uv_px):
        fields |= _point_fields(rescale_pixels(record.uv_px, camera.size_px, depth.size_px), record.depth_m)
    return json.dumps(fields | _description_fields(record))


def pair_line(pair: PairRecord, folder: Path) -> str:
    """Returns one line of a pair of views, with paths relative to `folder`."""
    fields = {
        "images": [relative_path(path, folder) for path in pair.images],
        "intrinsics": [intrinsics_to_list(camera) for camera in pair.intrinsics],
        "pixel_coords": _rounded(pair.uv_px, PIXEL_DIGITS),
        "matched_coords": _rounded(pair.matched_px, PIXEL_DIGITS),
        "rotation": _rounded(pair.rotation, 9),
        "translation": _rounded(pair.translation_m, 6),
        "covisibility": round(pair.covisibility, 4),
    }
    return json.dumps(fields | ({"scene": pair.scene} if pair.scene else {}))


def relative_path(path: Path, folder: Path) -> str:
    """Returns the path from a folder to a file, with forward slashes."""
    return Path(os.path.relpath(path, folder)).as_posix()


def _depth_fields(depth: DepthFile, folder: Path) -> dict[str, object]:
    fields: dict[str, object] = {
        "depth_path": relative_path(depth.path, folder),
        "depth_scale": depth.scale,
        "original_depth_size": list(depth.size_px or ()),
    }
    if depth.format:
        fields["depth_format"] = depth.format
    fields |= dict(
        zip(("mask_valid_path", "mask_transp_path"), (relative_path(m, folder) for m in depth.masks), strict=False)
    )
    if math.isfinite(depth.caps_m[1]):
        fields["caps_m"] = list(depth.caps_m)
    return fields


def _point_fields(uv_px: np.ndarray, depth_m: np.ndarray) -> dict[str, object]:
    return {"pixel_coords": _rounded(uv_px, PIXEL_DIGITS), "depth": _rounded(depth_m, DEPTH_DIGITS)}


def _description_fields(record: Record) -> dict[str, str]:
    named = {"scene": record.scene, "camera": record.camera, "split": record.split}
    return {"depth_type": record.depth_type} | {key: value for key, value in named.items() if value}


def intrinsics_to_list(camera: Intrinsics) -> list[float]:
    """Returns [fx, fy, cx, cy, W, H], which records.parse_intrinsics reads."""
    return [camera.fx_px, camera.fy_px, camera.cx_px, camera.cy_px, camera.width_px, camera.height_px]


def _rounded(values: np.ndarray, digits: int) -> list:
    """Returns nested lists of rounded numbers; if all are whole they are integers, as in DepthLM's pixels."""
    rounded = np.round(np.asarray(values, np.float64), digits)
    return (rounded.astype(int) if np.array_equal(rounded, np.rint(rounded)) else rounded).tolist()
