"""A camera's images of the last seconds, for questions about how things were a moment ago."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from depthlm_ros.ros.pairing import NS_PER_S, Arrival, Pair

# The span is kept in so many steps, so that the memory is that of a few images, however fast the camera.
STEPS = 8


class Recent:
    """Images evenly apart, each as it came, with its calibration. Not thread-safe. span_s: 0 keeps none."""

    def __init__(self, span_s: float = 0.0) -> None:
        self._span_ns = round(span_s * NS_PER_S)
        self._kept: deque[Pair] = deque()

    def keep(self, image: Arrival, pair: Callable[[Arrival], Pair]) -> None:
        """An image that is not the newest any more, so that its calibration has come. pair: finds that."""
        if self._span_ns == 0:
            return
        if self._kept and image.stamp_ns - self._kept[-1].image.stamp_ns < self._span_ns // STEPS:
            return
        found = pair(image)
        if found.info is None:
            return
        self._kept.append(found)
        while len(self._kept) > 1 and self._kept[1].image.stamp_ns <= image.stamp_ns - self._span_ns:
            self._kept.popleft()

    def before(self, image: Arrival, back_ns: int) -> Pair | None:
        """Of the images before this one, the nearest to so long before it."""
        earlier = [pair for pair in self._kept if pair.image.number < image.number]
        wanted_ns = image.stamp_ns - back_ns
        return min(earlier, key=lambda pair: abs(pair.image.stamp_ns - wanted_ns), default=None)

    def forget(self) -> None:
        """Time has begun anew."""
        self._kept.clear()
