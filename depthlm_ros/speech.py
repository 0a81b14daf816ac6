"""What a model said, and what a View needs of the model that said it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from depthlm_ros.backends.base import Backend, Look
from depthlm_ros.backends.decoding import Generated
from depthlm_ros.digits import number_distribution, read_number
from depthlm_ros.families.base import Family, Prompt
from depthlm_ros.model_files.spec import Calibration, ModelSpec


@dataclass(frozen=True)
class Said:
    """A reply without its forced beginning. pieces: the text of each of its tokens. generated.watched: the log
    probabilities of digits.SYMBOLS at each."""

    text: str
    pieces: tuple[str, ...]
    generated: Generated

    @property
    def probability(self) -> float:
        """Geometric mean of the probabilities of the chosen tokens."""
        if not self.generated.log_probability:
            return math.nan
        return math.exp(sum(self.generated.log_probability) / len(self.generated.log_probability))

    def std_of(self, value: float, calibration: Calibration) -> float:
        """Standard deviation of a number in the reply: the spread of what might have been written instead, together
        with the model's own relative error; NaN if there is no number."""
        return math.hypot(calibration.words_spread * self.spread_of(value), calibration.words_relative * value)

    def spread_of(self, value: float) -> float:
        """Standard deviation of the numbers that might have been written instead of one in the reply, as likely as the
        model found them: 0 if the reply has other numbers only, NaN if there is no number."""
        if not math.isfinite(value):
            return math.nan
        number, start = read_number(self.pieces, abs(value))
        return number_distribution(number, self.generated.watched[start:])[1] if number else 0.0


class Speaker(Protocol):
    """A loaded model, as far as views need it."""

    spec: ModelSpec
    family: Family
    backend: Backend

    def reply_to(self, look: Look, prompts: Sequence[Prompt]) -> list[Said]:
        """The model's words after each prompt."""
        ...

    def reply_to_marked(self, canvas: np.ndarray, prompts: Sequence[Prompt]) -> list[Said]:
        """The model's words after each prompt, on copies of the canvas (h, w, 3) that bear the prompt's marks."""
        ...
