"""Numbers about a file of records: how many, how far, how large, and what was wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from depthlm_ros.data.problems import Problem, count_by_reason, told
from depthlm_ros.data.records import Record

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
