"""Two images together: how far off matched pixels are, and how far off the pose is.

Records are those of data/pairreading.py; matches need their points, poses their rotation and translation.

Matches: end-point error, the distance from where the pixel is told to be to where it is: in pixels of the second image,
and with either axis as 0 to 1000 of its size, as VLM3 writes and scores them. Over the matches that were told; those
that were not are counted, and are not within any distance.
Pose: angle of the rotation between told and true rotation, angle between told and true direction of translation;
AUC@30 is the mean, over tau = 1 to 30 degrees, of the share of pairs whose larger angle is less than tau (the pose AUC
of Wang et al., PoseDiffusion, ICCV 2023, which VLM3's table follows as far as is known); what was not told is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from depthlm_ros.core import Frame, Intrinsics, Matches, RelativePose
from depthlm_ros.data.read import iter_pairs
from depthlm_ros.data.records import BadRecord, PairRecord, Problem, nothing_usable
from depthlm_ros.errors import BadImage, BadInput
from depthlm_ros.eval.result_file import Found, key_of
from depthlm_ros.geometry.rotations import rotation_angle_deg, unit
from depthlm_ros.image_io import read_rgb

SCALE, WITHIN, MOST_DEG = 1000.0, (10, 20, 50), 30
# Below this there is no direction to tell.
STILL_M = 1e-6

# (first, second, uv_px (N, 2) of the first) -> where they are in the second. Raises BadInput for what it refuses.
Matcher = Callable[[Frame, Frame, np.ndarray], Matches]
# (first, second) -> the second camera in the first.
PoseTeller = Callable[[Frame, Frame], RelativePose]


def read_pairs(path: Path, points: bool, root: Path | None = None) -> tuple[list[PairRecord], list[Problem]]:
    """The usable pairs of a file (points: only those with points). Raises BadInput if there is none.

    root: what the image paths are relative to (default: the file).
    """
    problems: list[Problem] = []
    pairs = []
    for pair in iter_pairs(path, problems, root):
        if points and not len(pair.uv_px):
            problems.append(Problem(pair.where, "record without a usable point", "it has no points"))
        else:
            pairs.append(pair)
    if not pairs:
        raise nothing_usable(path, problems, "pair")
    return pairs, problems


def pair_key(pair: PairRecord) -> str:
    """See results.key_of."""
    names = [image.name for image in pair.images]
    label = (names, pair.intrinsics, pair.uv_px, pair.matched_px, pair.rotation, pair.translation_m)
    return key_of(pair.where, *label)


def find_matches(matcher: Matcher, pair: PairRecord) -> Found:
    """Where the model told the points to be. Raises BadRecord if an image is unusable."""
    frames = _frames(pair)
    try:
        return {"matched_px": matcher(*frames, pair.uv_px).matched_px.tolist(), "refused": ""}
    except BadInput as exc:
        return {"matched_px": np.full(pair.uv_px.shape, np.nan).tolist(), "refused": str(exc)}


def tell_pose(teller: PoseTeller, pair: PairRecord) -> Found:
    """The angles by which the told pose is off, and its distance. Raises BadRecord if an image is unusable."""
    frames = _frames(pair)
    try:
        told = teller(*frames)
    except BadInput as exc:
        unknown = dict.fromkeys(("rotation_deg", "direction_deg", "named_deg", "distance_m"), math.nan)
        return unknown | {"refused": str(exc)}
    return {
        "rotation_deg": rotation_angle_deg(told.rotation.T @ pair.rotation),
        "direction_deg": direction_error_deg(told.direction, pair.translation_m),
        "named_deg": abs(told.angle_deg - rotation_angle_deg(pair.rotation)),
        "distance_m": told.distance_m,
        "refused": "",
    }


def end_point_errors(told_px: np.ndarray, true_px: np.ndarray, camera: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
    """float64 (N,) each: in 0 to 1000 of the second image's size, and in its pixels; NaN where nothing was told."""
    off = np.asarray(told_px, np.float64).reshape(-1, 2) - true_px
    return np.hypot(*(off * SCALE / np.array(camera.size_px)).T), np.hypot(*off.T)


