# SPDX-License-Identifier: Apache-2.0
"""Scores of depth, baselines and uncertainty, compared with numbers that were calculated by hand."""

import math

import numpy as np
import pytest

from depthlm_ros.core import Intrinsics
from depthlm_ros.eval.baselines import best_constant, predict_from_rows, row_slopes, score_constant
from depthlm_ros.eval.metrics import align_medians, mean_delta1, score_depth, sum_depth_errors
from depthlm_ros.eval.uncertainty import measure_reliability

NAN = math.nan


def test_scores_of_a_hand_computed_example():
    scores = score_depth(np.array([1.0, 2.2, 3.0, 8.0]), np.array([1.0, 2.0, 4.0, 4.0]))
    assert scores.delta1 == 0.5  # ratios 1, 1.1, 1.333, 2
    assert scores.absrel == pytest.approx((0 + 0.1 + 0.25 + 1.0) / 4)
    assert scores.rmse_m == pytest.approx(math.sqrt((0 + 0.04 + 1 + 16) / 4))
    assert (scores.n, scores.parse_failures) == (4, 0)


@pytest.mark.parametrize("predicted_m", [1.25, 0.8])
def test_ratio_of_exactly_1_25_is_wrong_in_both_directions(predicted_m):
    assert score_depth(np.array([predicted_m]), np.array([1.0])).delta1 == 0.0
    assert score_depth(np.array([1.0]), np.array([predicted_m])).delta1 == 0.0


def test_ratio_below_1_25_is_correct():
    assert score_depth(np.array([1.249, 0.801]), np.ones(2)).delta1 == 1.0


@pytest.mark.parametrize("missing", [NAN, math.inf, -math.inf, 0.0, -1.0])
def test_missing_prediction_is_wrong_and_not_part_of_the_mean_errors(missing):
    scores = score_depth(np.array([2.0, 1.1, missing]), np.array([2.0, 1.0, 5.0]))
    assert scores.delta1 == pytest.approx(2 / 3)
    assert scores.absrel == pytest.approx(0.05)
    assert (scores.n, scores.parse_failures) == (3, 1)


@pytest.mark.parametrize("unlabelled", [NAN, math.inf, 0.0, -1.0])
def test_point_without_a_true_depth_does_not_count(unlabelled):
    scores = score_depth(np.array([1.0, 1.0, NAN]), np.array([1.0, unlabelled, unlabelled]))
    assert (scores.delta1, scores.n, scores.parse_failures) == (1.0, 1, 0)


def test_scores_of_no_points_are_nan():
    scores = score_depth(np.array([1.0]), np.array([NAN]))
    assert math.isnan(scores.delta1) and math.isnan(scores.absrel) and scores.n == 0


def test_different_shapes_raise_value_error():
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        score_depth(np.ones(2), np.ones(3))


def test_median_alignment_removes_a_scale_exactly():
    true_m = np.array([1.0, 2.0, 3.0, 10.0])
    np.testing.assert_allclose(align_medians(true_m / 7, true_m), true_m)


def test_median_alignment_uses_only_points_with_both_depths():
    aligned_m = align_medians(np.array([1.0, 2.0, 3.0, NAN, 99.0]), np.array([2.0, 4.0, 6.0, 50.0, NAN]))
    np.testing.assert_allclose(aligned_m, [2.0, 4.0, 6.0, NAN, 198.0])


def test_mean_over_images_weighs_images_equally_and_counts_an_empty_image_as_zero():
    right = score_depth(np.ones(10), np.ones(10))
    wrong = score_depth(np.full(2, 9.0), np.ones(2))
    empty = score_depth(np.ones(1), np.array([NAN]))
    assert mean_delta1([right, wrong]) == 0.5
    assert mean_delta1([right, wrong, empty]) == pytest.approx(1 / 3)


def test_best_constant_is_at_least_as_good_as_other_constants():
    true_m = np.random.default_rng(0).lognormal(1.0, 0.6, 500)
    others = [score_constant(c, true_m).delta1 for c in np.geomspace(0.2, 30, 2000)]
    assert best_constant(true_m).delta1 >= max(others) > 0.2


