# SPDX-License-Identifier: Apache-2.0
"""Pictures for people, with numpy and OpenCV only: `depth_picture`, `depth_strip`, `cloud_picture`, `answer_picture`
and `side_by_side`.

Depth is drawn in colours with a scale in metres. `depth_strip` draws it as DepthVLM's demo does, to compare. A point
cloud is drawn as a virtual camera sees it from the side and above; where points hide each other, the nearest one is
visible. All images are uint8 (H, W, 3), red first. Points are in the optical frame of the real camera: x right, y down,
z forward, metres.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

UNKNOWN_RGB = (0, 0, 0)
BACKGROUND_RGB = (24, 25, 29)
INK_RGB = (225, 226, 230)
GRID_RGB = (62, 65, 74)
CAMERA_RGB = (255, 176, 64)
MARK_RGB = (255, 64, 96)
FONT = cv2.FONT_HERSHEY_SIMPLEX
# Turbo without its two dark ends, which would look like the black of an unknown depth.
TURBO_FAR, TURBO_NEAR = 28, 240
# Points that are nearer to the virtual camera than this are not drawn.
NEAREST_M = 0.05

Point = tuple[float, float, float]
# Left, top, width and height in pixels.
Box = tuple[float, float, float, float]


def depth_range_m(depth_m: np.ndarray) -> tuple[float, float]:
    """Returns (near, far) in metres that the colours should span: the 2nd and 98th percentile of the known depths.

    It returns (0, 1) if nothing is known; far is always greater than near.
    """
    known_m = depth_m[np.isfinite(depth_m)]
    if known_m.size == 0:
        return 0.0, 1.0
    near_m, far_m = np.percentile(known_m, (2, 98))
    return float(near_m), float(max(far_m, near_m + 0.1))


def depth_rgb(depth_m: np.ndarray, near_m: float, far_m: float) -> np.ndarray:
    """Returns depths (H, W) in the colours of Turbo, near red and far blue, clipped to the range; NaN is black."""
    far_share = np.clip((depth_m - near_m) / (far_m - near_m), 0.0, 1.0)
    level = TURBO_NEAR + (TURBO_FAR - TURBO_NEAR) * np.nan_to_num(far_share, nan=1.0)
    rgb = cv2.cvtColor(cv2.applyColorMap(np.rint(level).astype(np.uint8), cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    rgb[np.isnan(depth_m)] = UNKNOWN_RGB
    return rgb


def depth_picture(depth_m: np.ndarray, range_m: tuple[float, float] | None = None) -> np.ndarray:
    """Returns depths (H, W) in colours, with a scale bar to the right. range_m: (near, far), default depth_range_m."""
    near_m, far_m = range_m or depth_range_m(depth_m)
    return np.hstack([depth_rgb(depth_m, near_m, far_m), scale_bar(depth_m.shape[0], near_m, far_m)])


def depth_strip(rgb: np.ndarray, depth_m: np.ndarray, truth_m: np.ndarray | None = None) -> np.ndarray:
    """Returns image, true depth and predicted depth side by side, under their titles, as DepthVLM's demo draws them.

    Depths (H, W) and (h, w) in metres. Everything is drawn at the size of the truth or, without it, of the prediction.
    """
    height, width = depth_m.shape if truth_m is None else truth_m.shape
    # Pixels next to an unknown one become unknown.
    resized_m = cv2.resize(depth_m, (width, height), interpolation=cv2.INTER_LINEAR)
    panels = [("RGB Image", cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA))]
    if truth_m is not None:
        panels.append(("GT Depth Map", turbo_rgb(truth_m)))
    panels.append(("Predicted Depth Map", turbo_rgb(resized_m)))
    strip = np.hstack([picture for _, picture in panels])
    font_px = int(np.clip(0.07 * width, 10, 28))
    head = np.zeros((font_px + max(8, font_px // 2), strip.shape[1], 3), np.uint8)
    for column, (title, _) in enumerate(panels):
        scale = cv2.getFontScaleFromHeight(FONT, round(0.7 * font_px))
        (text_width, text_height), _ = cv2.getTextSize(title, FONT, scale, 1)
        left_bottom_px = column * width + (width - text_width) // 2, (head.shape[0] + text_height) // 2
        cv2.putText(head, title, left_bottom_px, FONT, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return np.vstack([head, strip])


def turbo_rgb(depth_m: np.ndarray) -> np.ndarray:
    """Returns depths (H, W) in the whole of Turbo, near blue and far red, between their own percentiles 2 and 98.

    What is unknown (NaN, or not positive) is black. The rule is that of DepthVLM's demo.
    """
    known = np.isfinite(depth_m) & (depth_m > 0)
    near_m, far_m = np.percentile(depth_m[known], (2, 98)) if known.any() else (0.0, 1.0)
    share = (np.where(known, depth_m, near_m).astype(np.float64) - near_m) / max(far_m - near_m, 1e-6)
    level = (np.clip(share, 0.0, 1.0) * 255).astype(np.uint8)
    rgb = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    rgb[~known] = UNKNOWN_RGB
    return rgb


def scale_bar(height_px: int, near_m: float, far_m: float) -> np.ndarray:
    """Returns a bar with the colours of `depth_rgb`, far at the top, and labelled ticks at round metres."""
    unit_px = max(height_px // 40, 6)
    bar = np.full((height_px, 7 * unit_px, 3), BACKGROUND_RGB, np.uint8)
    top_px, bottom_px = 2 * unit_px, height_px - 2 * unit_px
    ramp_m = np.linspace(far_m, near_m, bottom_px - top_px, dtype=np.float32)
    bar[top_px:bottom_px, unit_px : 2 * unit_px] = depth_rgb(ramp_m[:, None], near_m, far_m)
    for depth_m in ticks(near_m, far_m):
        row_px = round(bottom_px - 1 - (depth_m - near_m) / (far_m - near_m) * (bottom_px - 1 - top_px))
        cv2.line(bar, (2 * unit_px, row_px), (5 * unit_px // 2, row_px), INK_RGB, 1)
        draw_text(bar, f"{depth_m:g} m", (3 * unit_px, row_px + unit_px // 2), unit_px / 24)
    return bar


def ticks(low: float, high: float, at_most: int = 8) -> np.ndarray:
    """Returns round values from low to high, in steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / at_most
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first, last = round(np.ceil(low / step - 1e-9)), round(np.floor(high / step + 1e-9))
    return np.array([round(k * step, 9) for k in range(first, last + 1)])


