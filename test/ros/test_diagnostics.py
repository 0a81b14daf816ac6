"""A monitor sees the worst that is true now, and numbers that add up."""

import dataclasses
import time

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from depthlm_ros.ros.diagnostics import Health, diagnostics, level_and_message  # noqa: E402
from depthlm_ros.ros.statistics import FAILURES_THAT_COUNT, Meter  # noqa: E402


def health(**facts) -> Health:
    return Health("active", "tiny", "onnxruntime", "/left/image", Meter().read(), watched=True, **facts)


def failing(times: int):
    meter = Meter()
    for _ in range(times):
        meter.failure()
    return meter.read()


CASES = [
    ({}, DiagnosticStatus.OK, "frames/s"),
    ({"trouble_quiet_s": 1.0, "last_trouble": "a bad frame"}, DiagnosticStatus.WARN, "a bad frame"),
    ({"trouble_quiet_s": 60.0, "last_trouble": "a bad frame"}, DiagnosticStatus.OK, "frames/s"),
    ({"missing": "images stopped", "trouble_quiet_s": 0.0}, DiagnosticStatus.STALE, "images stopped"),
    ({"missing": "no camera_info"}, DiagnosticStatus.ERROR, "no camera_info"),
]


@pytest.mark.parametrize(("facts", "level", "said"), CASES)
def test_the_level_is_that_of_the_worst_fact(facts, level, said):
    found, message = level_and_message(health(**facts))
    assert found == level and said in message


def test_a_few_failures_are_a_warning_and_many_in_a_row_an_error():
    few = dataclasses.replace(
        health(trouble_quiet_s=0.0, last_trouble="boom"), reading=failing(FAILURES_THAT_COUNT - 1)
    )
    many = dataclasses.replace(few, reading=failing(FAILURES_THAT_COUNT), missing="images stopped")
    assert level_and_message(few)[0] == DiagnosticStatus.WARN
    assert level_and_message(many) == (DiagnosticStatus.ERROR, f"failed {FAILURES_THAT_COUNT} times in a row: boom")


def test_who_is_idle_or_not_active_is_fine_and_says_so():
    idle = dataclasses.replace(health(), watched=False)
    asleep = dataclasses.replace(health(missing="no image"), state="inactive")
    assert level_and_message(idle)[0] == level_and_message(asleep)[0] == DiagnosticStatus.OK
    assert "nobody" in level_and_message(idle)[1] and "inactive" in level_and_message(asleep)[1]


def test_who_is_being_configured_or_could_not_be_says_why():
    building = dataclasses.replace(health(doing="building plans", refusal="no plans"), state="unconfigured")
    refused = dataclasses.replace(building, doing="")
    assert level_and_message(building) == (DiagnosticStatus.WARN, "building plans")
    assert level_and_message(refused) == (DiagnosticStatus.ERROR, "unconfigured: no plans")


def test_the_message_names_the_node_and_every_kind_of_trouble():
    message = diagnostics(Header(), "/left/depth_node", health(troubles={"bad image": 3}, dropped=7, received=9))
    (status,) = message.status
    values = {item.key: item.value for item in status.values}
    assert status.name == "/left/depth_node: depth" and status.hardware_id == "/left/image"
    assert (values["count: bad image"], values["frames_dropped"], values["frames_received"]) == ("3", "7", "9")
    assert values["total_p50_ms"] == "nan" and values["last_look_age_s"] == "nan"


def test_the_meter_adds_up_stages_and_keeps_the_model_s_apart():
    meter = Meter()
    for look_ms in (10.0, 20.0, 30.0):
        meter.frame(waited_ms=2.0, stages_ms={"decode": 1.0, "look": look_ms, "publish": 3.0})
        time.sleep(0.02)
    reading = meter.read()
    assert reading.frames == 3 and reading.stages_ms["look"] == 20.0
    assert reading.stages_ms["outside"] == 4.0 and reading.total_p50_ms == 26.0
    assert reading.total_p50_ms < reading.total_p99_ms <= 36.0
    assert 0 < reading.rate_hz <= 50.0 and reading.age_s >= 0.02


def test_one_success_ends_a_row_of_failures():
    meter = Meter()
    meter.failure()
    meter.frame(0.0, {"look": 1.0})
    assert meter.read().failures == 0


def test_answers_from_an_old_look_do_not_hide_that_new_looks_fail():
    meter = Meter()
    for _ in range(FAILURES_THAT_COUNT):
        meter.failure()
        meter.question()
    reading = meter.read()
    assert reading.failures == FAILURES_THAT_COUNT and reading.failed_answers == 0
    assert level_and_message(dataclasses.replace(health(), reading=reading))[0] == DiagnosticStatus.ERROR


def test_looks_do_not_hide_that_questions_fail():
    meter = Meter()
    for _ in range(3):
        meter.failed_answer()
        meter.frame(0.0, {"look": 1.0})
    assert (meter.read().failures, meter.read().failed_answers) == (0, 3)
    meter.question()
    assert meter.read().failed_answers == 0
