# SPDX-License-Identifier: Apache-2.0
"""The calibration of a model's confidence."""

import math

import pytest

from depthlm_ros.model_files.spec import ErrorCalibration


def logit(probability):
    return math.log(probability / (1 - probability))


@pytest.mark.parametrize("probability", [0.0, 1e-9, 0.1, 0.5, 0.93, 1.0])
def test_an_uncalibrated_confidence_stays_as_it_is(probability):
    assert ErrorCalibration().calibrated_confidence(probability) == probability


@pytest.mark.parametrize("probability", [0.02, 0.5, 0.8, 0.99])
def test_the_logit_of_the_confidence_is_scaled_and_shifted(probability):
    calibrated = ErrorCalibration(confidence_gain=0.7, confidence_offset=-1.3).calibrated_confidence(probability)
    assert logit(calibrated) == pytest.approx(0.7 * logit(probability) - 1.3)


def test_the_order_of_confidences_stays():
    calibration = ErrorCalibration(confidence_gain=3.0, confidence_offset=2.0)
    found = [calibration.calibrated_confidence(step / 50) for step in range(51)]
    assert found == sorted(found) and (found[0], found[-1]) == (0.0, 1.0)


def test_a_gain_of_zero_gives_one_confidence_to_all():
    calibration = ErrorCalibration(confidence_gain=0.0, confidence_offset=logit(0.3))
    assert [calibration.calibrated_confidence(p) for p in (0.0, 0.4, 1.0)] == pytest.approx([0.3] * 3)


def test_an_unknown_confidence_stays_unknown():
    assert math.isnan(ErrorCalibration().calibrated_confidence(math.nan))
