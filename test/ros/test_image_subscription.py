# SPDX-License-Identifier: Apache-2.0
"""Lost images lead to one change of reliability, unless the user has decided; the count of losses only grows."""

import threading
import time
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")
pytest.importorskip("depthlm_ros.srv")

import rclpy  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from support.paths import TINY  # noqa: E402

from depthlm_ros.errors import SetupError  # noqa: E402
from depthlm_ros.ros.image_subscription import ImageSubscription  # noqa: E402
from depthlm_ros.ros.node import DepthNode, start  # noqa: E402
from depthlm_ros.ros.qos import is_reliability_set  # noqa: E402

RELIABILITY = "qos_overrides./image.subscription.reliability"
needs_tiny = pytest.mark.skipif(not TINY.is_dir(), reason="engines/tiny is not here: `make train`")


class Camera(Node):
    """Offers images reliably. `lose` reports losses in place of the transport, because a test cannot cause them."""

    def __init__(self, context, overrides) -> None:
        super().__init__("camera", context=context, parameter_overrides=overrides)
        self.create_publisher(Image, "/image", QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE))
        self.loss_callbacks = []
        self.before_subscribing = lambda: None

    def create_subscription(self, *args, **kwargs):
        self.loss_callbacks.append(kwargs["event_callbacks"].message_lost)
        self.before_subscribing()
        return super().create_subscription(*args, **kwargs)

    def lose(self, count):
        self.loss_callbacks[-1](SimpleNamespace(total_count_change=count))

    @property
    def asked_for(self):
        return [subscription.qos_profile.reliability for subscription in self.subscriptions]


@pytest.fixture
def context():
    context = rclpy.Context()
    rclpy.init(context=context)
    yield context
    context.try_shutdown()


@pytest.fixture
def camera(context):
    camera = Camera(context, [])
    deadline_s = time.monotonic() + 10
    while not camera.get_publishers_info_by_topic("/image") and time.monotonic() < deadline_s:
        time.sleep(0.01)
    yield camera
    camera.destroy_node()


@pytest.fixture
def reported():
    return []


def subscription(camera, reported, adapt=True) -> ImageSubscription:
    queue = SimpleNamespace(put_image=lambda image: None, arrived=0)
    return ImageSubscription(camera, Image, "/image", queue, adapt, lambda *words: reported.append(words))


def test_reliable_delivery_is_requested_once_and_losses_are_never_forgotten(camera, reported):
    images = subscription(camera, reported)
    camera.lose(3)
    assert camera.asked_for == [ReliabilityPolicy.BEST_EFFORT] and not reported
    camera.lose(7)
    assert camera.asked_for == [ReliabilityPolicy.RELIABLE] and "10 of 10 images" in reported[0][1]
    assert images.lost == 10
    camera.lose(6)
    assert images.lost == 16 and "6 of 6 images" in reported[1][1] and len(camera.loss_callbacks) == 2
    images.destroy()
    assert camera.asked_for == []


def test_share_of_losses_counts_the_images_that_arrived_since_the_subscription_was_made(camera, reported):
    queue = SimpleNamespace(put_image=lambda image: None, arrived=100)
    ImageSubscription(camera, Image, "/image", queue, False, lambda *words: reported.append(words))
    queue.arrived += 90
    camera.lose(10)
    assert not reported
    camera.lose(20)
    assert "30 of 120 images" in reported[0][1]


def test_subscription_destroyed_during_the_change_stays_destroyed(camera, reported):
    images = subscription(camera, reported)
    stopper = threading.Thread(target=images.destroy)

    def stop_now():
        stopper.start()
        stopper.join(0.3)

    camera.before_subscribing = stop_now
    camera.lose(100)
    stopper.join(5)
    assert camera.asked_for == []


def test_losses_are_only_reported_if_the_subscription_must_not_adapt(camera, reported):
    subscription(camera, reported, adapt=False)
    camera.lose(100)
    assert camera.asked_for == [ReliabilityPolicy.BEST_EFFORT] and "shared memory" in reported[0][1]


@pytest.mark.parametrize(("given", "expected"), [([], False), (["best_effort"], True), (["reliable"], True)])
def test_reliability_that_the_user_has_set_is_recognised(context, given, expected):
    node = Camera(context, [rclpy.Parameter(RELIABILITY, value=value) for value in given])
    assert is_reliability_set(node, "/image") is expected
    subscription(node, [])  # the parameter still decides
    expected_policy = ReliabilityPolicy.RELIABLE if given == ["reliable"] else ReliabilityPolicy.BEST_EFFORT
    assert node.asked_for == [expected_policy]
    node.destroy_node()


def test_reliability_that_is_not_a_string_is_refused(context):
    node = Camera(context, [rclpy.Parameter(RELIABILITY, value=5)])
    with pytest.raises(SetupError, match=f"{RELIABILITY[:-11]}.*best_effort"):
        is_reliability_set(node, "/image")
    node.destroy_node()


@needs_tiny
@pytest.mark.parametrize("topic", ["/image.subscription", "/camera_info.subscription", "/depth/points.publisher"])
def test_failed_start_leaves_no_thread_and_no_topic_behind(context, topic):
    bad = rclpy.Parameter(f"qos_overrides.{topic}.history", value="some")
    node = DepthNode(context=context, parameter_overrides=[bad])
    own = {publisher.topic_name for publisher in node.publishers}
    for _ in range(2):
        assert not start(node)
        assert not [thread for thread in threading.enumerate() if thread.name == "depth_inference"]
        assert not [heard.topic_name for heard in node.subscriptions if heard.topic_name in ("/image", "/camera_info")]
        node.trigger_cleanup()
        assert {publisher.topic_name for publisher in node.publishers} == own
    node.destroy_node()


def test_node_knows_that_the_user_has_set_the_reliability(context):
    node = DepthNode(context=context, parameter_overrides=[rclpy.Parameter(RELIABILITY, value="best_effort")])
    assert node.is_reliability_set
    node.destroy_node()
