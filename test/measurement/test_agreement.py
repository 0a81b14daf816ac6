# SPDX-License-Identifier: Apache-2.0
"""A number in words and the measured one become one number, in value and in text."""

import math

import pytest

from depthlm_ros.measurement.measure import AgreedNumber, agree, replace_number


def test_equal_certainty_gives_the_mean_and_keeps_the_deviation():
    number = agree(2.0, 0.3, 2.4, 0.3)
    assert number.value == pytest.approx(2.2) and number.std == pytest.approx(0.3)  # not 0.3 / sqrt(2)
    assert number.is_consistent


@pytest.mark.parametrize(
    ("words", "measured", "expected"),
    [
        ((2.0, 0.0), (2.0, 0.0), AgreedNumber(2.0, 0.0)),
        ((2.0, 0.1), (2.1, 0.0), AgreedNumber(2.1, 0.0)),
        ((2.1, 0.0), (2.0, 0.1), AgreedNumber(2.1, 0.0)),
        ((2.0, 0.0), (3.0, 0.0), AgreedNumber(3.0, 1.0, False)),
        ((9.0, math.nan), (3.0, 0.1), AgreedNumber(3.0, 0.1)),
        ((9.0, 0.1), (3.0, math.nan), AgreedNumber(9.0, 0.1)),
    ],
)
def test_certain_and_unknown_deviations(words, measured, expected):
    number = agree(*words, *measured)
    assert (number.value, number.std) == pytest.approx((expected.value, expected.std))
    assert number.is_consistent is expected.is_consistent


def test_three_deviations_are_the_limit():
    limit = 3 * math.hypot(0.3, 0.4)
    assert agree(5.0, 0.3, 5.0 + limit - 1e-9, 0.4).is_consistent
    contradiction = agree(5.0, 0.3, 5.0 + limit + 1e-9, 0.4)
    assert not contradiction.is_consistent
    assert contradiction.value == 5.0 + limit + 1e-9 and contradiction.std == pytest.approx(limit)


@pytest.mark.parametrize(
    ("text", "old", "new", "expected"),
    [
        ("The box is 2.31 meters away.", 2.31, 2.2549, "The box is 2.25 meters away."),
        ("The 2 boxes are 2.5 m away.", 2.5, 2.25, "The 2 boxes are 2.25 m away."),
        ("About 2 meters.", 2.0, 2.131, "About 2.13 meters."),
        ("It is 230 cm.", 2.3, 2.1, "It is 210 cm."),
        ("It is 1.500 m.", 1.5, 1.25, "It is 1.250 m."),
        ("3 to 4 feet.", 1.07, 1.2, "3 to 4 feet."),
        ("It is near.", 2.0, 1.0, "It is near."),
    ],
)
def test_the_number_of_a_text_is_exchanged(text, old, new, expected):
    assert replace_number(text, old, new) == expected
