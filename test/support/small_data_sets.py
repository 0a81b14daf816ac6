"""What the tests of curation share: small pictures on disk, and curated records read back."""

import json
from pathlib import Path

import cv2
import numpy as np

from depthlm_ros.data.curate import Job, curate
from depthlm_ros.data.read import read_records
from depthlm_ros.data.sample_points import Plan
from depthlm_ros.data.source_view import Choice


def picture(path: Path, width: int, height: int) -> None:
    """A colour picture of this size; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(0, 255, width * height, dtype=np.uint8).reshape(height, width)
    cv2.imwrite(str(path), cv2.merge([ramp, 255 - ramp, ramp // 2]))


def grey16(path: Path, values: np.ndarray) -> None:
    """A 16-bit (or, for bool, a mask's 8-bit) PNG; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = values.astype(np.uint8) * 255 if values.dtype == bool else values.astype(np.uint16)
    cv2.imwrite(str(path), values)


def text(path: Path, content: object) -> None:
    """Text as it is, anything else as JSON; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def job(name: str, root: Path, out: Path, points: int = 1000, **choice) -> Job:
    """A job that draws every usable pixel of these small pictures."""
    chosen = Choice(**choice)
    return Job(name, root, chosen, Plan(out, chosen.format, points))


def curated(name: str, root: Path, out: Path, **choice):
    """(records, report) of a data set, curated in this process and read back."""
    report = curate(job(name, root, out, **choice), workers=1)
    return (read_records(Path(report["file"])).records if report["records"] else (), report)


def labels(record) -> dict[tuple[float, float], float]:
    """Pixel -> depth as labelled."""
    return {(float(u), float(v)): float(d) for (u, v), d in zip(record.uv_px, record.depth_m, strict=True)}


def quaternion(axis: str, degrees: float) -> np.ndarray:
    """(w, x, y, z) of a turn about an axis."""
    half = np.radians(degrees) / 2
    return np.array([np.cos(half), *(np.sin(half) if axis == name else 0.0 for name in "xyz")])


def turn(axis: str, degrees: float, translation=(0.0, 0.0, 0.0)) -> np.ndarray:
    """(4, 4): a turn about an axis by hand, not by the code under test, and a translation."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rows = {
        "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
    }
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rows[axis], translation
    return matrix


def points_at(pixels: dict[tuple[int, int], float], k: tuple[float, float, float, float]) -> np.ndarray:
    """(N, 3), optical frame: the points that a camera (fx, fy, cx, cy) sees at these pixels at these z."""
    fx, fy, cx, cy = k
    return np.array([[(u - cx) / fx * z, (v - cy) / fy * z, z] for (u, v), z in pixels.items()])


def through(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, 3) points through a transform (4, 4)."""
    return points @ transform[:3, :3].T + transform[:3, 3]


# An optical frame mounted looking along the vehicle's x: its x is the vehicle's -y, its y the vehicle's -z.
OPTICAL_MOUNT = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
# The same as a quaternion (w, x, y, z).
OPTICAL_QUATERNION = np.array([0.5, -0.5, 0.5, -0.5])
