# SPDX-License-Identifier: Apache-2.0
"""Summarises a file of records or pairs: statistics, a table for people, and a contact sheet.

`RecordStatistics` and `PairStatistics` are filled record by record, so that a file of any length fits into memory;
`format_summary` prints them. `contact_sheet` and `pair_contact_sheet` draw some of the records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import cv2
import numpy as np

from depthlm_ros.data.check import find_duplicate_lines, find_size_problem
from depthlm_ros.data.depthfile import read_depth
from depthlm_ros.data.read import iter_numbered_lines, iter_pairs, parse_json_object
from depthlm_ros.data.records import (
    BadRecord,
    PairRecord,
    Record,
    RecordProblem,
    count_by_reason,
    describe_problems,
    rescale_pixels,
)
from depthlm_ros.errors import BadImage
from depthlm_ros.geometry.rotations import rotation_angle_deg
from depthlm_ros.image_io import read_rgb
from depthlm_ros.visualization import BACKGROUND_RGB, TURBO_FAR, TURBO_NEAR, depth_range_m, depth_rgb, draw_text

PERCENTS = (0, 5, 50, 95, 100)
# At most this many image sizes and cameras are listed, the most frequent first.
MOST_LISTED = 8
# Edges of the bins in which depths are counted. Their ratio is constant.
EDGES_M = np.geomspace(1e-3, 1e4, 1401)
# Contact sheets.
CELL_PX = (320, 240)
COLUMNS = 4
CAPTION_PX = 22
DOT_PX = 4
GAP_PX = 4
# At most about this many matches are drawn in the cell of a pair.
MATCHES_DRAWN = 12

T = TypeVar("T")


@dataclass
class RecordStatistics:
    """Statistics of records, which `add` and `add_map` fill."""

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
        """Adds one record."""
        camera = record.intrinsics
        self.records += 1
        self.points += len(record.depth_m)
        self.with_depth_map += record.depth is not None
        self.sizes[f"{camera.width_px} x {camera.height_px}"] += 1
        self.depth_types[record.depth_type] += 1
        for counter, name in ((self.scenes, record.scene), (self.cameras, record.camera), (self.splits, record.split)):
            counter[name] += 1
        self.focal_px.append(camera.fx_px)
        self.depth_bins += _count_in_bins(record.depth_m)

    def add_map(self, depth_m: np.ndarray) -> None:
        """Adds a depth map, float (h, w), NaN unknown."""
        self.map_bins += _count_in_bins(depth_m[np.isfinite(depth_m)])
        self.map_pixels += depth_m.size

    def as_dict(self, problems: Sequence[RecordProblem] = ()) -> dict[str, object]:
        """Returns the statistics in plain types, for JSON."""
        maps: dict[str, object] = {}
        if self.map_pixels:
            known = round(int(self.map_bins.sum()) / self.map_pixels, 4)
            maps = {"map_depth_m": _percentiles_of_bins(self.map_bins), "map_known_share": known}
        return {
            "records": self.records,
            "points": self.points,
            "with_depth_map": self.with_depth_map,
            "depth_types": dict(self.depth_types),
            "image_sizes": dict(self.sizes.most_common(MOST_LISTED)),
            "scenes": sum(1 for name in self.scenes if name),
            "cameras": {name: count for name, count in self.cameras.most_common(MOST_LISTED) if name},
            "splits": {name: count for name, count in self.splits.items() if name},
            "fx_px": percentiles(self.focal_px, 2),
            "depth_m": _percentiles_of_bins(self.depth_bins),
            **maps,
            "problems": count_by_reason(problems),
        }


def percentiles(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Returns the value below which each of PERCENTS of the values lie; empty without values."""
    return (
        {f"{percent}%": round(float(np.percentile(values, percent)), digits) for percent in PERCENTS} if values else {}
    )


def _count_in_bins(depth_m: np.ndarray) -> np.ndarray:
    """Returns how many depths are in each bin; the last bin holds those beyond the last edge."""
    return np.bincount(np.searchsorted(EDGES_M, depth_m), minlength=len(EDGES_M) + 1)


def _percentiles_of_bins(bins: np.ndarray) -> dict[str, float]:
    """Returns what `percentiles` does for depths in bins, exact to half a percent of the depth."""
    below, count = np.cumsum(bins), int(bins.sum())
    if not count:
        return {}
    reached = {percent: int(np.searchsorted(below, max(percent / 100 * count, 1))) for percent in PERCENTS}
    return {f"{percent}%": round(float(EDGES_M[min(at, len(EDGES_M) - 1)]), 3) for percent, at in reached.items()}