def direction_error_deg(told: np.ndarray, translation_m: np.ndarray) -> float:
    """Angle between two directions, degrees; 0 where the camera stood still, NaN where none was told."""
    if np.linalg.norm(translation_m) < STILL_M:
        return 0.0
    one, two = unit(told), unit(translation_m)
    return math.degrees(math.atan2(float(np.linalg.norm(np.cross(one, two))), float(one @ two)))


def match_scores(pairs: Sequence[PairRecord], found: Sequence[Found]) -> dict[str, Any]:
    """In plain types; epe, epe_median and within_N in 0 to 1000 units; same_pixel_epe: of answering the same place."""
    told, pixels, same = [], [], []
    for pair, one in zip(pairs, found, strict=True):
        camera = pair.intrinsics[1]
        errors = end_point_errors(np.array(one["matched_px"], np.float64), pair.matched_px, camera)
        there = pair.uv_px * np.array(camera.size_px) / np.array(pair.intrinsics[0].size_px)
        told.append(errors[0])
        pixels.append(errors[1])
        same.append(end_point_errors(there, pair.matched_px, camera)[0])
    units, px = np.concatenate(told), np.concatenate(pixels)
    return {
        "epe": mean(units),
        "epe_px": mean(px),
        "epe_median": median(units),
        **{f"within_{most}": float(np.mean(units < most)) for most in WITHIN},
        "same_pixel_epe": mean(np.concatenate(same)),
        "n": len(units),
        "unread": int(np.isnan(units).sum()),
    }


def pose_scores(pairs: Sequence[PairRecord], found: Sequence[Found]) -> dict[str, Any]:
    """In plain types; angles in degrees, over the pairs that were told; auc30 over all."""
    columns = {
        name: np.array([one[name] for one in found], np.float64)
        for name in ("rotation_deg", "direction_deg", "named_deg", "distance_m")
    }
    true_m = np.array([np.linalg.norm(pair.translation_m) for pair in pairs])
    moved = true_m >= STILL_M
    distance = np.abs(columns["distance_m"] - true_m)[moved] / true_m[moved]
    rotation, direction, named = (columns[name] for name in ("rotation_deg", "direction_deg", "named_deg"))
    return {
        f"auc{MOST_DEG}": area_under_curve(np.maximum(rotation, direction)),
        "rotation_auc30": area_under_curve(rotation),
        "direction_auc30": area_under_curve(direction),
        "rotation_deg": mean(rotation),
        "rotation_median_deg": median(rotation),
        "direction_deg": mean(direction),
        "direction_median_deg": median(direction),
        "named_angle_deg": mean(named),
        "distance_absrel": mean(distance),
        "distance_unknown": int(np.isnan(columns["distance_m"]).sum()),
        "n": len(found),
        "unread": int(np.isnan(np.maximum(rotation, direction)).sum()),
    }


def area_under_curve(error_deg: np.ndarray) -> float:
    """Mean over tau = 1 to 30 of the share of errors less than tau degrees; NaN errors are less than none."""
    return float(np.mean([np.mean(error_deg < most) for most in range(1, MOST_DEG + 1)]))


def mean(values: np.ndarray) -> float:
    """Of the known ones, NaN if none is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def median(values: np.ndarray) -> float:
    """Of the known ones, NaN if none is."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else math.nan


def _frames(pair: PairRecord) -> tuple[Frame, Frame]:
    try:
        first, second = (
            Frame(read_rgb(path), camera) for path, camera in zip(pair.images, pair.intrinsics, strict=True)
        )
    except BadImage as exc:
        raise BadRecord("image unusable", str(exc)) from exc
    return first, second
