# SPDX-License-Identifier: Apache-2.0
"""How certain a model was about a number that it wrote digit by digit.

At every step of greedy decoding the model has a probability for each digit and for the decimal point. Each other
symbol that was possible at a step would have led to another range of numbers. The first step that differs splits all
possible numbers into disjoint cases, whose probabilities and ranges give a mean and a standard deviation. This costs
nothing beyond the logits that decoding computes anyway.

Public names: SYMBOLS, number_distribution, find_number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from depthlm_ros.backends.generation import GeneratedTokens
from depthlm_ros.model_files.spec import ErrorCalibration

# The symbols of a number, in the order of the columns of `log_probability`.
SYMBOLS = "0123456789."
_SYMBOLS = frozenset(SYMBOLS)


def number_distribution(number: str, log_probability: np.ndarray, decimals: int = 2) -> tuple[float, float]:
    """Returns (mean, standard deviation) of the numbers that the model could have written instead of `number` ("2.35").

    log_probability: float (K, 11), of SYMBOLS at each step; K is len(number), or one more for the step that ended it.
    The digits after a deviation count as uniformly distributed. A number has as many digits before the point as
    `number`, unless the deviation is the point itself, and `decimals` digits after it. Returns (nan, nan) if there is
    no number or no probability.
    """
    if not number:
        return math.nan, math.nan
    probability = np.exp(np.asarray(log_probability, np.float64))
    weight, value, width = (np.array(column) for column in zip(*_cases(number, probability, decimals), strict=True))
    if not weight.sum() > 0:
        return math.nan, math.nan
    weight = weight / weight.sum()
    mean = float((weight * value).sum())
    # A uniform distribution over an interval has the variance width^2 / 12.
    variance = float((weight * ((value - mean) ** 2 + width**2 / 12)).sum())
    return mean, math.sqrt(variance)


def _cases(number: str, probability: np.ndarray, decimals: int) -> list[tuple[float, float, float]]:
    """Returns (probability, middle, width) of each range of numbers that the model could have written.

    There is one case for every other symbol at every step, and at the end the number itself, with width 0.
    """
    point = number.find(".")
    whole_digits = len(number) if point < 0 else point
    cases: list[tuple[float, float, float]] = []
    so_far = 1.0
    for step, symbol in enumerate(number):
        for column, other in enumerate(SYMBOLS):
            begun = number[:step] + other
            # A number neither begins with a point nor has two of them.
            if other == symbol or begun == "." or begun.count(".") > 1:
                continue
            if "." in begun:
                unknown = max(decimals - len(begun.partition(".")[2]), 0)
                width = 10.0**-decimals * (10**unknown - 1)
                middle = float(begun + "0") + width / 2
            else:
                width = 10.0 ** max(whole_digits - len(begun), 0)
                middle = int(begun) * width + width / 2
            cases.append((so_far * probability[step, column], middle, width))
        so_far *= probability[step, SYMBOLS.index(symbol)]
    if len(probability) > len(number):
        so_far *= max(0.0, 1.0 - probability[len(number)].sum())
    cases.append((so_far, float(number), 0.0))
    return cases


def find_number(token_texts: Sequence[str], value: float) -> tuple[str, int]:
    """Returns the number `value` as a reply spells it, and the index of its first token; ("", 0) if it is not there.

    token_texts: the text of each token of the reply. Only tokens that consist of one symbol are read as digits.
    """
    start = 0
    while start < len(token_texts):
        end = start
        while end < len(token_texts) and token_texts[end] in _SYMBOLS:
            end += 1
        number = "".join(token_texts[start:end]).rstrip(".")
        if number.count(".") <= 1 and number.strip(".") and math.isclose(float(number), value):
            return number, start
        start = max(end, start + 1)
    return "", 0


@dataclass(frozen=True)
class GenerationResult:
    """A reply of the model, without its forced beginning.

    token_texts: the text of each token. tokens: the tokens with their probabilities; tokens.watched holds the log
    probabilities of number_uncertainty.SYMBOLS at every step.
    """

    text: str
    token_texts: tuple[str, ...]
    tokens: GeneratedTokens

    @property
    def confidence(self) -> float:
        """Geometric mean of the probabilities of the chosen tokens, 0 to 1; NaN if there are none."""
        log_probability = self.tokens.log_probability
        return math.exp(sum(log_probability) / len(log_probability)) if log_probability else math.nan

    def number_std(self, value: float, calibration: ErrorCalibration) -> float:
        """Returns the standard deviation of a number in the reply; NaN if `value` is NaN.

        It combines the spread of the numbers that the model could have written instead with the relative error that
        was measured on validation data.
        """
        return math.hypot(calibration.words_spread * self.number_spread(value), calibration.words_relative * value)

    def number_spread(self, value: float) -> float:
        """Returns the standard deviation of the numbers that the model could have written instead of `value`.

        They are weighted by the model's own probabilities. Returns 0 if the reply does not contain this number, NaN if
        `value` is not finite.
        """
        if not math.isfinite(value):
            return math.nan
        number, start = find_number(self.token_texts, abs(value))
        return number_distribution(number, self.tokens.watched[start:])[1] if number else 0.0
