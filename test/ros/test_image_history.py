# SPDX-License-Identifier: Apache-2.0
"""The image history keeps a few earlier images at even intervals, whatever the camera's rate is."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from depthlm_ros.ros.camera_info_sync import NS_PER_S, CameraImage
from depthlm_ros.ros.request_queue import HISTORY_STEPS, ImageHistory


def image_at(number: int, at_s: float) -> CameraImage:
    return CameraImage(None, round(at_s * NS_PER_S), 0, 0, number)


def with_info(image: CameraImage) -> CameraImage:
    return replace(image, info=SimpleNamespace())


def filled(rate_hz: float, seconds: float, span_s: float = 2.0) -> tuple[ImageHistory, CameraImage]:
    """The history of a camera's images, and the newest image, which the history does not hold yet."""
    history, images = ImageHistory(span_s), [image_at(i, i / rate_hz) for i in range(int(rate_hz * seconds) + 1)]
    for image in images[:-1]:
        history.add(image, with_info)
    return history, images[-1]


@pytest.mark.parametrize("rate_hz", [1.0, 4.0, 30.0, 200.0])
@pytest.mark.parametrize("back_s", [0.5, 1.0, 2.0])
def test_earlier_image_is_as_near_to_the_requested_time_as_steps_and_frame_rate_allow(rate_hz, back_s):
    history, newest = filled(rate_hz, 10.0)
    found = history.find_before(newest, round(back_s * NS_PER_S))
    off_s = abs((newest.stamp_ns - found.stamp_ns) / NS_PER_S - back_s)
    assert off_s <= (2.0 / HISTORY_STEPS + 1.0 / rate_hz) / 2 + 1.0 / rate_hz
    assert found.number < newest.number


@pytest.mark.parametrize("rate_hz", [30.0, 1000.0])
def test_history_holds_only_about_one_image_per_step(rate_hz):
    history, newest = filled(rate_hz, 20.0)
    every_ns = range(0, 30 * NS_PER_S, NS_PER_S // 1000)
    held = {history.find_before(newest, back_ns).number for back_ns in every_ns}
    assert len(held) <= HISTORY_STEPS + 2


def test_only_images_before_the_given_one_are_found():
    history, _ = filled(4.0, 5.0)
    assert history.find_before(image_at(18, 4.5), 0).number == 17
    assert history.find_before(image_at(1, 0.25), 0) is None


def test_history_is_empty_with_span_zero_and_after_clear():
    assert filled(10.0, 3.0, span_s=0.0)[0].find_before(image_at(99, 3.0), 0) is None
    history, newest = filled(10.0, 3.0)
    history.clear()
    assert history.find_before(newest, 0) is None


def test_image_without_calibration_is_not_kept():
    history = ImageHistory(2.0)
    history.add(image_at(1, 0.0), lambda image: replace(image, other_frame_id="other_camera"))
    assert history.find_before(image_at(2, 1.0), 0) is None
