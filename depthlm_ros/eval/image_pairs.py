# SPDX-License-Identifier: Apache-2.0
"""Evaluation on two images: how far matched pixels are from the true ones, and how far the pose is from the true one.

`evaluate_matches` and `evaluate_pose` ask about one pair; `score_matches` and `score_poses` summarise all pairs. The
records are those of data.read.iter_pairs.

Matches: the end-point error is the distance between the predicted and the true pixel. It is given in pixels of the
second image, and with both axes as 0 to 1000 of its size, as VLM3 writes and scores them. It is averaged over the
matches with a prediction. Matches without one are counted as `unread`, and are not within any distance.

Poses: the angle between predicted and true rotation, and the angle between predicted and true direction of translation.
AUC@30 is the mean, over tau = 1 to 30 degrees, of the share of pairs whose larger angle is less than tau: the pose AUC
of Wang et al., PoseDiffusion, ICCV 2023, which VLM3's table follows as far as is known. A missing pose is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from depthlm_ros.core import Frame, Intrinsics, Matches, RelativePose
from depthlm_ros.data.read import iter_pairs
from depthlm_ros.data.records import BadRecord, PairRecord, RecordProblem, unusable_file_error
from depthlm_ros.errors import BadImage, BadInput
from depthlm_ros.eval.result_file import make_key
from depthlm_ros.geometry.rotations import rotation_angle_deg, unit_vector
from depthlm_ros.image_io import read_rgb

# Coordinates are scored as 0 to this number of the image's size.
SCALE = 1000.0
# Distances, in these units, for which the share of closer matches is given.
WITHIN = (10, 20, 50)
MAX_AUC_DEG = 30
# A shorter translation has no direction that could be compared.
STANDSTILL_M = 1e-6

# (first, second, uv_px (N, 2) of the first) -> where they are in the second. Raises BadInput if it refuses the images.
Matcher = Callable[[Frame, Frame, np.ndarray], Matches]
# (first, second) -> pose of the second camera in the frame of the first. Raises BadInput if it refuses the images.
PoseEstimator = Callable[[Frame, Frame], RelativePose]


class MatchResult(TypedDict):
    """matched_px: N rows of two; None in a row means unknown. refused: why the model refused, or ""."""

    matched_px: list[list[float | None]]
    refused: str


class PoseResult(TypedDict):
    """Errors of the predicted pose, and its distance; None for unknown. named_deg: error of the angle in words."""

    rotation_deg: float | None
    direction_deg: float | None
    named_deg: float | None
    distance_m: float | None
    refused: str


def read_pairs(path: Path, points: bool, root: Path | None = None) -> tuple[list[PairRecord], list[RecordProblem]]:
    """Returns the usable pairs of a file, and the problems of the others. Raises BadInput if there is no usable pair.

    points: use only pairs with points. root: folder that image paths are relative to (default: the folder of the file).
    """
    problems: list[RecordProblem] = []
    pairs = []
    for pair in iter_pairs(path, problems, root):
        if points and not len(pair.uv_px):
            problems.append(RecordProblem(pair.where, "record without a usable point", "it has no points"))
        else:
            pairs.append(pair)
    if not pairs:
        raise unusable_file_error(path, problems, "pair")
    return pairs, problems


def pair_key(pair: PairRecord) -> str:
    """Returns the key of the pair's result. It changes with the labels."""
    names = [image.name for image in pair.images]
    label = (names, pair.intrinsics, pair.uv_px, pair.matched_px, pair.rotation, pair.translation_m)
    return make_key(pair.where, *label)


def evaluate_matches(matcher: Matcher, pair: PairRecord) -> MatchResult:
    """Asks for the matches of one pair. Raises BadRecord if an image cannot be used."""
    frames = _read_frames(pair)
    try:
        return {"matched_px": matcher(*frames, pair.uv_px).matched_px.tolist(), "refused": ""}
    except BadInput as exc:
        return {"matched_px": np.full(pair.uv_px.shape, np.nan).tolist(), "refused": str(exc)}


def evaluate_pose(estimator: PoseEstimator, pair: PairRecord) -> PoseResult:
    """Asks for the pose of one pair. Raises BadRecord if an image cannot be used."""
    frames = _read_frames(pair)
    try:
        pose = estimator(*frames)
    except BadInput as exc:
        nan = math.nan
        return {"rotation_deg": nan, "direction_deg": nan, "named_deg": nan, "distance_m": nan, "refused": str(exc)}
    return {
        "rotation_deg": rotation_angle_deg(pose.rotation.T @ pair.rotation),
        "direction_deg": direction_error_deg(pose.direction, pair.translation_m),
        "named_deg": abs(pose.angle_deg - rotation_angle_deg(pair.rotation)),
        "distance_m": pose.distance_m,
        "refused": "",
    }


