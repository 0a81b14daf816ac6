# SPDX-License-Identifier: Apache-2.0
"""Diagnostics show the worst fact that holds now, and numbers that add up. The input monitor finds missing inputs."""

import dataclasses
import math
import time
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from depthlm_ros.ros.diagnostics import (  # noqa: E402  # noqa: E402
    IMAGE_TYPE,
    InputMonitor,
    InputStatus,
    MissingInput,
    NodeHealth,
    diagnostics_message,
    key_values,
    level_and_message,
)
from depthlm_ros.ros.statistics import MAX_FAILURES_IN_A_ROW, FrameStatistics, ProblemLog  # noqa: E402


def health(missing: MissingInput | None = None, **facts) -> NodeHealth:
    inputs = InputStatus(is_watched=True, missing=missing, received=9, dropped=7)
    return NodeHealth(
        "active", "tiny", "onnxruntime", "/left/image", FrameStatistics().snapshot(), inputs=inputs, **facts
    )


def failed(times: int):
    statistics = FrameStatistics()
    for _ in range(times):
        statistics.count_failure()
    return statistics.snapshot()


CASES = [
    ({}, DiagnosticStatus.OK, "frames/s"),
    ({"problem_age_s": 1.0, "last_problem": "a bad frame"}, DiagnosticStatus.WARN, "a bad frame"),
    ({"problem_age_s": 60.0, "last_problem": "a bad frame"}, DiagnosticStatus.OK, "frames/s"),
    ({"missing": MissingInput.IMAGES_STOPPED, "problem_age_s": 0.0}, DiagnosticStatus.STALE, "images stopped"),
    ({"missing": MissingInput.NO_IMAGE}, DiagnosticStatus.STALE, "no image"),
    ({"missing": MissingInput.NO_CAMERA_INFO}, DiagnosticStatus.ERROR, "images arrive but no camera_info"),
]


@pytest.mark.parametrize(("facts", "level", "words"), CASES)
def test_level_is_the_one_of_the_worst_fact(facts, level, words):
    found, message = level_and_message(health(**facts))
    assert found == level and words in message


