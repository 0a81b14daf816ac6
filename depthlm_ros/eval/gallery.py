"""Pictures of an evaluation: prediction beside truth, where it errs, and how far its uncertainty can be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from depthlm_ros.core import Frame
from depthlm_ros.data.records import PairRecord, Record
from depthlm_ros.eval.judges import Judged
from depthlm_ros.eval.metrics import DELTA1_RATIO, has_depth
from depthlm_ros.eval.uncertainty import KEPT, LEVELS, Reliability
from depthlm_ros.image_io import read_rgb, write_rgb
from depthlm_ros.visualization import (
    BACKGROUND_RGB,
    GRID_RGB,
    INK_RGB,
    UNKNOWN_RGB,
    depth_range_m,
    depth_rgb,
    scale_bar,
    strip,
    write,
)

# Of so many images pictures are drawn, the first ones.
MOST_PICTURES = 48
# Colours of an error: told too near, right, too far; full at a factor of 1.25 squared.
NEAR_RGB, RIGHT_RGB, FAR_RGB = (214, 47, 39), (247, 247, 247), (49, 84, 180)
FULL_ERROR = 2 * math.log(DELTA1_RATIO)
CHART_PX, MARGIN_PX = 400, 48
LINES_RGB = ((110, 190, 250), (250, 170, 90))


class Gallery:
    """Draws the first images that are judged into a folder, which is made. `show` goes to evaluate."""

    def __init__(self, folder: Path, most: int = MOST_PICTURES) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.left = folder, most

    def show(self, frame: Frame, record: Record, judged: Judged) -> None:
        """Writes LINE_NAME.jpg."""
        if self.left <= 0:
            return
        self.left -= 1
        line = record.where.rpartition(":")[2]
        picture = map_picture(frame, judged) if judged.true_m is not None else point_picture(frame, record, judged)
        write_rgb(self.folder / f"{line.zfill(6)}_{record.image.stem}.jpg", picture)

    def summarise(self, found: Reliability | None) -> None:
        """Writes reliability.png and retention.png, if there is anything to draw."""
        if found is None:
            return
        diagonal = ("true", LEVELS)
        curves = (("reported", found.covered), diagonal)
        write_rgb(
            self.folder / "reliability.png", chart("share of errors within the interval", LEVELS, curves, (1.0, 1.0))
        )
        curves = (("by reported deviation", found.absrel_kept), ("by true error", found.absrel_best))
        most = 1.2 * max(*found.absrel_kept, 1e-6)
        write_rgb(self.folder / "retention.png", chart("AbsRel of the most certain share", KEPT, curves, (1.0, most)))


def map_picture(frame: Frame, judged: Judged) -> np.ndarray:
    """Image, prediction, truth and error of a whole map, side by side."""
    assert judged.predicted_m is not None and judged.true_m is not None
    near_m, far_m = depth_range_m(judged.true_m)
    told, true = (depth_rgb(depth_m, near_m, far_m) for depth_m in (judged.predicted_m, judged.true_m))
    panels = [
        ("image", frame.rgb),
        ("prediction", told),
        ("truth", true),
        ("m", scale_bar(judged.true_m.shape[0], near_m, far_m)),
        ("error: red too near, blue too far", error_rgb(judged.predicted_m, judged.true_m)),
    ]
    return strip(panels)


def point_picture(frame: Frame, record: Record, judged: Judged) -> np.ndarray:
    """Prediction, truth and error at the labelled points, on a darkened image."""
    true_m, told_m = judged.outcome.true_m, judged.outcome.predicted_m
    near_m, far_m = depth_range_m(true_m)
    sides = (
        ("prediction", depth_rgb(told_m[:, None], near_m, far_m)),
        ("truth", depth_rgb(true_m[:, None], near_m, far_m)),
        ("error: red too near, blue too far", error_rgb(told_m[:, None], true_m[:, None])),
    )
    panels = [(title, dotted(frame.rgb, record.uv_px, colours[:, 0])) for title, colours in sides]
    panels.insert(2, ("m", scale_bar(frame.rgb.shape[0], near_m, far_m)))
    return strip([("image", frame.rgb), *panels])


def match_picture(pair: PairRecord, told_px: Sequence) -> np.ndarray:
    """Both images of a pair with the points that were asked about; in the second, lines lead from true to told."""
    first, second = (read_rgb(path) // 2 for path in pair.images)
    told = np.array(told_px, np.float64).reshape(-1, 2)
    hues = np.linspace(0, 1, len(told))
    for (u, v), true_px, found_px, hue in zip(pair.uv_px, pair.matched_px, told, hues, strict=True):
        colour = depth_rgb(np.array([[hue]]), 0.0, 1.0)[0, 0].tolist()
        cv2.circle(first, (round(u), round(v)), 3, colour, -1, cv2.LINE_AA)
        at = tuple(np.rint(true_px).astype(int).tolist())
        cv2.circle(second, at, 3, colour, -1, cv2.LINE_AA)
        if np.isfinite(found_px).all():
            cv2.line(second, at, tuple(np.rint(found_px).astype(int).tolist()), colour, 1, cv2.LINE_AA)
    return strip([("first", first), ("second: from true to told", second)])


def error_rgb(predicted_m: np.ndarray, true_m: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3) of log(p / g): white right, red too near, blue too far, black where either is unknown."""
    known = has_depth(predicted_m) & has_depth(true_m)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.clip(np.log(predicted_m / true_m) / FULL_ERROR, -1, 1)
    error = np.where(known, error, 0.0)[..., None]
    side = np.where(error < 0, NEAR_RGB, FAR_RGB)
    rgb = RIGHT_RGB + np.abs(error) * (side - np.array(RIGHT_RGB))
    rgb[~known] = UNKNOWN_RGB
    return np.rint(rgb).astype(np.uint8)


