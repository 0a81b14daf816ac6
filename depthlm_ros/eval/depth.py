"""One evaluation of depth from labels to scores: which labels, which judge, which protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from depthlm_ros.core import DepthMap, Frame, PointDepths
from depthlm_ros.data.read import RecordSet, Roots
from depthlm_ros.data.read import read_records as read_as_written
from depthlm_ros.errors import BadInput, BadQuestion
from depthlm_ros.eval import released
from depthlm_ros.eval.gallery import Gallery
from depthlm_ros.eval.judges import (
    DENSE,
    DEPTHLM,
    DEPTHLM_SAMPLES,
    DEPTHVLM_SPARSE,
    PLAIN,
    SEED,
    Judge,
    at_points,
    depthlm_samples,
    evaluate,
    limited,
    model_predictor,
    read_maps,
    read_records,
    whole_maps,
)
from depthlm_ros.eval.report import Report, baselines, scored
from depthlm_ros.eval.result_file import Results

if TYPE_CHECKING:
    from depthlm_ros.model import Model


@dataclass(frozen=True)
class Choice:
    """What is wanted. limit: records, of DepthLM's protocol samples; None for all, or for 128 samples. seed: None draws
    no records at random. root: what paths in the labels are relative to, None for the labels themselves. depth_type:
    what the labels' depths mean where that is known better than they say it, "" to believe them."""

    protocol: str = PLAIN
    points: str = "dense"
    as_released: bool = False
    limit: int | None = None
    seed: int | None = None
    baselines: bool = False
    root: Path | None = None
    depth_type: str = ""

    def __post_init__(self) -> None:
        if self.as_released and self.protocol == PLAIN:
            raise BadInput("protocol plain was never released: give another --protocol, or leave out --as-released.")
        if self.protocol == DENSE and self.points != "dense":
            raise BadInput("protocol dense scores depth maps, not words: leave out --points.")
        if self.limit is not None and self.limit < 1:
            raise BadInput(f"--limit is {self.limit}: at least 1.")


@dataclass(frozen=True)
class Blind:
    """Looks at nothing and knows nothing: for baselines, which need no model."""

    frame: Frame

    def depth(self) -> DepthMap:
        width, height = self.frame.intrinsics.size_px
        return DepthMap(np.full((height, width), np.nan, np.float32), self.frame.intrinsics)

    def depth_at(self, uv_px: np.ndarray) -> PointDepths:
        unknown = np.full(len(uv_px), np.nan, np.float32)
        return PointDepths(uv_px, unknown, unknown)


def depth_report(
    labels_path: Path,
    model: Model | None,
    choice: Choice,
    results: Results,
    gallery: Gallery | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> Report:
    """Scores a model, or without one only the answers that need none. Raises BadInput for labels that are unusable."""
    labels = choose(read_labels(labels_path, choice), model, choice)
    found = evaluate(judge_of(model, choice), labels, results, gallery.show if gallery else None, watch)
    report = scored(found.outcomes, choice.protocol, found.left_out)
    if gallery:
        gallery.summarise(report.reliability)
    return replace(report, baselines=baselines(found.outcomes)) if choice.baselines else report


def read_labels(path: Path, choice: Choice) -> RecordSet:
    """The records that the protocol scores; as released, their depths mean what the file says they do."""
    root = choice.root or path.parent
    roots = Roots(root, root, choice.depth_type)
    if choice.protocol == DENSE:
        return read_maps(path, roots)
    if not choice.as_released:
        return read_records(path, roots)
    labels = read_as_written(path, roots)
    kept = tuple(record for record in labels.records if len(record.uv_px))
    if not kept:
        raise BadInput(f"{path}: no record has points: score its depth maps with --protocol dense.")
    return replace(labels, records=kept)


def choose(labels: RecordSet, model: Model | None, choice: Choice) -> RecordSet:
    """The records, or samples, that are scored."""
    if choice.protocol != DEPTHLM:
        return limited(labels, choice.limit, choice.seed)
    seed = SEED if choice.seed is None else choice.seed
    samples = DEPTHLM_SAMPLES if choice.limit is None else choice.limit
    if not choice.as_released:
        return depthlm_samples(labels, samples, seed)
    if model is None:
        raise BadInput("which points are scored as released depends on the model's image: give --model.")
    return depthlm_samples(released.depthlm_split(labels), samples, seed, released.arrow_fits(model.spec.canvas))


def judge_of(model: Model | None, choice: Choice) -> Judge:
    """How each image is judged. Raises BadQuestion if the model cannot be asked that way."""
    if model is None:
        blind = whole_maps(Blind, choice.seed or SEED)
        return blind if choice.protocol == DENSE else at_points(lambda frame, uv_px: Blind(frame).depth_at(uv_px))
    if choice.protocol == DENSE:
        if not model.spec.head:
            raise BadQuestion(f"{model.name} has no dense depth: use another --protocol, or depthvlm-4b.")
        return released.depthvlm_maps(model) if choice.as_released else whole_maps(model.look, choice.seed or SEED)
    if choice.protocol == DEPTHVLM_SPARSE and choice.as_released and choice.points == "dense":
        return released.depthvlm_points(model)
    predict = model_predictor(model, choice.points)
    return at_points(released.as_said(predict, model.spec.depth_type) if choice.as_released else predict)
