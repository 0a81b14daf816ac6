"""Run a predictor over labelled images and score it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from depthlm_ros.core import Frame
from depthlm_ros.errors import BadImage, BadInput, UnknownName
from depthlm_ros.eval.metrics import Scores, mean_delta1, median_aligned, score
from depthlm_ros.eval.records import LabelSet, Problem, Record, count_by_reason
from depthlm_ros.imagefile import read_rgb

if TYPE_CHECKING:
    from depthlm_ros.model import Model

# (frame, uv_px float64 (N, 2)) -> depth in metres (N,), NaN = no prediction. Raises BadInput for a frame it refuses.
Predictor = Callable[[Frame, np.ndarray], np.ndarray]

POINTS = ("dense", "words")


@dataclass(frozen=True)
class Report:
    """Scores over all points of all images, and the same after each image is scaled by its median.

    delta1_image_mean: unweighted mean of the images' delta1. seconds_per_image: mean time of the predictor, reading the
    file not included; NaN without images. refused: images that the predictor would not take; their points count as
    wrong. left_out: labels that could not be used, by no fault of the predictor.
    """

    scores: Scores
    aligned: Scores
    delta1_image_mean: float
    seconds_per_image: float
    images: int
    refused: tuple[Problem, ...] = ()
    left_out: tuple[Problem, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """In plain Python types, the keys of the command line's contract first."""
        return {
            "delta1": self.scores.delta1,
            "absrel": self.scores.absrel,
            "rmse": self.scores.rmse_m,
            "n": self.scores.n,
            "parse_failures": self.scores.parse_failures,
            "seconds_per_image": self.seconds_per_image,
            "images": self.images,
            "delta1_image_mean": self.delta1_image_mean,
            "delta1_aligned": self.aligned.delta1,
            "absrel_aligned": self.aligned.absrel,
            "rmse_aligned": self.aligned.rmse_m,
            "refused_images": len(self.refused),
            "left_out": count_by_reason(self.left_out),
        }


def model_predictor(model: Model, points: str = "dense") -> Predictor:
    """How a model is asked for the depth at pixels: "dense" reads its depth map, "words" lets it say each depth.

    Raises UnknownName for any other `points`.
    """
    if points == "dense":
        return lambda frame, uv_px: model.look(frame).depth_at(uv_px).depth_m
    if points == "words":
        return lambda frame, uv_px: model.look(frame).tell_depth_at(uv_px).depth_m
    raise UnknownName(f"points '{points}' do not exist: choose one of {', '.join(POINTS)}.")


def constant_predictor(depth_m: float) -> Predictor:
    """Answers the same depth everywhere."""
    return lambda frame, uv_px: np.full(len(uv_px), depth_m)


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


def report(
    predicted_m: Sequence[np.ndarray],
    true_m: Sequence[np.ndarray],
    seconds: Sequence[float],
    refused: Sequence[Problem] = (),
    left_out: Sequence[Problem] = (),
) -> Report:
    """Score predictions that are already there: per image an array of metres (N_i,) and the seconds it took."""
    aligned_m = [median_aligned(p, g) for p, g in zip(predicted_m, true_m, strict=True)]
    per_image = [score(p, g) for p, g in zip(predicted_m, true_m, strict=True)]
    return Report(
        scores=score(np.concatenate(predicted_m), np.concatenate(true_m)),
        aligned=score(np.concatenate(aligned_m), np.concatenate(true_m)),
        delta1_image_mean=mean_delta1(per_image),
        seconds_per_image=float(np.mean(seconds)) if len(seconds) else float("nan"),
        images=len(true_m),
        refused=tuple(refused),
        left_out=tuple(left_out),
    )


def _predict(predict: Predictor, frame: Frame, record: Record) -> tuple[np.ndarray, list[Problem]]:
    try:
        return np.asarray(predict(frame, record.uv_px), np.float64), []
    except BadInput as exc:
        return np.full(len(record.uv_px), np.nan), [Problem(record.where, "image refused", str(exc))]
