# SPDX-License-Identifier: Apache-2.0
"""`DepthReport`: the scores of depth as numbers, as JSON values, and as a table for people.

`make_report` computes it from the results of an evaluation, `report_predictions` from arrays, and `score_baselines` the
scores of answers that need no model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import reduce
from operator import add

import numpy as np

from depthlm_ros.data.records import RecordProblem, count_by_reason
from depthlm_ros.eval.baselines import ConstantAnswer, best_constant, predict_from_rows, score_constant
from depthlm_ros.eval.judges import MEAN_OVER_IMAGES, PLAIN
from depthlm_ros.eval.metrics import (
    BoundaryScores,
    DepthErrorSums,
    DepthScores,
    align_medians,
    mean_delta1,
    score_depth,
    score_edges,
)
from depthlm_ros.eval.result_file import ImageResult
from depthlm_ros.eval.uncertainty import Reliability, measure_reliability

# A baseline that answers this depth everywhere, in metres.
CONSTANT_M = 2.0


@dataclass(frozen=True)
class BaselineScores:
    """Scores of an answer that does not depend on the image. aligned: after each image was aligned by medians."""

    scores: DepthScores
    aligned: DepthScores
    delta1_image_mean: float

    def as_dict(self) -> dict[str, float]:
        """Returns plain types."""
        return {
            "delta1": self.scores.delta1,
            "absrel": self.scores.absrel,
            "rmse": self.scores.rmse_m,
            "delta1_image_mean": self.delta1_image_mean,
            "delta1_aligned": self.aligned.delta1,
            "absrel_aligned": self.aligned.absrel,
        }


@dataclass(frozen=True)
class DepthReport:
    """Scores over all points (or pixels) of all images, and the same after each image was aligned by medians.

    delta1_image_mean: unweighted mean of the images' delta1; absrel_image_mean and rmse_image_mean_m of the images with
    a prediction. floor, constant_2m: scores of the best constant answer,
    and of 2 m everywhere, on the same points. flat: scores of any constant answer after each image was aligned by
    medians, for comparison with `aligned` (for whole maps: on a sample of their pixels). seconds_per_image: mean time
    of the predictor, without reading the file. refused: images that the predictor refused; their points count as wrong.
    left_out: problems of labels that could not be used. without_truth: number of images in which no depth is known;
    they count as 0 in delta1_image_mean. boundary: only of whole maps.
    """

    scores: DepthScores
    aligned: DepthScores
    delta1_image_mean: float
    absrel_image_mean: float
    rmse_image_mean_m: float
    floor: ConstantAnswer
    constant_2m: ConstantAnswer
    flat: DepthScores
    seconds_per_image: float
    images: int
    refused: tuple[RecordProblem, ...] = ()
    left_out: tuple[RecordProblem, ...] = ()
    without_truth: int = 0
    protocol: str = PLAIN
    reliability: Reliability | None = None
    boundary: BoundaryScores | None = None
    baselines: Mapping[str, BaselineScores] = field(default_factory=dict)

    @property
    def delta1(self) -> float:
        """The headline of the protocol."""
        return self.delta1_image_mean if self.protocol in MEAN_OVER_IMAGES else self.scores.delta1

    def as_dict(self) -> dict[str, object]:
        """Returns plain types; the keys of the command line's contract are first."""
        return {
            "delta1": self.delta1,
            "absrel": self.scores.absrel,
            "rmse": self.scores.rmse_m,
            "n": self.scores.n,
            "parse_failures": self.scores.parse_failures,
            "seconds_per_image": self.seconds_per_image,
            "protocol": self.protocol,
            "images": self.images,
            "delta1_points": self.scores.delta1,
            "delta1_answered": self.scores.delta1_answered,
            "delta1_image_mean": self.delta1_image_mean,
            "absrel_image_mean": self.absrel_image_mean,
            "rmse_image_mean": self.rmse_image_mean_m,
            "delta1_aligned": self.aligned.delta1,
            "absrel_aligned": self.aligned.absrel,
            "rmse_aligned": self.aligned.rmse_m,
            "best_constant_m": self.floor.depth_m,
            "best_constant_delta1": self.floor.delta1,
            "constant_2m_delta1": self.constant_2m.delta1,
            "constant_delta1_aligned": self.flat.delta1,
            "constant_absrel_aligned": self.flat.absrel,
            "refused_images": len(self.refused),
            "left_out": count_by_reason(self.left_out),
            "images_without_truth": self.without_truth,
            "reliability": self.reliability.as_dict() if self.reliability else None,
            "boundary": asdict(self.boundary) if self.boundary else None,
            "baselines": {name: baseline.as_dict() for name, baseline in self.baselines.items()},
        }

    def table(self) -> str:
        """Returns a few aligned lines for people."""
        rows = [
            "                    delta1   AbsRel   RMSE m",
            _row("metric", self.scores),
            _row("scaled by medians", self.aligned),
            f"{f'always {self.floor.depth_m:.2f} m':18}  {self.floor.delta1:6.3f}   (the best constant answer)",
            f"{'always 2.00 m':18}  {self.constant_2m.delta1:6.3f}",
            _row("constant, scaled", self.flat) + "   (any constant answer, scaled by medians)",
            *(_row(name, baseline.scores) for name, baseline in self.baselines.items()),
            f"{self.scores.n} points of {self.images} images, {self.scores.parse_failures} without a prediction, "
            f"{self.seconds_per_image:.3f} s per image",
        ]
        if self.protocol in MEAN_OVER_IMAGES:
            numbers = f"{self.delta1:6.3f}   {self.absrel_image_mean:6.3f}   {self.rmse_image_mean_m:6.3f}"
            rows.append(f"{'mean of images':18}  {numbers}   (the headline of protocol {self.protocol})")
        return "\n".join([*rows, *self._missing_truth(), *self._details()])

    def baseline_table(self) -> str:
        """Returns the lines of the baselines only."""
        rows = [
            f"{name:18}  {_numbers(one.scores)}   {one.aligned.delta1:6.3f}" for name, one in self.baselines.items()
        ]
        head = "                    delta1   AbsRel   RMSE m   delta1 scaled by medians"
        return "\n".join([head, *rows, f"{self.scores.n} points of {self.images} images", *self._missing_truth()])

    def _missing_truth(self) -> Iterator[str]:
        if self.without_truth:
            yield f"{self.without_truth} of the images have no known depth: each counts as 0 in the mean of images"

    def _details(self) -> Iterator[str]:
        if self.boundary:
            b = self.boundary
            yield (
                f"edges: F1 {b.f1:.3f}, precision {b.precision:.3f}, recall {b.recall:.3f}; flying points: "
                f"{b.flying_share:.3f} of {b.beside} pixels beside edges"
            )
        if self.reliability:
            r = self.reliability
            yield (
                f"uncertainty: {r.within_1std:.3f} of the errors within one standard deviation (ideal: 0.683), "
                f"{r.within_2std:.3f} within two (ideal: 0.954); AUSE {r.ause:.3f}"
            )


