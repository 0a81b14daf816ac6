"""A few earlier images, evenly apart, whatever the camera's rate."""

from types import SimpleNamespace

import pytest

from depthlm_ros.ros.camera_info_sync import NS_PER_S, Arrival, Pair
from depthlm_ros.ros.request_queue import STEPS, Recent


def arrival(number: int, at_s: float) -> Arrival:
    return Arrival(None, round(at_s * NS_PER_S), 0, 0, number)


def paired(image: Arrival) -> Pair:
    return Pair(image, SimpleNamespace())


def filled(rate_hz: float, seconds: float, span_s: float = 2.0) -> tuple[Recent, Arrival]:
    """What is kept of a camera's images, and the newest of them, which is not kept yet."""
    recent, images = Recent(span_s), [arrival(i, i / rate_hz) for i in range(int(rate_hz * seconds) + 1)]
    for image in images[:-1]:
        recent.keep(image, paired)
    return recent, images[-1]


@pytest.mark.parametrize("rate_hz", [1.0, 4.0, 30.0, 200.0])
@pytest.mark.parametrize("back_s", [0.5, 1.0, 2.0])
def test_an_earlier_image_is_as_near_to_the_wanted_time_as_steps_and_camera_allow(rate_hz, back_s):
    recent, newest = filled(rate_hz, 10.0)
    found = recent.before(newest, round(back_s * NS_PER_S))
    off_s = abs((newest.stamp_ns - found.image.stamp_ns) / NS_PER_S - back_s)
    assert off_s <= (2.0 / STEPS + 1.0 / rate_hz) / 2 + 1.0 / rate_hz
    assert found.image.number < newest.number


@pytest.mark.parametrize("rate_hz", [30.0, 1000.0])
def test_no_more_images_are_held_than_steps(rate_hz):
    recent, newest = filled(rate_hz, 20.0)
    every_ns = range(0, 30 * NS_PER_S, NS_PER_S // 1000)
    held = {recent.before(newest, back_ns).image.number for back_ns in every_ns}
    assert len(held) <= STEPS + 2


def test_of_an_older_look_only_what_was_before_it_is_earlier():
    recent, _ = filled(4.0, 5.0)
    assert recent.before(arrival(18, 4.5), 0).image.number == 17
    assert recent.before(arrival(1, 0.25), 0) is None


def test_nothing_is_kept_where_nothing_is_to_be_and_after_time_began_anew():
    assert filled(10.0, 3.0, span_s=0.0)[0].before(arrival(99, 3.0), 0) is None
    recent, newest = filled(10.0, 3.0)
    recent.forget()
    assert recent.before(newest, 0) is None


def test_an_image_without_calibration_is_of_no_use():
    recent = Recent(2.0)
    recent.keep(arrival(1, 0.0), lambda image: Pair(image, None, "other_camera"))
    assert recent.before(arrival(2, 1.0), 0) is None
