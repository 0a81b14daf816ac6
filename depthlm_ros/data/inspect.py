"""Numbers about a file of records: how many, how far, how large, and what was wrong with it.

A contact sheet: some records of a file with their points in the colours of their depth, and their depth maps.

Numbers about a file of pairs, and a contact sheet of it: both views, with lines between the same points.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import cv2
import numpy as np

from depthlm_ros.data.check import duplicate_lines, size_problem
from depthlm_ros.data.depthfile import read_depth
from depthlm_ros.data.read import iter_pairs, json_object, numbered_lines
from depthlm_ros.data.records import BadRecord, PairRecord, Problem, Record, count_by_reason, told
from depthlm_ros.errors import BadImage
from depthlm_ros.geometry.rotations import rotation_angle_deg
from depthlm_ros.image_io import read_rgb
from depthlm_ros.visualization import BACKGROUND_RGB, TURBO_FAR, TURBO_NEAR, depth_range_m, depth_rgb, write

SHARES = (0, 5, 50, 95, 100)
# So many kinds of a thing are listed, the commonest first.
MOST_LISTED = 8
# Depths are counted in bins of equal ratio, so that a file of any length fits into memory.
EDGES_M = np.geomspace(1e-3, 1e4, 1401)


@dataclass
class Statistics:
    """Filled record by record with `add`."""

    records: int = 0
    points: int = 0
    with_depth_map: int = 0
    sizes: Counter[str] = field(default_factory=Counter)
    depth_types: Counter[str] = field(default_factory=Counter)
    scenes: Counter[str] = field(default_factory=Counter)
    cameras: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    focal_px: list[float] = field(default_factory=list)
    depth_bins: np.ndarray = field(default_factory=lambda: np.zeros(len(EDGES_M) + 1, np.int64))
    map_bins: np.ndarray = field(default_factory=lambda: np.zeros(len(EDGES_M) + 1, np.int64))
    map_pixels: int = 0

    def add(self, record: Record) -> None:
        """Count one record in."""
        camera = record.intrinsics
        self.records += 1
        self.points += len(record.depth_m)
        self.with_depth_map += record.depth is not None
        self.sizes[f"{camera.width_px} x {camera.height_px}"] += 1
        self.depth_types[record.depth_type] += 1
        for counter, name in ((self.scenes, record.scene), (self.cameras, record.camera), (self.splits, record.split)):
            counter[name] += 1
        self.focal_px.append(camera.fx_px)
        self.depth_bins += _binned(record.depth_m)

    def add_map(self, depth_m: np.ndarray) -> None:
        """Count a depth map in, float (h, w), NaN unknown."""
        self.map_bins += _binned(depth_m[np.isfinite(depth_m)])
        self.map_pixels += depth_m.size

    def as_dict(self, problems: Sequence[Problem] = ()) -> dict[str, object]:
        """In plain types, for JSON."""
        maps: dict[str, object] = {}
        if self.map_pixels:
            known = round(int(self.map_bins.sum()) / self.map_pixels, 4)
            maps = {"map_depth_m": _shares(self.map_bins), "map_known_share": known}
        return {
            "records": self.records,
            "points": self.points,
            "with_depth_map": self.with_depth_map,
            "depth_types": dict(self.depth_types),
            "image_sizes": dict(self.sizes.most_common(MOST_LISTED)),
            "scenes": sum(1 for name in self.scenes if name),
            "cameras": {name: count for name, count in self.cameras.most_common(MOST_LISTED) if name},
            "splits": {name: count for name, count in self.splits.items() if name},
            "fx_px": shares(self.focal_px, 2),
            "depth_m": _shares(self.depth_bins),
            **maps,
            "problems": count_by_reason(problems),
        }


def shares(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """The value below which each of SHARES percent lie; empty without values."""
    return {f"{share}%": round(float(np.percentile(values, share)), digits) for share in SHARES} if values else {}


def _binned(depth_m: np.ndarray) -> np.ndarray:
    """How many depths are in each bin, the last one those beyond all."""
    return np.bincount(np.searchsorted(EDGES_M, depth_m), minlength=len(EDGES_M) + 1)


def _shares(bins: np.ndarray) -> dict[str, float]:
    """As `shares`, of depths in bins, exact to half a percent."""
    below, count = np.cumsum(bins), int(bins.sum())
    if not count:
        return {}
    reached = {share: int(np.searchsorted(below, max(share / 100 * count, 1))) for share in SHARES}
    return {f"{share}%": round(float(EDGES_M[min(at, len(EDGES_M) - 1)]), 3) for share, at in reached.items()}


def table(summary: dict[str, object], problems: Iterable[Problem]) -> str:
    """For people: the numbers, then each reason with its count and its first examples."""
    lines = [f"{key.replace('_', ' '):16} {_inline(value)}" for key, value in summary.items() if key != "problems"]
    return "\n".join([*lines, *(told(problems) or ["nothing wrong"])])


def _inline(value: object) -> str:
    return ", ".join(f"{k}: {v}" for k, v in value.items()) or "-" if isinstance(value, dict) else str(value)


T = TypeVar("T")
CELL_PX = (320, 240)
COLUMNS = 4
CAPTION_PX = 22
DOT_PX = 4
GAP_PX = 4


def contact_sheet(records: Sequence[Record]) -> np.ndarray:
    """uint8 (H, W, 3): one cell a record, those with a depth map beside the picture. What cannot be read is black."""
    return sheet_of([_sheet_cell(record) for record in records], COLUMNS)


def sheet_of(cells: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Cells of one height in rows of so many, the narrow ones padded, with gaps between them."""
    width = max(cell.shape[1] for cell in cells)
    padded = [_padded(cell, width) for cell in cells]
    columns = min(columns, len(padded))
    padded += [np.full_like(padded[0], BACKGROUND_RGB)] * (-len(padded) % columns)
    return np.vstack([np.hstack(padded[row : row + columns]) for row in range(0, len(padded), columns)])


