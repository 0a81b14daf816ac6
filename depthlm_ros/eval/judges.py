"""Run a predictor over labelled images: what it said at each labelled point, beside the truth.

Every pixel of a depth map against the truth, within the caps and masks that its data set sets.

Labelled images for evaluation: the points of a JSONL file (depthlm_ros/data/reading.py), all along the optical axis.

What is wrong with one line costs that line, or those of its points; it is counted by reason and never fatal unless
nothing is left.

Which points of which images are scored, and what the headline of the scores is.

plain: every labelled point; delta1 over all points.
depthlm: one point per sample; sample i is image i mod N and a random point of it, drawn with Python's random.sample
    from seed 42; the first 128 samples unless told otherwise (DepthLM's eval.py as first released; its paper scores
    8,192). A later revision of that file takes image i // points per image instead, which scores two images only.
depthvlm-sparse: every labelled point; delta1 is the unweighted mean over images, one without a valid point scoring 0.
dense: every pixel of the depth map; the same mean.

As released (--as-released), which published numbers need and nothing else does: see released.py.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np

from depthlm_ros.core import DepthMap, Frame, PointDepths
from depthlm_ros.data.depthfile import read_z
from depthlm_ros.data.read import RecordSet, Roots, iter_records
from depthlm_ros.data.read import RecordSet as LabelSet
from depthlm_ros.data.records import (
    BadRecord,
    Problem,
    Record,
    between_grids,
    count_by_reason,
    inside_image,
    nothing_usable,
    resized,
)
from depthlm_ros.errors import BadImage, BadInput, BadQuestion, UnknownName
from depthlm_ros.eval.baselines import row_slopes
from depthlm_ros.eval.metrics import edges, has_depth, median_aligned, sums
from depthlm_ros.eval.result_file import Found, Outcome, Results, Whole, key_of, work_through
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


# So many pixels of each map are kept: for reliability, which asks for deviations, and for what blind answers score.
SAMPLE = 512


def read_maps(path: Path, roots: Roots | None = None) -> RecordSet:
    """The records of a file that have a depth map. Raises BadInput if it has none."""
    problems: list[Problem] = []
    records = []
    for record in iter_records(path, problems, roots):
        if record.depth is None:
            problems.append(
                Problem(
                    record.where, "record without a depth map", "it has no depth_path (curate with --format depthvlm)"
                )
            )
        else:
            records.append(record)
    if not records:
        raise nothing_usable(path, problems, "record with a depth map")
    return RecordSet(path, tuple(records), tuple(problems))


def whole_maps(look: Callable[[Frame], Seen], seed: int = 42) -> Judge:
    """Judges the depth map of each look at the truth's own resolution; the prediction is resized to it, bilinearly.

    Truth is along the optical axis; 0, masked pixels and what is beyond the caps do not count (data.depthfile).
    """

    def judge(frame: Frame, record: Record) -> Judged:
        true_m = true_map(record)
        uv_px = sample(true_m, seed)
        grid = resized(record.intrinsics, (true_m.shape[1], true_m.shape[0]))
        on_image = nearest_inside(between_grids(uv_px, grid.size_px, record.intrinsics.size_px), frame)
        started_s, refused = time.perf_counter(), ""
        predicted_m, std_m = np.full(true_m.shape, np.nan, np.float32), np.full(len(uv_px), np.nan)
        try:
            seen = look(frame)
            predicted_m = resize(seen.depth().depth_m, true_m.shape)
            seconds = time.perf_counter() - started_s
            std_m = np.asarray(seen.depth_at(on_image).std_m, np.float64)
        except BadInput as exc:
            seconds, refused = time.perf_counter() - started_s, str(exc)
        u, v = uv_px.T
        at = (true_m[v, u].astype(np.float64), predicted_m[v, u].astype(np.float64), std_m)
        whole = compared(predicted_m, true_m)
        outcome = Outcome(record.where, *at, row_slopes(uv_px, grid), seconds, refused, whole)
        return Judged(outcome, predicted_m, true_m)

    return judge


def true_map(record: Record) -> np.ndarray:
    """float32 (h, w), z in metres, NaN unknown. Raises BadRecord if it cannot be read."""
    try:
        return read_z(record)
    except BadImage as exc:
        raise BadRecord("depth map unusable", str(exc)) from exc


def compared(predicted_m: np.ndarray, true_m: np.ndarray) -> Whole:
    """All that is counted in two maps (H, W)."""
    aligned_m = median_aligned(predicted_m, true_m)
    return Whole(sums(predicted_m, true_m), sums(aligned_m, true_m), edges(predicted_m, true_m))


def resize(depth_m: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The map (h, w) at another size (H, W), bilinear; what touches an unknown depth becomes unknown."""
    if depth_m.shape == shape:
        return depth_m
    return cv2.resize(depth_m, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)