class FakeGraph:
    """A node that sees publishers of the topics, but no messages."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def get_publishers_info_by_topic(self, topic):
        return [SimpleNamespace(topic_type="sensor_msgs/msg/Image")]

    def count_publishers(self, topic):
        return 1

    def get_topic_names_and_types(self):
        return []

    def get_fully_qualified_name(self):
        return "/left/depth_node"

    def get_logger(self):
        return SimpleNamespace(info=self.said.append)


def monitor_of(queue, log: list[str]) -> InputMonitor:
    return InputMonitor(
        FakeGraph(), queue, ProblemLog(log.append), "/left/image", IMAGE_TYPE, lambda: "/left/camera_info"
    )


def monitored(newest, has_info: bool, log: list[str]) -> MissingInput | None:
    return monitor_of(SimpleNamespace(newest=newest, has_info=has_info), log).check(0.0)


def image_that_arrived(seconds_ago: float) -> SimpleNamespace:
    return SimpleNamespace(arrived_ns=time.monotonic_ns() - round(seconds_ago * 1e9))


# Each missing input: seconds since the newest image arrived (None: no image; negative: it is newer than any timeout),
# whether a calibration has arrived, level and words of the status, words logged.
MISSING = {
    MissingInput.NO_IMAGE: (None, True, DiagnosticStatus.STALE, "no image", "no image on /left/image"),
    MissingInput.IMAGES_STOPPED: (
        9.0,
        True,
        DiagnosticStatus.STALE,
        "images stopped",
        "no new image on /left/image",
    ),
    MissingInput.NO_CAMERA_INFO: (
        -9.0,
        False,
        DiagnosticStatus.ERROR,
        "images arrive but no camera_info",
        "no camera_info on /left/camera_info",
    ),
}


@pytest.mark.parametrize("missing", MissingInput)
def test_each_missing_input_that_the_monitor_finds_is_logged_and_shown(missing):
    age_s, has_info, level, shown, logged = MISSING[missing]
    log: list[str] = []
    found = monitored(None if age_s is None else image_that_arrived(age_s), has_info, log)
    assert found is missing and len(log) == 1 and logged in log[0]
    assert level_and_message(health(found)) == (level, shown)


def test_monitor_reports_nothing_while_all_inputs_arrive():
    log: list[str] = []
    assert monitored(image_that_arrived(-9.0), True, log) is None and not log


def test_return_of_an_input_is_said_once_and_its_next_loss_is_logged_at_once():
    log: list[str] = []
    queue = SimpleNamespace(newest=None, has_info=False)
    monitor = monitor_of(queue, log)
    said = monitor._node.said
    monitor.check(0.0)
    queue.newest = image_that_arrived(-9.0)
    monitor.check(0.0)
    assert said == ["images arrive on /left/image now"]
    queue.has_info = True
    monitor.check(0.0)
    monitor.check(0.0)
    assert said[1:] == ["camera_info arrives on /left/camera_info now"]
    for _ in range(2):
        queue.newest = image_that_arrived(9.0)
        assert monitor.check(0.0) is MissingInput.IMAGES_STOPPED
        queue.newest = image_that_arrived(-9.0)
        monitor.check(0.0)
    assert said[2:] == ["images arrive on /left/image again"] * 2
    assert sum("no new image" in line for line in log) == 2


def test_a_few_failures_are_a_warning_and_many_in_a_row_an_error():
    few = dataclasses.replace(
        health(problem_age_s=0.0, last_problem="boom"), statistics=failed(MAX_FAILURES_IN_A_ROW - 1)
    )
    many = dataclasses.replace(
        health(MissingInput.IMAGES_STOPPED, last_problem="boom"), statistics=failed(MAX_FAILURES_IN_A_ROW)
    )
    assert level_and_message(few)[0] == DiagnosticStatus.WARN
    assert level_and_message(many) == (DiagnosticStatus.ERROR, f"failed {MAX_FAILURES_IN_A_ROW} times in a row: boom")


def test_idle_or_inactive_node_is_ok_and_says_so():
    idle = dataclasses.replace(health(), inputs=InputStatus(is_watched=False))
    inactive = dataclasses.replace(health(MissingInput.NO_IMAGE), state="inactive")
    assert level_and_message(idle)[0] == level_and_message(inactive)[0] == DiagnosticStatus.OK
    assert "nobody" in level_and_message(idle)[1] and "inactive" in level_and_message(inactive)[1]


def test_node_that_is_being_configured_or_cannot_be_says_why():
    building = dataclasses.replace(health(progress="building plans", refusal="no plans"), state="unconfigured")
    refused = dataclasses.replace(building, progress="")
    assert level_and_message(building) == (DiagnosticStatus.WARN, "building plans")
    assert level_and_message(refused) == (DiagnosticStatus.ERROR, "unconfigured: no plans")


def test_message_names_the_node_and_counts_every_kind_of_problem():
    message = diagnostics_message(Header(), "/left/depth_node", health(problem_counts={"bad image": 3}))
    (status,) = message.status
    values = {item.key: item.value for item in status.values}
    assert status.name == "/left/depth_node: depth" and status.hardware_id == "/left/image"
    assert (values["count: bad image"], values["frames_dropped"], values["frames_received"]) == ("3", "7", "9")
    assert values["total_p50_ms"] == "nan" and values["last_look_age_s"] == "nan"


def test_statistics_add_up_stages_and_keep_those_of_the_model_apart():
    statistics = FrameStatistics()
    for look_ms in (10.0, 20.0, 30.0):
        statistics.count_frame(waited_ms=2.0, stages_ms={"decode": 1.0, "look": look_ms, "publish": 3.0})
        time.sleep(0.02)
    snapshot = statistics.snapshot()
    assert snapshot.frames == 3 and snapshot.stages_ms["look"] == 20.0
    assert snapshot.stages_ms["outside"] == 4.0 and snapshot.total_p50_ms == 26.0
    assert snapshot.total_p50_ms < snapshot.total_p99_ms <= 36.0
    assert 0 < snapshot.rate_hz <= 50.0 and snapshot.last_frame_age_s >= 0.02


def test_median_time_of_answers_is_that_of_questions_in_words():
    statistics = FrameStatistics()
    assert math.isnan(statistics.snapshot().answer_p50_ms)
    for in_words_ms in (40.0, None, 60.0, 50.0):
        statistics.count_question(in_words_ms)
    snapshot = statistics.snapshot()
    assert (snapshot.questions, snapshot.answer_p50_ms) == (4, 50.0)
    values = key_values(dataclasses.replace(health(), statistics=snapshot, peak_memory_mb=120.0))
    assert (values["answer_p50_ms"], values["peak_memory_mb"]) == ("50.00", "120.00")


def test_one_success_ends_a_row_of_failures():
    statistics = FrameStatistics()
    statistics.count_failure()
    statistics.count_frame(0.0, {"look": 1.0})
    assert statistics.snapshot().failures == 0


def test_answers_from_an_old_frame_do_not_hide_that_new_frames_fail():
    statistics = FrameStatistics()
    for _ in range(MAX_FAILURES_IN_A_ROW):
        statistics.count_failure()
        statistics.count_question()
    snapshot = statistics.snapshot()
    assert snapshot.failures == MAX_FAILURES_IN_A_ROW and snapshot.failed_answers == 0
    assert level_and_message(dataclasses.replace(health(), statistics=snapshot))[0] == DiagnosticStatus.ERROR


def test_frames_do_not_hide_that_questions_fail():
    statistics = FrameStatistics()
    for _ in range(3):
        statistics.count_failed_answer()
        statistics.count_frame(0.0, {"look": 1.0})
    assert (statistics.snapshot().failures, statistics.snapshot().failed_answers) == (0, 3)
    statistics.count_question()
    assert statistics.snapshot().failed_answers == 0
