# SPDX-License-Identifier: Apache-2.0
"""The topics that show answers: published for every answer, only while somebody listens, and never at its cost."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")
pytest.importorskip("depthlm_ros.srv")

from geometry_msgs.msg import Point  # noqa: E402
from rclpy.action import ActionClient  # noqa: E402
from sensor_msgs.msg import Image, RegionOfInterest  # noqa: E402
from support import vision_messages  # noqa: E402
from support.paths import TINY  # noqa: E402
from support.ros_rig import CAMERA, new_rig  # noqa: E402
from visualization_msgs.msg import Marker, MarkerArray  # noqa: E402

from depthlm_ros.action import AskSpatial  # noqa: E402
from depthlm_ros.ros.answer_topics import DETECTIONS, MARKERS, PICTURE, AnswerPublishers  # noqa: E402
from depthlm_ros.ros.camera_info_sync import stamp_ns  # noqa: E402
from depthlm_ros.srv import SpatialQuery  # noqa: E402

QUESTION = "How far is this point?"


class Topic:
    """A publisher that counts and keeps what it publishes."""

    def __init__(self, listeners: int) -> None:
        self.listeners, self.published = listeners, []

    def get_subscription_count(self) -> int:
        return self.listeners

    def publish(self, message) -> None:
        self.published.append(message)


@pytest.fixture
def topics(monkeypatch):
    """Publishers by topic; only answers/image is listened to."""
    made = {}

    def create(message_type, name):
        made[name] = Topic(listeners=int(name == PICTURE))
        return made[name]

    made["reports"] = []
    made["publishers"] = AnswerPublishers(None, create, lambda *report: made["reports"].append(report))
    return made


def test_an_answer_is_made_only_for_topics_that_somebody_receives(topics, monkeypatch):
    publishers, calls = topics["publishers"], []
    publishers._make = {name: lambda shown, name=name: calls.append(name) or name for name in publishers._make}
    publishers.publish(SimpleNamespace())
    assert calls == topics[PICTURE].published == [PICTURE] and topics[MARKERS].published == []


def test_an_answer_that_cannot_be_shown_is_reported_and_does_not_fail(topics):
    topics["publishers"].publish(SimpleNamespace(question=None))
    ((reason, message),) = topics["reports"]
    assert reason == "answer not shown" and "answers/image" in message and "please report it" in message


def test_there_are_detections_where_vision_msgs_is_installed(topics):
    assert (DETECTIONS in topics) == vision_messages.ARE_INSTALLED


@pytest.mark.skipif(not TINY.is_dir(), reason="engines/tiny is not here: `make train` makes it")
def test_answers_of_the_service_and_the_action_are_shown(tmp_path):
    with new_rig(tmp_path) as rig:
        rig.start(watched=("depth/image",))
        kinds = {MARKERS: MarkerArray, PICTURE: Image}
        if vision_messages.ARE_INSTALLED:
            from vision_msgs.msg import Detection3DArray

            kinds[DETECTIONS] = Detection3DArray
        received: dict[str, list] = {name: [] for name in kinds}
        subscriptions = [
            rig.node.create_subscription(kind, name, received[name].append, 10) for name, kind in kinds.items()
        ]
        rig.wait(lambda: all(each.get_publisher_count() for each in subscriptions), "publishers of answers")
        rig.shoot_until("depth/image")
        request = {"question": QUESTION, "pixels": [Point(x=80.0, y=60.0)]}

        def answer_and_markers():
            before = len(received[MARKERS])
            answer = rig.ask("spatial_query", SpatialQuery.Request(**request))
            deadline_s = time.monotonic() + 1.0  # the node may not have seen the subscription yet
            while len(received[MARKERS]) == before and time.monotonic() < deadline_s:
                time.sleep(0.01)
            return (answer, received[MARKERS][-1].markers) if len(received[MARKERS]) > before else None

        answer, (first, sphere, text) = rig.wait(answer_and_markers, "markers")
        assert answer.status in (answer.OK, answer.INCONSISTENT) and first.action == Marker.DELETEALL
        assert {stamp_ns(marker.header) for marker in (sphere, text)} == {stamp_ns(answer.header)}
        measured = next(one for one in answer.measurements if one.quantity == "distance")
        assert sphere.pose.position == measured.points[0] and text.text == answer.answer
        for name in kinds:
            rig.wait(lambda name=name: received[name], name)
        image = received[PICTURE][-1]
        assert stamp_ns(image.header) == stamp_ns(answer.header)
        assert (image.width, image.encoding) == (CAMERA.width_px, "rgb8") and image.height > CAMERA.height_px

        client = ActionClient(rig.node, AskSpatial, "ask_spatial")
        rig.wait(client.server_is_ready, "action server")
        before = len(received[MARKERS])
        regions = [RegionOfInterest(x_offset=40, y_offset=30, width=80, height=60)]
        sent = client.send_goal_async(AskSpatial.Goal(question="How wide is this object?", regions=regions))
        rig.wait(sent.done, "reply to the goal")
        ended = sent.result().get_result_async()
        rig.wait(lambda: rig.shoot() and ended.done(), "result")
        result = ended.result().result
        assert result.status in (result.OK, result.INCONSISTENT, result.NOT_UNDERSTOOD), result.message
        rig.wait(lambda: len(received[MARKERS]) > before, "markers of the goal")
        shown = received[MARKERS][-1].markers
        assert result.answer in shown[-1].text and np.isfinite(shown[1].scale.x)
        client.destroy()
        assert rig.stop() == 0