def report_predictions(
    predicted_m: Sequence[np.ndarray],
    true_m: Sequence[np.ndarray],
    seconds: Sequence[float],
    refused: Sequence[RecordProblem] = (),
    left_out: Sequence[RecordProblem] = (),
) -> DepthReport:
    """Scores predictions that were made elsewhere.

    predicted_m, true_m: arrays (N_i,) in metres for each image, at least one. seconds: times of single predictions.
    """
    mean_s = float(np.mean(seconds))
    results = []
    for p, g in zip(predicted_m, true_m, strict=True):
        unknown = np.full(np.shape(g), np.nan)
        results.append(ImageResult("", np.asarray(g), np.asarray(p), unknown, unknown, mean_s))
    return make_report(results, left_out=(*left_out,), refused=(*refused,))


def make_report(
    results: Sequence[ImageResult],
    protocol: str = PLAIN,
    left_out: tuple[RecordProblem, ...] = (),
    refused: tuple[RecordProblem, ...] | None = None,
) -> DepthReport:
    """Returns the scores of evaluated images (at least one). refused: None takes them from the results."""
    true_m = [result.true_m for result in results]
    all_true_m = np.concatenate(true_m)
    if refused is None:
        refused = tuple(RecordProblem(one.where, "image refused", one.refused) for one in results if one.refused)
    image_scores = [result.raw.scores for result in results]
    edge_counts = [result.map_sums.edges for result in results if result.map_sums]
    return DepthReport(
        scores=_total([result.raw for result in results]).scores,
        aligned=_total([result.aligned for result in results]).scores,
        delta1_image_mean=mean_delta1(image_scores),
        absrel_image_mean=_mean_known([scores.absrel for scores in image_scores]),
        rmse_image_mean_m=_mean_known([scores.rmse_m for scores in image_scores]),
        floor=best_constant(all_true_m),
        constant_2m=score_constant(CONSTANT_M, all_true_m),
        flat=score_depth(np.concatenate([align_medians(np.ones(np.shape(g)), g) for g in true_m]), all_true_m),
        seconds_per_image=float(np.mean([result.seconds for result in results])),
        images=len(results),
        refused=refused,
        left_out=left_out,
        without_truth=sum(not scores.n for scores in image_scores),
        protocol=protocol,
        reliability=_reliability(results),
        boundary=score_edges(reduce(add, edge_counts)) if edge_counts else None,
    )


