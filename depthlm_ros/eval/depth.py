# SPDX-License-Identifier: Apache-2.0
"""One evaluation of depth, from a file of labels to a `DepthReport`: `evaluate_depth`.

It chooses the records of the protocol (`read_labels`, `select_records`) and the judge (`choose_judge`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from depthlm_ros.core import DepthMap, Frame, PointDepths
from depthlm_ros.data.read import RecordSet, Roots, read_records
from depthlm_ros.data.records import Record
from depthlm_ros.errors import BadInput, BadQuestion
from depthlm_ros.eval import released
from depthlm_ros.eval.eigen_splits import SPLITS, eigen_judge
from depthlm_ros.eval.gallery import Gallery
from depthlm_ros.eval.judges import (
    DEPTHLM,
    DEPTHLM_SAMPLES,
    DEPTHVLM_SPARSE,
    OF_MAPS,
    PLAIN,
    SEED,
    Judge,
    evaluate,
    evaluate_all,
    limit_records,
    map_judge,
    model_predictor,
    point_judge,
    read_frame,
    read_map_records,
    read_point_records,
    sample_depthlm_points,
)
from depthlm_ros.eval.report import DepthReport, make_report, score_baselines
from depthlm_ros.eval.result_file import ImageResultFields, ProgressCallback, ResultStore, Shard

if TYPE_CHECKING:
    from depthlm_ros.eval.worker_model import Parallel
    from depthlm_ros.model import Model


@dataclass(frozen=True)
class DepthEvalOptions:
    """Options of an evaluation of depth.

    limit: number of records, or of samples with protocol depthlm; None for all records, or for 128 samples. seed: None
    takes the first records instead of random ones. root: folder that paths in the labels are relative to, None for the
    folder of the labels. depth_type: meaning of the depths if the labels state it wrongly, "" to use what they state.
    shard: the share of the records that is evaluated, None for all.
    Raises BadInput for options that contradict each other.
    """

    protocol: str = PLAIN
    points: str = "dense"
    as_released: bool = False
    limit: int | None = None
    seed: int | None = None
    baselines: bool = False
    root: Path | None = None
    depth_type: str = ""
    shard: Shard | None = None

    def __post_init__(self) -> None:
        if self.as_released and self.protocol == PLAIN:
            raise BadInput("protocol plain was never released: give another --protocol, or leave out --as-released.")
        if self.protocol in OF_MAPS and self.points != "dense":
            raise BadInput(f"protocol {self.protocol} scores depth maps, not answers in words: leave out --points.")
        if self.protocol in SPLITS and self.as_released:
            raise BadInput(f"protocol {self.protocol} is not that of a released evaluation: leave out --as-released.")
        if self.limit is not None and self.limit < 1:
            raise BadInput(f"--limit is {self.limit}: it must be at least 1.")


@dataclass(frozen=True)
class UnknownDepth:
    """A depth source that answers NaN everywhere, for baselines, which need no model."""

    frame: Frame

    def depth(self) -> DepthMap:
        """Returns a map without a known depth."""
        width, height = self.frame.intrinsics.size_px
        return DepthMap(np.full((height, width), np.nan, np.float32), self.frame.intrinsics)

    def depth_at(self, uv_px: np.ndarray) -> PointDepths:
        """Returns unknown depths at N pixels (N, 2)."""
        unknown = np.full(len(uv_px), np.nan, np.float32)
        return PointDepths(uv_px, unknown, unknown)


def evaluate_depth(
    labels_path: Path,
    model: Model | None,
    options: DepthEvalOptions,
    store: ResultStore,
    gallery: Gallery | None = None,
    on_progress: ProgressCallback | None = None,
    parallel: Parallel | None = None,
) -> DepthReport:
    """Scores a model on labelled images; without a model only the baselines have scores.

    parallel: workers that evaluate the records; `model` is then not loaded, and nothing is drawn. Raises BadInput if
    the labels cannot be used, and BadQuestion if the model cannot be asked that way.
    """
    labels = select_records(read_labels(labels_path, options), model, options)
    return evaluate_records_of_depth(labels, model, options, store, gallery, on_progress, parallel)


def evaluate_records_of_depth(
    labels: RecordSet,
    model: Model | None,
    options: DepthEvalOptions,
    store: ResultStore,
    gallery: Gallery | None = None,
    on_progress: ProgressCallback | None = None,
    parallel: Parallel | None = None,
) -> DepthReport:
    """Scores a model on records that were chosen before; as evaluate_depth."""
    if options.shard:
        labels = replace(labels, records=options.shard.take(labels.records))
        if not labels.records:
            raise BadInput(f"--shard {options.shard}: {labels.path} has fewer records than there are shards.")
    on_image = gallery.draw_image if gallery else None
    judge = choose_judge(model, options)
    if parallel:
        evaluate_record = parallel.evaluator(partial(judge_record, options))
        evaluation = evaluate_all(evaluate_record, labels, store, on_progress, parallel.workers)
    else:
        evaluation = evaluate(judge, labels, store, on_image, on_progress)
    report = make_report(evaluation.results, options.protocol, evaluation.left_out)
    if gallery:
        gallery.draw_reliability(report.reliability)
    return replace(report, baselines=score_baselines(evaluation.results)) if options.baselines else report


def judge_record(options: DepthEvalOptions, model: Model, record: Record) -> ImageResultFields:
    """Returns the result of one record. Raises BadRecord if it cannot be used."""
    return choose_judge(model, options)(read_frame(record), record).result.as_dict()


def read_labels(path: Path, options: DepthEvalOptions) -> RecordSet:
    """Reads the records that the protocol scores. With --as-released their depths are not converted to z."""
    root = options.root or path.parent
    roots = Roots(root, root, options.depth_type)
    if options.protocol in OF_MAPS:
        return read_map_records(path, roots)
    if not options.as_released:
        return read_point_records(path, roots)
    labels = read_records(path, roots)
    with_points = tuple(record for record in labels.records if len(record.uv_px))
    if not with_points:
        raise BadInput(f"{path}: no record has points: score its depth maps with --protocol dense.")
    return replace(labels, records=with_points)


def select_records(labels: RecordSet, model: Model | None, options: DepthEvalOptions) -> RecordSet:
    """Returns the records, or the samples of protocol depthlm, that are scored."""
    if options.protocol != DEPTHLM:
        return limit_records(labels, options.limit, options.seed)
    seed = SEED if options.seed is None else options.seed
    samples = DEPTHLM_SAMPLES if options.limit is None else options.limit
    if not options.as_released:
        return sample_depthlm_points(labels, samples, seed)
    if model is None:
        raise BadInput("the points that --as-released scores depend on the model's image: give --model.")
    is_allowed = released.arrow_filter(model.spec.canvas)
    return sample_depthlm_points(released.depthlm_split(labels), samples, seed, is_allowed)


def choose_judge(model: Model | None, options: DepthEvalOptions) -> Judge:
    """Returns the judge of each image. Raises BadQuestion if the model cannot be asked that way."""
    dense, seed = options.protocol in OF_MAPS, options.seed or SEED
    look = UnknownDepth if model is None else model.look
    if dense and model is not None and not model.spec.head:
        raise BadQuestion(f"{model.name} has no dense depth: use another --protocol, or depthvlm-4b.")
    if options.protocol in SPLITS:
        return eigen_judge(look, SPLITS[options.protocol], seed)
    if model is None:
        return map_judge(UnknownDepth, seed) if dense else point_judge(_predict_nothing)
    if dense:
        return released.depthvlm_map_judge(model) if options.as_released else map_judge(model.look, seed)
    if options.protocol == DEPTHVLM_SPARSE and options.as_released and options.points == "dense":
        return released.depthvlm_point_judge(model)
    predict = model_predictor(model, options.points)
    if options.as_released:
        predict = released.without_depth_conversion(predict, model.spec.depth_type)
    return point_judge(predict)


def _predict_nothing(frame: Frame, uv_px: np.ndarray) -> PointDepths:
    return UnknownDepth(frame).depth_at(uv_px)