def sample(true_m: np.ndarray, seed: int) -> np.ndarray:
    """int64 (N, 2): up to SAMPLE of the map's pixels (u, v) with a known depth, the same for the same map."""
    v, u = np.nonzero(has_depth(true_m))
    chosen = np.random.default_rng(seed).permutation(len(u))[:SAMPLE]
    return np.stack([u[chosen], v[chosen]], axis=1)


def nearest_inside(uv_px: np.ndarray, frame: Frame) -> np.ndarray:
    """Pixels (N, 2) of the image, those a hair outside moved onto it."""
    return np.clip(uv_px, 0, np.array(frame.intrinsics.size_px) - 1)


__all__ = ["BadRecord", "LabelSet", "Problem", "Record", "count_by_reason", "inside_image", "read_records"]


def read_records(path: Path, roots: Roots | None = None) -> LabelSet:
    """Read a JSONL file of labels; every record has points, z in metres.

    Raises BadInput if it cannot be read, is empty, or holds no usable record.
    """
    problems: list[Problem] = []
    records = []
    for record in iter_records(path, problems, roots):
        if len(record.uv_px):
            records.append(record.as_z())
        else:
            problems.append(
                Problem(record.where, "record without a usable point", "it has no points, only a depth map")
            )
    if not records:
        raise nothing_usable(path, problems)
    return LabelSet(path, tuple(records), tuple(problems))


PLAIN, DEPTHLM, DEPTHVLM_SPARSE, DENSE = "plain", "depthlm", "depthvlm-sparse", "dense"
PROTOCOLS = (PLAIN, DEPTHLM, DEPTHVLM_SPARSE, DENSE)
# Their delta1 is that of images, not of points.
BY_IMAGE = {DEPTHVLM_SPARSE, DENSE}
DEPTHLM_SAMPLES, SEED = 128, 42

# Whether a point (record, index) may be asked about.
Allowed = Callable[[Record, int], bool]


def limited(labels: RecordSet, limit: int | None, seed: int | None) -> RecordSet:
    """The first `limit` records, or as many drawn at random if there is a seed; in the file's order, all if None."""
    count = len(labels.records)
    if limit is None or limit >= count:
        return labels
    chosen = range(limit) if seed is None else sorted(random.Random(seed).sample(range(count), limit))
    return replace(labels, records=tuple(labels.records[index] for index in chosen))


def depthlm_samples(
    labels: RecordSet, samples: int = DEPTHLM_SAMPLES, seed: int = SEED, allowed: Allowed | None = None
) -> RecordSet:
    """The records with only the points that DepthLM's protocol draws, in the order of the samples.

    allowed: a sample that is not is replaced by the next one that is, which may then be scored twice, as released.
    """
    records = labels.records
    slots = len(records[0].uv_px)
    total = slots * len(records)
    rng = random.Random(seed)
    drawn = [rng.sample(range(slots), 1)[0] for _ in range(total)]
    chosen: defaultdict[int, list[int]] = defaultdict(list)
    for index in range(min(samples, total)):
        image, point = _next_allowed(records, drawn, index, allowed)
        chosen[image].append(point)
    kept = (_only(records[image], points) for image, points in sorted(chosen.items()))
    return replace(labels, records=tuple(kept))


def _next_allowed(
    records: Sequence[Record], drawn: Sequence[int], index: int, allowed: Allowed | None
) -> tuple[int, int]:
    for step in range(len(drawn)):
        sample = (index + step) % len(drawn)
        image = sample % len(records)
        # A record may have lost unusable points, which the release would not have noticed.
        point = drawn[sample] % len(records[image].uv_px)
        if allowed is None or allowed(records[image], point):
            return image, point
    raise BadInput("no labelled point keeps off the image's border: score without --as-released.")


def _only(record: Record, points: Sequence[int]) -> Record:
    index = list(points)
    return replace(record, uv_px=record.uv_px[index], depth_m=record.depth_m[index])
