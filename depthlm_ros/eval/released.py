# SPDX-License-Identifier: Apache-2.0
"""The published evaluations with their defects, to repeat published numbers (--as-released) and for nothing else.

DepthLM (eval.py, utils/datasets.py):
    The label is compared with the number that the model says, whether each means depth along the axis or along the ray.
    A point at which a whole arrow does not fit is replaced by the next sample.
    Of a file with "scannet" in its path only the last 2 % count, in random order.
DepthVLM (eval/eval.py, utils/datasets.py):
    The coordinates of a point are pixels of the depth map, but are scaled as if they were pixels of the image, by
    canonical over original size. The prediction is read there at its own size, a multiple of 32, without scaling it to
    the canonical size. Points outside of it are skipped.
    The true depth is read again from the depth map, which is resized to the canonical size by nearest neighbours,
    without masks. Where it is unknown there, the label is used. Points without a positive prediction are skipped.
    Dense: the truth by nearest neighbours and the prediction bilinearly, both at the canonical size.
    Depths that the labels call z are not converted.
    The centre crop of Taskonomy and HM3D is not repeated here, because the benchmark has neither.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from depthlm_ros.core import Frame, PointDepths
from depthlm_ros.data.depthfile import read_depth
from depthlm_ros.data.read import RecordSet
from depthlm_ros.data.records import BadRecord, Record, depth_from_z, rescale_pixels
from depthlm_ros.errors import BadImage, BadInput, BadQuestion
from depthlm_ros.eval.baselines import row_slopes
from depthlm_ros.eval.judges import (
    SEED,
    ImageEvaluation,
    Judge,
    PointFilter,
    Predictor,
    resize_depth,
    sum_map_errors,
)
from depthlm_ros.eval.metrics import has_depth
from depthlm_ros.eval.result_file import ImageResult
from depthlm_ros.geometry.canonical_view import fitted_view
from depthlm_ros.geometry.resize_rules import CanvasRule, canonical_size, scaled_pixels
from depthlm_ros.geometry.visual_prompt import MARKER_BORDER_PX

if TYPE_CHECKING:
    from depthlm_ros.model import Model

# In a path with this word, DepthLM trains on this share of the records and evaluates on the others.
SCANNET_WORD, SCANNET_TRAIN_SHARE = "scannet", 0.98


def depthlm_split(labels: RecordSet) -> RecordSet:
    """Returns the records of a file that DepthLM's evaluation uses, in its order."""
    if SCANNET_WORD not in str(labels.path):
        return labels
    kept = list(labels.records[int(len(labels.records) * SCANNET_TRAIN_SHARE) :])
    random.Random(SEED).shuffle(kept)
    return replace(labels, records=tuple(kept))


def arrow_filter(rule: CanvasRule) -> PointFilter:
    """Returns DepthLM's rule for points, in the image that the model sees.

    A point must be at least 5 pixels away from the left and top border, and more than that from the other borders.
    """

    def is_allowed(record: Record, index: int) -> bool:
        camera = record.intrinsics
        width, height = canonical_size(camera, rule)
        u, v = (int(value) for value in scaled_pixels(record.uv_px[index], camera, rule)[0])
        return MARKER_BORDER_PX <= u < width - MARKER_BORDER_PX and MARKER_BORDER_PX <= v < height - MARKER_BORDER_PX

    return is_allowed


def without_depth_conversion(predict: Predictor, depth_type: str) -> Predictor:
    """Returns a predictor of the numbers that the model said, before their conversion to depth along the axis.

    depth_type: ModelSpec.depth_type.
    """

    def predict_as_said(frame: Frame, uv_px: np.ndarray) -> PointDepths:
        prediction = predict(frame, uv_px)
        return replace(prediction, depth_m=depth_from_z(depth_type, prediction.depth_m, uv_px, frame.intrinsics))

    return predict_as_said


def depthvlm_point_judge(model: Model) -> Judge:
    """Returns the judge of DepthVLM's sparse evaluation."""
    rule = _check_rule(model)

    def judge(frame: Frame, record: Record) -> ImageEvaluation:
        if record.depth is None:
            message = "it has no depth_path, and the released evaluation reads the depth map."
            raise BadRecord("record without a depth map", message)
        canonical_px = canonical_size(record.intrinsics, rule)
        pixels = canonical_pixels(record, canonical_px)
        true_m = _true_depth(record, canonical_px, pixels)
        predicted_m, seconds, refused = np.full(len(pixels), np.nan), 0.0, ""
        try:
            depth_m, seconds = _canvas_depth(model, frame)
            predicted_m = _depth_at(depth_m, pixels)
        except BadInput as exc:
            refused = str(exc)
        true_m = np.where(has_depth(predicted_m) | bool(refused), true_m, np.nan)
        slope = row_slopes(record.uv_px, record.intrinsics)
        unknown = np.full(len(pixels), np.nan)
        return ImageEvaluation(ImageResult(record.where, true_m, predicted_m, unknown, slope, seconds, refused))

    return judge