def thumbnail(path: Path) -> np.ndarray:
    """A picture at the size of a cell, black if it cannot be read."""
    try:
        return _fit(read_rgb(path), cv2.INTER_AREA)
    except BadImage:
        return np.zeros((CELL_PX[1], CELL_PX[0], 3), np.uint8)


class Spread(Generic[T]):
    """Keeps at most so many of the things that it is offered, evenly over a file whose length nobody knows."""

    def __init__(self, most: int) -> None:
        self._most, self._every, self._offered = most, 1, 0
        self._kept: list[T] = []

    def offer(self, thing: T) -> None:
        if self._offered % self._every == 0:
            self._kept.append(thing)
        self._offered += 1
        if len(self._kept) == 2 * self._most:
            self._kept, self._every = self._kept[::2], 2 * self._every

    @property
    def kept(self) -> list[T]:
        """Those to show."""
        step = max(len(self._kept) / self._most, 1)
        return [self._kept[int(i * step)] for i in range(min(self._most, len(self._kept)))]


def _sheet_cell(record: Record) -> np.ndarray:
    dense_m = _depth(record)
    known_m = record.depth_m if dense_m is None else dense_m
    near_m, far_m = depth_range_m(np.asarray(known_m, np.float32))
    panels = [_dotted(record, near_m, far_m)]
    if dense_m is not None:
        panels.append(_fit(depth_rgb(dense_m, near_m, far_m), cv2.INTER_NEAREST))
    caption = np.full((CAPTION_PX, CELL_PX[0] * len(panels), 3), BACKGROUND_RGB, np.uint8)
    write(caption, f"{record.image.name}  {record.depth_type} {near_m:.1f} to {far_m:.1f} m", (4, 15), 0.4)
    return np.vstack([np.hstack(panels), caption])


def _depth(record: Record) -> np.ndarray | None:
    if record.depth is None:
        return None
    try:
        return read_depth(record.depth)
    except BadImage:
        return np.full((1, 1), np.nan, np.float32)


def _dotted(record: Record, near_m: float, far_m: float) -> np.ndarray:
    picture = thumbnail(record.image)
    scale = np.array(CELL_PX) / np.array(record.intrinsics.size_px)
    colours = (
        depth_rgb(np.asarray(record.depth_m, np.float32).reshape(1, -1), near_m, far_m)[0] if len(record.uv_px) else []
    )
    for (u, v), colour in zip((record.uv_px + 0.5) * scale - 0.5, colours, strict=True):
        centre = round(float(u)), round(float(v))
        cv2.circle(picture, centre, DOT_PX, (0, 0, 0), -1, cv2.LINE_AA)
        cv2.circle(picture, centre, DOT_PX - 1, [int(c) for c in colour], -1, cv2.LINE_AA)
    return picture


def _fit(picture: np.ndarray, interpolation: int) -> np.ndarray:
    return cv2.resize(picture, CELL_PX, interpolation=interpolation)


def _padded(cell: np.ndarray, width: int) -> np.ndarray:
    padded = np.full((cell.shape[0] + GAP_PX, width + GAP_PX, 3), BACKGROUND_RGB, np.uint8)
    padded[: cell.shape[0], : cell.shape[1]] = cell
    return padded


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
    return sheet_of([_pair_cell(pair) for pair in pairs], columns=2)


def _pair_cell(pair: PairRecord) -> np.ndarray:
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
