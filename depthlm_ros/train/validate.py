"""Scores of a bundle on rendered scenes it was not trained on, through the path a robot uses (look, depth, ask)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from depthlm_ros.core import Frame
from depthlm_ros.model import Model, View
from depthlm_ros.scenes.photo import photograph
from depthlm_ros.scenes.pose import sample_pose
from depthlm_ros.scenes.questions import Question, ask_about
from depthlm_ros.scenes.render import render
from depthlm_ros.scenes.sample import sample_scene
from depthlm_ros.train.dataset import canvas_camera

# Training draws from [seed, step]; this stream is never a training batch.
VALIDATION_STREAM = 2**40


@dataclass(frozen=True)
class Scores:
    """Shares are 0 to 1. aligned: after scaling each map by the ratio of medians. *_relative_std: standard deviation
    of the relative error, the 5 % largest errors on either side left out. objects_within_25: of questions about the
    distance of a visible object, the share answered within 25 %."""

    images: int
    dense_delta1: float
    dense_absrel: float
    dense_delta1_aligned: float
    dense_relative_std: float
    words_delta1: float
    words_relative_std: float
    objects: int
    objects_within_25: float
    absent: int
    absent_recognised: float
    strange: int
    strange_recognised: float


def validate(model: Model, images: int, seed: int = 1, points: int = 8) -> Scores:
    """Renders `images` scenes at the model's first canvas and asks about each."""
    camera = canvas_camera(model.bundle.canvases_px[0], model.focal_px)
    dense, words, answers = [], [], []
    for index in range(images):
        rng = np.random.default_rng([VALIDATION_STREAM, seed, index])
        scene = sample_scene(rng)
        rendered = render(scene, sample_pose(rng, scene), camera)
        view = model.look(Frame(photograph(rng, rendered), camera))
        truth_m, predicted_m = rendered.depth_m, view.depth().depth_m
        dense.append((predicted_m[truth_m > 0], truth_m[truth_m > 0]))
        v, u = (axis[rng.integers(0, len(axis), points)] for axis in np.nonzero(truth_m > 0))
        told = view.tell_depth_at(np.stack([u, v], 1)).depth_m
        words.append((told, truth_m[v, u]))
        answers += [
            (question, answer_matches(view, question)) for question in ask_about(rng, scene, rendered, camera, 4)
        ]
    return summary(images, dense, words, answers)


def answer_matches(view: View, question: Question) -> bool:
    """True if the status is right and, where a number is due, it is within 25 % of the truth."""
    answer = view.ask(question.question, np.asarray(question.uv_px, float).reshape(-1, 2))
    if answer.status.value != question.status:
        return False
    return question.status != "ok" or abs(answer.value - question.value) <= 0.25 * question.value


Pairs = list[tuple[np.ndarray, np.ndarray]]


def summary(images: int, dense: Pairs, words: Pairs, answers: list[tuple[Question, bool]]) -> Scores:
    """Scores from (predicted, true) depths per image and (question, answered well) pairs."""
    predicted, truth = (np.concatenate(side) for side in zip(*dense, strict=True))
    told, told_truth = (np.concatenate(side) for side in zip(*words, strict=True))
    aligned = np.concatenate([p * np.median(t) / np.median(p) for p, t in dense])
    distances = [ok for question, ok in answers if question.status == "ok"]
    absent = [ok for question, ok in answers if question.status == "not_found"]
    strange = [ok for question, ok in answers if question.status == "not_understood"]
    return Scores(
        images=images,
        dense_delta1=delta1(predicted, truth),
        dense_absrel=float(np.mean(np.abs(predicted - truth) / truth)),
        dense_delta1_aligned=delta1(aligned, truth),
        dense_relative_std=trimmed_std(predicted / truth - 1),
        words_delta1=delta1(told, told_truth),
        words_relative_std=trimmed_std(told / told_truth - 1),
        objects=len(distances),
        objects_within_25=share(distances),
        absent=len(absent),
        absent_recognised=share(absent),
        strange=len(strange),
        strange_recognised=share(strange),
    )


def delta1(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Share of max(p / g, g / p) < 1.25; unknown (NaN) predictions count as wrong."""
    ratio = np.maximum(predicted / truth, truth / np.maximum(predicted, 1e-6))
    return float(np.mean(ratio < 1.25))


def trimmed_std(error: np.ndarray) -> float:
    """Standard deviation without the 5 % on either side: a few wild errors should not widen every interval."""
    known = np.sort(error[np.isfinite(error)])
    cut = len(known) // 20
    return float(np.sqrt(np.mean(known[cut : len(known) - cut] ** 2))) if len(known) else float("nan")


def share(flags: list[bool]) -> float:
    return float(np.mean(flags)) if flags else float("nan")
