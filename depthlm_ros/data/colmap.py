"""COLMAP's text files of cameras and images (colmap.github.io, "Output Format")."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from depthlm_ros.data.lidar import inverse, rigid


@dataclass(frozen=True)
class Lens:
    """A line of cameras.txt. parameters: as the model orders them, fx, fy, cx, cy first; the image's edge is 0."""

    model: str
    size_px: tuple[int, int]
    parameters: tuple[float, ...]


@dataclass(frozen=True)
class Posed:
    """An image of images.txt. camera_to_world: float64 (4, 4), optical frame."""

    name: str
    camera_id: int
    camera_to_world: np.ndarray


def read_cameras(path: Path) -> dict[int, Lens]:
    """By camera id. Raises ValueError for a line that is none."""
    lenses = {}
    for words in (line.split() for line in _lines(path)):
        if words:
            size_px = int(words[2]), int(words[3])
            lenses[int(words[0])] = Lens(words[1], size_px, tuple(float(word) for word in words[4:]))
    return lenses


def read_images(path: Path) -> dict[str, Posed]:
    """By name. Each image has two lines, the second (its points) possibly empty. Raises ValueError for other lines."""
    images = {}
    for line in _lines(path)[::2]:
        words = line.split()
        if words:
            values = np.array([float(word) for word in words[1:8]])
            name = " ".join(words[9:])
            images[name] = Posed(name, int(words[8]), inverse(rigid(values[:4], values[4:])))
    return images


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
