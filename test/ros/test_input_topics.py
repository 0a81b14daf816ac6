# SPDX-License-Identifier: Apache-2.0
"""Where the node looks for its input: names that are remapped in either spelling, and calibrations in every place."""

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")
pytest.importorskip("depthlm_ros.srv")

import rclpy  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage, Image  # noqa: E402
from support.paths import TINY  # noqa: E402
from support.ros_rig import CAMERA, new_rig, picture  # noqa: E402

from depthlm_ros.ros.input_topics import image_topic, sibling_info_topic  # noqa: E402
from depthlm_ros.ros.message_out import colour_image, rectified_camera_info  # noqa: E402

needs_tiny = pytest.mark.skipif(not TINY.is_dir(), reason="engines/tiny is not here: `make train`")
KEPT = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# For each set of remaps: the topics of raw and of compressed images.
REMAPS = [
    ((), "/robot/image", "/robot/image/compressed"),
    (("image:=/cam/image_raw",), "/cam/image_raw", "/cam/image_raw/compressed"),
    (("image/compressed:=/cam/image_raw/compressed",), "/robot/image", "/cam/image_raw/compressed"),
    (("image/compressed:=/jpeg",), "/robot/image", "/jpeg"),
    (("image:=/cam/image_raw", "image/compressed:=/jpeg"), "/cam/image_raw", "/jpeg"),
    (("image:=cam/image/compressed",), "/robot/cam/image/compressed", "/robot/cam/image/compressed"),
]


@pytest.mark.parametrize(("remaps", "raw", "compressed"), REMAPS)
def test_either_spelling_of_a_remap_is_resolved(remaps, raw, compressed):
    context = rclpy.Context()
    arguments = [word for remap in remaps for word in ("-r", remap)]
    rclpy.init(args=["--ros-args", *arguments] if arguments else [], context=context)
    node = rclpy.create_node("resolver", namespace="/robot", context=context)
    assert (image_topic(node, False), image_topic(node, True)) == (raw, compressed)
    node.destroy_node()
    context.shutdown()


def test_calibration_is_looked_for_beside_the_images():
    beside = {"/cam/image_raw": "/cam/camera_info", "/image": "/camera_info", "/a/b/compressed": "/a/camera_info"}
    assert {topic: sibling_info_topic(topic) for topic in beside} == beside


@pytest.fixture
def rig(tmp_path):
    with new_rig(tmp_path) as rig:
        yield rig


def shoot_images_until(rig, arrived):
    """Publishes images without calibration."""

    def shoot():
        rig.publishers["image"].publish(colour_image(rig.header(), picture()))
        return arrived()

    rig.wait(shoot, "depth")


@needs_tiny
def test_calibration_that_was_published_once_before_the_node_came_is_used(rig):
    once = rig.node.create_publisher(CameraInfo, "camera_info", KEPT)
    once.publish(rectified_camera_info(rig.header(), CAMERA))
    rig.start()
    shoot_images_until(rig, lambda: rig.received["depth/image"])
    assert "not heard" not in rig.log


@needs_tiny
def test_camera_that_keeps_nothing_is_not_asked_for_what_it_kept(rig):
    """Its driver would warn about a subscription that it cannot serve."""
    rig.start()
    rig.shoot_until("depth/image")
    rig.newest_health()
    (asked,) = rig.node.get_subscriptions_info_by_topic(f"{rig.namespace}/camera_info")
    assert asked.qos_profile.durability == DurabilityPolicy.VOLATILE


@needs_tiny
def test_calibration_beside_the_images_is_taken_and_this_is_said_once(rig):
    rig.start("-p", "stale_after_s:=0.5", "-r", "image:=front/image_raw")
    front = f"{rig.namespace}/front"
    images = rig.node.create_publisher(Image, "front/image_raw", 5)
    rig.wait(lambda: "no image on" in rig.log, "complaint")
    infos = rig.node.create_publisher(CameraInfo, "front/camera_info", 5)

    def shoot():
        header = rig.header()
        infos.publish(rectified_camera_info(header, CAMERA))
        images.publish(colour_image(header, picture()))
        return rig.received["depth/image"]

    rig.wait(shoot, "depth")
    rig.wait(lambda: shoot() and f"images arrive on {front}/image_raw now" in rig.log, "return of the images")
    assert rig.log.count(f"camera_info is taken from {front}/camera_info") == 1
    assert rig.node.count_subscribers(f"{rig.namespace}/camera_info") == 0


@needs_tiny
def test_calibration_beside_the_images_is_left_if_camera_info_is_remapped(rig):
    infos = rig.node.create_publisher(CameraInfo, "front/camera_info", 5)
    rig.start("-r", "image:=front/image_raw", "-r", "camera_info:=rear/camera_info")
    rig.newest_health()
    infos.publish(CameraInfo())
    rig.newest_health()
    assert "is taken from" not in rig.log
    assert rig.node.count_subscribers(infos.topic_name) == 0


@needs_tiny
@pytest.mark.parametrize(
    ("transport", "kind", "there"),
    [("raw", CompressedImage, True), pytest.param("compressed", Image, False, marks=pytest.mark.slow)],
)
def test_message_names_the_images_that_are_there_in_the_other_transport(rig, transport, kind, there):
    topic = "cam/image_raw/compressed" if there else "cam/image_raw"
    rig.node.create_publisher(kind, topic, 5)
    rig.start("-p", f"image_transport:={transport}", "-p", "stale_after_s:=0.3", "-r", "image:=cam/image_raw")
    other = "compressed" if there else "raw"
    words = f"but {rig.namespace}/{topic} is there: set parameter image_transport to {other}"
    rig.wait(lambda: words in rig.log, "advice")


@needs_tiny
def test_message_names_the_topics_with_images(rig):
    rig.node.create_publisher(Image, "somewhere/else", 5)
    rig.start("-p", "stale_after_s:=0.3", "-r", "image:=cam/image_raw")
    rig.wait(lambda: f"{rig.namespace}/somewhere/else" in rig.log, "the topic")


@needs_tiny
def test_durability_can_be_overridden(rig):
    rig.node.create_publisher(CameraInfo, "camera_info", 5)
    override = f"qos_overrides.{rig.namespace}/camera_info.subscription.durability:=transient_local"
    rig.start("-p", override, "-p", "qos_reliability:=reliable")
    asked = rig.wait(lambda: rig.node.get_subscriptions_info_by_topic(f"{rig.namespace}/camera_info"), "subscription")
    assert {each.qos_profile.durability for each in asked} == {DurabilityPolicy.TRANSIENT_LOCAL}
    (image,) = rig.node.get_subscriptions_info_by_topic(f"{rig.namespace}/image")
    assert image.qos_profile.reliability == ReliabilityPolicy.RELIABLE
