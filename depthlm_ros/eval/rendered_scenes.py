"""Scores of a bundle on rendered scenes it was not trained on, through the path a robot uses (look, depth, ask).

Scores of a bundle on pairs of rendered pictures: matches and poses, through the path a robot uses (look_pair).

The scores on rendered scenes that a model's card tells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from depthlm_ros.core import Frame, PointDepths, Region
from depthlm_ros.eval.image_pairs import area_under_curve, direction_error_deg, end_point_errors, median
from depthlm_ros.eval.metrics import median_aligned, score
from depthlm_ros.eval.uncertainty import Errors, fit, share_within
from depthlm_ros.file_io import to_json_value
from depthlm_ros.geometry.rotations import rotation_angle_deg
from depthlm_ros.model import Model
from depthlm_ros.model_files.spec import Calibration
from depthlm_ros.scenes.camera.photo import photograph
from depthlm_ros.scenes.questions.generate import Question, ask_about, ask_what
from depthlm_ros.scenes.questions.view_pairs import sample_pair
from depthlm_ros.scenes.renderer.render import Rendered, render
from depthlm_ros.scenes.world.sample import sample_scene
from depthlm_ros.training.synthetic.config import canvas_camera
from depthlm_ros.training.synthetic.dataset import sample_view
from depthlm_ros.training.synthetic.prompts import around
from depthlm_ros.view import View

# Training draws from [seed, step]; this stream is never a training batch.
VALIDATION_STREAM = 2**40
QUESTIONS_PER_IMAGE = 4
WITHIN = 0.25
# Of a model that is not normalised: that of the embedded one.
FOCAL_PX = 96.0
# What of the depth map answers a kind of question; a distance answers the others.
MEASURED_AS = {"wide": "width", "tall": "height", "points_apart": "gap"}
# What is asked for, by the kinds of depthlm_ros.scenes.questions.generate.
SUBJECTS = {
    "object_distance": ("distance", "where", "presence", "closer"),
    "object_size": ("wide", "tall"),
    "marked_points": ("point", "points_apart", "points_closer"),
    "named_points": ("what",),
}
# Where nothing is to be told: what is denied or refused, and of which kinds.
REFUSED = {"absent": "not_found", "nothing_here": "not_found", "out_of_scope": "not_understood"}


@dataclass(frozen=True)
class Share:
    """How many of `asked` questions were answered rightly, as a share. measured: the same with the number that was
    measured in the depth map for the answer, in the place of the one in its words. pointed: of the objects in view, the
    share whose answer's region has its centre on them (the pointing game, https://arxiv.org/abs/1608.00507)."""

    right: float
    asked: int
    measured: float
    pointed: float


@dataclass(frozen=True)
class Given:
    """Whether the answer to a question was right in words, by measurement, and in place (None: it has none)."""

    question: Question
    right: bool
    measured: bool
    pointed: bool | None = None


@dataclass(frozen=True)
class Depths:
    """Scores of depths; `aligned` after scaling each image by the ratio of medians. within_std: share of the true
    depths within one reported standard deviation, over the labelled points."""

    delta1: float
    absrel: float
    delta1_aligned: float
    within_std: float
    unread: int


@dataclass(frozen=True)
class Report:
    """questions: per subject, the share answered with the right status and, where a number is due, within 25 %."""

    images: int
    dense: Depths
    words: Depths
    questions: dict[str, Share]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass
class Tally:
    """What is collected image by image. dense: (predicted, true) maps; points, words: what depth_at and tell_depth_at
    gave, with the true depths."""

    dense: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    points: list[tuple[PointDepths, np.ndarray]] = field(default_factory=list)
    words: list[tuple[PointDepths, np.ndarray]] = field(default_factory=list)
    answers: list[Given] = field(default_factory=list)


def validate(model: Model, images: int, seed: int = 1, points: int = 8, questions: int = QUESTIONS_PER_IMAGE) -> Report:
    """Renders `images` scenes at the model's first canvas and asks about each."""
    tally = look_around(model, images, seed, points, questions)
    dense, words = (depths(pairs) for pairs in (tally.dense, [(told.depth_m, true) for told, true in tally.words]))
    return Report(
        images,
        replace(dense, within_std=within_std(tally.points)),
        replace(words, within_std=within_std(tally.words)),
        shares(tally.answers),
    )


def calibrate(model: Model, images: int, seed: int = 2, points: int = 8) -> Calibration:
    """How large the model's errors are, from scenes other than those that it is validated on."""
    bare = copy(model)
    bare.spec = replace(model.spec, calibration=Calibration())
    tally = look_around(bare, images, seed, points, 0)
    return Calibration(*fit(errors(tally.points)), *fit(errors(tally.words)))


