"""Run a predictor over labelled images: what it said at each labelled point, beside the truth."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from depthlm_ros.core import DepthMap, Frame, PointDepths
from depthlm_ros.data.read import RecordSet
from depthlm_ros.data.records import BadRecord, Problem, Record
from depthlm_ros.errors import BadImage, BadInput, BadQuestion, UnknownName
from depthlm_ros.eval.baselines import row_slopes
from depthlm_ros.eval.outcome import Outcome
from depthlm_ros.eval.results import Found, Results, key_of, work_through
from depthlm_ros.image_io import read_rgb

if TYPE_CHECKING:
    from depthlm_ros.model import Model

# (frame, uv_px float64 (N, 2)) -> depth at these pixels, NaN = no prediction. Raises BadInput for a frame it refuses.
Predictor = Callable[[Frame, np.ndarray], PointDepths]

POINTS = ("dense", "words")


class Seen(Protocol):
    """What a look at a frame has to give (view.View does)."""

    def depth(self) -> DepthMap: ...

    def depth_at(self, uv_px: np.ndarray) -> PointDepths: ...


@dataclass(frozen=True)
class Judged:
    """The outcome of one image, and, where a whole map was judged, both maps, float32 (H, W) of one size."""

    outcome: Outcome
    predicted_m: np.ndarray | None = None
    true_m: np.ndarray | None = None


# What is done with one image. Raises BadRecord if the record is unusable by no fault of the model.
Judge = Callable[[Frame, Record], Judged]


@dataclass(frozen=True)
class Evaluation:
    """outcomes: of the usable records, in their order. left_out: labels unusable by no fault of the predictor."""

    outcomes: tuple[Outcome, ...]
    left_out: tuple[Problem, ...]


def model_predictor(model: Model, points: str = "dense") -> Predictor:
    """How a model is asked for the depth at pixels: "dense" reads its depth map, "words" lets it say each depth.

    Raises UnknownName for any other `points`, BadQuestion if the model cannot do it.
    """
    if points not in POINTS:
        raise UnknownName(f"points '{points}' do not exist: choose one of {', '.join(POINTS)}.")
    if (points == "words" or not model.spec.head) and "points" not in model.family.abilities:
        raise BadQuestion(f"{model.name} cannot say the depth of a pixel: use vlm3-depth, depthlm-12b or depthvlm-4b.")
    if points == "dense":
        return lambda frame, uv_px: model.look(frame).depth_at(uv_px)
    return lambda frame, uv_px: model.look(frame).tell_depth_at(uv_px)


def at_points(predict: Predictor) -> Judge:
    """Judges a predictor at the points of each record."""

    def judge(frame: Frame, record: Record) -> Judged:
        nothing, refused = np.full(len(record.uv_px), np.nan), ""
        started_s = time.perf_counter()
        try:
            told = predict(frame, record.uv_px)
            predicted_m, std_m = (np.asarray(x, np.float64) for x in (told.depth_m, told.std_m))
        except BadInput as exc:
            predicted_m, std_m, refused = nothing, nothing, str(exc)
        seconds = time.perf_counter() - started_s
        slope = row_slopes(record.uv_px, record.intrinsics)
        return Judged(Outcome(record.where, record.depth_m, predicted_m, std_m, slope, seconds, refused))

    return judge


def evaluate(
    judge: Judge,
    labels: RecordSet,
    results: Results | None = None,
    shown: Callable[[Frame, Record, Judged], None] | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Judge every usable record. Raises BadInput if not one image could be read.

    results: where outcomes are kept, and taken from if they are there already. shown: told of each newly judged image.
    watch: told (records done, all).
    """

    def work(record: Record) -> Found:
        frame = read_frame(record)
        judged = judge(frame, record)
        if shown:
            shown(frame, record, judged)
        return judged.outcome.as_dict()

    found, left_out = work_through(labels.records, record_key, work, results or Results(), watch)
    if not found:
        raise BadInput(f"{labels.path}: none of its {len(labels.records)} images is usable; the last: {left_out[-1]}")
    lost = {problem.where for problem in left_out}
    kept = [record.where for record in labels.records if record.where not in lost]
    outcomes = [Outcome.from_dict(where, one) for where, one in zip(kept, found, strict=True)]
    return Evaluation(tuple(outcomes), (*labels.problems, *left_out))


def read_frame(record: Record) -> Frame:
    """The image with its camera. Raises BadRecord if it cannot be read or is of another size."""
    try:
        return Frame(read_rgb(record.image), record.intrinsics)
    except BadImage as exc:
        raise BadRecord("image unusable", str(exc)) from exc


def record_key(record: Record) -> str:
    """What an outcome is kept under: another label is another key."""
    depth = record.depth and (record.depth.path.name, record.depth.scale, record.depth.caps_m)
    label = (record.image.name, record.intrinsics, record.uv_px, record.depth_m, record.depth_type, depth)
    return key_of(record.where, *label)
