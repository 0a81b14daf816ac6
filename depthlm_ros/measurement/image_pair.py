# SPDX-License-Identifier: Apache-2.0
"""Measures two images of one place: where pixels of one are in the other, and how the camera moved.

Both need no words. Features of an image network that are alike show the same thing: every pixel is compared with all
cells of the other image, and a match counts only if it leads back to where it came from. The pose is that which brings
the 3-D points of the first image, known by their depth, to their matches in the second (perspective-n-point in RANSAC:
Fischler and Bolles 1981; Terzakis and Lourakis, "A consistently fast and globally optimal solution to the
perspective-n-point problem", ECCV 2020, in OpenCV). The choices below were made on rendered pairs that no score uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from depthlm_ros.core import Intrinsics, RelativePose
from depthlm_ros.geometry.canonical_view import CanvasPlacement
from depthlm_ros.geometry.pinhole import backproject
from depthlm_ros.geometry.rotations import unit_vector

# A match must lead back to within so many cells of where it came from.
MOST_RETURN_CELLS = 2.0
# Weights of neighbouring cells in the position of a match: exp(SHARPNESS * cosine).
SHARPNESS = 30.0
# Standard deviation of the grey levels (0 to 255) of a frame, below which its features show only the image's border; it
# is taken from every so many rows and columns.
LEAST_CONTRAST, CONTRAST_STEP_PX = 3.0, 4
# Points of the first image whose matches the pose is sought with, at most.
MOST_POINTS = 1024
# Largest distance of a point from its match under a pose, as an angle: 10 px at a focal length of 204 px.
REPROJECTION_RAD = 0.05
RANSAC_ITERATIONS = 300
# Two images of different places had up to 81 points and a share of 0.31 of their matches that agree with one pose.
LEAST_POINTS, LEAST_SHARE = 90, 0.34
# Neighbouring cells are wrong together, and depth is wrong as a whole: the deviation of the translation is so many
# times what independent errors would give. 68 % of the errors are within it then.
CORRELATION = 15.0


@dataclass(frozen=True, eq=False)
class FeatureGrid:
    """Features of an image in cells. values: float32 (h, w, C), of length 1; 0 in cells that show nothing.

    shown: bool (h, w). cell_px: side of a cell in pixels of the canvas.
    """

    values: np.ndarray
    shown: np.ndarray
    cell_px: float

    @property
    def centres_px(self) -> np.ndarray:
        """float64 (h * w, 2): the pixels in the middle of the cells, row by row."""
        return cell_centres_px(self.shown.shape, self.cell_px)

    def at(self, uv_px: np.ndarray) -> np.ndarray:
        """Returns float32 (N, C): the features at pixels (N, 2), interpolated, of length 1."""
        rows, columns = self.shown.shape
        x, y = (np.clip((uv_px[:, axis] + 0.5) / self.cell_px - 0.5, 0, n - 1) for axis, n in ((0, columns), (1, rows)))
        x0, y0 = (np.minimum(one.astype(int), max(n - 2, 0)) for one, n in ((x, columns), (y, rows)))
        x1, y1 = np.minimum(x0 + 1, columns - 1), np.minimum(y0 + 1, rows - 1)
        a, b = ((one - first)[:, None].astype(np.float32) for one, first in ((x, x0), (y, y0)))
        upper = self.values[y0, x0] * (1 - a) + self.values[y0, x1] * a
        lower = self.values[y1, x0] * (1 - a) + self.values[y1, x1] * a
        return to_unit_length(upper * (1 - b) + lower * b)


@dataclass(frozen=True, eq=False)
class PairPose:
    """The pose of the second camera in the first one's frame.

    rotation: float64 (3, 3), turns vectors of camera 2 into camera 1. translation_m: float64 (3,), the centre of camera
    2. translation_std_m: of its length.
    """

    rotation: np.ndarray
    translation_m: np.ndarray
    translation_std_m: float


@dataclass(frozen=True, eq=False)
class ImagePair:
    """Two images by their features. depth_m: float32 (H, W), z on the first canvas. cameras: of the two canvases."""

    first: FeatureGrid
    second: FeatureGrid
    depth_m: np.ndarray
    cameras: tuple[Intrinsics, Intrinsics]

    @cached_property
    def pose(self) -> PairPose | None:
        """The pose of the second camera; None if the images do not tell it."""
        return estimate_pose(self.first, self.second, self.depth_m, self.cameras)

    def match(self, uv_px: np.ndarray) -> np.ndarray:
        """Returns float64 (N, 2): the pixels of the second canvas that show what pixels (N, 2) of the first one show.

        NaN where nothing is alike. Images without a pose show two places, whose features are alike by chance only: all
        of theirs are NaN.
        """
        return np.full(np.shape(uv_px), np.nan) if self.pose is None else match_pixels(self.first, self.second, uv_px)


def feature_grid(features: np.ndarray, shown: np.ndarray, token_px: int) -> FeatureGrid:
    """Returns the grid of an image with cells of half a token.

    features: (C, h, w), one cell a token. shown: bool (2h, 2w), which half tokens show a part of the image. Every
    feature is standardised over the image, so that none counts by its size alone.
    """
    values = np.moveaxis(features.astype(np.float32), 0, -1)
    known = values[shown[::2, ::2] | shown[1::2, 1::2]]
    if len(known):
        values = (values - known.mean(0)) / (known.std(0) + 1e-6)
    values = to_unit_length(double_rows(double_rows(to_unit_length(values)).swapaxes(0, 1)).swapaxes(0, 1))
    return FeatureGrid(values * shown[..., None], shown, token_px / 2)


def shown_cells(placement: CanvasPlacement, cell_px: int) -> np.ndarray:
    """Returns bool (h / cell_px, w / cell_px): which square cells of the canvas show the frame in their middle.

    A frame without contrast, such as that of a covered lens, shows nothing.
    """
    width, height = placement.canvas_size_px
    shape = (height // cell_px, width // cell_px)
    if placement.frame.rgb[::CONTRAST_STEP_PX, ::CONTRAST_STEP_PX].mean(-1).std() < LEAST_CONTRAST:
        return np.zeros(shape, bool)
    centres_px = placement.canonical.uv_to_image(cell_centres_px(shape, cell_px))
    return placement.is_visible(centres_px).reshape(shape)


def to_unit_length(values: np.ndarray) -> np.ndarray:
    """Returns vectors (..., C) with length 1; zeros stay."""
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-9)


def double_rows(values: np.ndarray) -> np.ndarray:
    """Returns (2h, w, C) from (h, w, C): halves of the rows, interpolated linearly between their centres."""
    above, below = np.concatenate([values[:1], values[:-1]]), np.concatenate([values[1:], values[-1:]])
    halves = np.stack([0.75 * values + 0.25 * above, 0.75 * values + 0.25 * below], axis=1)
    return halves.reshape(-1, *values.shape[1:])


def cell_centres_px(shape: tuple[int, int], cell_px: float) -> np.ndarray:
    """Returns float64 (h * w, 2): the pixels in the middle of cells, row by row. shape: (h, w)."""
    v, u = np.mgrid[: shape[0], : shape[1]]
    return (np.stack([u, v], -1).reshape(-1, 2) + 0.5) * cell_px - 0.5


def match_pixels(first: FeatureGrid, second: FeatureGrid, uv_px: np.ndarray) -> np.ndarray:
    """Returns float64 (N, 2): the pixels of the second canvas that show what pixels (N, 2) of the first one show.

    NaN where nothing is alike: where the match of the match is not the pixel itself.
    """
    if not (first.shown.any() and second.shown.any()):
        return np.full((len(uv_px), 2), np.nan)
    matched_px = _most_alike_px(first.at(uv_px), second)
    returned_px = _most_alike_px(second.at(matched_px), first)
    gap_px = np.linalg.norm(returned_px - uv_px, axis=1)
    return np.where((gap_px <= MOST_RETURN_CELLS * first.cell_px)[:, None], matched_px, np.nan)


def _most_alike_px(wanted: np.ndarray, grid: FeatureGrid) -> np.ndarray:
    """Returns float64 (N, 2): the place of a grid that is most like features (N, C), between the cells around it."""
    rows, columns = grid.shown.shape
    alike = np.full((len(wanted), rows + 2, columns + 2), -np.inf, np.float32)
    inner = alike[:, 1:-1, 1:-1]
    inner[:] = (wanted @ grid.values.reshape(rows * columns, -1).T).reshape(-1, rows, columns)
    inner[:, ~grid.shown] = -np.inf
    row, column = np.divmod(inner.reshape(len(wanted), rows * columns).argmax(1), columns)
    index, best = np.arange(len(wanted)), inner[np.arange(len(wanted)), row, column]
    shift, total = np.zeros((len(wanted), 2)), np.zeros(len(wanted))
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            weight = np.exp(SHARPNESS * (alike[index, row + 1 + dy, column + 1 + dx] - best))
            total += weight
            shift += weight[:, None] * np.array([dx, dy])
    return (np.stack([column, row], 1) + shift / total[:, None] + 0.5) * grid.cell_px - 0.5


def estimate_pose(
    first: FeatureGrid, second: FeatureGrid, depth_m: np.ndarray, cameras: tuple[Intrinsics, Intrinsics]
) -> PairPose | None:
    """Returns the pose of the second camera; None if too few points agree with one, as in images of two places.

    depth_m: float32 (H, W), z on the first canvas. cameras: of the two canvases.
    """
    uv_px = first.centres_px[first.shown.ravel()]
    uv_px = uv_px[:: -(-len(uv_px) // MOST_POINTS)] if len(uv_px) else uv_px
    matched_px = match_pixels(first, second, uv_px)
    u, v = np.rint(uv_px).astype(int).T
    points_m = backproject(uv_px, depth_m[v, u], cameras[0]).astype(np.float64)
    known = np.isfinite(matched_px).all(1) & np.isfinite(points_m).all(1)
    points_m, rays = points_m[known], _to_rays(matched_px[known], cameras[1])
    if len(points_m) < LEAST_POINTS:
        return None
    found, turn, shift, inliers = cv2.solvePnPRansac(
        points_m,
        rays,
        np.eye(3),
        None,
        iterationsCount=RANSAC_ITERATIONS,
        reprojectionError=REPROJECTION_RAD,
        flags=cv2.SOLVEPNP_SQPNP,
    )
    if not found or len(inliers) < max(LEAST_POINTS, LEAST_SHARE * len(points_m)):
        return None
    points_m, rays = points_m[inliers[:, 0]], rays[inliers[:, 0]]
    turn, shift = cv2.solvePnPRefineLM(points_m, rays, np.eye(3), None, turn, shift)
    rotation = cv2.Rodrigues(turn)[0].T
    return PairPose(rotation, -rotation @ shift[:, 0], _translation_std_m(points_m, rays, turn, shift))


def relative_pose(pose: PairPose | None, least_m: float) -> RelativePose:
    """Returns the pose, NaN where it is unknown. No angle is stated beside the rotation.

    Translation, direction and distance are unknown if the standard deviation is larger than both the distance and
    least_m; the direction also if it is larger than the distance alone.
    """
    unknown = np.full(3, np.nan)
    if pose is None:
        return RelativePose(np.full((3, 3), np.nan), unknown, np.nan, unknown, np.nan, {})
    distance_m, std_m = float(np.linalg.norm(pose.translation_m)), pose.translation_std_m
    direction = unit_vector(pose.translation_m) if std_m <= distance_m else unknown
    if std_m > max(distance_m, least_m):
        return RelativePose(pose.rotation, unknown, np.nan, unknown, np.nan, {})
    return RelativePose(pose.rotation, pose.translation_m, np.nan, direction, distance_m, {})


def _to_rays(uv_px: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """Returns float64 (N, 2): x / z and y / z of pixels."""
    centre_px, focal_px = (camera.cx_px, camera.cy_px), (camera.fx_px, camera.fy_px)
    return (uv_px - np.array(centre_px)) / np.array(focal_px)


def _translation_std_m(points_m: np.ndarray, rays: np.ndarray, turn: np.ndarray, shift: np.ndarray) -> float:
    """Returns the standard deviation of the translation: by the normal equations of the refined pose, CORRELATION times
    that of independent errors."""
    projected, jacobian = cv2.projectPoints(points_m, turn, shift, np.eye(3), None)
    jacobian, residuals = jacobian[:, :6], (projected[:, 0] - rays).ravel()
    variance = float(residuals @ residuals) / max(len(residuals) - 6, 1)
    covariance = variance * np.linalg.pinv(jacobian.T @ jacobian)
    return CORRELATION * float(np.sqrt(np.trace(covariance[3:, 3:])))
