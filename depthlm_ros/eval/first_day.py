# SPDX-License-Identifier: Apache-2.0
"""The first checks of a downloaded checkpoint: its figures on public data, beside those that others have measured.

`CHECKS` names them by model. `token_checks` need nothing but this package: they compare the number of image tokens, in
which the sizes of the images show. `score_check` needs the weights and the labels, which the user gives in a folder
(`find_labels`). Expected figures are published ones, or those of an independent repetition with the released weights
(github.com/johnhong06/vlm-depth-rmse and depthvlm-finetune). The tolerances are this project's own: they are above what
bfloat16, another attention kernel and rounding change, and below what the mistakes in `look_at` change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.read import RecordSet
from depthlm_ros.errors import BadInput, UnknownName
from depthlm_ros.eval.depth import DepthEvalOptions, evaluate_records_of_depth, read_labels, select_records
from depthlm_ros.eval.released import arrow_filter
from depthlm_ros.eval.result_file import ProgressCallback, ResultStore
from depthlm_ros.geometry.resize_rules import fitted_sizes
from depthlm_ros.model_files.spec import ModelSpec

if TYPE_CHECKING:
    from depthlm_ros.eval.worker_model import Parallel
    from depthlm_ros.model import Model

OK, FAIL, OTHER_DATA = "OK", "FAIL", "OTHER DATA"
# Labels are looked for so many folders deep.
FOLDERS_DEEP = 3


@dataclass(frozen=True)
class TokenCheck:
    """The number of image tokens of a camera's image."""

    title: str
    camera: Intrinsics
    tokens: int


@dataclass(frozen=True)
class ScoreCheck:
    """Scores on one set of labels.

    words: one of them is in the path of the labels. options: how they are scored. expected: key of DepthReport.as_dict
    -> (expected figure, tolerance). n_key, n: which key counts what was scored, and the expected count. arrows_only:
    points at which DepthLM's arrow does not fit are left out, as the repetition did. look_at: what to look at if it
    fails. needs: the data, and how to make the labels.
    """

    title: str
    words: tuple[str, ...]
    options: DepthEvalOptions
    expected: Mapping[str, tuple[float, float]]
    n_key: str
    n: int
    source: str
    look_at: str
    needs: str
    arrows_only: bool = False


@dataclass(frozen=True)
class CheckResult:
    """One figure beside the expected one. verdict: OK, FAIL or OTHER_DATA (the labels are not those of the figure)."""

    title: str
    score: str
    expected: float
    tolerance: float
    measured: float
    verdict: str
    look_at: str = ""

    def __str__(self) -> str:
        numbers = f"{self.expected:9.4g} +- {self.tolerance:<7.4g} {self.measured:9.4g}"
        hint = f"   look at: {self.look_at}" if self.verdict == FAIL else ""
        return f"{self.title:34} {self.score:18} {numbers}  {self.verdict}{hint}"


def _centred(width: int, height: int, fx_px: float) -> Intrinsics:
    return Intrinsics(fx_px, fx_px, (width - 1) / 2, (height - 1) / 2, width, height)


REPEATED = "independent repetition with the released weights"
BENCH_NEEDS = "JonnyYu828/DepthVLM-Bench, or `depthlm data curate {} ... --format depthvlm`"
DENSE_HINTS = (
    "the image tokens above; then the resampling of the picture, the focal length of the labels (fx decides the "
    "scale), and the data set's caps and masks"
)
WORDS_HINTS = (
    "depth_type of the model (answers are z; taken as range they give .755 on iBims-1), the arrow (drawn before the "
    "processor's resize), the canonical focal length (750), replies without a number"
)

TOKEN_CHECKS = {
    "depthvlm-4b": (
        TokenCheck("NYU Depth V2, 640 x 480", _centred(640, 480, 518.8579), 1102),
        TokenCheck("KITTI, lower middle 1216 x 352", _centred(1216, 352, 721.5377), 780),
    ),
    "depthlm-12b": (TokenCheck("iBims-1, 640 x 480", _centred(640, 480, 560.0), 2214),),
}

