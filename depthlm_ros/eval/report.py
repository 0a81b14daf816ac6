"""Scores of depth, as numbers, as plain types for JSON, and as a table for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import reduce
from operator import add

import numpy as np

from depthlm_ros.data.records import Problem, count_by_reason
from depthlm_ros.eval.baselines import Constant, best_constant, constant, row_prior
from depthlm_ros.eval.judges import BY_IMAGE, PLAIN
from depthlm_ros.eval.metrics import Boundary, Scores, Sums, boundary, mean_delta1, median_aligned, score
from depthlm_ros.eval.result_file import Outcome
from depthlm_ros.eval.uncertainty import Reliability, reliability

Many = Sequence[np.ndarray]


@dataclass(frozen=True)
class Baseline:
    """What an answer scores that never looks at the image; aligned: after each image is scaled by its median."""

    scores: Scores
    aligned: Scores
    delta1_image_mean: float

    def as_dict(self) -> dict[str, float]:
        return {
            "delta1": self.scores.delta1,
            "absrel": self.scores.absrel,
            "rmse": self.scores.rmse_m,
            "delta1_image_mean": self.delta1_image_mean,
            "delta1_aligned": self.aligned.delta1,
            "absrel_aligned": self.aligned.absrel,
        }


@dataclass(frozen=True)
class Report:
    """Scores over all points (or pixels) of all images, and the same after each image is scaled by its median.

    delta1_image_mean: unweighted mean of the images' delta1. floor, blind_2m: what the best constant answer and 2 m
    everywhere score on the same points; flat: what any constant scores once each image is scaled by its median, the
    floor of `aligned` (of whole maps: on a sample of their pixels). seconds_per_image: mean time of the predictor,
    reading the file not included. refused: images that the predictor would not take; their points count as wrong.
    left_out: labels unusable by no fault of the predictor. without_truth: images of which no depth is known: they are 0
    in delta1_image_mean. boundary: of whole maps only.
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
    without_truth: int = 0
    protocol: str = PLAIN
    reliability: Reliability | None = None
    boundary: Boundary | None = None
    baselines: Mapping[str, Baseline] = field(default_factory=dict)

    @property
    def delta1(self) -> float:
        """The protocol's headline."""
        return self.delta1_image_mean if self.protocol in BY_IMAGE else self.scores.delta1

    def as_dict(self) -> dict[str, object]:
        """In plain Python types, the keys of the command line's contract first."""
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
            "images_without_truth": self.without_truth,
            "reliability": self.reliability.as_dict() if self.reliability else None,
            "boundary": asdict(self.boundary) if self.boundary else None,
            "baselines": {name: baseline.as_dict() for name, baseline in self.baselines.items()},
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
            *(_row(name, baseline.scores) for name, baseline in self.baselines.items()),
            f"{self.scores.n} points of {self.images} images, {self.scores.parse_failures} without a prediction, "
            f"{self.seconds_per_image:.3f} s per image",
        ]
        if self.protocol in BY_IMAGE:
            rows.append(f"{'mean of images':18}  {self.delta1:6.3f}   (the headline of protocol {self.protocol})")
        return "\n".join([*rows, *self._more()])

    def baseline_table(self) -> str:
        """Only what needs no model."""
        rows = [
            f"{name:18}  {_numbers(one.scores)}   {one.aligned.delta1:6.3f}" for name, one in self.baselines.items()
        ]
        head = "                    delta1   AbsRel   RMSE m   delta1 scaled by medians"
        return "\n".join([head, *rows, f"{self.scores.n} points of {self.images} images", *self._unknown()])

    def _unknown(self) -> Iterator[str]:
        if self.without_truth:
            yield f"of {self.without_truth} of the images no depth is known: 0 each in the mean of images"

    def _more(self) -> Iterator[str]:
        yield from self._unknown()
        if self.boundary:
            b = self.boundary
            yield (
                f"edges: F1 {b.f1:.3f}, precision {b.precision:.3f}, recall {b.recall:.3f}; flying points: "
                f"{b.flying_share:.3f} of {b.beside} pixels beside edges"
            )
        if self.reliability:
            r = self.reliability
            yield (
                f"uncertainty: {r.within_1std:.3f} of the errors within one standard deviation (0.683 is true), "
                f"{r.within_2std:.3f} within two (0.954); AUSE {r.ause:.3f}"
            )


