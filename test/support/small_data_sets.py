# SPDX-License-Identifier: Apache-2.0
"""Helpers of the tests of data sets: small images on disk, curation in this process, and rigid transforms."""

import json
from pathlib import Path

import cv2
import numpy as np

from depthlm_ros.data.curate import CurationJob, curate
from depthlm_ros.data.read import read_records
from depthlm_ros.data.sample_points import WriteOptions
from depthlm_ros.data.source_view import ReadOptions


def write_image(path: Path, width: int, height: int) -> None:
    """Writes a colour image of this size and creates its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(0, 255, width * height, dtype=np.uint8).reshape(height, width)
    cv2.imwrite(str(path), cv2.merge([ramp, 255 - ramp, ramp // 2]))


def write_grey_image(path: Path, values: np.ndarray) -> None:
    """Writes a 16-bit PNG, or an 8-bit PNG for a bool mask, and creates its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = values.astype(np.uint8) * 255 if values.dtype == bool else values.astype(np.uint16)
    cv2.imwrite(str(path), values)


def write_file(path: Path, content: object) -> None:
    """Writes text unchanged and anything else as JSON, and creates its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def make_job(name: str, root: Path, out: Path, points: int = 1000, **read_options) -> CurationJob:
    """Returns a job that draws every usable pixel of the small images. read_options: fields of ReadOptions."""
    options = ReadOptions(**read_options)
    return CurationJob(name, root, options, WriteOptions(out, options.format, points))


def curate_and_read(name: str, root: Path, out: Path, **job_options):
    """Curates a data set in this process; returns the records, read back from disk, and the report."""
    report = curate(make_job(name, root, out, **job_options), workers=1)
    return (read_records(Path(report["file"])).records if report["records"] else (), report)


def depth_by_pixel(record) -> dict[tuple[float, float], float]:
    """Returns {pixel: depth as labelled}."""
    return {(float(u), float(v)): float(d) for (u, v), d in zip(record.uv_px, record.depth_m, strict=True)}


def make_quaternion(axis: str, degrees: float) -> np.ndarray:
    """Returns the quaternion (w, x, y, z) of a rotation about an axis."""
    half = np.radians(degrees) / 2
    return np.array([np.cos(half), *(np.sin(half) if axis == name else 0.0 for name in "xyz")])


def make_transform(axis: str, degrees: float, translation=(0.0, 0.0, 0.0)) -> np.ndarray:
    """Returns (4, 4): a rotation about an axis, computed without the code under test, and a translation."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rows = {
        "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
    }
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rows[axis], translation
    return matrix


def points_at_pixels(pixels: dict[tuple[int, int], float], k: tuple[float, float, float, float]) -> np.ndarray:
    """Returns (N, 3), optical frame: the points that a camera (fx, fy, cx, cy) sees at these pixels and z."""
    fx, fy, cx, cy = k
    return np.array([[(u - cx) / fx * z, (v - cy) / fy * z, z] for (u, v), z in pixels.items()])


def transform_points(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Returns points (N, 3) after a transform (4, 4)."""
    return points @ transform[:3, :3].T + transform[:3, 3]


# A camera that looks along the vehicle's x: its x is the vehicle's -y, its y is the vehicle's -z.
OPTICAL_MOUNT = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
# The same as a quaternion (w, x, y, z).
OPTICAL_QUATERNION = np.array([0.5, -0.5, 0.5, -0.5])
