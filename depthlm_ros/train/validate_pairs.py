"""Scores of a bundle on pairs of rendered pictures: matches and poses, through the path a robot uses (look_pair)."""

from __future__ import annotations

from typing import Any

import numpy as np

from depthlm_ros.core import Frame
from depthlm_ros.eval.pairs import area_under_curve, direction_error_deg, end_point_errors, median
from depthlm_ros.geometry.rotations import rotation_angle_deg
from depthlm_ros.model import Model
from depthlm_ros.scenes.camera.photo import photograph
from depthlm_ros.scenes.questions.view_pairs import sample_pair
from depthlm_ros.scenes.world.sample import sample_scene
from depthlm_ros.train.dataconfig import canvas_camera

# Another stream of numbers than those of training and of single pictures.
STREAM = 2**41
POINTS = 6


def validate_pairs(model: Model, pairs: int, seed: int = 1) -> dict[str, Any]:
    """In plain types: end point errors of matches in 0 to 1000 of the image's size (of the model, and of always
    answering the same place), angles of poses in degrees, AUC@30 of max(rotation, direction error)."""
    canvas = model.spec.canvas
    camera = canvas_camera(canvas.canvases_px[0], float(canvas.focal_px or 0.0))
    told: list[np.ndarray] = []
    same: list[np.ndarray] = []
    rotation_deg: list[float] = []
    direction_deg: list[float] = []
    index = 0
    while len(rotation_deg) < pairs:
        rng = np.random.default_rng([STREAM, seed, index])
        index += 1
        try:
            pair = sample_pair(rng, sample_scene(rng), camera, POINTS)
        except RuntimeError:  # a scene too full for two cameras
            continue
        frames = (Frame(photograph(rng, rendered), camera) for rendered in (pair.first, pair.second))
        view = model.look_pair(*frames)
        told.append(end_point_errors(view.match(pair.uv_px).matched_px, pair.matched_px, camera)[0])
        same.append(end_point_errors(pair.uv_px, pair.matched_px, camera)[0])
        pose = view.pose()
        known = np.isfinite(pose.rotation).all()
        rotation_deg.append(rotation_angle_deg(pose.rotation.T @ pair.rotation) if known else np.nan)
        direction_deg.append(direction_error_deg(pose.direction, pair.translation_m))
    errors, still = np.concatenate(told), np.concatenate(same)
    return {
        "pairs": pairs,
        "matches_told": float(np.isfinite(errors).mean()),
        "epe_median": median(errors),
        "same_place_epe_median": median(still),
        "rotation_error_deg_median": median(np.array(rotation_deg)),
        "direction_error_deg_median": median(np.array(direction_deg)),
        "auc30": area_under_curve(np.maximum(rotation_deg, direction_deg)),
    }
