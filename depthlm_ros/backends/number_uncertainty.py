"""How sure a model was of a number that it wrote digit by digit.

At every step of greedy decoding the model had a probability for each digit and for the decimal point. Where it might
have gone another way, the number would have come out in another range; the first such step splits all numbers into
disjoint cases, whose probabilities and ranges give a mean and a standard deviation, at no cost beyond the logits that
decoding computed anyway.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# What may stand in a number, in the order of the columns of `log_probability`.
SYMBOLS = "0123456789."
_SYMBOLS = frozenset(SYMBOLS)


def number_distribution(number: str, log_probability: np.ndarray, decimals: int = 2) -> tuple[float, float]:
    """(mean, standard deviation) of the numbers that could have been written instead of `number` ("2.35").

    log_probability: float (K, 11) of SYMBOLS at each step, K = len(number), or one more for the step that ended it.
    Digits that would have followed a deviation are taken as uniform; as many digits before the point as in `number`,
    unless the deviation is the point itself, and `decimals` behind it. (nan, nan) if there is nothing to go by.
    """
    probability = np.exp(np.asarray(log_probability, np.float64))
    cases = _cases(number, probability, decimals)
    weight, value, width = (np.array(column) for column in zip(*cases, strict=True)) if cases else (np.zeros(0),) * 3
    if not weight.sum() > 0:
        return math.nan, math.nan
    weight = weight / weight.sum()
    mean = float((weight * value).sum())
    # A uniform distribution over an interval has the variance width^2 / 12.
    variance = float((weight * ((value - mean) ** 2 + width**2 / 12)).sum())
    return mean, math.sqrt(variance)


def _cases(number: str, probability: np.ndarray, decimals: int) -> list[tuple[float, float, float]]:
    """(probability, middle, width) of what would have come: one case per other symbol at each step, and the number."""
    cases: list[tuple[float, float, float]] = []
    if not number:
        return cases
    so_far = 1.0
    for step, symbol in enumerate(number):
        for column, other in enumerate(SYMBOLS):
            if other != symbol and (step > 0 or other != "."):
                middle, width = _range_after(number, step, other, decimals)
                if not math.isnan(middle):
                    cases.append((so_far * probability[step, column], middle, width))
        so_far *= probability[step, SYMBOLS.index(symbol)]
    if len(probability) > len(number):
        so_far *= max(0.0, 1.0 - probability[len(number)].sum())
    cases.append((so_far, float(number), 0.0))
    return cases


def _range_after(number: str, step: int, other: str, decimals: int) -> tuple[float, float]:
    """Middle and width of the numbers that begin like `number` but have `other` at `step`; NaN if there are none."""
    begun = number[:step] + other
    point = number.find(".")
    whole_digits = len(number) if point < 0 else point
    if begun.count(".") > 1:
        return math.nan, math.nan
    if "." in begun:
        unknown = max(decimals - len(begun.partition(".")[2]), 0)
        width = 10.0**-decimals * (10**unknown - 1)
        return float(begun + "0") + width / 2, width
    scale = 10.0 ** max(whole_digits - len(begun), 0)
    return int(begun) * scale + scale / 2, scale


def read_number(pieces: Sequence[str], value: float) -> tuple[str, int]:
    """The number `value` as the tokens of a reply spell it, and the step at which it begins; ("", 0) if they do not.

    pieces: the text of each token; only symbols that stand alone in a token are read as digits.
    """
    start = 0
    while start < len(pieces):
        end = start
        while end < len(pieces) and pieces[end] in _SYMBOLS:
            end += 1
        number = "".join(pieces[start:end]).rstrip(".")
        if number.count(".") <= 1 and number.strip(".") and math.isclose(float(number), value):
            return number, start
        start = max(end, start + 1)
    return "", 0