def format_summary(summary: dict[str, object], problems: Iterable[RecordProblem]) -> str:
    """Returns a text for people: the numbers, then each problem with its count and its first examples."""
    lines = [
        f"{key.replace('_', ' '):16} {_format_value(value)}" for key, value in summary.items() if key != "problems"
    ]
    return "\n".join([*lines, *(describe_problems(problems) or ["no problems"])])


def _format_value(value: object) -> str:
    return ", ".join(f"{k}: {v}" for k, v in value.items()) or "-" if isinstance(value, dict) else str(value)


def contact_sheet(records: Sequence[Record]) -> np.ndarray:
    """Returns uint8 (H, W, 3) with one cell per record: its image and, if it has one, its depth map.

    Files that cannot be read are black.
    """
    return arrange_cells([_record_cell(record) for record in records], COLUMNS)


def arrange_cells(cells: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Arranges cells of equal height in rows, with gaps between them; narrow cells are padded."""
    width = max(cell.shape[1] for cell in cells)
    padded = [_pad_cell(cell, width) for cell in cells]
    columns = min(columns, len(padded))
    padded += [np.full_like(padded[0], BACKGROUND_RGB)] * (-len(padded) % columns)
    return np.vstack([np.hstack(padded[row : row + columns]) for row in range(0, len(padded), columns)])


def read_thumbnail(path: Path) -> np.ndarray:
    """Returns an image at the size of a cell, black if it cannot be read."""
    try:
        return _resize_to_cell(read_rgb(path), cv2.INTER_AREA)
    except BadImage:
        return np.zeros((CELL_PX[1], CELL_PX[0], 3), np.uint8)


class EvenSample(Generic[T]):
    """Keeps at most `most` of the items that are added, evenly spread over a sequence of unknown length."""

    def __init__(self, most: int) -> None:
        self._most, self._every, self._count = most, 1, 0
        self._kept: list[T] = []

    def add(self, item: T) -> None:
        """Adds the next item of the sequence."""
        if self._count % self._every == 0:
            self._kept.append(item)
        self._count += 1
        if len(self._kept) == 2 * self._most:
            self._kept, self._every = self._kept[::2], 2 * self._every

    @property
    def items(self) -> list[T]:
        """The sample, in the order of the sequence."""
        step = max(len(self._kept) / self._most, 1)
        return [self._kept[int(i * step)] for i in range(min(self._most, len(self._kept)))]


def _record_cell(record: Record) -> np.ndarray:
    dense_m = _read_depth_map(record)
    known_m = record.depth_m if dense_m is None else dense_m
    near_m, far_m = depth_range_m(np.asarray(known_m, np.float32))
    panels = [_draw_points(record, near_m, far_m)]
    if dense_m is not None:
        panels.append(_resize_to_cell(depth_rgb(dense_m, near_m, far_m), cv2.INTER_NEAREST))
    caption = np.full((CAPTION_PX, CELL_PX[0] * len(panels), 3), BACKGROUND_RGB, np.uint8)
    draw_text(caption, f"{record.image.name}  {record.depth_type} {near_m:.1f} to {far_m:.1f} m", (4, 15), 0.4)
    return np.vstack([np.hstack(panels), caption])


def _read_depth_map(record: Record) -> np.ndarray | None:
    if record.depth is None:
        return None
    try:
        return read_depth(record.depth)
    except BadImage:
        return np.full((1, 1), np.nan, np.float32)


def _draw_points(record: Record, near_m: float, far_m: float) -> np.ndarray:
    """Returns the thumbnail of a record's image with its points in the colours of their depth."""
    thumbnail = read_thumbnail(record.image)
    if not len(record.uv_px):
        return thumbnail
    centres_px = rescale_pixels(record.uv_px, record.intrinsics.size_px, CELL_PX)
    colours = depth_rgb(np.asarray(record.depth_m, np.float32).reshape(1, -1), near_m, far_m)[0]
    for (u, v), colour in zip(centres_px, colours, strict=True):
        centre = round(float(u)), round(float(v))
        cv2.circle(thumbnail, centre, DOT_PX, (0, 0, 0), -1, cv2.LINE_AA)
        cv2.circle(thumbnail, centre, DOT_PX - 1, [int(c) for c in colour], -1, cv2.LINE_AA)
    return thumbnail


def _resize_to_cell(rgb: np.ndarray, interpolation: int) -> np.ndarray:
    return cv2.resize(rgb, CELL_PX, interpolation=interpolation)


def _pad_cell(cell: np.ndarray, width: int) -> np.ndarray:
    padded = np.full((cell.shape[0] + GAP_PX, width + GAP_PX, 3), BACKGROUND_RGB, np.uint8)
    padded[: cell.shape[0], : cell.shape[1]] = cell
    return padded


def holds_pairs(path: Path) -> bool:
    """Returns whether the first line of a file is a pair. Raises BadInput if the file cannot be read."""
    for _, line in iter_numbered_lines(path):
        try:
            return "images" in parse_json_object(line)
        except BadRecord:
            return False
    return False


def check_pairs(path: Path, problems: list[RecordProblem], root: Path | None = None) -> Iterator[PairRecord]:
    """Yields the pairs of a file as read.iter_pairs does, and appends all problems to `problems`.

    In addition to read.iter_pairs it finds images of another size than their camera's, and duplicate lines.
    """
    problems.extend(find_duplicate_lines(path))
    for pair in iter_pairs(path, problems, root):
        found = (
            find_size_problem(pair.where, image, camera.size_px)
            for image, camera in zip(pair.images, pair.intrinsics, strict=True)
        )
        problems.extend(problem for problem in found if problem)
        yield pair


@dataclass
class PairStatistics:
    """Statistics of pairs, which `add` fills."""

    points: int = 0
    covisibility: list[float] = field(default_factory=list)
    angle_deg: list[float] = field(default_factory=list)
    distance_m: list[float] = field(default_factory=list)
    scenes: set[str] = field(default_factory=set)

    @property
    def records(self) -> int:
        """The number of pairs."""
        return len(self.covisibility)

    def add(self, pair: PairRecord) -> None:
        """Adds one pair."""
        self.points += len(pair.uv_px)
        self.covisibility.append(pair.covisibility)
        self.angle_deg.append(rotation_angle_deg(pair.rotation))
        self.distance_m.append(float(np.linalg.norm(pair.translation_m)))
        self.scenes.add(pair.scene)

    def as_dict(self, problems: Sequence[RecordProblem] = ()) -> dict[str, object]:
        """Returns the statistics in plain types, for JSON."""
        distributions = {name: percentiles(getattr(self, name)) for name in ("covisibility", "angle_deg", "distance_m")}
        counts = {"pairs": self.records, "points": self.points, "scenes": len(self.scenes - {""})}
        return {**counts, **distributions, "problems": count_by_reason(problems)}


def pair_contact_sheet(pairs: Sequence[PairRecord]) -> np.ndarray:
    """Returns uint8 (H, W, 3) with one cell per pair: both images, and lines between matching points."""
    return arrange_cells([_pair_cell(pair) for pair in pairs], columns=2)


def _pair_cell(pair: PairRecord) -> np.ndarray:
    cell = np.hstack([read_thumbnail(path) for path in pair.images])
    first, second = (
        rescale_pixels(uv_px, camera.size_px, CELL_PX) + np.array([offset, 0])
        for uv_px, camera, offset in zip((pair.uv_px, pair.matched_px), pair.intrinsics, (0, CELL_PX[0]), strict=True)
    )
    step = max(len(first) // MATCHES_DRAWN, 1)
    levels = np.linspace(TURBO_FAR, TURBO_NEAR, max(len(first[::step]), 1)).astype(np.uint8)
    colours = cv2.applyColorMap(levels.reshape(-1, 1), cv2.COLORMAP_TURBO).reshape(-1, 3)[:, ::-1]
    for start, end, colour in zip(np.rint(first[::step]), np.rint(second[::step]), colours, strict=False):
        left, right = (int(start[0]), int(start[1])), (int(end[0]), int(end[1]))
        cv2.line(cell, left, right, [int(c) for c in colour], 1, cv2.LINE_AA)
    moved = f"{rotation_angle_deg(pair.rotation):.0f} deg, {np.linalg.norm(pair.translation_m):.2f} m"
    draw_text(cell, f"{pair.covisibility:.2f} shared, {moved}", (6, CELL_PX[1] - 8), 0.45)
    return cell