def report(
    predicted_m: Many,
    true_m: Many,
    seconds: Sequence[float],
    refused: Sequence[Problem] = (),
    left_out: Sequence[Problem] = (),
) -> Report:
    """Score predictions that are already there: for each image (at least one) arrays (N_i,) in metres, and seconds."""
    mean_s = float(np.mean(seconds))
    outcomes = [
        Outcome("", np.asarray(g), np.asarray(p), np.full(np.shape(g), np.nan), np.full(np.shape(g), np.nan), mean_s)
        for p, g in zip(predicted_m, true_m, strict=True)
    ]
    return scored(outcomes, left_out=(*left_out,), refused=(*refused,))


def scored(
    outcomes: Sequence[Outcome],
    protocol: str = PLAIN,
    left_out: tuple[Problem, ...] = (),
    refused: tuple[Problem, ...] | None = None,
) -> Report:
    """The scores of judged images (at least one)."""
    true_m = [outcome.true_m for outcome in outcomes]
    all_true_m = np.concatenate(true_m)
    if refused is None:
        refused = tuple(Problem(one.where, "image refused", one.refused) for one in outcomes if one.refused)
    wholes = [outcome.whole for outcome in outcomes if outcome.whole]
    return Report(
        scores=_sum([outcome.raw for outcome in outcomes]).scores,
        aligned=_sum([outcome.aligned for outcome in outcomes]).scores,
        delta1_image_mean=mean_delta1([outcome.raw.scores for outcome in outcomes]),
        floor=best_constant(all_true_m),
        blind_2m=constant(2.0, all_true_m),
        flat=score(np.concatenate([median_aligned(np.ones(np.shape(g)), g) for g in true_m]), all_true_m),
        seconds_per_image=float(np.mean([outcome.seconds for outcome in outcomes])),
        images=len(outcomes),
        refused=refused,
        left_out=left_out,
        without_truth=sum(not outcome.raw.scores.n for outcome in outcomes),
        protocol=protocol,
        reliability=_reliability(outcomes),
        boundary=boundary(reduce(add, [whole.edges for whole in wholes])) if wholes else None,
    )


def baselines(outcomes: Sequence[Outcome]) -> dict[str, Baseline]:
    """The answers that need no image, on the same points, scored like a model: 2 m, the best constant, depth by row.

    The best constant is fitted on these very points and so an upper bound; the prior by row is not.
    """
    true_m = [outcome.true_m for outcome in outcomes]
    constants = {"constant 2 m": 2.0, "best constant": best_constant(np.concatenate(true_m)).depth_m}
    found = {name: _baseline([np.full(np.shape(g), c) for g in true_m], true_m) for name, c in constants.items()}
    rows = row_prior([outcome.slope for outcome in outcomes], true_m)
    return found | {"per-row prior": _baseline(rows, true_m)}


def _baseline(predicted_m: Many, true_m: Many) -> Baseline:
    per_image = [score(p, g) for p, g in zip(predicted_m, true_m, strict=True)]
    aligned_m = [median_aligned(p, g) for p, g in zip(predicted_m, true_m, strict=True)]
    raw, aligned = (score(np.concatenate(told), np.concatenate(true_m)) for told in (predicted_m, aligned_m))
    return Baseline(raw, aligned, mean_delta1(per_image))


def _reliability(outcomes: Sequence[Outcome]) -> Reliability | None:
    """None where no deviation is reported."""
    told = (np.concatenate([getattr(one, name) for one in outcomes]) for name in ("predicted_m", "std_m", "true_m"))
    found = reliability(*told)
    return found if found.n else None


def _sum(parts: Sequence[Sums]) -> Sums:
    return reduce(add, parts, Sums())


def _row(title: str, scores: Scores) -> str:
    return f"{title:18}  {_numbers(scores)}"


def _numbers(scores: Scores) -> str:
    return f"{scores.delta1:6.3f}   {scores.absrel:6.3f}   {scores.rmse_m:6.3f}"
