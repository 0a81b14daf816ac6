# SPDX-License-Identifier: Apache-2.0
"""The confidence of answers: how it is calibrated, and how its calibration is scored."""

import math

import numpy as np
import pytest

from depthlm_ros.eval.uncertainty import calibration_error, fit_confidence
from depthlm_ros.model_files.spec import ErrorCalibration


def test_calibration_error_is_the_gap_between_confidence_and_share_right():
    confidence = np.array([0.9, 0.9, 0.1, 0.1, math.nan])
    assert calibration_error(confidence, np.array([1, 1, 0, 0, 0], bool)) == pytest.approx(0.1)
    assert calibration_error(confidence, np.array([1, 0, 0, 0, 0], bool)) == pytest.approx(0.25)
    assert calibration_error(np.array([1.0]), np.array([True])) == 0.0
    assert math.isnan(calibration_error(np.array([math.nan]), np.array([True])))


def calibrated(fit, probability):
    calibration = ErrorCalibration(confidence_gain=fit[0], confidence_offset=fit[1])
    return np.array([calibration.calibrated_confidence(p) for p in probability])


def test_the_fit_makes_a_model_that_is_too_sure_honest():
    rng = np.random.default_rng(0)
    true_share = rng.uniform(0.2, 0.95, 4000)
    odds = (true_share / (1 - true_share)) ** 3 * 5
    told, right = odds / (1 + odds), rng.random(4000) < true_share
    assert calibration_error(told, right) > 0.15
    fit = fit_confidence(told, right)
    assert fit == (pytest.approx(1 / 3, abs=0.05), pytest.approx(-math.log(5) / 3, abs=0.1))
    assert calibration_error(calibrated(fit, told), right) < 0.02


@pytest.mark.parametrize("right", [[True] * 3, [False] * 3, [True, False, True]])
def test_few_answers_and_sure_ones_give_finite_constants(right):
    gain, offset = fit_confidence(np.array([1.0, 0.0, 0.5]), np.array(right))
    assert 0 <= gain < 5 and abs(offset) < 5


def test_unknown_probabilities_and_none_leave_the_confidence_as_it_is():
    assert fit_confidence(np.full(3, math.nan), np.ones(3, bool)) == fit_confidence(np.zeros(0), np.zeros(0, bool))
    assert fit_confidence(np.zeros(0), np.zeros(0, bool)) == (1.0, 0.0)


def test_a_more_probable_answer_is_never_less_sure():
    """Where the fit would turn the order round, every answer has the share of right ones as its confidence."""
    fit = fit_confidence(np.array([0.9] * 90 + [0.1] * 10), np.array([False] * 85 + [True] * 15))
    assert fit[0] == 0.0
    np.testing.assert_allclose(calibrated(fit, [0.9, 0.1]), 0.15)
