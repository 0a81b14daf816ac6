"""Which CameraInfo belongs to an image.

The one with the image's own stamp, where there is one. Drivers send it right after the image, so for a camera that
does, a new image waits for it a moment. Otherwise the latest of the same camera: many drivers send it seldom.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

NS_PER_S = 1_000_000_000
# How long images wait for a calibration of their own stamp, if the image before had one.
PATIENCE_NS = 100_000_000
_KEPT = 16
# How far a stamp may lie from the clock on arrival and still be of the same clock: jitter, and a slow camera.
_AHEAD_NS, _BEHIND_NS = NS_PER_S // 10, 5 * NS_PER_S


def stamp_ns(header: Any) -> int:
    """A header's stamp in nanoseconds."""
    return header.stamp.sec * NS_PER_S + header.stamp.nanosec


@dataclass(frozen=True)
class Arrival:
    """An image message as it came.

    arrived_ns: the machine's steady clock. clock_ns: the node's clock at the arrival. number: counts arrivals.
    """

    message: Any
    stamp_ns: int
    arrived_ns: int
    clock_ns: int
    number: int

    @property
    def same_clock(self) -> bool:
        """Whether the stamp can be of the node's own clock: neither from the future nor long past."""
        return -_AHEAD_NS <= self.clock_ns - self.stamp_ns <= _BEHIND_NS


@dataclass(frozen=True)
class Pair:
    """An image and its calibration; `other_frame_id` tells where only another camera's was to be had, info is None."""

    image: Arrival
    info: Any | None
    other_frame_id: str = ""


@dataclass
class Pairing:
    """Keeps the recent calibrations and finds an image's own. Not thread-safe."""

    _infos: deque = field(default_factory=lambda: deque(maxlen=_KEPT))
    _exact_before: bool = False
    _paired_stamp_ns: int = -1
    _waiting_since_ns: int | None = None

    def keep(self, info: Any) -> None:
        """A calibration has arrived; perhaps too late for its image, but then the next one's is worth waiting for."""
        self._infos.append(info)
        self._exact_before |= stamp_ns(info.header) == self._paired_stamp_ns

    @property
    def has_info(self) -> bool:
        """Whether any calibration has arrived."""
        return bool(self._infos)

    def ready(self, image: Arrival, now_ns: int) -> bool:
        """Whether there is no better calibration to wait for.

        The wait is counted from the first image that waited: newer ones that take its place do not prolong it.
        """
        if not self._infos:
            return False
        if not self._exact_before or self._own(image) is not None:
            return True
        if self._waiting_since_ns is None:
            self._waiting_since_ns = image.arrived_ns
        return now_ns - self._waiting_since_ns >= PATIENCE_NS

    def pair(self, image: Arrival) -> Pair:
        """The image with its calibration, as `find`; the next one's is waited for if this one had its own."""
        self._waiting_since_ns = None
        self._exact_before, self._paired_stamp_ns = self._own(image) is not None, image.stamp_ns
        return self.find(image)

    def find(self, image: Arrival) -> Pair:
        """The image with the best calibration that has arrived."""
        infos = (info for info in reversed(self._infos) if same_camera(image.message, info))
        info = self._own(image) or next(infos, None)
        if info is None and self._infos:
            return Pair(image, None, other_frame_id=self._infos[-1].header.frame_id)
        return Pair(image, info)

    def _own(self, image: Arrival) -> Any | None:
        return next(
            (
                info
                for info in reversed(self._infos)
                if stamp_ns(info.header) == image.stamp_ns and same_camera(image.message, info)
            ),
            None,
        )


def same_camera(message: Any, info: Any) -> bool:
    """Whether the frame ids of an image and a calibration agree; an empty one says nothing."""
    frame_id = message.header.frame_id
    return not frame_id or not info.header.frame_id or frame_id == info.header.frame_id
