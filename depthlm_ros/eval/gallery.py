# SPDX-License-Identifier: Apache-2.0
"""Pictures of an evaluation: `Gallery` draws predictions beside the truth, their errors, and their uncertainty.

`draw_matches` draws the matches of a pair of images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from depthlm_ros.core import Frame
from depthlm_ros.data.records import PairRecord, Record
from depthlm_ros.eval.judges import ImageEvaluation
from depthlm_ros.eval.metrics import DELTA1_RATIO, has_depth
from depthlm_ros.eval.uncertainty import KEPT_SHARES, LEVELS, Reliability
from depthlm_ros.image_io import read_rgb, write_rgb
from depthlm_ros.visualization import (
    BACKGROUND_RGB,
    GRID_RGB,
    INK_RGB,
    UNKNOWN_RGB,
    depth_range_m,
    depth_rgb,
    draw_text,
    scale_bar,
    side_by_side,
)

# Pictures are drawn of this many images, the first ones.
MAX_PICTURES = 48
# Colours of a prediction that is too near, correct, or too far; saturated at a factor of 1.25 squared.
NEAR_RGB, CORRECT_RGB, FAR_RGB = (214, 47, 39), (247, 247, 247), (49, 84, 180)
FULL_ERROR = 2 * math.log(DELTA1_RATIO)
CHART_PX, MARGIN_PX = 400, 48
ERROR_TITLE = "error: red too near, blue too far"
LINES_RGB = ((110, 190, 250), (250, 170, 90))


class Gallery:
    """Draws the first evaluated images into a folder, which it creates. `draw_image` is a callback for evaluate."""

    def __init__(self, folder: Path, max_pictures: int = MAX_PICTURES) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.left = folder, max_pictures

    def draw_image(self, frame: Frame, record: Record, evaluation: ImageEvaluation) -> None:
        """Writes LINE_NAME.jpg."""
        if self.left <= 0:
            return
        self.left -= 1
        has_map = evaluation.true_m is not None
        picture = draw_map(frame, evaluation) if has_map else draw_points(frame, record, evaluation)
        write_rgb(self.folder / picture_name(record.where, record.image), picture)

    def draw_reliability(self, reliability: Reliability | None) -> None:
        """Writes reliability.png and retention.png, unless no deviation was reported."""
        if reliability is None:
            return
        curves = (("reported", reliability.covered), ("ideal", LEVELS))
        chart = draw_chart("share of errors within the interval", LEVELS, curves, (1.0, 1.0))
        write_rgb(self.folder / "reliability.png", chart)
        curves = (("by reported deviation", reliability.absrel_kept), ("by true error", reliability.absrel_best))
        top = 1.2 * max(*reliability.absrel_kept, 1e-6)
        chart = draw_chart("AbsRel of the most certain share", KEPT_SHARES, curves, (1.0, top))
        write_rgb(self.folder / "retention.png", chart)


def picture_name(where: str, image: Path) -> str:
    """Returns "LINE_NAME.jpg" of a record. where: "file:line"."""
    return f"{where.rpartition(':')[2].zfill(6)}_{image.stem}.jpg"


def draw_map(frame: Frame, evaluation: ImageEvaluation) -> np.ndarray:
    """Returns image, prediction, truth and error of a whole map, side by side."""
    assert evaluation.predicted_m is not None and evaluation.true_m is not None
    near_m, far_m = depth_range_m(evaluation.true_m)
    panels = [
        ("image", frame.rgb),
        ("prediction", depth_rgb(evaluation.predicted_m, near_m, far_m)),
        ("truth", depth_rgb(evaluation.true_m, near_m, far_m)),
        ("m", scale_bar(evaluation.true_m.shape[0], near_m, far_m)),
        (ERROR_TITLE, error_rgb(evaluation.predicted_m, evaluation.true_m)),
    ]
    return side_by_side(panels)


def draw_points(frame: Frame, record: Record, evaluation: ImageEvaluation) -> np.ndarray:
    """Returns prediction, truth and error at the labelled points, each on a darkened image."""
    true_m, predicted_m = evaluation.result.true_m, evaluation.result.predicted_m
    near_m, far_m = depth_range_m(true_m)
    colours = (
        ("prediction", depth_rgb(predicted_m[:, None], near_m, far_m)),
        ("truth", depth_rgb(true_m[:, None], near_m, far_m)),
        (ERROR_TITLE, error_rgb(predicted_m[:, None], true_m[:, None])),
    )
    panels = [(title, draw_dots(frame.rgb, record.uv_px, rgb[:, 0])) for title, rgb in colours]
    panels.insert(2, ("m", scale_bar(frame.rgb.shape[0], near_m, far_m)))
    return side_by_side([("image", frame.rgb), *panels])


def draw_matches(pair: PairRecord, predicted_px: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Returns both images of a pair with the points of the question.

    predicted_px: (N, 2), None for unknown. In the second image, lines lead from the true to the predicted pixels.
    """
    first, second = (read_rgb(path) // 2 for path in pair.images)
    predicted = np.array(predicted_px, np.float64).reshape(-1, 2)
    hues = np.linspace(0, 1, len(predicted))
    for (u, v), true_uv, predicted_uv, hue in zip(pair.uv_px, pair.matched_px, predicted, hues, strict=True):
        colour = depth_rgb(np.array([[hue]]), 0.0, 1.0)[0, 0].tolist()
        cv2.circle(first, (round(u), round(v)), 3, colour, -1, cv2.LINE_AA)
        start = tuple(np.rint(true_uv).astype(int).tolist())
        cv2.circle(second, start, 3, colour, -1, cv2.LINE_AA)
        if np.isfinite(predicted_uv).all():
            cv2.line(second, start, tuple(np.rint(predicted_uv).astype(int).tolist()), colour, 1, cv2.LINE_AA)
    return side_by_side([("first", first), ("second: from true to predicted", second)])


def error_rgb(predicted_m: np.ndarray, true_m: np.ndarray) -> np.ndarray:
    """Returns colours, uint8 (H, W, 3), of log(p / g).

    White is correct, red too near, blue too far; black where a depth is unknown.
    """
    known = has_depth(predicted_m) & has_depth(true_m)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.clip(np.log(predicted_m / true_m) / FULL_ERROR, -1, 1)
    error = np.where(known, error, 0.0)[..., None]
    side = np.where(error < 0, NEAR_RGB, FAR_RGB)
    rgb = CORRECT_RGB + np.abs(error) * (side - np.array(CORRECT_RGB))
    rgb[~known] = UNKNOWN_RGB
    return np.rint(rgb).astype(np.uint8)


def draw_dots(rgb: np.ndarray, uv_px: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Returns the image darkened, with a dot of each colour (N, 3) at each pixel (N, 2)."""
    picture = rgb // 3
    radius_px = max(2, max(rgb.shape[:2]) // 120)
    for (u, v), colour in zip(np.rint(uv_px).astype(int).tolist(), colours.tolist(), strict=True):
        cv2.circle(picture, (u, v), radius_px + 1, UNKNOWN_RGB, -1, cv2.LINE_AA)
        cv2.circle(picture, (u, v), radius_px, colour, -1, cv2.LINE_AA)
    return picture


def draw_chart(
    title: str,
    x: Sequence[float],
    curves: Sequence[tuple[str, Sequence[float]]],
    upper: tuple[float, float],
) -> np.ndarray:
    """Returns a picture of curves (name, values) over x. The axes (x, y) go from 0 to `upper`; NaN is left out."""
    side = CHART_PX + 2 * MARGIN_PX
    picture = np.full((side, side, 3), BACKGROUND_RGB, np.uint8)
    at = _chart_pixel(upper)
    for tick in np.linspace(0, 1, 6):
        cv2.line(picture, at(0, tick * upper[1]), at(upper[0], tick * upper[1]), GRID_RGB, 1)
        cv2.line(picture, at(tick * upper[0], 0), at(tick * upper[0], upper[1]), GRID_RGB, 1)
        draw_text(picture, f"{tick * upper[1]:.2g}", (4, at(0, tick * upper[1])[1] + 4), 0.4)
        draw_text(picture, f"{tick * upper[0]:.2g}", (at(tick * upper[0], 0)[0] - 8, side - MARGIN_PX // 2), 0.4)
    draw_text(picture, title, (MARGIN_PX, MARGIN_PX // 2))
    for number, (name, values) in enumerate(curves):
        points = [at(a, b) for a, b in zip(x, values, strict=True) if math.isfinite(b)]
        colour = LINES_RGB[number % len(LINES_RGB)]
        cv2.polylines(picture, [np.array(points, np.int32).reshape(-1, 1, 2)], False, colour, 2, cv2.LINE_AA)
        legend_px = MARGIN_PX + 20 + 20 * number
        cv2.line(picture, (MARGIN_PX + 10, legend_px - 4), (MARGIN_PX + 34, legend_px - 4), colour, 2)
        cv2.putText(picture, name, (MARGIN_PX + 40, legend_px), cv2.FONT_HERSHEY_SIMPLEX, 0.4, INK_RGB, 1, cv2.LINE_AA)
    return picture


def _chart_pixel(upper: tuple[float, float]) -> Callable[[float, float], tuple[int, int]]:
    """Returns a function from (x, y) to the pixel (column, row) of a chart."""

    def at(x: float, y: float) -> tuple[int, int]:
        return MARGIN_PX + round(CHART_PX * x / upper[0]), MARGIN_PX + CHART_PX - round(CHART_PX * y / upper[1])

    return at
