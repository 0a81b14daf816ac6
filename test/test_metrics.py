"""Scores against numbers worked out by hand."""

import math

import numpy as np
import pytest

from depthlm_ros.eval.baselines import best_constant, constant
from depthlm_ros.eval.metrics import mean_delta1, median_aligned, score

NAN = math.nan


def test_scores_of_a_hand_computed_example():
    scores = score(np.array([1.0, 2.2, 3.0, 8.0]), np.array([1.0, 2.0, 4.0, 4.0]))
    assert scores.delta1 == 0.5  # ratios 1, 1.1, 1.333, 2
    assert scores.absrel == pytest.approx((0 + 0.1 + 0.25 + 1.0) / 4)
    assert scores.rmse_m == pytest.approx(math.sqrt((0 + 0.04 + 1 + 16) / 4))
    assert (scores.n, scores.parse_failures) == (4, 0)


@pytest.mark.parametrize("predicted_m", [1.25, 0.8])
def test_delta1_is_strict_on_both_sides(predicted_m):
    assert score(np.array([predicted_m]), np.array([1.0])).delta1 == 0.0
    assert score(np.array([1.0]), np.array([predicted_m])).delta1 == 0.0


def test_just_inside_the_ratio_is_right():
    assert score(np.array([1.249, 0.801]), np.ones(2)).delta1 == 1.0


@pytest.mark.parametrize("missing", [NAN, math.inf, -math.inf, 0.0, -1.0])
def test_a_missing_prediction_is_wrong_and_stays_out_of_the_errors(missing):
    scores = score(np.array([2.0, 1.1, missing]), np.array([2.0, 1.0, 5.0]))
    assert scores.delta1 == pytest.approx(2 / 3)
    assert scores.absrel == pytest.approx(0.05)
    assert (scores.n, scores.parse_failures) == (3, 1)


@pytest.mark.parametrize("unlabelled", [NAN, math.inf, 0.0, -1.0])
def test_a_point_without_truth_does_not_count(unlabelled):
    scores = score(np.array([1.0, 1.0, NAN]), np.array([1.0, unlabelled, unlabelled]))
    assert (scores.delta1, scores.n, scores.parse_failures) == (1.0, 1, 0)


def test_nothing_to_score_is_nan_and_not_a_perfect_score():
    scores = score(np.array([1.0]), np.array([NAN]))
    assert math.isnan(scores.delta1) and math.isnan(scores.absrel) and scores.n == 0


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        score(np.ones(2), np.ones(3))


def test_median_alignment_removes_exactly_a_scale():
    true_m = np.array([1.0, 2.0, 3.0, 10.0])
    np.testing.assert_allclose(median_aligned(true_m / 7, true_m), true_m)


def test_median_alignment_uses_only_points_with_both_depths():
    aligned_m = median_aligned(np.array([1.0, 2.0, 3.0, NAN, 99.0]), np.array([2.0, 4.0, 6.0, 50.0, NAN]))
    np.testing.assert_allclose(aligned_m, [2.0, 4.0, 6.0, NAN, 198.0])


def test_image_mean_weighs_images_not_points_and_counts_an_empty_image_as_zero():
    right = score(np.ones(10), np.ones(10))
    wrong = score(np.full(2, 9.0), np.ones(2))
    empty = score(np.ones(1), np.array([NAN]))
    assert mean_delta1([right, wrong]) == 0.5
    assert mean_delta1([right, wrong, empty]) == pytest.approx(1 / 3)


def test_best_constant_beats_every_other_constant():
    true_m = np.random.default_rng(0).lognormal(1.0, 0.6, 500)
    others = [constant(c, true_m).delta1 for c in np.geomspace(0.2, 30, 2000)]
    assert best_constant(true_m).delta1 >= max(others) > 0.2


def test_best_constant_of_a_simple_set():
    best = best_constant(np.array([1.0, 5.0, 6.0, 7.0, 20.0, NAN]))
    assert best.depth_m == pytest.approx(math.sqrt(35)) and best.delta1 == pytest.approx(0.6)
    assert math.isnan(best_constant(np.array([NAN])).depth_m)
