# SPDX-License-Identifier: Apache-2.0
"""Finds the CameraInfo that belongs to an image.

The best one carries the image's own stamp. Many drivers send it right after the image, so a new image of such a camera
waits a moment for it. Otherwise the newest CameraInfo of the same camera is used: many drivers send it rarely.

Drivers exist whose image and CameraInfo carry different frame ids. Where only one publisher sends calibrations, its
calibration can only belong to these images, so it is used all the same.

Public names: CameraImage, CameraInfoSync, stamp_ns, is_same_camera, plain_frame_id.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sensor_msgs.msg import CameraInfo, CompressedImage, Image
    from std_msgs.msg import Header

NS_PER_S = 1_000_000_000
# How long images wait for a calibration with their own stamp, if the previous image had one.
INFO_TIMEOUT_NS = 100_000_000
MAX_INFOS = 16
# How far a stamp may differ from the node's clock on arrival and still come from the same clock. It may lie a little in
# the future (jitter) and further in the past (a slow camera).
MAX_AHEAD_NS, MAX_BEHIND_NS = NS_PER_S // 10, 5 * NS_PER_S


@dataclass(frozen=True)
class CameraImage:
    """An image message, when it arrived, and (after CameraInfoSync.pair or find) its calibration.

    arrived_ns: the machine's steady clock on arrival. clock_ns: the node's clock on arrival. number: counts arrivals.
    info: None if no calibration of this camera has arrived; other_frame_id then names the camera of the newest one.
    """

    message: Image | CompressedImage
    stamp_ns: int
    arrived_ns: int
    clock_ns: int
    number: int
    info: CameraInfo | None = None
    other_frame_id: str = ""

    @property
    def is_stamped_by_node_clock(self) -> bool:
        """Whether the stamp can come from the node's own clock: neither in the future nor far in the past."""
        return -MAX_AHEAD_NS <= self.clock_ns - self.stamp_ns <= MAX_BEHIND_NS


@dataclass
class CameraInfoSync:
    """Keeps the recent calibrations and finds the one that belongs to an image. Not thread-safe.

    is_sure_of_source: whether calibrations can come from one camera only, so that a frame id that differs does no harm.
    """

    is_sure_of_source: Callable[[], bool] = lambda: False
    _infos: deque[CameraInfo] = field(default_factory=lambda: deque(maxlen=MAX_INFOS))
    _previous_was_exact: bool = False
    _previous_stamp_ns: int = -1
    _waiting_since_ns: int | None = None
    _frame_ids_agreed: bool = False

    def add(self, info: CameraInfo) -> None:
        """Stores a calibration. If it arrives too late for its image, the next image waits for its own."""
        self._infos.append(info)
        self._previous_was_exact |= stamp_ns(info.header) == self._previous_stamp_ns

    def clear(self) -> None:
        """Forgets all calibrations."""
        self._infos.clear()
        self._previous_was_exact = self._frame_ids_agreed = False

    @property
    def has_info(self) -> bool:
        """Whether any calibration has arrived."""
        return bool(self._infos)

    def pair(self, image: CameraImage, now_ns: int) -> CameraImage | None:
        """Returns the image with its calibration; None while a better calibration may still arrive.

        The wait starts with the first image that waits. A newer image that replaces it does not prolong the wait.
        """
        if not self._infos:
            return None
        paired = self.find(image)
        is_exact = paired.info is not None and stamp_ns(paired.info.header) == image.stamp_ns
        if self._previous_was_exact and not is_exact:
            if self._waiting_since_ns is None:
                self._waiting_since_ns = image.arrived_ns
            if now_ns - self._waiting_since_ns < INFO_TIMEOUT_NS:
                return None
        self._waiting_since_ns = None
        self._previous_was_exact, self._previous_stamp_ns = is_exact, image.stamp_ns
        return paired

    def find(self, image: CameraImage) -> CameraImage:
        """Returns the image with the best calibration that has arrived so far."""
        newest = None
        takes_any = self._takes_any_frame_id(image)
        for info in reversed(self._infos):
            if takes_any or is_same_camera(image.message, info):
                if stamp_ns(info.header) == image.stamp_ns:
                    return replace(image, info=info)
                newest = newest or info
        if newest is not None:
            return replace(image, info=newest)
        return replace(image, other_frame_id=self._infos[-1].header.frame_id if self._infos else "")

    def _takes_any_frame_id(self, image: CameraImage) -> bool:
        """Whether the frame ids differ only because the driver names them so.

        Not if they ever agreed, or if the calibrations are of several frames: then another camera sends too.
        """
        self._frame_ids_agreed |= any(is_same_camera(image.message, info) for info in self._infos)
        is_one_frame = len({plain_frame_id(info.header) for info in self._infos}) == 1
        return not self._frame_ids_agreed and is_one_frame and self.is_sure_of_source()


def stamp_ns(header: Header) -> int:
    """Returns the stamp of a header in nanoseconds."""
    return header.stamp.sec * NS_PER_S + header.stamp.nanosec


def plain_frame_id(header: Header) -> str:
    """Returns the frame id without the slash in front that tf knew once and tf2 refuses."""
    return header.frame_id.lstrip("/")


def is_same_camera(message: Image | CompressedImage, info: CameraInfo) -> bool:
    """Whether the frame ids of an image and a calibration agree. An empty frame id agrees with every other."""
    frame_id, info_frame_id = plain_frame_id(message.header), plain_frame_id(info.header)
    return not frame_id or not info_frame_id or frame_id == info_frame_id
