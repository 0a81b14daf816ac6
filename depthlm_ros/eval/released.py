"""The evaluations as they were released, with their quirks: for repeating published numbers, and for nothing else.

DepthLM (eval.py, utils/datasets.py): a label is compared with the number that the model says, whatever either means
(along the axis or along the ray); a point at which no whole arrow fits is replaced by the next sample; of a file whose
path holds "scannet" only the last 2 % count, shuffled.
DepthVLM (eval/eval.py, utils/datasets.py): a point's coordinates, which are pixels of the depth map, are scaled as if
they were pixels of the image, by canonical over original size; the prediction is read there at its own size, a multiple
of 32, without scaling to the canonical one; what lies outside is skipped. The truth is read again from the depth map,
brought to the canonical size by nearest neighbours, without masks; where that is unknown, the label is taken. Points
with a prediction that is not positive are skipped. Dense: truth by nearest neighbours and prediction bilinearly, both
at the canonical size. What their labels call z is not converted. The centre crop of Taskonomy and HM3D is not repeated:
the benchmark has neither.
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
from depthlm_ros.data.records import BadRecord, Record, between_grids, depth_of
from depthlm_ros.errors import BadImage, BadInput, BadQuestion
from depthlm_ros.eval.baselines import row_slopes
from depthlm_ros.eval.judges import SEED, Allowed, Judge, Judged, Predictor, compared, resize
from depthlm_ros.eval.metrics import has_depth
from depthlm_ros.eval.result_file import Outcome
from depthlm_ros.families.depthlm import BORDER_PX
from depthlm_ros.geometry.canonical_view import fitted_view
from depthlm_ros.geometry.resize_rules import canonical_size
from depthlm_ros.model_files.spec import CanvasRule

if TYPE_CHECKING:
    from depthlm_ros.model import Model

SCANNET_WORD, SCANNET_TRAIN = "scannet", 0.98


def depthlm_split(labels: RecordSet) -> RecordSet:
    """What DepthLM's evaluation keeps of a file, in its order."""
    if SCANNET_WORD not in str(labels.path):
        return labels
    kept = list(labels.records[int(len(labels.records) * SCANNET_TRAIN) :])
    random.Random(SEED).shuffle(kept)
    return replace(labels, records=tuple(kept))


def arrow_fits(rule: CanvasRule) -> Allowed:
    """DepthLM's rule in the image that the rule makes: 5 pixels or more from the left and top, more from the others."""

    def allowed(record: Record, index: int) -> bool:
        camera = record.intrinsics
        width, height = canonical_size(camera, rule)
        scale = 1.0 if rule.focal_px is None else rule.focal_px / camera.fx_px
        # In the released order of operations, which decides the last digit.
        u = int((record.uv_px[index, 0] - camera.cx_px) * (camera.fx_px * scale / camera.fx_px) + camera.cx_px * scale)
        v = int((record.uv_px[index, 1] - camera.cy_px) * (camera.fy_px * scale / camera.fy_px) + camera.cy_px * scale)
        return BORDER_PX <= u < width - BORDER_PX and BORDER_PX <= v < height - BORDER_PX

    return allowed


def as_said(predict: Predictor, depth_type: str) -> Predictor:
    """The predictor without the conversion to depth along the axis. depth_type: ModelSpec.depth_type."""

    def said(frame: Frame, uv_px: np.ndarray) -> PointDepths:
        told = predict(frame, uv_px)
        return replace(told, depth_m=depth_of(depth_type, told.depth_m, uv_px, frame.intrinsics))

    return said


def depthvlm_points(model: Model) -> Judge:
    """DepthVLM's sparse evaluation."""
    rule = _checked_rule(model)

    def judge(frame: Frame, record: Record) -> Judged:
        if record.depth is None:
            raise BadRecord("record without a depth map", "it has no depth_path, which the released evaluation reads.")
        canonical_px = canonical_size(record.intrinsics, rule)
        at = canonical_pixels(record, canonical_px)
        true_m = _truth(record, canonical_px, at)
        predicted_m, seconds, refused = np.full(len(at), np.nan), 0.0, ""
        try:
            depth_m, seconds = _canvas_depth(model, frame)
            predicted_m = _read(depth_m, at)
        except BadInput as exc:
            refused = str(exc)
        true_m = np.where(has_depth(predicted_m) | bool(refused), true_m, np.nan)
        slope = row_slopes(record.uv_px, record.intrinsics)
        unknown = np.full(len(at), np.nan)
        return Judged(Outcome(record.where, true_m, predicted_m, unknown, slope, seconds, refused))

    return judge