def draw_text(image: np.ndarray, text: str, left_bottom_px: tuple[int, int], scale: float = 0.5) -> None:
    """Draws text into an image, in place."""
    cv2.putText(image, text, left_bottom_px, FONT, scale, INK_RGB, 1, cv2.LINE_AA)


def answer_picture(
    rgb: np.ndarray, boxes_px: Sequence[tuple[str, Box]], uv_px: np.ndarray, texts: Sequence[str], most_lines: int = 6
) -> np.ndarray:
    """Returns an image (H, W, 3) with the named boxes and the pixels (N, 2) marked, above the texts.

    Each text has most_lines lines at most; what is longer ends with "...".
    """
    drawn = rgb.copy()
    line_px = max(1, round(min(rgb.shape[:2]) / 240))
    scale = 0.4 * max(1.0, rgb.shape[1] / 480)
    for label, (x_px, y_px, width_px, height_px) in boxes_px:
        left, top, right, bottom = round(x_px), round(y_px), round(x_px + width_px) - 1, round(y_px + height_px) - 1
        cv2.rectangle(drawn, (left, top), (right, bottom), MARK_RGB, line_px)
        cv2.putText(drawn, label, (left + 3, top + round(30 * scale)), FONT, scale, MARK_RGB, 1, cv2.LINE_AA)
    for u, v in np.rint(uv_px).astype(int).tolist():
        cv2.circle(drawn, (u, v), 3 * line_px + 1, UNKNOWN_RGB, -1, cv2.LINE_AA)
        cv2.circle(drawn, (u, v), 3 * line_px, MARK_RGB, -1, cv2.LINE_AA)
    lines = [line for text in texts for line in _wrapped(text, rgb.shape[1] - 12, scale, most_lines)]
    row_px = round(36 * scale)
    below = np.full((row_px * len(lines) + row_px // 2, rgb.shape[1], 3), BACKGROUND_RGB, np.uint8)
    for row, line in enumerate(lines):
        draw_text(below, line, (6, row_px * (row + 1)), scale)
    return np.vstack([drawn, below])


def _wrapped(text: str, width_px: int, scale: float, most_lines: int) -> list[str]:
    """Returns the text in lines that fit into the width, broken between words where that is possible."""
    letter_px = cv2.getTextSize("n" * 20, FONT, scale, 1)[0][0] / 20
    lines = textwrap.wrap(text, max(8, int(width_px / letter_px))) or [""]
    return lines if len(lines) <= most_lines else [*lines[: most_lines - 1], f"{lines[most_lines - 1][:-3]}..."]


def side_by_side(pictures: Sequence[tuple[str, np.ndarray]], height_px: int = 480) -> np.ndarray:
    """Returns pictures side by side at one height, each under its title."""
    panels = [_panel(title, picture, height_px) for title, picture in pictures]
    gap = np.full((panels[0].shape[0], 8, 3), BACKGROUND_RGB, np.uint8)
    parts = [part for panel in panels for part in (gap, panel)]
    return np.hstack([*parts[1:]])


def _panel(title: str, picture: np.ndarray, height_px: int) -> np.ndarray:
    width_px = max(round(picture.shape[1] * height_px / picture.shape[0]), 1)
    shrinks = height_px < picture.shape[0]
    sized = cv2.resize(picture, (width_px, height_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    head = np.full((28, width_px, 3), BACKGROUND_RGB, np.uint8)
    draw_text(head, title, (6, 19))
    return np.vstack([head, sized])


@dataclass(frozen=True)
class VirtualCamera:
    """A pinhole camera that sees point p, with q = rotation @ p + shift_m, at focal_px * (qx, qy) / qz + centre_px."""

    rotation: np.ndarray
    shift_m: np.ndarray
    focal_px: float
    centre_px: np.ndarray

    def project(self, points_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns pixels (N, 2) and z (N,), metres, of points (N, 3); points behind the camera have NaN pixels."""
        seen_m = points_m @ self.rotation.T + self.shift_m
        z_m = seen_m[:, 2]
        ahead_m = np.where(z_m > NEAREST_M, z_m, np.nan)
        return self.focal_px * seen_m[:, :2] / ahead_m[:, None] + self.centre_px, z_m


def cloud_picture(
    points_m: np.ndarray,
    rgb: np.ndarray,
    size_px: tuple[int, int] = (640, 480),
    yaw_deg: float = 35.0,
    pitch_deg: float = 22.0,
) -> np.ndarray:
    """Returns a picture of a cloud (H, W, 3) or (N, 3) in the colours `rgb` (same shape, uint8) over a grid in metres.

    yaw_deg turns the view to the side (90 is a view from the side), pitch_deg lifts it. The small pyramid is the real
    camera. Points with NaN are left out; a cloud without points gives a picture that says so.
    """
    canvas = np.full((size_px[1], size_px[0], 3), BACKGROUND_RGB, np.uint8)
    points_m, rgb = points_m.reshape(-1, 3), rgb.reshape(-1, 3)
    known = np.isfinite(points_m).all(axis=1)
    points_m, rgb = points_m[known].astype(np.float64), rgb[known]
    if len(points_m) == 0:
        draw_text(canvas, "no points", (12, 24))
        return canvas
    view = virtual_camera(points_m, size_px, yaw_deg, pitch_deg)
    _draw_grid(canvas, view, points_m)
    _draw_points(canvas, view, points_m, rgb)
    _draw_camera(canvas, view, points_m)
    return canvas


def virtual_camera(points_m: np.ndarray, size_px: tuple[int, int], yaw_deg: float, pitch_deg: float) -> VirtualCamera:
    """Returns a camera that looks from the side and above, so that the points and the real camera fill the picture."""
    low_m, high_m = np.percentile(points_m, (2, 98), axis=0)
    low_m, high_m = np.minimum(low_m, 0.0), np.maximum(high_m, 0.0)
    middle_m, extent_m = (low_m + high_m) / 2, float(np.linalg.norm(high_m - low_m))
    yaw, pitch = np.radians(yaw_deg), np.radians(pitch_deg)
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    lift = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    rotation = lift @ turn
    shift_m = np.array([0.0, 0.0, 1.6 * extent_m]) - rotation @ middle_m
    unit = VirtualCamera(rotation, shift_m, 1.0, np.zeros(2))
    corners_m = np.array(
        [[x, y, z] for x in (low_m[0], high_m[0]) for y in (low_m[1], high_m[1]) for z in (low_m[2], high_m[2])]
    )
    seen = unit.project(corners_m)[0]
    box_low, box_high = seen.min(axis=0), seen.max(axis=0)
    size = np.array(size_px, np.float64)
    focal_px = float(np.min(0.86 * size / (box_high - box_low)))
    return VirtualCamera(rotation, shift_m, focal_px, size / 2 - focal_px * (box_low + box_high) / 2)


def _draw_points(canvas: np.ndarray, view: VirtualCamera, points_m: np.ndarray, rgb: np.ndarray) -> None:
    """Draws points from far to near, so that the nearest is drawn last; each covers 2 x 2 pixels to close gaps."""
    uv_px, z_m = view.project(points_m)
    order = np.argsort(-z_m, kind="stable")
    corner_px = np.floor(uv_px[order] - 0.5)
    offsets_px = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    u_px, v_px = np.moveaxis(corner_px[:, None, :] + offsets_px, 2, 0).reshape(2, -1)
    colours = np.repeat(rgb[order], len(offsets_px), axis=0)
    inside = (u_px >= 0) & (v_px >= 0) & (u_px < canvas.shape[1]) & (v_px < canvas.shape[0])
    canvas[v_px[inside].astype(int), u_px[inside].astype(int)] = colours[inside]


def _draw_grid(canvas: np.ndarray, view: VirtualCamera, points_m: np.ndarray) -> None:
    """Draws lines at round metres at the height of the lowest points, and labels distances in front of the camera."""
    low_m, high_m = np.percentile(points_m, (1, 99), axis=0)
    floor_m, far_m = high_m[1], high_m[2]
    x_m, z_m = ticks(min(low_m[0], -0.5), max(high_m[0], 0.5)), ticks(0.0, max(far_m, 0.5))
    for z in z_m:
        _draw_line(canvas, view, (x_m[0], floor_m, z), (x_m[-1], floor_m, z), GRID_RGB)
        _label(canvas, view, f"{z:g} m", (x_m[-1], floor_m, z))
    for x in x_m:
        _draw_line(canvas, view, (x, floor_m, z_m[0]), (x, floor_m, z_m[-1]), GRID_RGB)


def _draw_camera(canvas: np.ndarray, view: VirtualCamera, points_m: np.ndarray) -> None:
    """Draws the real camera as a small pyramid."""
    size_m = 0.06 * float(np.percentile(points_m[:, 2], 98))
    corners_m = [(sx * 0.8 * size_m, sy * 0.6 * size_m, size_m) for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    for i, corner_m in enumerate(corners_m):
        _draw_line(canvas, view, (0.0, 0.0, 0.0), corner_m, CAMERA_RGB)
        _draw_line(canvas, view, corner_m, corners_m[(i + 1) % 4], CAMERA_RGB)


def _draw_line(
    canvas: np.ndarray, view: VirtualCamera, from_m: Point, to_m: Point, colour: tuple[int, int, int]
) -> None:
    uv_px, _ = view.project(np.array([from_m, to_m]))
    if np.isfinite(uv_px).all():
        (u0, v0), (u1, v1) = np.rint(uv_px).astype(int).tolist()
        cv2.line(canvas, (u0, v0), (u1, v1), colour, 1, cv2.LINE_AA)


def _label(canvas: np.ndarray, view: VirtualCamera, text: str, at_m: Point) -> None:
    uv_px, _ = view.project(np.array([at_m]))
    if np.isfinite(uv_px).all():
        u_px, v_px = np.rint(uv_px[0]).astype(int).tolist()
        draw_text(canvas, text, (u_px + 4, v_px + 4), 0.4)