CHECKS: dict[str, tuple[ScoreCheck, ...]] = {
    "depthvlm-4b": (
        ScoreCheck(
            "iBims-1, dense",
            ("ibims",),
            DepthEvalOptions("dense", as_released=True),
            {"delta1": (0.910, 0.005)},
            "images",
            100,
            "DepthVLM's table",
            DENSE_HINTS,
            BENCH_NEEDS.format("ibims1"),
        ),
        ScoreCheck(
            "nuScenes, dense",
            ("nuscenes",),
            DepthEvalOptions("dense", as_released=True),
            {"delta1": (0.838, 0.005)},
            "images",
            1000,
            "DepthVLM's table",
            DENSE_HINTS,
            BENCH_NEEDS.format("nuscenes"),
        ),
        ScoreCheck(
            "NYU, Eigen's split",
            ("nyu-eigen", "nyu_eigen"),  # not DepthVLM-Bench's NYU, which has as many pictures but another truth
            DepthEvalOptions("nyu-eigen"),
            {"delta1": (0.934, 0.005), "absrel_image_mean": (0.0893, 0.002), "rmse_image_mean": (0.353, 0.01)},
            "images",
            654,
            REPEATED,
            DENSE_HINTS,
            "654 original pictures with rawDepths of nyu_depth_v2_labeled.mat, fx 518.8579 (data set `folder`)",
        ),
        ScoreCheck(
            "KITTI, Eigen's split",
            ("kitti-eigen", "kitti_eigen"),
            DepthEvalOptions("kitti-eigen"),
            {"delta1": (0.915, 0.005), "absrel_image_mean": (0.0888, 0.002), "rmse_image_mean": (3.461, 0.05)},
            "images",
            652,
            REPEATED,
            DENSE_HINTS,
            "652 whole pictures of camera 2 with annotated depth (data set `folder`)",
        ),
    ),
    "depthlm-12b": tuple(
        ScoreCheck(
            f"{title}, points in words",
            (word,),
            DepthEvalOptions(points="words"),
            expected,
            "n",
            n,
            REPEATED,
            WORDS_HINTS,
            BENCH_NEEDS.format(name),
            arrows_only=True,
        )
        for title, word, name, n, expected in (
            (
                "iBims-1",
                "ibims",
                "ibims1",
                9750,
                {"delta1": (0.810, 0.01), "absrel": (0.141, 0.005), "rmse": (1.261, 0.08)},
            ),
            ("nuScenes", "nuscenes", "nuscenes", 9816, {"delta1": (0.823, 0.01), "rmse": (6.540, 0.2)}),
            ("DDAD", "ddad", "ddad", 9920, {"delta1": (0.680, 0.01), "rmse": (13.693, 0.3)}),
        )
    ),
}


def checks_of(name: str) -> tuple[tuple[TokenCheck, ...], tuple[ScoreCheck, ...]]:
    """Returns the checks of a model. Raises UnknownName for a model without any."""
    if name not in CHECKS:
        raise UnknownName(
            f"--first-day {name}: nobody has published figures to check it by; known: {', '.join(CHECKS)}."
        )
    return TOKEN_CHECKS.get(name, ()), CHECKS[name]


def count_tokens(spec: ModelSpec, check: TokenCheck) -> CheckResult:
    """Compares the number of image tokens, which needs no weights."""
    width, height = fitted_sizes(check.camera, spec.canvas)[1]
    tokens = (width // spec.pixels_per_token) * (height // spec.pixels_per_token)
    hint = f"the canvas, here {width} x {height}: canonical focal length, snap_px and the processor's sizes"
    verdict = OK if tokens == check.tokens else FAIL
    return CheckResult(check.title, "image tokens", check.tokens, 0, tokens, verdict, hint)


def find_labels(folder: Path, check: ScoreCheck) -> Path | None:
    """Returns the labels of a check: the file nearest to the folder with one of its words in its path below it."""
    found = [path for depth in range(FOLDERS_DEEP) for path in sorted(folder.glob("*/" * depth + "*.jsonl"))]
    named = (path for path in found if any(word in path.relative_to(folder).as_posix().lower() for word in check.words))
    return next(named, None)


def score_check(
    check: ScoreCheck,
    labels_path: Path,
    model: Model,
    store: ResultStore,
    on_progress: ProgressCallback | None = None,
    parallel: Parallel | None = None,
) -> list[CheckResult]:
    """Scores the model and compares each expected figure. Raises BadInput if the labels cannot be used."""
    labels = select_records(read_labels(labels_path, check.options), model, check.options)
    if check.arrows_only:
        labels = _where_arrows_fit(labels, model.spec)
    report = evaluate_records_of_depth(labels, model, check.options, store, None, on_progress, parallel)
    return compare(check, report.as_dict())


def compare(check: ScoreCheck, scores: Mapping[str, object]) -> list[CheckResult]:
    """Compares the scores of a run with the expected figures. Other labels are told from a wrong figure."""
    count = _number(scores[check.n_key])
    wrong = FAIL if count == check.n else OTHER_DATA
    results = [] if wrong == FAIL else [CheckResult(check.title, check.n_key, check.n, 0, count, OTHER_DATA)]
    for score, (expected, tolerance) in check.expected.items():
        measured = _number(scores[score])
        verdict = OK if abs(measured - expected) <= tolerance else wrong
        results.append(CheckResult(check.title, score, expected, tolerance, measured, verdict, check.look_at))
    return results


def unusable(check: ScoreCheck, cause: Exception) -> CheckResult:
    """Returns the failure of a check whose labels cannot be scored, with the cause in the place of the hint."""
    return CheckResult(check.title, check.n_key, check.n, 0, math.nan, FAIL, str(cause))


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _where_arrows_fit(labels: RecordSet, spec: ModelSpec) -> RecordSet:
    """Returns the records with only the points at which DepthLM's arrow fits into the picture. Raises BadInput."""
    fits = arrow_filter(spec.canvas)
    kept = []
    for record in labels.records:
        index: Sequence[int] = [number for number in range(len(record.uv_px)) if fits(record, number)]
        if index:
            kept.append(replace(record, uv_px=record.uv_px[index], depth_m=record.depth_m[index]))
    if not kept:
        raise BadInput(f"{labels.path}: every labelled point is too close to the image's border.")
    return replace(labels, records=tuple(kept))
