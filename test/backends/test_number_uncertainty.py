# SPDX-License-Identifier: Apache-2.0
"""The certainty of a number follows from the numbers that the model could have written instead."""

import numpy as np
import pytest

from depthlm_ros.backends.number_uncertainty import SYMBOLS, find_number, number_distribution


def steps(number, *doubts, ended=True):
    """Returns log probabilities of a number that was certain except for doubts: (step, other symbol, probability)."""
    probability = np.full((len(number) + ended, len(SYMBOLS)), 1e-12)
    for step, symbol in enumerate(number):
        probability[step, SYMBOLS.index(symbol)] = 1.0
    for step, other, share in doubts:
        probability[step, SYMBOLS.index(other)] = share
        if step < len(number):
            probability[step, SYMBOLS.index(number[step])] -= share
    return np.log(np.maximum(probability, 1e-12))


def test_a_certain_number_is_its_own_mean():
    mean, std = number_distribution("2.35", steps("2.35"))
    assert mean == pytest.approx(2.35) and std < 1e-3


def test_a_doubt_in_the_last_digit_gives_centimetres():
    mean, std = number_distribution("2.35", steps("2.35", (3, "7", 0.5)))
    assert mean == pytest.approx(2.36)
    assert std == pytest.approx(0.01, rel=1e-3)


def test_a_doubt_in_the_first_digit_gives_metres():
    """One half is 2.35, the other half is 3.00 to 3.99, with the middle 3.495 and the width 0.99."""
    mean, std = number_distribution("2.35", steps("2.35", (0, "3", 0.5)))
    assert mean == pytest.approx((2.35 + 3.5) / 2, abs=0.01)
    assert std == pytest.approx(np.sqrt(((3.5 - 2.35) / 2) ** 2 + 0.5 * 1.0 / 12), rel=0.02)


def test_a_digit_instead_of_the_point_makes_a_longer_number():
    mean, _ = number_distribution("2.35", steps("2.35", (1, "4", 0.5)))
    assert mean == pytest.approx((2.35 + 24.5) / 2)


def test_the_point_instead_of_a_digit_makes_a_shorter_number():
    mean, _ = number_distribution("12.35", steps("12.35", (1, ".", 0.5)))
    assert mean == pytest.approx((12.35 + 1.5) / 2, abs=0.01)


def test_equally_likely_digits_give_a_uniform_distribution():
    """A model that knows only the form gives every digit the same probability: numbers are uniform from 0 to 10."""
    doubts = [(step, other, 0.1) for step in (0, 2, 3) for other in "0123456789" if other != "5.55"[step]]
    mean, std = number_distribution("5.55", steps("5.55", *doubts))
    assert mean == pytest.approx(5.0, abs=0.1)
    assert std == pytest.approx(10 / np.sqrt(12), rel=0.03)


def test_a_number_that_was_cut_off_is_taken_as_it_is():
    mean, _ = number_distribution("2.3", steps("2.3", ended=False))
    assert mean == pytest.approx(2.3)


def test_no_number_gives_nan():
    assert np.isnan(number_distribution("", np.zeros((0, 11)))).all()


@pytest.mark.parametrize(
    ("pieces", "value", "found"),
    [
        (["The", " box", " is", " ", "2", ".", "3", "5", " m"], 2.35, ("2.35", 4)),
        (["(", "4", "1", ", ", "2", ".", "3", "5", ")"], 2.35, ("2.35", 4)),
        (["4", " or ", "4", ".", "0"], 4.0, ("4", 0)),
        (["1", ".", "2", "."], 1.2, ("1.2", 0)),
        (["1", ".", ".", "2"], 1.2, ("", 0)),
        ([".", " and ", "7"], 7.0, ("7", 2)),
        (["12"], 12.0, ("", 0)),
        ([], 1.0, ("", 0)),
    ],
)
def test_a_number_is_found_among_the_tokens(pieces, value, found):
    assert find_number(pieces, value) == found
