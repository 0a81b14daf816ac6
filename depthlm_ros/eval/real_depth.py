# SPDX-License-Identifier: Apache-2.0
"""Scores of depth on real images, as means over scenes: `predict_scenes`, then `SceneResults.scores` and others.

    results = predict_scenes(model_predictor(load_model("tiny")), read_photographs(folder))
    results.scores().delta1

Means over scenes: first over the frames of a scene, then over scenes, so that a scene with many frames counts once. A
photograph is a scene of its own. "Scaled" means: after each image was multiplied by the ratio of its medians
(metrics.align_medians).

Uncertainty (`score_uncertainty`): how well reported standard deviations fit the errors, beside the best deviation that
is one constant share of the depth. Lower negative log-likelihoods (nats per point) are better; they are a strictly
proper score (Gneiting and Raftery, "Strictly proper scoring rules, prediction, and estimation", JASA 2007).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from depthlm_ros.data.read import RecordSet
from depthlm_ros.data.records import BadRecord, Record, RecordProblem, rescale_pixels
from depthlm_ros.data.sensor_frames import EVALUATE, KINDS, LABELS_FILE, ROOM, SensorFrame, read_sensor_frames
from depthlm_ros.errors import BadInput
from depthlm_ros.eval.judges import (
    SEED,
    Predictor,
    evaluate,
    model_predictor,
    point_judge,
    read_point_records,
    read_true_map,
    sample_known_pixels,
)
from depthlm_ros.eval.metrics import DELTA1_RATIO, has_depth
from depthlm_ros.eval.result_file import ImageResult, ProgressCallback, ResultStore
from depthlm_ros.eval.uncertainty import gaussian_nll, laplace_nll, share_within
from depthlm_ros.model import Model
from depthlm_ros.model_files.spec import ErrorCalibration

# Beginnings of the scenes of NYU Depth v2 and of SUN RGB-D, on which many networks were trained.
TRAINED_ON_ELSEWHERE = ("nyu_slambook/", "rooms_mixed/nyu_", "rooms_mixed/sun_", "rooms_mixed/unidepth_demo")
# Depths that are tried as a constant answer; neighbours differ by 1 %.
CONSTANTS_M = np.geomspace(0.1, 100.0, 695)
# Frames of each room that the calibration uses: more of one room tell little more.
CALIBRATION_FRAMES = 8
# Share of the errors on these rooms that the calibration puts within one standard deviation. They are harder than
# photographs (unusual sensors and places): of the errors on the development photographs 77 % are within one then.
ROOMS_WITHIN = 0.62
# How the deviations grow towards near and far places and towards the top of a picture, and where they are smallest.
# Chosen on the development photographs: they rank the errors there by .297 in place of .22 and make them more likely,
# as they do on the rooms.
STD_GROWTH, STD_UPPER, STD_CENTRE_M = 0.6, 0.3, 2.4
# No deviation is a smaller share of the depth: errors of 0 would make the likelihood infinite.
LEAST_SHARE = 1e-6


@dataclass(frozen=True)
class SceneScores:
    """Means over scenes; NaN where nothing allows a score.

    log_bias, log_spread: mean and standard deviation over scenes of ln(median prediction / median truth). within_std:
    share of the true depths within one reported standard deviation.
    """

    scenes: int
    images: int
    delta1: float
    delta1_scaled: float
    absrel: float
    log_bias: float
    log_spread: float
    within_std: float


@dataclass(frozen=True)
class UncertaintyScores:
    """How well reported standard deviations fit the errors of n points.

    within_std: share of the errors within one deviation (normal distribution: 0.683). rank_correlation: Spearman's, of
    deviation / predicted depth with |error| / true depth. gaussian_nll, laplace_nll: mean negative log-likelihood of
    the errors, nats, under a distribution with the reported deviation; *_constant: the same if the deviation is the
    best constant share of the predicted depth, which knows these errors.
    """

    n: int
    within_std: float
    rank_correlation: float
    gaussian_nll: float
    gaussian_nll_constant: float
    laplace_nll: float
    laplace_nll_constant: float


@dataclass(frozen=True)
class ScaleJitter:
    """How much the scale changes from frame to frame of one sequence with `frames` frames.

    predicted, sensor: standard deviation of ln(median of a frame / median of the frame before) of the prediction and of
    the measured depth at the same pixels. difference: the same of ln(median prediction / median measured), which is 0
    for a prediction that changes only as the scene does.
    """

    frames: int
    predicted: float
    sensor: float
    difference: float


@dataclass(frozen=True)
class SceneResults:
    """Depth at the labelled points of N images. scenes: N names."""

    images: tuple[ImageResult, ...]
    scenes: tuple[str, ...]

    def of(self, records: Sequence[Record]) -> SceneResults:
        """Returns the results of these records only. Raises BadInput if there is none."""
        chosen = {record.where for record in records}
        pairs = [pair for pair in zip(self.images, self.scenes, strict=True) if pair[0].where in chosen]
        if not pairs:
            raise BadInput(f"none of the {len(self.images)} images has been chosen: choose at least one.")
        return SceneResults(*zip(*pairs, strict=True))

    def scores(self) -> SceneScores:
        """Returns the means over scenes."""
        means = scene_means(np.array([_image_scores(image) for image in self.images]), self.scenes)
        delta1, scaled, absrel, log_bias, within = _means(means)
        log_spread = float(np.nanstd(means[:, 3])) if np.isfinite(means[:, 3]).any() else math.nan
        return SceneScores(len(means), len(self.images), delta1, scaled, absrel, log_bias, log_spread, within)

    def uncertainty(self) -> UncertaintyScores:
        """Returns how well the reported deviations fit the errors, over the points of all images."""
        return score_uncertainty(
            np.concatenate([image.predicted_m for image in self.images]),
            np.concatenate([image.std_m for image in self.images]),
            np.concatenate([image.true_m for image in self.images]),
        )

    def best_constant(self) -> SceneResults:
        """Returns the results of the one depth that has the highest delta1 if it is answered everywhere."""
        shares = np.array([_constant_delta1(image.true_m) for image in self.images])
        depth_m = float(CONSTANTS_M[np.argmax(scene_means(shares, self.scenes).mean(axis=0))])
        unknown = (np.full(image.true_m.shape, np.nan) for image in self.images)
        constant = tuple(
            replace(image, predicted_m=np.full(image.true_m.shape, depth_m), std_m=nan_m, seconds=math.nan, refused="")
            for image, nan_m in zip(self.images, unknown, strict=True)
        )
        return SceneResults(constant, self.scenes)

    def jitter(self) -> ScaleJitter:
        """Returns the changes of scale between successive images, which are taken as one sequence."""
        logs = np.array([_log_medians(image) for image in self.images])
        steps = np.diff(np.column_stack([logs, logs[:, 0] - logs[:, 1]]), axis=0)
        steps = steps[np.isfinite(steps).all(axis=1)]
        predicted, sensor, difference = steps.std(axis=0).tolist() if len(steps) else [math.nan] * 3
        return ScaleJitter(len(self.images), predicted, sensor, difference)


def read_photographs(folder: Path) -> tuple[Record, ...]:
    """Returns the photographs of a folder; each is a scene of its own. Raises BadInput if none is usable."""
    records = read_point_records(folder / LABELS_FILE).records
    return tuple(replace(record, scene=record.image.stem) for record in records)


def read_evaluation_frames(
    folder: Path, kinds: Sequence[str] = KINDS, problems: list[RecordProblem] | None = None
) -> tuple[SensorFrame, ...]:
    """Returns the sensor frames of these kinds whose use is "evaluate", each with up to judges.SAMPLE_PIXELS known
    pixels of its depth map, the same ones in every run.

    problems: takes what is wrong with the frames that are left out. Raises BadInput if no frame is usable.
    """
    problems = [] if problems is None else problems
    frames: list[SensorFrame] = []
    for frame in read_sensor_frames(folder, EVALUATE, problems, kinds):
        try:
            frames.append(replace(frame, record=sample_points(frame.record)))
        except BadRecord as exc:
            problems.append(RecordProblem(frame.record.where, exc.reason, str(exc)))
    if not frames:
        raise BadInput(f"{folder / LABELS_FILE}: no frame is usable: {problems[-1]}")
    return tuple(frames)


def is_trained_on_elsewhere(frame: SensorFrame) -> bool:
    """Returns whether a scene is of NYU Depth v2 or of SUN RGB-D."""
    return frame.record.scene.startswith(TRAINED_ON_ELSEWHERE)


def sample_points(record: Record) -> Record:
    """Returns the record with points drawn from its depth map. Raises BadRecord if the map is unusable or empty."""
    true_m = read_true_map(record)
    u, v = sample_known_pixels(true_m, SEED).T
    if not len(u):
        raise BadRecord("depth map without a known depth", f"{record.depth} has no known depth: leave the frame out.")
    map_px = np.stack([u, v], axis=1)
    size_px = record.intrinsics.size_px
    on_image_px = rescale_pixels(map_px, (true_m.shape[1], true_m.shape[0]), size_px)
    uv_px = np.clip(on_image_px, 0, np.array(size_px) - 1)
    return replace(record, uv_px=uv_px, depth_m=true_m[v, u].astype(np.float64))


def thin_scenes(records: Iterable[Record], per_scene: int) -> list[Record]:
    """Returns up to `per_scene` records of each scene, evenly spaced over the scene, in their order."""
    scenes: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        scenes[record.scene].append(record)
    return [record for scene in scenes.values() for record in _spread(scene, per_scene)]


def _spread(records: Sequence[Record], count: int) -> list[Record]:
    if count >= len(records):
        return list(records)
    return [records[index] for index in np.linspace(0, len(records) - 1, count).round().astype(int)]


def predict_scenes(
    predict: Predictor,
    records: Sequence[Record],
    store: ResultStore | None = None,
    on_progress: ProgressCallback | None = None,
) -> SceneResults:
    """Predicts the labelled points of every record. An image that cannot be read is left out.

    store: keeps results, and results that it holds already are not computed again. Raises BadInput if no image could be
    read.
    """
    path = Path(records[0].where.rpartition(":")[0]) if records else Path()
    evaluation = evaluate(point_judge(predict), RecordSet(path, tuple(records), ()), store, on_progress=on_progress)
    scene_of = {record.where: record.scene for record in records}
    return SceneResults(evaluation.results, tuple(scene_of[image.where] for image in evaluation.results))


def calibrate_on_rooms(model: Model, folder: Path, calibration: ErrorCalibration) -> ErrorCalibration:
    """Returns the calibration of the map's standard deviation: its factor is fitted on real rooms.

    model: tells the standard deviation of every pixel. folder: of sensor frames. Only rooms whose intrinsics are given
    are used and, of their scenes sorted by name, only every other one (the first, third, ...): the others stay for
    checks.
    """
    shape = {"map_std_growth": STD_GROWTH, "map_std_centre_m": STD_CENTRE_M, "map_std_upper": STD_UPPER}
    shape["map_std_floor"] = 0.0
    fitted = copy(model)
    fitted.spec = replace(model.spec, calibration=ErrorCalibration(**shape))
    images = predict_scenes(
        model_predictor(fitted), thin_scenes(calibration_records(folder), CALIBRATION_FRAMES)
    ).images
    ratio = np.concatenate([np.abs(image.predicted_m - image.true_m) / image.std_m for image in images])
    ratio = ratio[np.isfinite(ratio)]
    if not len(ratio):
        return calibration
    return replace(calibration, map_std_factor=float(np.quantile(ratio, ROOMS_WITHIN)), **shape)


def calibration_records(folder: Path) -> list[Record]:
    """Returns the frames of every other room, by the names of their scenes, with given intrinsics."""
    records = [frame.record for frame in read_evaluation_frames(folder, (ROOM,)) if frame.intrinsics_given]
    chosen = set(sorted({record.scene for record in records})[::2])
    return [record for record in records if record.scene in chosen]


def scene_means(values: np.ndarray, scenes: Sequence[str]) -> np.ndarray:
    """Returns (S, K): the mean of the finite values (N, K) of each of S scenes, NaN where a scene has none."""
    names, index = np.unique(np.array(scenes), return_inverse=True)
    known = np.isfinite(values)
    totals, counts = np.zeros((len(names), values.shape[1])), np.zeros((len(names), values.shape[1]))
    np.add.at(totals, index, np.where(known, values, 0.0))
    np.add.at(counts, index, known)
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)


def score_uncertainty(predicted_m: np.ndarray, std_m: np.ndarray, true_m: np.ndarray) -> UncertaintyScores:
    """Compares reported deviations with the errors. All arrays are float (N,) in metres, NaN for unknown."""
    known = has_depth(predicted_m) & has_depth(std_m) & has_depth(true_m)
    p, std, g = (np.asarray(x, np.float64)[known] for x in (predicted_m, std_m, true_m))
    if not len(p):
        return UncertaintyScores(0, *[math.nan] * 6)
    error_m = np.abs(p - g)
    # Both closed forms are the shares of largest likelihood: of a Gaussian's deviation, of a Laplacian's mean |error|.
    gaussian_share = max(math.sqrt(float(np.mean((error_m / p) ** 2))), LEAST_SHARE)
    laplace_share = max(float(np.mean(error_m / p)), LEAST_SHARE)
    return UncertaintyScores(
        n=len(p),
        within_std=share_within(error_m, std),
        rank_correlation=rank_correlation(std / p, error_m / g),
        gaussian_nll=gaussian_nll(error_m, std),
        gaussian_nll_constant=gaussian_nll(error_m, gaussian_share * p),
        laplace_nll=laplace_nll(error_m, std),
        laplace_nll_constant=laplace_nll(error_m, math.sqrt(2) * laplace_share * p),
    )


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Returns Spearman's rank correlation of two arrays (N,); equal values share a rank. NaN if one is constant."""
    ranks = np.stack([_ranks(x), _ranks(y)])
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    size = math.sqrt(float((centred**2).sum(axis=1).prod()))
    return float(centred[0] @ centred[1]) / size if size > 0 else math.nan


