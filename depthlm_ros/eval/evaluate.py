"""Run a predictor over labelled images and score it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from depthlm_ros.core import Frame
from depthlm_ros.errors import BadImage, BadInput, UnknownName
from depthlm_ros.eval.records import LabelSet, Problem, Record
from depthlm_ros.eval.report import Report, report
from depthlm_ros.imagefile import read_rgb

if TYPE_CHECKING:
    from depthlm_ros.model import Model

# (frame, uv_px float64 (N, 2)) -> depth in metres (N,), NaN = no prediction. Raises BadInput for a frame it refuses.
Predictor = Callable[[Frame, np.ndarray], np.ndarray]

POINTS = ("dense", "words")


def model_predictor(model: Model, points: str = "dense") -> Predictor:
    """How a model is asked for the depth at pixels: "dense" reads its depth map, "words" lets it say each depth.

    Raises UnknownName for any other `points`.
    """
    if points == "dense":
        return lambda frame, uv_px: model.look(frame).depth_at(uv_px).depth_m
    if points == "words":
        return lambda frame, uv_px: model.look(frame).tell_depth_at(uv_px).depth_m
    raise UnknownName(f"points '{points}' do not exist: choose one of {', '.join(POINTS)}.")


def evaluate(predict: Predictor, labels: LabelSet) -> Report:
    """Score a predictor on every usable record. Raises BadInput if not one image could be read."""
    true_m, predicted_m, seconds = [], [], []
    refused, left_out = [], list(labels.problems)
    for record in labels.records:
        try:
            frame = Frame(read_rgb(record.image), record.intrinsics)
        except BadImage as exc:
            left_out.append(Problem(record.where, "image unusable", str(exc)))
            continue
        started_s = time.perf_counter()
        depth_m, refusal = _predict(predict, frame, record)
        seconds.append(time.perf_counter() - started_s)
        refused.extend(refusal)
        true_m.append(record.depth_m)
        predicted_m.append(depth_m)
    if not true_m:
        raise BadInput(f"{labels.path}: none of its {len(labels.records)} images is usable; the last: {left_out[-1]}")
    return report(predicted_m, true_m, seconds, refused, left_out)


def _predict(predict: Predictor, frame: Frame, record: Record) -> tuple[np.ndarray, list[Problem]]:
    try:
        return np.asarray(predict(frame, record.uv_px), np.float64), []
    except BadInput as exc:
        return np.full(len(record.uv_px), np.nan), [Problem(record.where, "image refused", str(exc))]
