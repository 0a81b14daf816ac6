# SPDX-License-Identifier: Apache-2.0
"""Evaluation of depth: which records and points are scored, and how a model's answer for one image is compared.

A protocol says which points count and what delta1 in the headline is:
    plain             every labelled point; delta1 over all points
    depthlm           one point per sample. Sample i is image i mod N and a random point of it, drawn with Python's
                      random.sample from seed 42; by default the first 128 samples. Source: DepthLM's eval.py as first
                      released; its paper scores 8,192 samples. A later revision of that file takes image
                      i // (points per image) instead, which scores two images only.
    depthvlm-sparse   every labelled point; delta1 is the unweighted mean over images, and an image without a valid
                      point scores 0
    dense             every pixel of the depth map, within the limits and masks of its data set; the same mean
    nyu-eigen, kitti-eigen   the test splits of Eigen et al. (NIPS 2014) as the field scores them, by the rules of BTS's
                      evaluation code (Lee et al. 2019): the pixels of a crop, predictions limited to 0.001 to 10 or
                      80 m, and means over images of every score. The records are the original pictures (654 of NYU with
                      the Kinect's own depth, 652 of KITTI with annotated depth). Of KITTI's the model sees the lower
                      352 rows and the middle 1216 columns.
released.py repeats the defects of the published evaluations (--as-released).

A `Judge` makes one prediction and compares it: `point_judge` at labelled points, `map_judge` over the whole map.
`evaluate` applies it to all records, and `evaluate_all` any function, also in other processes. A record that cannot be
used is left out and counted by reason; it is an error only if none is left.
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
from depthlm_ros.data.records import (
    BadRecord,
    Record,
    RecordProblem,
    rescale_pixels,
    resize_intrinsics,
    unusable_file_error,
)
from depthlm_ros.data.worker_pool import Workers
from depthlm_ros.errors import BadImage, BadInput, BadQuestion, UnknownName
from depthlm_ros.eval.baselines import row_slopes
from depthlm_ros.eval.metrics import align_medians, count_edges, has_depth, sum_depth_errors
from depthlm_ros.eval.result_file import (
    DepthMapSums,
    ImageResult,
    ImageResultFields,
    ProgressCallback,
    ResultStore,
    evaluate_records,
    make_key,
)
from depthlm_ros.image_io import read_rgb

if TYPE_CHECKING:
    from depthlm_ros.model import Model

PLAIN, DEPTHLM, DEPTHVLM_SPARSE, DENSE = "plain", "depthlm", "depthvlm-sparse", "dense"
NYU_EIGEN, KITTI_EIGEN = "nyu-eigen", "kitti-eigen"
# Protocols that score whole depth maps.
OF_MAPS = {DENSE, NYU_EIGEN, KITTI_EIGEN}
# Protocols whose delta1 is a mean over images, not over points.
MEAN_OVER_IMAGES = {DEPTHVLM_SPARSE, *OF_MAPS}
DEPTHLM_SAMPLES, SEED = 128, 42
# How a model is asked for points: read its depth map, or ask it in words.
POINT_SOURCES = ("dense", "words")
# Number of pixels of each map that are kept, to score the reported deviations and the answers without a model.
SAMPLE_PIXELS = 512

# (frame, uv_px float64 (N, 2)) -> depth at these pixels, NaN for no prediction. Raises BadInput if it refuses a frame.
Predictor = Callable[[Frame, np.ndarray], PointDepths]
# (record, index of a point) -> whether this point may be scored.
PointFilter = Callable[[Record, int], bool]


class DepthSource(Protocol):
    """The part of view.View that `map_judge` uses."""

    def depth(self) -> DepthMap: ...

    def depth_at(self, uv_px: np.ndarray) -> PointDepths: ...


@dataclass(frozen=True)
class ImageEvaluation:
    """The result of one image and, if a whole map was judged, both maps, float32 (H, W) of one size."""

    result: ImageResult
    predicted_m: np.ndarray | None = None
    true_m: np.ndarray | None = None


# Predicts one image and compares the prediction. Raises BadRecord if the record cannot be used.
Judge = Callable[[Frame, Record], ImageEvaluation]
# Called with each newly judged image.
ImageCallback = Callable[[Frame, Record, ImageEvaluation], None]


@dataclass(frozen=True)
class DepthEvaluation:
    """results: of the usable records, in their order. left_out: problems of labels that could not be used."""

    results: tuple[ImageResult, ...]
    left_out: tuple[RecordProblem, ...]


def read_point_records(path: Path, roots: Roots | None = None) -> RecordSet:
    """Reads the records of a JSONL file that have points, with the depths of the points along the optical axis.

    Raises BadInput if the file cannot be read, is empty, or has no usable record.
    """
    problems: list[RecordProblem] = []
    records = []
    for record in iter_records(path, problems, roots):
        if len(record.uv_px):
            records.append(record.as_z())
        else:
            message = "it has no points, only a depth map"
            problems.append(RecordProblem(record.where, "record without a usable point", message))
    if not records:
        raise unusable_file_error(path, problems)
    return RecordSet(path, tuple(records), tuple(problems))


def read_map_records(path: Path, roots: Roots | None = None) -> RecordSet:
    """Reads the records of a JSONL file that have a depth map. Raises BadInput if there is none."""
    problems: list[RecordProblem] = []
    records = []
    for record in iter_records(path, problems, roots):
        if record.depth is not None:
            records.append(record)
        else:
            message = "it has no depth_path (curate with --format depthvlm)"
            problems.append(RecordProblem(record.where, "record without a depth map", message))
    if not records:
        raise unusable_file_error(path, problems, "record with a depth map")
    return RecordSet(path, tuple(records), tuple(problems))


def limit_records(labels: RecordSet, limit: int | None, seed: int | None) -> RecordSet:
    """Returns the first `limit` records, or with a seed as many random ones, in order. limit: None for all."""
    count = len(labels.records)
    if limit is None or limit >= count:
        return labels
    chosen = range(limit) if seed is None else sorted(random.Random(seed).sample(range(count), limit))
    return replace(labels, records=tuple(labels.records[index] for index in chosen))


def sample_depthlm_points(
    labels: RecordSet, samples: int = DEPTHLM_SAMPLES, seed: int = SEED, is_allowed: PointFilter | None = None
) -> RecordSet:
    """Returns the records with only the points that DepthLM's protocol draws, in the order of the samples.

    is_allowed: a sample that is not allowed is replaced by the next one that is. That point may then be scored twice,
    as in the released code.
    """
    records = labels.records
    slots = len(records[0].uv_px)
    total = slots * len(records)
    rng = random.Random(seed)
    drawn = [rng.sample(range(slots), 1)[0] for _ in range(total)]
    chosen: defaultdict[int, list[int]] = defaultdict(list)
    for index in range(min(samples, total)):
        image, point = _next_allowed_point(records, drawn, index, is_allowed)
        chosen[image].append(point)
    kept = (_keep_points(records[image], points) for image, points in sorted(chosen.items()))
    return replace(labels, records=tuple(kept))


def _next_allowed_point(
    records: Sequence[Record], drawn: Sequence[int], index: int, is_allowed: PointFilter | None
) -> tuple[int, int]:
    """Returns (image, point) of the first allowed sample from `index` on."""
    for step in range(len(drawn)):
        sample = (index + step) % len(drawn)
        image = sample % len(records)
        # The reader may have removed unusable points of a record, which the released code would not notice.
        point = drawn[sample] % len(records[image].uv_px)
        if is_allowed is None or is_allowed(records[image], point):
            return image, point
    raise BadInput("every labelled point is too close to the image's border: score without --as-released.")


def _keep_points(record: Record, points: Sequence[int]) -> Record:
    index = list(points)
    return replace(record, uv_px=record.uv_px[index], depth_m=record.depth_m[index])


def model_predictor(model: Model, points: str = "dense") -> Predictor:
    """Returns how the model is asked for the depth at pixels: "dense" reads its depth map, "words" asks for each depth.

    Raises UnknownName for any other `points`, and BadQuestion if the model cannot answer that way.
    """
    if points not in POINT_SOURCES:
        raise UnknownName(f"points '{points}' do not exist: choose one of {', '.join(POINT_SOURCES)}.")
    if (points == "words" or not model.spec.head) and "points" not in model.family.abilities:
        raise BadQuestion(f"{model.name} cannot say the depth of a pixel: use vlm3-depth, depthlm-12b or depthvlm-4b.")
    if points == "dense":
        return lambda frame, uv_px: model.look(frame).depth_at(uv_px)
    return lambda frame, uv_px: model.look(frame).tell_depth_at(uv_px)


def point_judge(predict: Predictor) -> Judge:
    """Returns the judge of a predictor at the labelled points of each record."""

    def judge(frame: Frame, record: Record) -> ImageEvaluation:
        started_s, refused = time.perf_counter(), ""
        try:
            prediction = predict(frame, record.uv_px)
            predicted_m, std_m = (np.asarray(x, np.float64) for x in (prediction.depth_m, prediction.std_m))
        except BadInput as exc:
            predicted_m = std_m = np.full(len(record.uv_px), np.nan)
            refused = str(exc)
        seconds = time.perf_counter() - started_s
        slope = row_slopes(record.uv_px, record.intrinsics)
        return ImageEvaluation(ImageResult(record.where, record.depth_m, predicted_m, std_m, slope, seconds, refused))

    return judge


def map_judge(
    look: Callable[[Frame], DepthSource], seed: int = SEED, read_truth: Callable[[Record], np.ndarray] | None = None
) -> Judge:
    """Returns the judge of whole depth maps, at the resolution of the true map, which `read_truth` returns.

    The prediction is resized to that resolution, bilinearly. True depths are along the optical axis; pixels that are 0,
    masked or beyond the limits do not count (data.depthfile). seed: of the sample of pixels that is kept.
    """

    def judge(frame: Frame, record: Record) -> ImageEvaluation:
        true_m = (read_truth or read_true_map)(record)
        uv_px = sample_known_pixels(true_m, seed)
        grid = resize_intrinsics(record.intrinsics, (true_m.shape[1], true_m.shape[0]))
        on_image_px = _clip_to_image(rescale_pixels(uv_px, grid.size_px, record.intrinsics.size_px), frame)
        started_s, refused = time.perf_counter(), ""
        predicted_m, std_m = np.full(true_m.shape, np.nan, np.float32), np.full(len(uv_px), np.nan)
        try:
            source = look(frame)
            predicted_m = resize_depth(source.depth().depth_m, true_m.shape)
            seconds = time.perf_counter() - started_s
            std_m = np.asarray(source.depth_at(on_image_px).std_m, np.float64)
        except BadInput as exc:
            seconds, refused = time.perf_counter() - started_s, str(exc)
        u, v = uv_px.T
        sampled = (true_m[v, u].astype(np.float64), predicted_m[v, u].astype(np.float64), std_m)
        map_sums = sum_map_errors(predicted_m, true_m)
        result = ImageResult(record.where, *sampled, row_slopes(uv_px, grid), seconds, refused, map_sums)
        return ImageEvaluation(result, predicted_m, true_m)

    return judge


def read_true_map(record: Record) -> np.ndarray:
    """Returns float32 (h, w): z in metres, NaN for unknown. Raises BadRecord if it cannot be read."""
    try:
        return read_z(record)
    except BadImage as exc:
        raise BadRecord("depth map unusable", str(exc)) from exc


def sum_map_errors(predicted_m: np.ndarray, true_m: np.ndarray) -> DepthMapSums:
    """Returns the sums over two maps (H, W)."""
    aligned_m = align_medians(predicted_m, true_m)
    edges = count_edges(predicted_m, true_m)
    return DepthMapSums(sum_depth_errors(predicted_m, true_m), sum_depth_errors(aligned_m, true_m), edges)


def resize_depth(depth_m: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the map (h, w) at another size (H, W), bilinearly. Pixels next to an unknown depth become unknown."""
    if depth_m.shape == shape:
        return depth_m
    return cv2.resize(depth_m, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)