def score_baselines(results: Sequence[ImageResult]) -> dict[str, BaselineScores]:
    """Scores 2 m, the best constant, and depth by row, on the same points as a model.

    The best constant is fitted to these points, so it is an upper bound. The prior by row is not.
    """
    true_m = [result.true_m for result in results]
    constants = {"constant 2 m": CONSTANT_M, "best constant": best_constant(np.concatenate(true_m)).depth_m}
    scores = {name: _score_baseline([np.full(np.shape(g), c) for g in true_m], true_m) for name, c in constants.items()}
    by_row_m = predict_from_rows([result.slope for result in results], true_m)
    return scores | {"per-row prior": _score_baseline(by_row_m, true_m)}


def _score_baseline(predicted_m: Sequence[np.ndarray], true_m: Sequence[np.ndarray]) -> BaselineScores:
    image_scores = [score_depth(p, g) for p, g in zip(predicted_m, true_m, strict=True)]
    aligned_m = [align_medians(p, g) for p, g in zip(predicted_m, true_m, strict=True)]
    all_true_m = np.concatenate(true_m)
    raw, aligned = (score_depth(np.concatenate(arrays), all_true_m) for arrays in (predicted_m, aligned_m))
    return BaselineScores(raw, aligned, mean_delta1(image_scores))


def _reliability(results: Sequence[ImageResult]) -> Reliability | None:
    """Returns None if no deviation was reported."""
    reliability = measure_reliability(
        np.concatenate([result.predicted_m for result in results]),
        np.concatenate([result.std_m for result in results]),
        np.concatenate([result.true_m for result in results]),
    )
    return reliability if reliability.n else None


def _mean_known(values: Sequence[float]) -> float:
    """Returns the mean of the numbers that are not NaN; NaN if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _total(sums: Sequence[DepthErrorSums]) -> DepthErrorSums:
    return reduce(add, sums, DepthErrorSums())


def _row(title: str, scores: DepthScores) -> str:
    return f"{title:18}  {_numbers(scores)}"


def _numbers(scores: DepthScores) -> str:
    return f"{scores.delta1:6.3f}   {scores.absrel:6.3f}   {scores.rmse_m:6.3f}"