def depthvlm_map_judge(model: Model) -> Judge:
    """Returns the judge of DepthVLM's dense evaluation."""
    rule = _check_rule(model)

    def judge(frame: Frame, record: Record) -> ImageEvaluation:
        canonical_px = canonical_size(record.intrinsics, rule)
        true_m = _nearest_depth_map(record, canonical_px)
        predicted_m, seconds, refused = np.full(true_m.shape, np.nan, np.float32), 0.0, ""
        try:
            depth_m, seconds = _canvas_depth(model, frame)
            predicted_m = resize_depth(depth_m, true_m.shape)
            true_m[~has_depth(predicted_m)] = np.nan
        except BadInput as exc:
            refused = str(exc)
        map_sums = sum_map_errors(predicted_m, true_m)
        empty = np.zeros(0)
        result = ImageResult(record.where, empty, empty, empty, empty, seconds, refused, map_sums)
        return ImageEvaluation(result, predicted_m, true_m)

    return judge


def canonical_pixels(record: Record, canonical_px: tuple[int, int]) -> np.ndarray:
    """Returns int64 (N, 2): the pixels at which the released evaluation reads the points of a record."""
    uv_px, size_px = record.uv_px, np.array(record.intrinsics.size_px)
    if record.depth is not None and record.depth.size_px is not None:
        uv_px = rescale_pixels(uv_px, record.intrinsics.size_px, record.depth.size_px)
    return np.round(uv_px * (np.array(canonical_px) / size_px)).astype(np.int64)


def _true_depth(record: Record, canonical_px: tuple[int, int], pixels: np.ndarray) -> np.ndarray:
    """Returns float64 (N,): depths of the map or, where it has none, of the labels; NaN outside of the map."""
    assert record.depth is not None
    map_m = _nearest_depth_map(replace(record, depth=replace(record.depth, masks=())), canonical_px)
    depth_m = _depth_at(map_m, pixels)
    inside = ((pixels >= 0) & (pixels < np.array(canonical_px))).all(1)
    return np.where(inside, np.where(has_depth(depth_m), depth_m, record.depth_m), math.nan)


def _nearest_depth_map(record: Record, canonical_px: tuple[int, int]) -> np.ndarray:
    """Returns float32: the stored depth map at the canonical size (width, height)."""
    assert record.depth is not None
    try:
        depth_m = read_depth(record.depth)
    except BadImage as exc:
        raise BadRecord("depth map unusable", str(exc)) from exc
    return cv2.resize(depth_m, canonical_px, interpolation=cv2.INTER_NEAREST)


def _depth_at(depth_m: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Returns float64 (N,): a map (H, W) at pixels (N, 2), NaN outside of it."""
    height, width = depth_m.shape
    inside = ((pixels >= 0) & (pixels < (width, height))).all(1)
    at_pixels_m = np.full(len(pixels), np.nan)
    at_pixels_m[inside] = depth_m[pixels[inside, 1], pixels[inside, 0]]
    return at_pixels_m


def _canvas_depth(model: Model, frame: Frame) -> tuple[np.ndarray, float]:
    """Returns the prediction at its own size, float32 (h, w), and the seconds that it took."""
    started_s = time.perf_counter()
    canvas = fitted_view(frame.intrinsics, model.spec.canvas).image_to_canvas(frame.rgb)
    depth_m = model.backend.look([canvas[None]]).depth_m
    assert depth_m is not None
    return depth_m[0], time.perf_counter() - started_s


def _check_rule(model: Model) -> CanvasRule:
    """Returns the model's canvas rule. Raises BadQuestion unless the model resizes whole images for dense depth."""
    rule = model.spec.canvas
    if rule.focal_px is None or rule.canvases_px or not model.spec.head:
        raise BadQuestion(
            f"{model.name} does not resize whole images for dense depth, as DepthVLM's released evaluation does: "
            "leave out --as-released, or use depthvlm-4b."
        )
    return rule
