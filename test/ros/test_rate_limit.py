# SPDX-License-Identifier: Apache-2.0
"""The rate limit: its rate is exact over a stream with jitter, and a question that needs an image does not wait."""

import numpy as np
import pytest
from test_request_queue import QueueUser

from depthlm_ros.ros.rate_limit import RateLimit
from depthlm_ros.ros.request_queue import RequestQueue


def frames_begun(camera_hz: float, max_rate_hz: float, jitter_s: float = 0.0, seconds: float = 20.0) -> int:
    """Returns how many frames of a camera begin if the newest one waits for its turn."""
    limit, begun = RateLimit(lambda: max_rate_hz), 0
    arrivals_s = np.arange(0, seconds, 1 / camera_hz)
    arrivals_s = arrivals_s + np.random.default_rng(0).uniform(0, jitter_s, len(arrivals_s))
    for arrival_s, next_s in zip(arrivals_s, [*arrivals_s[1:], np.inf], strict=True):
        turn_s = arrival_s + limit.wait_s(arrival_s)
        if turn_s < next_s:
            limit.begin(turn_s)
            begun += 1
    return begun


@pytest.mark.parametrize(("max_rate_hz", "expected"), [(0.0, 600), (5.0, 100), (7.0, 140), (30.0, 600), (50.0, 600)])
def test_rate_is_the_limit_or_the_camera_s_own(max_rate_hz, expected):
    assert frames_begun(30.0, max_rate_hz) == pytest.approx(expected, abs=1)
    assert frames_begun(30.0, max_rate_hz, jitter_s=0.01) == pytest.approx(expected, abs=0.02 * expected)


def test_frames_that_begin_a_little_late_do_not_lower_the_rate():
    limit, now_s, begun = RateLimit(lambda: 10.0), 0.0, 0
    while now_s < 10.0:
        limit.begin(now_s)
        begun += 1
        now_s += limit.wait_s(now_s) + 0.03 * (begun % 2)  # a busy thread
    assert begun == pytest.approx(100, abs=1)


def test_no_burst_follows_a_pause():
    limit = RateLimit(lambda: 10.0)
    limit.begin(0.0)
    limit.begin(5.0)
    assert limit.wait_s(5.0) == pytest.approx(0.1)


def test_limit_can_change_between_frames():
    rate_hz = [2.0]
    limit = RateLimit(lambda: rate_hz[0])
    limit.begin(1.0)
    assert limit.wait_s(1.0) == pytest.approx(0.5)
    rate_hz[0] = 20.0
    assert limit.wait_s(1.0) == pytest.approx(0.05)
    rate_hz[0] = 0.0
    assert limit.wait_s(1.0) == 0.0


def limited_user(max_rate_hz: float) -> QueueUser:
    user = QueueUser()
    user.queue = RequestQueue(user.clock, user.problems, 4, rate_limit=RateLimit(lambda: max_rate_hz))
    user.queue.put_info(user.info)
    return user


def test_newest_image_waits_for_its_turn_and_older_ones_are_dropped():
    user = limited_user(20.0)
    user.put_image(0)
    assert user.work() == ("image", 0)
    for at_ms in (10, 20, 30):
        user.put_image(at_ms)
    assert user.work() == ("image", 30)
    assert user.queue.dropped == 2


def test_image_waits_as_long_as_the_limit_says():
    user = limited_user(0.01)
    user.put_image(0)
    user.work()
    user.put_image(10)
    assert user.has_nothing_to_do()


def test_question_that_needs_a_new_image_does_not_wait_for_the_turn():
    user = limited_user(0.01)
    user.put_image(0)
    user.work()
    question = user.ask(is_fresh=True, at_ms=5)
    user.put_image(10)
    assert user.work() == ("image", 10) and user.work() == ("answer", 10)
    assert question.future.done()
    user.put_image(20)
    user.ask(at_ms=25)  # any image will do: the one that was looked at
    assert user.work() == ("answer", 10)
    assert user.has_nothing_to_do()
