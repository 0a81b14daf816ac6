"""Scores of one run, as numbers, as plain types for JSON, and as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from depthlm_ros.eval.baselines import Constant, best_constant, constant
from depthlm_ros.eval.metrics import Scores, mean_delta1, median_aligned, score
from depthlm_ros.eval.records import Problem, count_by_reason


@dataclass(frozen=True)
class Report:
    """Scores over all points of all images, and the same after each image is scaled by its median.

    delta1_image_mean: unweighted mean of the images' delta1. floor, blind_2m: what the best constant answer and 2 m
    everywhere score on the same points; flat: what any constant scores once each image is scaled by its median, the
    floor of `aligned`. seconds_per_image: mean time of the predictor, reading the file not included. refused: images
    that the predictor would not take; their points count as wrong. left_out: labels unusable by no fault of the
    predictor.
    """

    scores: Scores
    aligned: Scores
    delta1_image_mean: float
    floor: Constant
    blind_2m: Constant
    flat: Scores
    seconds_per_image: float
    images: int
    refused: tuple[Problem, ...] = ()
    left_out: tuple[Problem, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """In plain Python types, the keys of the command line's contract first."""
        return {
            "delta1": self.scores.delta1,
            "absrel": self.scores.absrel,
            "rmse": self.scores.rmse_m,
            "n": self.scores.n,
            "parse_failures": self.scores.parse_failures,
            "seconds_per_image": self.seconds_per_image,
            "images": self.images,
            "delta1_image_mean": self.delta1_image_mean,
            "delta1_aligned": self.aligned.delta1,
            "absrel_aligned": self.aligned.absrel,
            "rmse_aligned": self.aligned.rmse_m,
            "best_constant_m": self.floor.depth_m,
            "best_constant_delta1": self.floor.delta1,
            "constant_2m_delta1": self.blind_2m.delta1,
            "constant_delta1_aligned": self.flat.delta1,
            "constant_absrel_aligned": self.flat.absrel,
            "refused_images": len(self.refused),
            "left_out": count_by_reason(self.left_out),
        }

    def table(self) -> str:
        """A few aligned lines for people."""
        rows = [
            "                    delta1   AbsRel   RMSE m",
            _row("metric", self.scores),
            _row("scaled by medians", self.aligned),
            f"{f'always {self.floor.depth_m:.2f} m':18}  {self.floor.delta1:6.3f}   (the best constant answer)",
            f"{'always 2.00 m':18}  {self.blind_2m.delta1:6.3f}",
            _row("constant, scaled", self.flat) + "   (what is flat, scaled by medians)",
            f"{self.scores.n} points of {self.images} images, {self.scores.parse_failures} without a prediction, "
            f"{self.seconds_per_image:.3f} s per image",
        ]
        return "\n".join(rows)


def report(
    predicted_m: Sequence[np.ndarray],
    true_m: Sequence[np.ndarray],
    seconds: Sequence[float],
    refused: Sequence[Problem] = (),
    left_out: Sequence[Problem] = (),
) -> Report:
    """Score predictions that are already there: for each image (at least one) arrays (N_i,) in metres, and seconds."""
    aligned_m = [median_aligned(p, g) for p, g in zip(predicted_m, true_m, strict=True)]
    per_image = [score(p, g) for p, g in zip(predicted_m, true_m, strict=True)]
    all_true_m = np.concatenate(true_m)
    return Report(
        scores=score(np.concatenate(predicted_m), all_true_m),
        aligned=score(np.concatenate(aligned_m), all_true_m),
        delta1_image_mean=mean_delta1(per_image),
        floor=best_constant(all_true_m),
        blind_2m=constant(2.0, all_true_m),
        flat=score(np.concatenate([median_aligned(np.ones(np.shape(g)), g) for g in true_m]), all_true_m),
        seconds_per_image=float(np.mean(seconds)),
        images=len(true_m),
        refused=tuple(refused),
        left_out=tuple(left_out),
    )


def _row(title: str, scores: Scores) -> str:
    return f"{title:18}  {scores.delta1:6.3f}   {scores.absrel:6.3f}   {scores.rmse_m:6.3f}"
