# SPDX-License-Identifier: Apache-2.0
"""What a training tells about itself: curves, speed, and the pictures that it could not use.

losses.csv gets a line every few steps, scores.csv one for each validation, and curves.png shows both. They only grow;
what a killed run wrote after its last checkpoint is taken off when the run goes on: every step stands there once.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from depthlm_ros.data.records import RecordProblem
from depthlm_ros.file_io import write_atomically
from depthlm_ros.image_io import write_rgb

# Of the pictures that cannot be used, so many different ones are named; all of them are counted.
MOST_NAMED_PROBLEMS = 20
LOSSES, SCORES, CURVES = "losses.csv", "scores.csv", "curves.png"
PANEL_PX, MARGIN_PX, MOST_POINTS = (420, 240), 44, 400
COLOURS = ((214, 39, 40), (31, 119, 180), (44, 160, 44), (148, 103, 189), (255, 127, 14))


class RunCurves:
    """losses.csv, scores.csv and curves.png of a run. What cannot be written is reported and stops nothing."""

    def __init__(self, folder: Path, step: int, report: Callable[[str], None]) -> None:
        """Opens the files of a run that goes on from `step`. Raises OSError."""
        self.losses, self.scores = CurveFile(folder / LOSSES, step), CurveFile(folder / SCORES, step)
        self._picture, self._report = folder / CURVES, report

    def add_losses(self, row: Mapping[str, float]) -> None:
        """Adds a row with a "step" to losses.csv."""
        self._try(self.losses.path, lambda: self.losses.append(row))

    def add_scores(self, row: Mapping[str, float]) -> None:
        """Adds a row with a "step" to scores.csv and draws the picture anew."""
        self._try(self.scores.path, lambda: self.scores.append(row))
        self.draw()

    def draw(self) -> None:
        """Draws the picture anew."""
        self._try(self._picture, lambda: draw_curves(self._picture, [self.losses, self.scores]))

    def _try(self, path: Path, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as exc:
            self._report(f"{path} could not be written ({exc.strerror or exc}). The training goes on.")


class CurveFile:
    """A CSV file of values over the steps of a run. rows: all of them; a row without a value lacks its name."""

    def __init__(self, path: Path, step: int) -> None:
        """Opens a file and drops the rows after `step`. Raises OSError."""
        self.path = path
        self.rows: list[dict[str, float]] = []
        self._names: list[str] = []
        if path.exists():
            rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
            # A killed run may have left half a line at the end.
            self.rows = [row for row in map(_numbers, rows) if row and row["step"] <= step]
            self._write()

    def append(self, row: Mapping[str, float]) -> None:
        """Adds a row with a "step". Raises OSError."""
        self.rows.append(dict(row))
        if not set(row) <= set(self._names):
            self._write()
            return
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._names).writerow(row)

    def _write(self) -> None:
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, names)
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.path, text.getvalue(), sync=False)
        self._names = names


def _numbers(row: Mapping[str, str | None]) -> dict[str, float]:
    """Returns a row's numbers without empty fields; {} for a row that is not whole."""
    try:
        return {name: float(text) for name, text in row.items() if text} if row.get("step") else {}
    except (TypeError, ValueError):
        return {}


def draw_curves(path: Path, files: Sequence[CurveFile]) -> None:
    """Writes a picture with one panel for each value of each file, over the steps. Raises OSError."""
    panels = [
        _draw_panel(name, [(row["step"], row[name]) for row in file.rows if name in row])
        for file in files
        for name in dict.fromkeys(name for row in file.rows for name in row if name != "step")
    ]
    if not panels:
        return
    columns = math.ceil(math.sqrt(len(panels)))
    blank = np.full_like(panels[0], 255)
    panels += [blank] * (-len(panels) % columns)
    lines = [np.concatenate(panels[start : start + columns], axis=1) for start in range(0, len(panels), columns)]
    write_rgb(path, np.concatenate(lines))


def _write(panel: np.ndarray, text: str, left_bottom_px: tuple[int, int], scale: float) -> None:
    cv2.putText(panel, text, left_bottom_px, cv2.FONT_HERSHEY_SIMPLEX, scale, (30, 30, 30), 1, cv2.LINE_AA)


def _draw_panel(name: str, points: Sequence[tuple[float, float]]) -> np.ndarray:
    width, height = PANEL_PX
    panel = np.full((height, width, 3), 255, np.uint8)
    points = [point for point in points if math.isfinite(point[1])]
    _write(panel, name, (MARGIN_PX, 18), 0.45)
    if not points:
        return panel
    stride = max(len(points) // MOST_POINTS, 1)
    x, y = np.array([*points[::stride], points[-1]], float).T
    low, high = float(y.min()), float(y.max())
    span = high - low or 1.0
    u = MARGIN_PX + (x - x.min()) / max(float(np.ptp(x)), 1.0) * (width - 2 * MARGIN_PX)
    v = height - MARGIN_PX + (low - y) / span * (height - 2 * MARGIN_PX)
    line = np.stack([u, v], 1).round().astype(np.int32)
    cv2.polylines(panel, [line[:, None]], False, COLOURS[1], 1, cv2.LINE_AA)
    for text, row in ((f"{high:.4g}", MARGIN_PX - 6), (f"{low:.4g}", height - MARGIN_PX + 14)):
        _write(panel, text, (MARGIN_PX, row), 0.35)
    _write(panel, f"last {y[-1]:.4g} at step {int(x[-1])}", (width // 2, height - MARGIN_PX + 14), 0.35)
    return panel


class Timer:
    """Tells whether so many minutes have passed since it was started."""

    def __init__(self, minutes: float) -> None:
        self._seconds = 60 * minutes
        self.restart()

    def restart(self) -> None:
        """Begins to wait anew."""
        self._began_s = time.monotonic()

    def is_due(self) -> bool:
        """Returns whether the time has passed."""
        return time.monotonic() - self._began_s > self._seconds


class SpeedMeter:
    """Measures the time and the speed of a training. pictures, seconds: of the run before it was started."""

    def __init__(self, pictures: int, seconds: float) -> None:
        self._pictures, self._seconds, self._began_s = pictures, seconds, time.monotonic()

    def seconds(self) -> float:
        """Returns the seconds of the whole run."""
        return self._seconds + time.monotonic() - self._began_s

    def pictures_per_s(self, pictures: int) -> float:
        """Returns the mean speed since the start. pictures: of the whole run so far."""
        return (pictures - self._pictures) / max(time.monotonic() - self._began_s, 1e-6)


class ProblemLog:
    """Counts the pictures that could not be used and names the first ones. counts: by reason, of the run so far."""

    def __init__(self, counts: dict[str, int], report: Callable[[str], None]) -> None:
        self._counts, self._report = counts, report
        self._named: set[str] = set()

    def add(self, problems: Iterable[RecordProblem]) -> None:
        """Adds the problems of a batch. Each is named once."""
        for problem in problems:
            self._counts[problem.reason] = self._counts.get(problem.reason, 0) + problem.count
            text = f"left out: {problem}"
            if text not in self._named and len(self._named) < MOST_NAMED_PROBLEMS:
                self._named.add(text)
                self._report(text)
