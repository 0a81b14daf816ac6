# SPDX-License-Identifier: Apache-2.0
"""Limits how many frames are processed per second."""

from __future__ import annotations

from collections.abc import Callable


class RateLimit:
    """Says how long the next frame has to wait. Not thread-safe.

    max_rate_hz: returns the present limit; 0: none. Times are those of a steady clock, seconds.
    """

    def __init__(self, max_rate_hz: Callable[[], float] = lambda: 0.0) -> None:
        self._max_rate_hz = max_rate_hz
        self._turn_s = float("-inf")

    def wait_s(self, now_s: float) -> float:
        """Returns the seconds until the next frame may begin; 0 if it may begin now."""
        return max(0.0, self._next_turn_s() - now_s)

    def begin(self, now_s: float) -> None:
        """Counts a frame that begins now.

        Turns are at even distances, so that a camera's jitter does not lower the rate. After a pause they start anew.
        """
        next_turn_s = self._next_turn_s()
        is_in_step = 0.0 <= now_s - next_turn_s < next_turn_s - self._turn_s
        self._turn_s = next_turn_s if is_in_step else now_s

    def _next_turn_s(self) -> float:
        rate_hz = self._max_rate_hz()
        return self._turn_s + 1.0 / rate_hz if rate_hz > 0 else float("-inf")