def test_best_constant_of_a_simple_set():
    best = best_constant(np.array([1.0, 5.0, 6.0, 7.0, 20.0, NAN]))
    assert best.depth_m == pytest.approx(math.sqrt(35)) and best.delta1 == pytest.approx(0.6)
    assert math.isnan(best_constant(np.array([NAN])).depth_m)


def test_added_sums_of_parts_give_the_scores_of_all_points():
    rng = np.random.default_rng(3)
    true_m = rng.lognormal(1, 0.5, 60)
    predicted_m = true_m * rng.lognormal(0, 0.3, 60)
    predicted_m[::7], true_m[::11] = NAN, NAN
    parts = sum_depth_errors(predicted_m[:20], true_m[:20]) + sum_depth_errors(predicted_m[20:], true_m[20:])
    whole = score_depth(predicted_m, true_m)
    assert (parts.scores.n, parts.scores.parse_failures) == (whole.n, whole.parse_failures)
    assert parts.scores.delta1 == whole.delta1 and parts.scores.absrel == pytest.approx(whole.absrel)
    assert parts.scores.rmse_m == pytest.approx(whole.rmse_m)


def test_missing_answers_are_wrong_in_delta1_and_left_out_of_delta1_answered():
    scores = score_depth(np.array([1.0, 3.0, NAN, NAN]), np.array([1.0, 1.0, 1.0, 1.0]))
    assert (scores.delta1, scores.delta1_answered) == (0.25, 0.5)


def test_row_prior_answers_each_half_of_the_images_from_the_other_half():
    # Above the horizon 10 m, below it 1 m; the images of one half are twice as deep.
    slopes = [np.repeat([-0.5, 0.5], 10)] * 4
    true_m = [np.repeat([10.0, 1.0], 10) * scale for scale in (1, 2, 1, 2)]
    predicted_m = predict_from_rows(slopes, true_m)
    np.testing.assert_allclose(predicted_m[0], true_m[1])
    np.testing.assert_allclose(predicted_m[3], true_m[0])


def test_row_prior_of_a_single_image_is_unknown():
    (predicted_m,) = predict_from_rows([np.zeros(3)], [np.ones(3)])
    assert np.isnan(predicted_m).all()


def test_rows_of_different_cameras_are_compared_by_their_rays():
    uv_px = np.array([[5.0, 10.0], [0.0, 30.0]])
    assert row_slopes(uv_px, Intrinsics(50, 40, 0, 10, 64, 48)).tolist() == [0.0, 0.5]


def test_true_deviations_are_reliable_and_halved_ones_are_not():
    rng = np.random.default_rng(0)
    true_m = rng.uniform(1, 9, 4000)
    std_m = rng.uniform(0.05, 0.2, 4000) * true_m
    predicted_m = true_m + std_m * rng.standard_normal(4000)
    result = measure_reliability(predicted_m, std_m, true_m)
    assert result.within_1std == pytest.approx(0.683, abs=0.03)
    assert result.within_2std == pytest.approx(0.954, abs=0.02)
    assert result.gap < 0.02
    assert measure_reliability(predicted_m, std_m / 2, true_m).within_1std == pytest.approx(0.383, abs=0.03)
    assert measure_reliability(predicted_m, std_m / 2, true_m).gap > 0.1


def test_removing_uncertain_points_helps_only_if_the_deviations_follow_the_errors():
    true_m = np.full(100, 2.0)
    error_m = np.linspace(0.01, 1.0, 100)
    ordered_by_error = measure_reliability(true_m + error_m, error_m, true_m)
    assert ordered_by_error.absrel_kept == ordered_by_error.absrel_best and ordered_by_error.ause == 0.0
    assert ordered_by_error.absrel_kept[0] == pytest.approx(error_m.mean() / 2)
    assert ordered_by_error.absrel_kept[-1] == pytest.approx(error_m[:5].mean() / 2)
    assert measure_reliability(true_m + error_m, error_m[::-1], true_m).ause > 0.5


def test_points_without_a_deviation_are_not_part_of_the_reliability():
    result = measure_reliability(np.array([1.0, 2.0, NAN]), np.array([NAN, 0.5, 0.5]), np.array([1.0, 2.2, 3.0]))
    assert (result.n, result.within_1std) == (1, 1.0)
    assert measure_reliability(np.ones(2), np.full(2, NAN), np.ones(2)).n == 0