def sample_known_pixels(true_m: np.ndarray, seed: int) -> np.ndarray:
    """Returns int64 (N, 2): up to SAMPLE_PIXELS pixels (u, v) with a known depth, the same ones for the same map."""
    v, u = np.nonzero(has_depth(true_m))
    chosen = np.random.default_rng(seed).permutation(len(u))[:SAMPLE_PIXELS]
    return np.stack([u[chosen], v[chosen]], axis=1)


def _clip_to_image(uv_px: np.ndarray, frame: Frame) -> np.ndarray:
    """Moves pixels (N, 2) that are slightly outside of the image onto it."""
    return np.clip(uv_px, 0, np.array(frame.intrinsics.size_px) - 1)


def evaluate(
    judge: Judge,
    labels: RecordSet,
    store: ResultStore | None = None,
    on_image: ImageCallback | None = None,
    on_progress: ProgressCallback | None = None,
) -> DepthEvaluation:
    """Judges every usable record. Raises BadInput if no image could be read.

    store: keeps results, and results that it holds already are not computed again.
    """

    def evaluate_record(record: Record) -> ImageResultFields:
        frame = read_frame(record)
        evaluation = judge(frame, record)
        if on_image:
            on_image(frame, record, evaluation)
        return evaluation.result.as_dict()

    return evaluate_all(evaluate_record, labels, store or ResultStore(), on_progress)


