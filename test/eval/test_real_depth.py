# SPDX-License-Identifier: Apache-2.0
"""Scores of depth on real images: means over scenes, scale, jitter, and the fit of reported deviations."""

import math

import numpy as np
import pytest
from support.checkered_room import write_labels
from support.label_files import make_prediction

from depthlm_ros.errors import BadInput
from depthlm_ros.eval.real_depth import (
    SceneResults,
    predict_scenes,
    rank_correlation,
    read_photographs,
    scene_means,
    score_uncertainty,
)
from depthlm_ros.eval.result_file import ImageResult
from depthlm_ros.eval.uncertainty import gaussian_nll, laplace_nll


def make_image(true_m, predicted_m, std_m=math.nan):
    true_m = np.asarray(true_m, float)
    predicted_m, std_m = (np.broadcast_to(np.asarray(x, float), true_m.shape) for x in (predicted_m, std_m))
    return ImageResult("labels.jsonl:1", true_m, predicted_m, std_m, np.zeros(len(true_m)), 0.0)


def make_results(*images, scenes=None):
    return SceneResults(images, tuple(scenes or (str(number) for number in range(len(images)))))


def test_a_scene_with_many_frames_counts_once():
    right, wrong = make_image([2.0, 3.0], [2.0, 3.0]), make_image([2.0, 3.0], [4.0, 6.0])
    scores = make_results(right, wrong, wrong, wrong, scenes=("a", "b", "b", "b")).scores()
    assert (scores.scenes, scores.images, scores.delta1, scores.delta1_scaled) == (2, 4, 0.5, 1.0)
    assert scores.absrel == pytest.approx(0.5)


def test_bias_and_spread_are_of_the_logarithm_of_the_scale():
    scores = make_results(make_image([1.0, 2.0], [2.0, 4.0]), make_image([1.0, 2.0], [0.5, 1.0])).scores()
    assert scores.log_bias == pytest.approx(0.0)
    assert scores.log_spread == pytest.approx(math.log(2))


def test_a_missing_prediction_is_wrong_and_an_image_without_any_has_no_scale():
    scores = make_results(make_image([1.0, 2.0], [1.0, math.nan]), make_image([1.0, 2.0], math.nan)).scores()
    assert scores.delta1 == 0.25
    assert scores.log_bias == pytest.approx(0.0)
    assert math.isnan(scores.within_std)


def test_share_within_one_deviation():
    assert make_results(make_image([1.0, 2.0, 3.0, 4.0], [1.1, 2.1, 3.1, 4.6], 0.2)).scores().within_std == 0.75


def test_best_constant_is_the_best_mean_over_scenes():
    near, far = make_image([2.0, 2.1], 0.0), make_image([8.0, 8.1], 0.0)
    constant = make_results(near, near, near, far, far, scenes=("a", "a", "a", "b", "c")).best_constant()
    assert 8.0 / 1.25 < constant.images[0].predicted_m[0] < 8.1 * 1.25
    assert constant.scores().delta1 == pytest.approx(2 / 3)
    assert math.isnan(constant.scores().within_std)


def test_results_of_some_records(tmp_path):
    write_labels(tmp_path)
    records = read_photographs(tmp_path)
    results = predict_scenes(lambda frame, uv_px: make_prediction(np.full(len(uv_px), 3.0)), records)
    assert results.of(records[1:]).scenes == ("room_1",)
    with pytest.raises(BadInput, match="choose at least one"):
        results.of([])


def test_jitter_of_a_constant_factor_is_that_of_the_sensor():
    medians_m = (2.0, 2.2, 2.1, 2.6)
    same = make_results(*(make_image([m], [1.3 * m]) for m in medians_m)).jitter()
    assert same.predicted == pytest.approx(same.sensor) and same.difference == pytest.approx(0.0, abs=1e-9)
    assert same.sensor == pytest.approx(np.diff(np.log(medians_m)).std())


def test_jitter_of_a_still_scene_is_all_the_model_s():
    jitter = make_results(*(make_image([2.0], [p]) for p in (2.0, 2.2, 2.0))).jitter()
    assert (jitter.frames, jitter.sensor) == (3, 0.0)
    assert jitter.predicted == jitter.difference == pytest.approx(math.log(1.1))


def test_means_leave_out_unknown_values():
    values = np.array([[1.0, math.nan], [3.0, 4.0], [5.0, math.nan]])
    means = scene_means(values, ("a", "a", "b"))
    assert np.array_equal(means, [[2.0, 4.0], [5.0, math.nan]], equal_nan=True)


@pytest.mark.parametrize(
    ("y", "expected"), [([1, 4, 9, 16], 1.0), ([4, 3, 2, 1], -1.0), ([5, 5, 5, 5], math.nan), ([1, 1, 2, 2], 0.894)]
)
def test_rank_correlation(y, expected):
    assert rank_correlation(np.arange(4.0), np.array(y, float)) == pytest.approx(expected, abs=1e-3, nan_ok=True)


def test_deviations_as_large_as_the_errors_are_better_than_a_constant_share():
    rng = np.random.default_rng(0)
    share = rng.uniform(0.02, 0.4, 20_000)
    true_m = np.full(20_000, 3.0)
    predicted_m = true_m * (1 + share * rng.normal(size=20_000)).clip(0.1)
    scores = score_uncertainty(predicted_m, share * true_m, true_m)
    assert scores.within_std == pytest.approx(0.683, abs=0.02)
    assert scores.gaussian_nll < scores.gaussian_nll_constant and scores.rank_correlation > 0.4


def test_the_constant_share_is_the_best_one():
    rng = np.random.default_rng(1)
    predicted_m = rng.uniform(1.0, 5.0, 2000)
    true_m = predicted_m * (1 + 0.1 * rng.normal(size=2000))
    error_m = np.abs(predicted_m - true_m)
    shares = np.linspace(0.05, 0.3, 251)
    scores = score_uncertainty(predicted_m, predicted_m, true_m)
    for constant, nll in ((scores.gaussian_nll_constant, gaussian_nll), (scores.laplace_nll_constant, laplace_nll)):
        least = min(nll(error_m, share * predicted_m) for share in shares)
        assert constant <= least and constant == pytest.approx(least, abs=1e-3)


def test_likelihoods_are_densities():
    errors_m = np.linspace(-40, 40, 400_001)
    for nll in (gaussian_nll, laplace_nll):
        density = np.array([math.exp(-nll(np.array([abs(x)]), np.array([1.5]))) for x in errors_m[::100]])
        x = errors_m[::100]
        assert np.sum(density) * (x[1] - x[0]) == pytest.approx(1.0, abs=1e-3)
        assert np.sum(density * x**2) * (x[1] - x[0]) == pytest.approx(1.5**2, abs=0.01)


def test_points_without_a_deviation_do_not_count():
    scores = score_uncertainty(np.ones(3), np.array([0.1, math.nan, 0.1]), np.array([1.0, 1.0, math.nan]))
    assert (scores.n, scores.within_std) == (1, 1.0)
    nothing = score_uncertainty(np.ones(2), np.full(2, math.nan), np.ones(2))
    assert nothing.n == 0 and math.isnan(nothing.gaussian_nll)
