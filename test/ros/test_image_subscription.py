"""Images that get lost lead to one change of reliability, unless the user has decided; what is counted only grows."""

import threading
import time
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")
pytest.importorskip("depthlm_ros.srv")

import rclpy  # noqa: E402
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from support.paths import TINY  # noqa: E402

from depthlm_ros.errors import SetupError  # noqa: E402
from depthlm_ros.ros.image_subscription import Delivery  # noqa: E402
from depthlm_ros.ros.node import DepthNode, start  # noqa: E402
from depthlm_ros.ros.qos import is_reliability_given  # noqa: E402

RELIABILITY = "qos_overrides./image.subscription.reliability"
needs_tiny = pytest.mark.skipif(not TINY.is_dir(), reason="engines/tiny is not here: `make train`")


class Camera(Node):
    """Offers images reliably. The transport's tale of losses, which cannot be had at will, is told by `lose`."""

    def __init__(self, context, overrides) -> None:
        super().__init__("camera", context=context, parameter_overrides=overrides)
        self.create_publisher(Image, "/image", QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE))
        self.tellers = []
        self.meanwhile = lambda: None

    def create_subscription(self, *args, **kwargs):
        self.tellers.append(kwargs["event_callbacks"].message_lost)
        self.meanwhile()
        return super().create_subscription(*args, **kwargs)

    def lose(self, count):
        self.tellers[-1](SimpleNamespace(total_count_change=count))

    @property
    def asked_for(self):
        return [subscription.qos_profile.reliability for subscription in self.subscriptions]


@pytest.fixture
def context():
    made = rclpy.Context()
    rclpy.init(context=made)
    yield made
    made.try_shutdown()


@pytest.fixture
def camera(context):
    made = Camera(context, [])
    deadline_s = time.monotonic() + 10
    while not made.get_publishers_info_by_topic("/image") and time.monotonic() < deadline_s:
        time.sleep(0.01)
    yield made
    made.destroy_node()


@pytest.fixture
def told():
    return []


def delivery(camera, told, adapt=True) -> Delivery:
    group = MutuallyExclusiveCallbackGroup()
    return Delivery(camera, Image, "/image", lambda image: None, group, adapt, lambda *words: told.append(words))


def test_reliable_delivery_is_asked_for_once_and_losses_are_never_forgotten(camera, told):
    images = delivery(camera, told)
    camera.lose(3)
    assert camera.asked_for == [ReliabilityPolicy.BEST_EFFORT] and not told
    camera.lose(7)
    assert camera.asked_for == [ReliabilityPolicy.RELIABLE] and "10 of 10 images" in told[0][1]
    assert images.lost == 10
    camera.lose(6)
    assert images.lost == 16 and "6 of 6 images" in told[1][1] and len(camera.tellers) == 2
    images.destroy()
    assert camera.asked_for == []


def test_what_is_destroyed_during_the_change_stays_destroyed(camera, told):
    images = delivery(camera, told)
    stopper = threading.Thread(target=images.destroy)

    def stop_meanwhile():
        stopper.start()
        stopper.join(0.3)

    camera.meanwhile = stop_meanwhile
    camera.lose(100)
    stopper.join(5)
    assert camera.asked_for == []


def test_one_that_shall_not_adapt_only_tells(camera, told):
    delivery(camera, told, adapt=False)
    camera.lose(100)
    assert camera.asked_for == [ReliabilityPolicy.BEST_EFFORT] and "shared memory" in told[0][1]


@pytest.mark.parametrize(("given", "expected"), [([], False), (["best_effort"], True), (["reliable"], True)])
def test_a_reliability_that_the_user_has_set_is_known_as_such(context, given, expected):
    node = Camera(context, [rclpy.Parameter(RELIABILITY, value=value) for value in given])
    assert is_reliability_given(node, "/image") is expected
    delivery(node, [])  # the parameter still decides
    wanted = ReliabilityPolicy.RELIABLE if given == ["reliable"] else ReliabilityPolicy.BEST_EFFORT
    assert node.asked_for == [wanted]
    node.destroy_node()


def test_a_reliability_that_is_no_word_is_refused(context):
    node = Camera(context, [rclpy.Parameter(RELIABILITY, value=5)])
    with pytest.raises(SetupError, match=f"{RELIABILITY[:-11]}.*best_effort"):
        is_reliability_given(node, "/image")
    node.destroy_node()


@needs_tiny
@pytest.mark.parametrize("topic", ["/image.subscription", "/camera_info.subscription", "/depth/points.publisher"])
def test_a_start_that_fails_leaves_no_thread_and_no_topic_behind(context, topic):
    bad = rclpy.Parameter(f"qos_overrides.{topic}.history", value="some")
    node = DepthNode(context=context, parameter_overrides=[bad])
    own = {publisher.topic_name for publisher in node.publishers}
    for _ in range(2):
        assert not start(node)
        assert not [thread for thread in threading.enumerate() if thread.name == "depth_worker"]
        assert not [heard.topic_name for heard in node.subscriptions if heard.topic_name in ("/image", "/camera_info")]
        node.trigger_cleanup()
        assert {publisher.topic_name for publisher in node.publishers} == own
    node.destroy_node()


def test_a_node_keeps_to_the_reliability_that_was_set(context):
    node = DepthNode(context=context, parameter_overrides=[rclpy.Parameter(RELIABILITY, value="best_effort")])
    assert node.reliability_is_given
    node.destroy_node()