def evaluate_all(
    evaluate_record: Callable[[Record], ImageResultFields],
    labels: RecordSet,
    store: ResultStore,
    on_progress: ProgressCallback | None = None,
    workers: Workers | None = None,
) -> DepthEvaluation:
    """Evaluates every usable record with a function. Raises BadInput if no image could be read.

    workers: where the function is called, if not here.
    """
    fields, left_out = evaluate_records(labels.records, depth_key, evaluate_record, store, on_progress, workers)
    if not fields:
        count = len(labels.records)
        raise BadInput(f"{labels.path}: none of its {count} images is usable; the last problem is {left_out[-1]}")
    lost = {problem.where for problem in left_out}
    wheres = [record.where for record in labels.records if record.where not in lost]
    results = (ImageResult.from_dict(where, one) for where, one in zip(wheres, fields, strict=True))
    return DepthEvaluation(tuple(results), (*labels.problems, *left_out))


def read_frame(record: Record) -> Frame:
    """Returns the image with its camera. Raises BadRecord if it cannot be read or has another size."""
    try:
        return Frame(read_rgb(record.image), record.intrinsics)
    except BadImage as exc:
        raise BadRecord("image unusable", str(exc)) from exc


def depth_key(record: Record) -> str:
    """Returns the key of the record's result. It changes with the labels."""
    depth = record.depth and (record.depth.path.name, record.depth.scale, record.depth.caps_m)
    label = (record.image.name, record.intrinsics, record.uv_px, record.depth_m, record.depth_type, depth)
    return make_key(record.where, *label)
