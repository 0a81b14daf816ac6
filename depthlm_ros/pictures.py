"""Pictures for people: depth in colours with a scale in metres, the cloud seen from outside, a strip of both.

numpy and OpenCV only. All images are uint8 (H, W, 3), red first.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

UNKNOWN_RGB = (0, 0, 0)
BACKGROUND_RGB = (24, 25, 29)
INK_RGB = (225, 226, 230)
GRID_RGB = (62, 65, 74)
FONT = cv2.FONT_HERSHEY_SIMPLEX
# Turbo without its two dark ends, which would look like the black of an unknown depth.
TURBO_FAR, TURBO_NEAR = 28, 240


def depth_range_m(depth_m: np.ndarray) -> tuple[float, float]:
    """(near, far) in metres that the colours should span: the 2nd and 98th percentile of the known depths.

    (0, 1) where nothing is known; far is always greater than near.
    """
    known_m = depth_m[np.isfinite(depth_m)]
    if known_m.size == 0:
        return 0.0, 1.0
    near_m, far_m = np.percentile(known_m, (2, 98))
    return float(near_m), float(max(far_m, near_m + 0.1))


def depth_rgb(depth_m: np.ndarray, near_m: float, far_m: float) -> np.ndarray:
    """Colour depths (H, W): Turbo, near red and far blue, clipped to the range; NaN is black, +inf is far."""
    far_share = np.clip((depth_m - near_m) / (far_m - near_m), 0.0, 1.0)
    level = TURBO_NEAR + (TURBO_FAR - TURBO_NEAR) * np.nan_to_num(far_share, nan=1.0)
    rgb = cv2.cvtColor(cv2.applyColorMap(np.rint(level).astype(np.uint8), cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    rgb[np.isnan(depth_m)] = UNKNOWN_RGB
    return rgb


def depth_picture(depth_m: np.ndarray, range_m: tuple[float, float] | None = None) -> np.ndarray:
    """Depths (H, W) in colours with a scale bar in metres to their right. Range: depth_range_m unless given."""
    near_m, far_m = range_m or depth_range_m(depth_m)
    return np.hstack([depth_rgb(depth_m, near_m, far_m), scale_bar(depth_m.shape[0], near_m, far_m)])


def scale_bar(height_px: int, near_m: float, far_m: float) -> np.ndarray:
    """A bar of the colours of `depth_rgb`, far at the top, with labelled ticks at round metres."""
    unit_px = max(height_px // 40, 6)
    bar = np.full((height_px, 7 * unit_px, 3), BACKGROUND_RGB, np.uint8)
    top_px, bottom_px = 2 * unit_px, height_px - 2 * unit_px
    ramp_m = np.linspace(far_m, near_m, bottom_px - top_px, dtype=np.float32)
    bar[top_px:bottom_px, unit_px : 2 * unit_px] = depth_rgb(ramp_m[:, None], near_m, far_m)
    for depth_m in ticks(near_m, far_m):
        row_px = round(bottom_px - 1 - (depth_m - near_m) / (far_m - near_m) * (bottom_px - 1 - top_px))
        cv2.line(bar, (2 * unit_px, row_px), (5 * unit_px // 2, row_px), INK_RGB, 1)
        write(bar, f"{depth_m:g} m", (3 * unit_px, row_px + unit_px // 2), unit_px / 24)
    return bar


def ticks(low: float, high: float, at_most: int = 8) -> np.ndarray:
    """Round values from low to high, a step of 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / at_most
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first, last = round(np.ceil(low / step - 1e-9)), round(np.floor(high / step + 1e-9))
    return np.array([round(k * step, 9) for k in range(first, last + 1)])


def write(image: np.ndarray, text: str, left_bottom_px: tuple[int, int], scale: float = 0.5) -> None:
    """Write text into an image, in place."""
    cv2.putText(image, text, left_bottom_px, FONT, scale, INK_RGB, 1, cv2.LINE_AA)


def strip(pictures: Sequence[tuple[str, np.ndarray]], height_px: int = 480) -> np.ndarray:
    """Pictures side by side at one height, each under its title."""
    panels = [_panel(title, picture, height_px) for title, picture in pictures]
    gap = np.full((panels[0].shape[0], 8, 3), BACKGROUND_RGB, np.uint8)
    parts = [part for panel in panels for part in (gap, panel)]
    return np.hstack([*parts[1:]])


def _panel(title: str, picture: np.ndarray, height_px: int) -> np.ndarray:
    width_px = max(round(picture.shape[1] * height_px / picture.shape[0]), 1)
    shrinks = height_px < picture.shape[0]
    sized = cv2.resize(picture, (width_px, height_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    head = np.full((28, width_px, 3), BACKGROUND_RGB, np.uint8)
    write(head, title, (6, 19))
    return np.vstack([head, sized])