def dotted(rgb: np.ndarray, uv_px: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """The image darkened, with a dot of each colour (N, 3) at each pixel (N, 2)."""
    picture = rgb // 3
    radius_px = max(2, max(rgb.shape[:2]) // 120)
    for (u, v), colour in zip(np.rint(uv_px).astype(int).tolist(), colours.tolist(), strict=True):
        cv2.circle(picture, (u, v), radius_px + 1, UNKNOWN_RGB, -1, cv2.LINE_AA)
        cv2.circle(picture, (u, v), radius_px, colour, -1, cv2.LINE_AA)
    return picture


def chart(
    title: str,
    x: Sequence[float],
    curves: Sequence[tuple[str, Sequence[float]]],
    most: tuple[float, float],
) -> np.ndarray:
    """Curves over x from 0 to `most` (x, y), each (name, values); unknown values are left out."""
    side = CHART_PX + 2 * MARGIN_PX
    picture = np.full((side, side, 3), BACKGROUND_RGB, np.uint8)
    at = _placer(most)
    for tick in np.linspace(0, 1, 6):
        cv2.line(picture, at(0, tick * most[1]), at(most[0], tick * most[1]), GRID_RGB, 1)
        cv2.line(picture, at(tick * most[0], 0), at(tick * most[0], most[1]), GRID_RGB, 1)
        write(picture, f"{tick * most[1]:.2g}", (4, at(0, tick * most[1])[1] + 4), 0.4)
        write(picture, f"{tick * most[0]:.2g}", (at(tick * most[0], 0)[0] - 8, side - MARGIN_PX // 2), 0.4)
    write(picture, title, (MARGIN_PX, MARGIN_PX // 2))
    for number, (name, values) in enumerate(curves):
        points = [at(a, b) for a, b in zip(x, values, strict=True) if math.isfinite(b)]
        colour = LINES_RGB[number % len(LINES_RGB)]
        cv2.polylines(picture, [np.array(points, np.int32).reshape(-1, 1, 2)], False, colour, 2, cv2.LINE_AA)
        legend_px = MARGIN_PX + 20 + 20 * number
        cv2.line(picture, (MARGIN_PX + 10, legend_px - 4), (MARGIN_PX + 34, legend_px - 4), colour, 2)
        cv2.putText(picture, name, (MARGIN_PX + 40, legend_px), cv2.FONT_HERSHEY_SIMPLEX, 0.4, INK_RGB, 1, cv2.LINE_AA)
    return picture


def _placer(most: tuple[float, float]) -> Callable[[float, float], tuple[int, int]]:
    def at(x: float, y: float) -> tuple[int, int]:
        return MARGIN_PX + round(CHART_PX * x / most[0]), MARGIN_PX + CHART_PX - round(CHART_PX * y / most[1])

    return at
