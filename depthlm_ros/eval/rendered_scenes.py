# SPDX-License-Identifier: Apache-2.0
"""Scores of a model on rendered scenes that it was not trained on, through the path that a robot uses.

`validate` scores single pictures (look, depth, ask), `validate_pairs` pairs of pictures (look_pair, match, pose), and
`rendered_scores` both, for the card of a model. `calibrate` measures how large the model's errors are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol

import numpy as np

from depthlm_ros.core import Answer, Frame, PointDepths, Region, Status
from depthlm_ros.eval.image_pairs import area_under_curve, direction_error_deg, end_point_errors, known_median
from depthlm_ros.eval.metrics import align_medians, score_depth
from depthlm_ros.eval.uncertainty import (
    DepthErrors,
    calibration_error,
    fit_confidence,
    fit_error_factors,
    share_within,
)
from depthlm_ros.file_io import JsonObject, to_json_value
from depthlm_ros.geometry.pinhole import centred_camera
from depthlm_ros.geometry.rotations import rotation_angle_deg
from depthlm_ros.model import Model
from depthlm_ros.model_files.spec import ErrorCalibration
from depthlm_ros.scenes.camera.photo import photograph
from depthlm_ros.scenes.camera.viewpoints import sample_scene_and_pose
from depthlm_ros.scenes.questions.generate import SceneQuestion, sample_naming_question, sample_questions
from depthlm_ros.scenes.questions.view_pairs import sample_pair
from depthlm_ros.scenes.questions.visibility import bounding_region
from depthlm_ros.scenes.renderer.render import RenderedImage, render
from depthlm_ros.scenes.world.sample import sample_scene

# Training draws from [seed, step]. These streams are never those of a training batch, nor each other's.
PICTURE_STREAM = 2**40
PAIR_STREAM = 2**41
QUESTIONS_PER_IMAGE = 4
POINTS_PER_PAIR = 6
# A number is correct within this share of the truth.
NUMBER_TOLERANCE = 0.25
# Focal length for models without a canonical one: that of the embedded model.
FOCAL_PX = 96.0
# Kind of question -> the measurement in the depth map that answers it; "distance" answers the others.
MEASURED_AS = {"wide": "width", "tall": "height", "points_apart": "gap"}
# Subject of a score -> kinds of questions of depthlm_ros.scenes.questions.generate.
SUBJECTS = {
    "object_distance": ("distance", "where", "presence", "closer"),
    "object_size": ("wide", "tall"),
    "marked_points": ("point", "points_apart", "points_closer"),
    "named_points": ("what",),
}
# Subject of a score for questions without an answer -> status of the correct reply.
REFUSED = {"absent": "not_found", "nothing_here": "not_found", "out_of_scope": "not_understood"}


class QuestionAnswerer(Protocol):
    """The part of view.View that `check_answer` uses."""

    def ask(self, question: str, uv_px: np.ndarray, /) -> Answer: ...


@dataclass(frozen=True)
class AnswerScores:
    """Scores of the answers to `asked` questions.

    right: share of correct answers, by their words alone. measured: the same with the number that was measured in the
    depth map for the answer; answered: with the answer's number, which combines both. pointed: of the objects in view,
    the share whose answer has a region with its centre on the object (the pointing game,
    https://arxiv.org/abs/1608.00507).
    """

    right: float
    asked: int
    measured: float
    pointed: float
    answered: float = math.nan


@dataclass(frozen=True)
class AnswerCheck:
    """Whether an answer was correct in words, by measurement, and in place (None if the question has no place).

    answered: whether its own number, which combines words and measurement, is correct. confidence: the answer's.
    """

    question: SceneQuestion
    right: bool
    measured: bool
    pointed: bool | None = None
    answered: bool = False
    confidence: float = math.nan


@dataclass(frozen=True)
class RenderedDepthScores:
    """Scores of depths. delta1_aligned: after each image was aligned by medians.

    within_std: share of the true depths within one reported standard deviation, over the labelled points. unread:
    number of depths without a prediction.
    """

    delta1: float
    absrel: float
    delta1_aligned: float
    within_std: float
    unread: int


@dataclass(frozen=True)
class RenderedReport:
    """Scores on single pictures. questions: for each subject, the share of correct answers.

    confidence_error: expected calibration error of the answers' confidence (uncertainty.calibration_error).

    An answer is correct if its status is and, where the reply is a number, if that is within 25 % of the truth.
    """

    images: int
    dense: RenderedDepthScores
    words: RenderedDepthScores
    questions: dict[str, AnswerScores]
    confidence_error: float = math.nan

    def as_dict(self) -> dict[str, object]:
        """Returns plain types."""
        return asdict(self)


@dataclass
class RenderedPredictions:
    """Predictions beside the truth, collected image by image.

    dense: (predicted, true) maps. points, words: results of depth_at and of tell_depth_at, with the true depths.
    map_tells_std: whether the model tells the standard deviation of every pixel.
    """

    dense: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    points: list[tuple[PointDepths, np.ndarray]] = field(default_factory=list)
    words: list[tuple[PointDepths, np.ndarray]] = field(default_factory=list)
    answers: list[AnswerCheck] = field(default_factory=list)
    map_tells_std: bool = False


def rendered_scores(model: Model, images: int) -> JsonObject:
    """Returns the scores on `images` pictures and on a third as many pairs, as JSON values."""
    two_views = validate_pairs(model, max(images // 3, 1))
    return dict(to_json_value(validate(model, images).as_dict() | {"two_views": two_views}))


def validate(
    model: Model, images: int, seed: int = 1, points: int = 8, questions: int = QUESTIONS_PER_IMAGE
) -> RenderedReport:
    """Renders `images` scenes at the size of the model's first canvas and scores the model on them.

    points, questions: numbers per image.
    """
    predictions = predict_rendered(model, images, seed, points, questions)
    dense = score_maps(predictions.dense)
    words = score_maps([(prediction.depth_m, true_m) for prediction, true_m in predictions.words])
    return RenderedReport(
        images,
        replace(dense, within_std=within_std(predictions.points)),
        replace(words, within_std=within_std(predictions.words)),
        score_answers(predictions.answers),
        calibration_error(*confidences(predictions.answers)),
    )


def calibrate(
    model: Model,
    images: int,
    others: Sequence[tuple[float, bool]] = (),
    seed: int = 2,
    points: int = 8,
) -> ErrorCalibration:
    """Measures how large the model's errors are, on other scenes than those of `validate`.

    others: confidence and correctness of answers about other pictures, for the fit of the confidence. It is fitted on
    answers whose words and map were combined by deviations that are not calibrated yet.
    """
    uncalibrated = copy(model)
    uncalibrated.spec = replace(model.spec, calibration=ErrorCalibration())
    predictions = predict_rendered(uncalibrated, images, seed, points, QUESTIONS_PER_IMAGE)
    by_map, in_words = (fit_error_factors(depth_errors(pairs)) for pairs in (predictions.points, predictions.words))
    confidence, answered = confidences(predictions.answers)
    told, right = (np.array([pair[side] for pair in others]) for side in (0, 1))
    gain, offset = fit_confidence(np.append(confidence, told), np.append(answered, right).astype(bool))
    calibration = ErrorCalibration(
        words_spread=in_words[0], words_relative=in_words[1], confidence_gain=gain, confidence_offset=offset
    )
    if predictions.map_tells_std:
        return replace(calibration, map_std_factor=by_map[0], map_std_floor=by_map[1])
    return replace(calibration, dense_spread=by_map[0], dense_relative=by_map[1])


def predict_rendered(model: Model, images: int, seed: int, points: int, questions: int) -> RenderedPredictions:
    """Renders scenes, and asks the model for depth maps, for depths at random pixels, and random questions."""
    canvas = model.spec.canvas
    camera = centred_camera(canvas.canvases_px[0], canvas.focal_px or FOCAL_PX)
    predictions = RenderedPredictions()
    for index in range(images):
        rng = np.random.default_rng([PICTURE_STREAM, seed, index])
        scene, pose = sample_scene_and_pose(rng)
        rendered = render(scene, pose, camera)
        view = model.look(Frame(photograph(rng, rendered), camera))
        depth = view.depth()
        predictions.dense.append((depth.depth_m, rendered.depth_m))
        predictions.map_tells_std = depth.std_m is not None
        v, u = (axis[rng.integers(0, len(axis), points)] for axis in np.nonzero(rendered.depth_m > 0))
        uv_px, true_m = np.stack([u, v], 1), rendered.depth_m[v, u]
        predictions.points.append((view.depth_at(uv_px), true_m))
        predictions.words.append((view.tell_depth_at(uv_px), true_m))
        if questions:
            asked = sample_questions(rng, scene, rendered, camera, questions)
            # This question has its own stream, so that the scenes and the other questions do not depend on it.
            what = sample_naming_question(np.random.default_rng([PICTURE_STREAM, seed, index, 1]), rendered, camera)
            asked += [what] if what is not None else []
            predictions.answers += [check_answer(view, one, true_region(one, rendered)) for one in asked]
    return predictions


def confidences(answers: Sequence[AnswerCheck]) -> tuple[np.ndarray, np.ndarray]:
    """Returns confidence, float (N,), and correctness, bool (N,), of answers."""
    return np.array([one.confidence for one in answers]), np.array([one.answered for one in answers], bool)


def depth_errors(pairs: Sequence[tuple[PointDepths, np.ndarray]]) -> DepthErrors:
    """Returns the errors with the reported deviations, of (prediction, true depths) of several images."""
    predicted_m = np.concatenate([prediction.depth_m for prediction, _ in pairs])
    std_m = np.concatenate([prediction.std_m for prediction, _ in pairs])
    true_m = np.concatenate([true_m for _, true_m in pairs])
    return DepthErrors(predicted_m - true_m, std_m, predicted_m)


def within_std(pairs: Sequence[tuple[PointDepths, np.ndarray]]) -> float:
    """Returns the share of the errors within one reported standard deviation."""
    errors = depth_errors(pairs)
    return share_within(errors.error_m, errors.spread_m)


def true_region(question: SceneQuestion, rendered: RenderedImage) -> Region | None:
    """Returns the box around the object that the reply is about, None if it is not about an object in the picture."""
    if not question.object_ids:
        return None
    v, u = np.nonzero(rendered.object_id == question.object_ids[-1])
    return bounding_region(u, v)


def check_answer(view: QuestionAnswerer, question: SceneQuestion, region: Region | None) -> AnswerCheck:
    """Asks the model, and checks the status of its answer, its number, and its region.

    The name of the thing is checked if the question asks for it. The number in words and the measured number are
    checked separately. region: where the thing is, None if the question is not about a thing in the picture.
    """
    answer = view.ask(question.question, np.asarray(question.uv_px, float).reshape(-1, 2))
    pointed = None if region is None else bool(answer.regions) and is_centred_on(answer.regions[0], region)
    named = question.kind != "what" or question.status != "ok" or f" {question.names[0]} " in answer.text
    status = Status.OK if answer.status is Status.INCONSISTENT else answer.status
    if status.value != question.status or not named:
        return AnswerCheck(question, False, False, pointed, False, answer.confidence)
    if question.status != "ok":
        return AnswerCheck(question, True, True, None, True, answer.confidence)
    quantity = MEASURED_AS.get(question.kind, "distance")
    values = [item.value for item in answer.measurements if item.quantity == quantity]
    # A question about two things asks for the nearer one.
    measured = is_close(min(values, default=math.nan), question.value)
    in_words, answered = (is_close(value, question.value) for value in (answer.words_value, answer.value))
    return AnswerCheck(question, in_words, measured, pointed, answered, answer.confidence)


def is_centred_on(region: Region, target: Region) -> bool:
    """Returns whether the centre of a region lies in the target."""
    u_px, v_px = region.x_px + region.width_px / 2, region.y_px + region.height_px / 2
    in_columns = target.x_px <= u_px <= target.x_px + target.width_px
    return bool(in_columns and target.y_px <= v_px <= target.y_px + target.height_px)


def is_close(value: float, truth: float) -> bool:
    """Returns whether a number is correct; NaN is not."""
    return abs(value - truth) <= NUMBER_TOLERANCE * truth


def score_maps(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> RenderedDepthScores:
    """Scores (predicted, true) depths over all pixels or points of all images; within_std is left NaN."""
    predicted_m, true_m = (np.concatenate([side.ravel() for side in sides]) for sides in zip(*pairs, strict=True))
    aligned_m = np.concatenate([align_medians(*pair).ravel() for pair in pairs])
    raw, aligned = score_depth(predicted_m, true_m), score_depth(aligned_m, true_m)
    return RenderedDepthScores(raw.delta1, raw.absrel, aligned.delta1, math.nan, raw.parse_failures)


def score_answers(answers: Sequence[AnswerCheck]) -> dict[str, AnswerScores]:
    """Returns the scores of each subject."""
    groups = {
        name: [answer for answer in answers if answer.question.status == "ok" and answer.question.kind in kinds]
        for name, kinds in SUBJECTS.items()
    }
    for name, status in REFUSED.items():
        refused = [answer for answer in answers if answer.question.status == status]
        groups[name] = [answer for answer in refused if (answer.question.kind == "what") == (name == "nothing_here")]
    return {name: _score_group(group) for name, group in groups.items()}


def _score_group(answers: Sequence[AnswerCheck]) -> AnswerScores:
    if not answers:
        return AnswerScores(math.nan, 0, math.nan, math.nan)
    right, measured, answered = np.mean([(one.right, one.measured, one.answered) for one in answers], axis=0)
    placed = [answer.pointed for answer in answers if answer.pointed is not None]
    pointed = float(np.mean(placed)) if placed else math.nan
    return AnswerScores(float(right), len(answers), float(measured), pointed, float(answered))


def validate_pairs(model: Model, pairs: int, seed: int = 1) -> dict[str, float]:
    """Renders pairs of pictures and scores the model's matches and poses.

    epe_median, same_place_epe_median: end-point errors in 0 to 1000 of the image's size, of the model and of answering
    the same place as in the first picture. Errors of poses are in degrees; auc30 is AUC@30 of the larger error.
    """
    canvas = model.spec.canvas
    camera = centred_camera(canvas.canvases_px[0], float(canvas.focal_px or 0.0))
    predicted: list[np.ndarray] = []
    same_place: list[np.ndarray] = []
    rotation_deg: list[float] = []
    direction_deg: list[float] = []
    index = 0
    while len(rotation_deg) < pairs:
        rng = np.random.default_rng([PAIR_STREAM, seed, index])
        index += 1
        try:
            pair = sample_pair(rng, sample_scene(rng), camera, POINTS_PER_PAIR)
        except RuntimeError:  # The scene is too full for two cameras.
            continue
        frames = (Frame(photograph(rng, rendered), camera) for rendered in (pair.first, pair.second))
        view = model.look_pair(*frames)
        predicted.append(end_point_errors(view.match(pair.uv_px).matched_px, pair.matched_px, camera)[0])
        same_place.append(end_point_errors(pair.uv_px, pair.matched_px, camera)[0])
        pose = view.pose()
        known = np.isfinite(pose.rotation).all()
        rotation_deg.append(rotation_angle_deg(pose.rotation.T @ pair.rotation) if known else np.nan)
        direction_deg.append(direction_error_deg(pose.direction, pair.translation_m))
    errors = np.concatenate(predicted)
    return {
        "pairs": pairs,
        "matches_told": float(np.isfinite(errors).mean()),
        "epe_median": known_median(errors),
        "same_place_epe_median": known_median(np.concatenate(same_place)),
        "rotation_error_deg_median": known_median(np.array(rotation_deg)),
        "direction_error_deg_median": known_median(np.array(direction_deg)),
        "auc30": area_under_curve(np.maximum(rotation_deg, direction_deg)),
    }