def depthvlm_maps(model: Model) -> Judge:
    """DepthVLM's dense evaluation."""
    rule = _checked_rule(model)

    def judge(frame: Frame, record: Record) -> Judged:
        canonical_px = canonical_size(record.intrinsics, rule)
        true_m = _nearest(record, canonical_px)
        predicted_m, seconds, refused = np.full(true_m.shape, np.nan, np.float32), 0.0, ""
        try:
            depth_m, seconds = _canvas_depth(model, frame)
            predicted_m = resize(depth_m, true_m.shape)
            true_m[~has_depth(predicted_m)] = np.nan
        except BadInput as exc:
            refused = str(exc)
        whole = compared(predicted_m, true_m)
        nothing = np.zeros(0)
        outcome = Outcome(record.where, nothing, nothing, nothing, nothing, seconds, refused, whole)
        return Judged(outcome, predicted_m, true_m)

    return judge


def canonical_pixels(record: Record, canonical_px: tuple[int, int]) -> np.ndarray:
    """int64 (N, 2): where the released evaluation looks for the points of a record."""
    uv_px, size_px = record.uv_px, np.array(record.intrinsics.size_px)
    if record.depth is not None and record.depth.size_px is not None:
        uv_px = between_grids(uv_px, record.intrinsics.size_px, record.depth.size_px)
    return np.round(uv_px * (np.array(canonical_px) / size_px)).astype(np.int64)


def _truth(record: Record, canonical_px: tuple[int, int], at: np.ndarray) -> np.ndarray:
    assert record.depth is not None
    map_m = _nearest(replace(record, depth=replace(record.depth, masks=())), canonical_px)
    found_m = _read(map_m, at)
    inside = ((at >= 0) & (at < np.array(canonical_px))).all(1)
    return np.where(inside, np.where(has_depth(found_m), found_m, record.depth_m), math.nan)


def _nearest(record: Record, canonical_px: tuple[int, int]) -> np.ndarray:
    """float32, the depth map as it is stored at the canonical size (width, height)."""
    assert record.depth is not None
    try:
        depth_m = read_depth(record.depth)
    except BadImage as exc:
        raise BadRecord("depth map unusable", str(exc)) from exc
    return cv2.resize(depth_m, canonical_px, interpolation=cv2.INTER_NEAREST)


def _read(depth_m: np.ndarray, at: np.ndarray) -> np.ndarray:
    """float64 (N,) of a map (H, W) at pixels (N, 2), NaN outside."""
    height, width = depth_m.shape
    inside = ((at >= 0) & (at < (width, height))).all(1)
    found_m = np.full(len(at), np.nan)
    found_m[inside] = depth_m[at[inside, 1], at[inside, 0]]
    return found_m


def _canvas_depth(model: Model, frame: Frame) -> tuple[np.ndarray, float]:
    """float32 (h, w), the prediction at its own size, and the seconds it took."""
    started_s = time.perf_counter()
    canvas = fitted_view(frame.intrinsics, model.spec.canvas).image_to_canvas(frame.rgb)
    depth_m = model.backend.look([canvas[None]]).depth_m
    assert depth_m is not None
    return depth_m[0], time.perf_counter() - started_s


def _checked_rule(model: Model) -> CanvasRule:
    rule = model.spec.canvas
    if rule.focal_px is None or rule.canvases_px or not model.spec.head:
        raise BadQuestion(
            f"{model.name} does not resize whole images for dense depth, as DepthVLM's released evaluation has it: "
            "leave out --as-released, or use depthvlm-4b."
        )
    return rule