def end_point_errors(
    predicted_px: np.ndarray, true_px: np.ndarray, camera: Intrinsics
) -> tuple[np.ndarray, np.ndarray]:
    """Returns two arrays, float64 (N,): errors in 0 to 1000 of the second image's size, and in its pixels.

    An error is NaN where there is no prediction. camera: the camera of the second image.
    """
    error_px = np.asarray(predicted_px, np.float64).reshape(-1, 2) - true_px
    return np.hypot(*(error_px * SCALE / np.array(camera.size_px)).T), np.hypot(*error_px.T)


def direction_error_deg(direction: np.ndarray, translation_m: np.ndarray) -> float:
    """Returns the angle between two directions; 0 if the camera stood still, NaN if no direction was predicted."""
    if np.linalg.norm(translation_m) < STANDSTILL_M:
        return 0.0
    one, two = unit_vector(direction), unit_vector(translation_m)
    return math.degrees(math.atan2(float(np.linalg.norm(np.cross(one, two))), float(one @ two)))


def score_matches(pairs: Sequence[PairRecord], results: Sequence[MatchResult]) -> dict[str, float]:
    """Returns the scores of all matches. epe, epe_median and within_N are in 0 to 1000 of the image's size.

    same_pixel_epe: the error of answering the same place as in the first image.
    """
    scaled, pixels, same_place = [], [], []
    for pair, result in zip(pairs, results, strict=True):
        first, second = pair.intrinsics
        errors = end_point_errors(np.array(result["matched_px"], np.float64), pair.matched_px, second)
        scaled.append(errors[0])
        pixels.append(errors[1])
        place_px = pair.uv_px * np.array(second.size_px) / np.array(first.size_px)
        same_place.append(end_point_errors(place_px, pair.matched_px, second)[0])
    errors, errors_px = np.concatenate(scaled), np.concatenate(pixels)
    return {
        "epe": known_mean(errors),
        "epe_px": known_mean(errors_px),
        "epe_median": known_median(errors),
        **{f"within_{limit}": float(np.mean(errors < limit)) for limit in WITHIN},
        "same_pixel_epe": known_mean(np.concatenate(same_place)),
        "n": len(errors),
        "unread": int(np.isnan(errors).sum()),
    }


def score_poses(pairs: Sequence[PairRecord], results: Sequence[PoseResult]) -> dict[str, float]:
    """Returns the scores of all poses. Angles are in degrees, over the pairs with a prediction; auc30 is over all."""
    rotation = _column([result["rotation_deg"] for result in results])
    direction = _column([result["direction_deg"] for result in results])
    distance_m = _column([result["distance_m"] for result in results])
    true_m = np.array([np.linalg.norm(pair.translation_m) for pair in pairs])
    moved = true_m >= STANDSTILL_M
    larger = np.maximum(rotation, direction)
    return {
        f"auc{MAX_AUC_DEG}": area_under_curve(larger),
        "rotation_auc30": area_under_curve(rotation),
        "direction_auc30": area_under_curve(direction),
        "rotation_deg": known_mean(rotation),
        "rotation_median_deg": known_median(rotation),
        "direction_deg": known_mean(direction),
        "direction_median_deg": known_median(direction),
        "named_angle_deg": known_mean(_column([result["named_deg"] for result in results])),
        "distance_absrel": known_mean(np.abs(distance_m - true_m)[moved] / true_m[moved]),
        "distance_unknown": int(np.isnan(distance_m).sum()),
        "n": len(results),
        "unread": int(np.isnan(larger).sum()),
    }


def _column(values: Sequence[float | None]) -> np.ndarray:
    return np.array(values, np.float64)


def area_under_curve(error_deg: np.ndarray) -> float:
    """Returns the mean over tau = 1 to 30 of the share of errors below tau degrees. NaN is above every tau."""
    return float(np.mean([np.mean(error_deg < limit) for limit in range(1, MAX_AUC_DEG + 1)]))


def known_mean(values: np.ndarray) -> float:
    """Returns the mean of the finite values, NaN if there is none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def known_median(values: np.ndarray) -> float:
    """Returns the median of the finite values, NaN if there is none."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else math.nan


def _read_frames(pair: PairRecord) -> tuple[Frame, Frame]:
    try:
        first, second = (
            Frame(read_rgb(path), camera) for path, camera in zip(pair.images, pair.intrinsics, strict=True)
        )
    except BadImage as exc:
        raise BadRecord("image unusable", str(exc)) from exc
    return first, second
