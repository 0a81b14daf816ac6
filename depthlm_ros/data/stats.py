"""Numbers about a file of records: how many, how far, how large, and what was wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from depthlm_ros.data.problems import Problem, count_by_reason
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
        np.add.at(self.depth_bins, np.searchsorted(EDGES_M, record.depth_m), 1)

    def depth_m(self, percent: float) -> float:
        """The depth below which this share of the points lies, exact to half a percent; NaN without points."""
        if not self.points:
            return float("nan")
        below = np.cumsum(self.depth_bins)
        index = int(np.searchsorted(below, max(percent / 100 * self.points, 1)))
        return float(EDGES_M[min(max(index, 0), len(EDGES_M) - 1)])

    def as_dict(self, problems: Sequence[Problem] = ()) -> dict[str, object]:
        """In plain types, for JSON."""
        focal = np.percentile(self.focal_px, SHARES) if self.focal_px else np.full(len(SHARES), np.nan)
        return {
            "records": self.records,
            "points": self.points,
            "with_depth_map": self.with_depth_map,
            "depth_types": dict(self.depth_types),
            "image_sizes": dict(self.sizes.most_common(MOST_LISTED)),
            "scenes": sum(1 for name in self.scenes if name),
            "cameras": {name: count for name, count in self.cameras.most_common(MOST_LISTED) if name},
            "splits": {name: count for name, count in self.splits.items() if name},
            "fx_px": {f"{share}%": round(float(value), 2) for share, value in zip(SHARES, focal, strict=True)},
            "depth_m": {f"{share}%": round(self.depth_m(share), 3) for share in SHARES},
            "problems": count_by_reason(problems),
        }


def table(summary: dict[str, object], problems: Iterable[Problem], examples: int = 3) -> str:
    """For people: the numbers, then each reason with its count and its first examples."""
    lines = [f"{key.replace('_', ' '):16} {_inline(value)}" for key, value in summary.items() if key != "problems"]
    counts = summary["problems"]
    assert isinstance(counts, dict)
    if not counts:
        return "\n".join([*lines, "nothing wrong"])
    by_reason: dict[str, list[Problem]] = {reason: [] for reason in counts}
    for problem in problems:
        by_reason[problem.reason].append(problem)
    for reason, count in sorted(counts.items(), key=lambda item: -item[1]):
        lines.append(f"{count} x {reason}")
        lines += [f"    {problem}" for problem in by_reason[reason][:examples]]
    return "\n".join(lines)


def _inline(value: object) -> str:
    return ", ".join(f"{k}: {v}" for k, v in value.items()) or "-" if isinstance(value, dict) else str(value)
