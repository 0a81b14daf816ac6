"""Every pixel of a depth map against the truth, within the caps and masks that its data set sets."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from depthlm_ros.core import Frame
from depthlm_ros.data.depthfile import read_z
from depthlm_ros.data.read import RecordSet, Roots, iter_records
from depthlm_ros.data.records import BadRecord, Problem, Record, between_grids, nothing_usable, resized
from depthlm_ros.errors import BadImage, BadInput
from depthlm_ros.eval.baselines import row_slopes
from depthlm_ros.eval.boundary import edges
from depthlm_ros.eval.evaluate import Judge, Judged, Seen
from depthlm_ros.eval.metrics import has_depth, median_aligned, sums
from depthlm_ros.eval.outcome import Outcome, Whole

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