def _ranks(values: np.ndarray) -> np.ndarray:
    """Returns float64 (N,): the place of each value in the sorted order, the mean place for equal values."""
    # Quotients of float32 depths that are mathematically equal differ in their last digits.
    _, index, counts = np.unique(np.round(values, 6), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[index]


def _image_scores(image: ImageResult) -> tuple[float, float, float, float, float]:
    """Returns delta1, scaled delta1, AbsRel, ln ratio of medians, share within one deviation."""
    predicted, true = _log_medians(image)
    raw = image.raw.scores
    within = share_within(image.predicted_m - image.true_m, image.std_m)
    return raw.delta1, image.aligned.scores.delta1, raw.absrel, predicted - true, within


def _log_medians(image: ImageResult) -> tuple[float, float]:
    """Returns ln of the median prediction and of the median truth, at the points that have both; NaN without any."""
    both = has_depth(image.predicted_m) & has_depth(image.true_m)
    if not both.any():
        return math.nan, math.nan
    return math.log(np.median(image.predicted_m[both])), math.log(np.median(image.true_m[both]))


def _constant_delta1(true_m: np.ndarray) -> np.ndarray:
    """Returns the delta1 of each of CONSTANTS_M as the answer for these depths."""
    sorted_m = np.sort(true_m)
    above = np.searchsorted(sorted_m, CONSTANTS_M * DELTA1_RATIO, side="left")
    return (above - np.searchsorted(sorted_m, CONSTANTS_M / DELTA1_RATIO, side="right")) / max(len(sorted_m), 1)


def _means(columns: np.ndarray) -> list[float]:
    """Returns the mean of the finite values of each column (N, K); NaN for a column without any."""
    known = np.isfinite(columns)
    counts = known.sum(axis=0)
    totals = np.where(known, columns, 0.0).sum(axis=0)
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan).tolist()
