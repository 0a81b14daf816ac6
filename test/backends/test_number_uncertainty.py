"""How sure a model was of a number follows from what it might have written instead."""

import numpy as np
import pytest

from depthlm_ros.backends.number_uncertainty import SYMBOLS, number_distribution, read_number


def steps(number, *doubts, ended=True):
    """Log probabilities of a number written with certainty but for the doubts: (step, other symbol, probability)."""
    probability = np.full((len(number) + ended, len(SYMBOLS)), 1e-12)
    for step, symbol in enumerate(number):
        probability[step, SYMBOLS.index(symbol)] = 1.0
    for step, other, share in doubts:
        probability[step, SYMBOLS.index(other)] = share
        if step < len(number):
            probability[step, SYMBOLS.index(number[step])] -= share
    return np.log(np.maximum(probability, 1e-12))


def test_a_number_without_doubt_is_itself():
    mean, std = number_distribution("2.35", steps("2.35"))
    assert mean == pytest.approx(2.35) and std < 1e-3


def test_a_doubt_in_the_last_digit_is_a_doubt_of_centimetres():
    mean, std = number_distribution("2.35", steps("2.35", (3, "7", 0.5)))
    assert mean == pytest.approx(2.36)
    assert std == pytest.approx(0.01, rel=1e-3)


def test_a_doubt_in_the_first_digit_is_a_doubt_of_metres():
    """Half of the time 2.35, half of the time 3.00 to 3.99, whose middle is 3.495 and width .99."""
    mean, std = number_distribution("2.35", steps("2.35", (0, "3", 0.5)))
    assert mean == pytest.approx((2.35 + 3.5) / 2, abs=0.01)
    assert std == pytest.approx(np.sqrt(((3.5 - 2.35) / 2) ** 2 + 0.5 * 1.0 / 12), rel=0.02)


def test_a_digit_instead_of_the_point_makes_a_longer_number():
    mean, _ = number_distribution("2.35", steps("2.35", (1, "4", 0.5)))
    assert mean == pytest.approx((2.35 + 24.5) / 2)


def test_the_point_instead_of_a_digit_makes_a_shorter_number():
    mean, _ = number_distribution("12.35", steps("12.35", (1, ".", 0.5)))
    assert mean == pytest.approx((12.35 + 1.5) / 2, abs=0.01)


def test_ten_digits_alike_are_nearly_uniform():
    """A model that knows the form but nothing else: every digit is as likely; the numbers are uniform over 0 to 10."""
    doubts = [(step, other, 0.1) for step in (0, 2, 3) for other in "0123456789" if other != "5.55"[step]]
    mean, std = number_distribution("5.55", steps("5.55", *doubts))
    assert mean == pytest.approx(5.0, abs=0.1)
    assert std == pytest.approx(10 / np.sqrt(12), rel=0.03)


def test_a_number_that_was_cut_off_counts_as_it_stands():
    mean, _ = number_distribution("2.3", steps("2.3", ended=False))
    assert mean == pytest.approx(2.3)


def test_nothing_to_go_by_is_nan():
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
def test_a_number_is_found_among_the_tokens_that_spell_it(pieces, value, found):
    assert read_number(pieces, value) == found
