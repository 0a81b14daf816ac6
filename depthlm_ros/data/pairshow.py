"""Numbers about a file of pairs, and a contact sheet of it: both views, with lines between the same points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from depthlm_ros.data.check import duplicate_lines, size_problem
from depthlm_ros.data.pairreading import iter_pairs
from depthlm_ros.data.problems import BadRecord, Problem, count_by_reason
from depthlm_ros.data.reading import json_object, numbered_lines
from depthlm_ros.data.records import PairRecord
from depthlm_ros.data.sheet import CELL_PX, sheet_of, thumbnail
from depthlm_ros.data.stats import shares
from depthlm_ros.geometry.rotations import rotation_angle_deg
from depthlm_ros.visualization import TURBO_FAR, TURBO_NEAR, write

# So many matches are drawn in a cell.
LINES = 12


def holds_pairs(path: Path) -> bool:
    """Whether a file's first line is a pair. Raises BadInput if the file cannot be read."""
    for _, line in numbered_lines(path):
        try:
            return "images" in json_object(line)
        except BadRecord:
            return False
    return False


def checked_pairs(path: Path, problems: list[Problem], root: Path | None = None):
    """As pairreading.iter_pairs; besides, images of another size than their camera's, and lines that stand twice."""
    problems.extend(duplicate_lines(path))
    for pair in iter_pairs(path, problems, root):
        found = (size_problem(pair.where, i, k.size_px) for i, k in zip(pair.images, pair.intrinsics, strict=True))
        problems.extend(problem for problem in found if problem)
        yield pair


@dataclass
class PairStatistics:
    """Filled pair by pair with `add`."""

    points: int = 0
    covisibility: list[float] = field(default_factory=list)
    angle_deg: list[float] = field(default_factory=list)
    distance_m: list[float] = field(default_factory=list)
    scenes: set[str] = field(default_factory=set)

    @property
    def records(self) -> int:
        """How many pairs."""
        return len(self.covisibility)

    def add(self, pair: PairRecord) -> None:
        """Count one pair in."""
        self.points += len(pair.uv_px)
        self.covisibility.append(pair.covisibility)
        self.angle_deg.append(rotation_angle_deg(pair.rotation))
        self.distance_m.append(float(np.linalg.norm(pair.translation_m)))
        self.scenes.add(pair.scene)

    def as_dict(self, problems: Sequence[Problem] = ()) -> dict[str, object]:
        """In plain types, for JSON."""
        spread = {name: shares(getattr(self, name)) for name in ("covisibility", "angle_deg", "distance_m")}
        counts = {"pairs": self.records, "points": self.points, "scenes": len(self.scenes - {""})}
        return {**counts, **spread, "problems": count_by_reason(problems)}


def pair_sheet(pairs: Sequence[PairRecord]) -> np.ndarray:
    """uint8 (H, W, 3): one cell a pair."""
    return sheet_of([_cell(pair) for pair in pairs], columns=2)


def _cell(pair: PairRecord) -> np.ndarray:
    cell = np.hstack([thumbnail(path) for path in pair.images])
    first, second = (
        (uv_px + 0.5) * np.array(CELL_PX) / np.array(camera.size_px) - 0.5 + [offset, 0]
        for uv_px, camera, offset in zip((pair.uv_px, pair.matched_px), pair.intrinsics, (0, CELL_PX[0]), strict=True)
    )
    step = max(len(first) // LINES, 1)
    levels = np.linspace(TURBO_FAR, TURBO_NEAR, max(len(first[::step]), 1)).astype(np.uint8)
    colours = cv2.applyColorMap(levels.reshape(-1, 1), cv2.COLORMAP_TURBO).reshape(-1, 3)[:, ::-1]
    for start, end, colour in zip(np.rint(first[::step]), np.rint(second[::step]), colours, strict=False):
        left, right = (int(start[0]), int(start[1])), (int(end[0]), int(end[1]))
        cv2.line(cell, left, right, [int(c) for c in colour], 1, cv2.LINE_AA)
    moved = f"{rotation_angle_deg(pair.rotation):.0f} deg, {np.linalg.norm(pair.translation_m):.2f} m"
    write(cell, f"{pair.covisibility:.2f} shared, {moved}", (6, CELL_PX[1] - 8), 0.45)
    return cell