def look_around(model: Model, images: int, seed: int, points: int, questions: int) -> Tally:
    """Looks at rendered scenes, measures and asks."""
    canvas = model.spec.canvas
    camera = canvas_camera(canvas.canvases_px[0], canvas.focal_px or FOCAL_PX)
    tally = Tally()
    for index in range(images):
        rng = np.random.default_rng([VALIDATION_STREAM, seed, index])
        scene, pose = sample_view(rng)
        rendered = render(scene, pose, camera)
        view = model.look(Frame(photograph(rng, rendered), camera))
        tally.dense.append((view.depth().depth_m, rendered.depth_m))
        v, u = (axis[rng.integers(0, len(axis), points)] for axis in np.nonzero(rendered.depth_m > 0))
        uv_px, true_m = np.stack([u, v], 1), rendered.depth_m[v, u]
        tally.points.append((view.depth_at(uv_px), true_m))
        tally.words.append((view.tell_depth_at(uv_px), true_m))
        if questions:
            asked = ask_about(rng, scene, rendered, camera, questions)
            # Drawn apart: the scenes and the other questions stay what they were without it.
            what = ask_what(np.random.default_rng([VALIDATION_STREAM, seed, index, 1]), rendered, camera)
            asked += [what] if what is not None else []
            tally.answers += [judged(view, question, true_region(question, rendered)) for question in asked]
    return tally


def errors(pairs: Sequence[tuple[PointDepths, np.ndarray]]) -> Errors:
    """Errors beside the reported deviations."""
    told_m, std_m, true_m = (
        np.concatenate(column)
        for column in zip(*((told.depth_m, told.std_m, true) for told, true in pairs), strict=True)
    )
    return Errors(told_m - true_m, std_m, told_m)


def within_std(pairs: Sequence[tuple[PointDepths, np.ndarray]]) -> float:
    found = errors(pairs)
    return share_within(found.error_m, found.spread_m)


def true_region(question: Question, rendered: Rendered) -> Region | None:
    """The box around what the reply is about, if that is an object in the picture."""
    if not question.object_ids:
        return None
    v, u = np.nonzero(rendered.object_id == question.object_ids[-1])
    return around(u, v)


def judged(view: View, question: Question, region: Region | None) -> Given:
    """Of the answer in words and of its measurement: is the status right, the name, where it was asked for, and, where
    a number is due, is it within 25 % of the truth? And is the answer about the right region?"""
    answer = view.ask(question.question, np.asarray(question.uv_px, float).reshape(-1, 2))
    pointed = None if region is None else bool(answer.regions) and is_centred_on(answer.regions[0], region)
    named = question.kind != "what" or question.status != "ok" or f" {question.names[0]} " in answer.text
    if answer.status.value != question.status or not named:
        return Given(question, False, False, pointed)
    if question.status != "ok":
        return Given(question, True, True)
    wanted = MEASURED_AS.get(question.kind, "distance")
    found = [item.value for item in answer.measurements if item.quantity == wanted]
    # Of two things, the question is about the nearer one.
    measured = near(min(found, default=math.nan), question.value)
    return Given(question, near(answer.value, question.value), measured, pointed)


def is_centred_on(region: Region, wanted: Region) -> bool:
    """Whether the centre of a region lies in another."""
    u_px, v_px = region.x_px + region.width_px / 2, region.y_px + region.height_px / 2
    across = wanted.x_px <= u_px <= wanted.x_px + wanted.width_px
    return bool(across and wanted.y_px <= v_px <= wanted.y_px + wanted.height_px)


def near(value: float, truth: float) -> bool:
    return abs(value - truth) <= WITHIN * truth


def depths(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Depths:
    """Scores over the pixels of all images."""
    predicted, truth = (np.concatenate([side.ravel() for side in sides]) for sides in zip(*pairs, strict=True))
    aligned = np.concatenate([median_aligned(*pair).ravel() for pair in pairs])
    raw = score(predicted, truth)
    return Depths(raw.delta1, raw.absrel, score(aligned, truth).delta1, math.nan, raw.parse_failures)


def shares(answers: Sequence[Given]) -> dict[str, Share]:
    """Right answers by subject."""
    groups = {
        name: [given for given in answers if given.question.status == "ok" and given.question.kind in kinds]
        for name, kinds in SUBJECTS.items()
    }
    for name, status in REFUSED.items():
        refused = [given for given in answers if given.question.status == status]
        groups[name] = [given for given in refused if (given.question.kind == "what") == (name == "nothing_here")]
    return {name: share(group) for name, group in groups.items()}


def share(answers: Sequence[Given]) -> Share:
    if not answers:
        return Share(math.nan, 0, math.nan, math.nan)
    right, measured = np.mean([(given.right, given.measured) for given in answers], axis=0)
    placed = [given.pointed for given in answers if given.pointed is not None]
    return Share(float(right), len(answers), float(measured), float(np.mean(placed)) if placed else math.nan)


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


def rendered_scores(model: Model, images: int) -> dict[str, Any]:
    """Of `images` scenes and a third as many pairs, fit for JSON."""
    return dict(
        to_json_value(validate(model, images).as_dict() | {"two_views": validate_pairs(model, max(images // 3, 1))})
    )
