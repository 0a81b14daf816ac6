# SPDX-License-Identifier: Apache-2.0
"""The depth node in a real graph: its outputs agree with each other, with the image and with the model."""

import time

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")
pytest.importorskip("depthlm_ros.srv")

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from support.paths import TINY  # noqa: E402
from support.ros_rig import CAMERA, depth_of, new_rig, picture, points_of  # noqa: E402

from depthlm_ros.core import Frame, Intrinsics  # noqa: E402
from depthlm_ros.model import load_model  # noqa: E402
from depthlm_ros.ros.camera_info_sync import stamp_ns  # noqa: E402
from depthlm_ros.ros.frame_processing import grid_px  # noqa: E402
from depthlm_ros.ros.message_in import camera_from_info  # noqa: E402
from depthlm_ros.ros.message_out import colour_image, rectified_camera_info  # noqa: E402

if not TINY.is_dir():
    pytest.skip("engines/tiny is not here: `make train` makes it", allow_module_level=True)

DENSE = ("depth/image", "depth/camera_info", "depth/points")


@pytest.fixture
def rig(tmp_path):
    with new_rig(tmp_path) as rig:
        yield rig


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    with new_rig(tmp_path_factory.mktemp("dense")) as rig:
        rig.start(watched=DENSE)
        rig.shoot_until("depth/image")
        yield rig


def outputs(rig, at_ns):
    return [rig.of_stamp(name, at_ns) for name in DENSE]


def test_header_size_and_calibration_are_those_of_the_image(dense):
    image = colour_image(dense.header(frame_id="left/camera_optical"), picture(3))
    at_ns = dense.shoot(image)
    depth, info, cloud = outputs(dense, at_ns)
    assert depth.header == info.header == cloud.header == image.header
    assert (depth.width, depth.height, depth.encoding) == (160, 120, "32FC1")
    assert (info.width, info.height, cloud.width, cloud.height) == (160, 120, 160, 120)
    assert camera_from_info(info).rectified_intrinsics == CAMERA and not any(info.d)


def test_depth_is_the_one_of_the_model(dense):
    rgb = picture(4)
    depth = dense.of_stamp("depth/image", dense.shoot(colour_image(dense.header(), rgb)))
    expected = load_model("tiny", threads=1).look(Frame(rgb, CAMERA)).depth().depth_m
    assert np.isfinite(expected).any()
    assert np.allclose(depth_of(depth), expected, rtol=1e-4, equal_nan=True)


def test_cloud_agrees_with_depth_calibration_and_colours(dense):
    rgb = picture(5)
    depth, info, cloud = outputs(dense, dense.shoot(colour_image(dense.header(), rgb)))
    assert [field.name for field in cloud.fields] == ["x", "y", "z", "rgb"] and not cloud.is_dense
    z, points = depth_of(depth), points_of(cloud)
    v, u = np.mgrid[: info.height, : info.width]
    fx, _, cx, _, fy, cy = info.k[:6]
    assert np.array_equal(points[..., 2], z, equal_nan=True)
    assert np.allclose(points[..., 0], (u - cx) / fx * z, atol=1e-4, equal_nan=True)
    assert np.allclose(points[..., 1], (v - cy) / fy * z, atol=1e-4, equal_nan=True)
    packed = np.ascontiguousarray(points[..., 3]).view("<u4")
    assert np.array_equal(np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], axis=-1), rgb)


def test_bayer_image_with_padded_rows_is_processed(dense):
    grey = Image(header=dense.header(), encoding="bayer_rggb8", width=160, height=120, step=200)
    grey.data.frombytes(bytes([120]) * 200 * 120)
    assert depth_of(dense.of_stamp("depth/image", dense.shoot(grey))).shape == (120, 160)


def test_calibration_that_comes_only_once_is_used_for_all_later_images(dense):
    dense.shoot()
    header = dense.header()
    dense.publishers["image"].publish(colour_image(header, picture(1)))
    assert dense.of_stamp("depth/camera_info", stamp_ns(header)).k[0] == CAMERA.fx_px


def test_image_gets_the_calibration_with_its_own_stamp(dense):
    zoomed = Intrinsics(220.0, 220.0, 79.5, 59.5, 160, 120)
    dense.of_stamp("depth/image", dense.shoot())
    for camera in (zoomed, CAMERA, zoomed, CAMERA):
        image = colour_image(dense.header(), picture(2))
        dense.publishers["image"].publish(image)  # first, as drivers do
        dense.publishers["camera_info"].publish(rectified_camera_info(image.header, camera))
        assert dense.of_stamp("depth/camera_info", stamp_ns(image.header)).k[0] == camera.fx_px


def test_only_the_newest_frames_are_processed_in_order_at_a_high_frame_rate(dense):
    dense.shoot_until("depth/image")
    before = {name: len(dense.received[name]) for name in DENSE}
    dropped = int(dense.newest_health()["frames_dropped"])
    pictures = [picture(seed) for seed in range(4)]
    stamps, next_s = [], time.monotonic()
    for number in range(400):
        stamps.append(dense.shoot(colour_image(dense.header(), pictures[number % 4])))
        next_s += 0.005
        time.sleep(max(0.0, next_s - time.monotonic()))
    dense.of_stamp("depth/image", stamps[-1])
    published = [stamp_ns(message.header) for message in dense.received["depth/image"][before["depth/image"] :]]
    assert published == sorted(set(published)) and set(published) <= set(stamps)
    assert 2 <= len(published) < 400
    health = dense.newest_health()
    assert int(health["frames_dropped"]) > dropped
    assert float(health["total_p50_ms"]) > 0 and float(health["rate_hz"]) > 0


def test_images_larger_than_the_transport_s_buffer_arrive_if_the_camera_is_reliable(rig):
    # 7.4 MB through Fast DDS's 512 kB of shared memory, from a process without a profile: best effort loses these.
    camera = Intrinsics(1800.0, 1800.0, 959.5, 639.5, 1920, 1280)
    rig.start("-p", "cloud_stride:=8", watched=("depth/points",))
    rgb = picture(camera=camera)
    rig.shoot_until("depth/points", lambda: rig.shoot(colour_image(rig.header(), rgb), camera=camera))
    (heard,) = rig.node.get_subscriptions_info_by_topic(f"{rig.namespace}/image")
    if "got lost on the way" in rig.log:
        assert heard.qos_profile.reliability == ReliabilityPolicy.RELIABLE and "asks for it from now on" in rig.log


def test_node_asks_for_best_effort_and_offers_reliable_outputs(rig):
    rig.start(watched=DENSE)
    heard = rig.wait(lambda: rig.node.get_subscriptions_info_by_topic(f"{rig.namespace}/image"), "subscriber")
    assert [info.qos_profile.reliability for info in heard] == [ReliabilityPolicy.BEST_EFFORT]
    for name in DENSE:
        (offered,) = rig.node.get_publishers_info_by_topic(f"{rig.namespace}/{name}")
        assert offered.qos_profile.reliability == ReliabilityPolicy.RELIABLE


def test_no_image_is_processed_while_nobody_receives(rig):
    rig.start(watched=())
    rig.wait(lambda: rig.node.count_subscribers(f"{rig.namespace}/image"), "subscriber")

    def received():
        for _ in range(5):
            rig.shoot()
            time.sleep(0.05)
        health = rig.newest_health()
        return int(health["frames_received"]) > 3 and health

    assert rig.wait(received, "images")["frames_looked_at"] == "0"
    rig.listen("depth/image")
    rig.shoot_until("depth/image")


def test_only_the_topics_that_somebody_receives_are_published(rig):
    rig.start(watched=("depth/points",))
    cloud = rig.shoot_until("depth/points")
    rig.listen("depth/image")
    rig.shoot_until("depth/image")
    assert np.isfinite(points_of(cloud)[..., :3]).any()
    assert stamp_ns(rig.received["depth/image"][0].header) > stamp_ns(cloud.header)


def test_millimetres_stride_and_range(rig):
    rig.start("-p", "depth_encoding:=16UC1", "-p", "cloud_stride:=3", "-p", "max_depth_m:=50", watched=DENSE)
    rig.shoot_until("depth/image")
    rgb = picture(6)
    depth, info, cloud = outputs(rig, rig.shoot(colour_image(rig.header(), rgb)))
    expected_m = load_model("tiny", threads=1).look(Frame(rgb, CAMERA)).depth().depth_m
    stored = np.frombuffer(depth.data, "<u2").reshape(120, 160)
    assert (depth.encoding, depth.step) == ("16UC1", 320)
    assert np.abs(stored - np.nan_to_num(expected_m) * 1000).max() <= 1.0
    assert (cloud.width, cloud.height, info.width) == (54, 40, 160)


def test_range_limits_can_be_changed_while_the_node_runs(dense):
    from rcl_interfaces.srv import SetParameters
    from rclpy.parameter import Parameter

    client = dense.node.create_client(SetParameters, "depth_node/set_parameters")
    dense.clients["set_parameters"] = client

    def set_to(**values):
        news = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        return dense.ask("set_parameters", SetParameters.Request(parameters=news)).results[0]

    assert set_to(max_depth_m=0.02).successful
    depth, _, cloud = outputs(dense, dense.shoot())
    seen = depth_of(depth)
    assert (np.isposinf(seen) | np.isnan(seen)).all() and np.isposinf(seen).any()
    assert np.isnan(points_of(cloud)[..., :3]).all()
    refused = set_to(max_depth_m=-5.0)
    assert not refused.successful and "max_depth_m" in refused.reason
    late = set_to(model="other")
    assert not late.successful and "only be set while the node is unconfigured" in late.reason
    assert set_to(max_depth_m=100.0).successful


def test_sparse_mode_publishes_only_the_grid_that_the_model_was_asked_for(rig):
    rig.start("-p", "mode:=sparse", "-p", "sparse_grid:=[2, 3]", watched=("depth/sparse", "depth/camera_info"))
    rig.shoot_until("depth/sparse")
    rgb = picture(7)
    at_ns = rig.shoot(colour_image(rig.header(), rgb))
    cloud, info = rig.of_stamp("depth/sparse", at_ns), rig.of_stamp("depth/camera_info", at_ns)
    assert [field.name for field in cloud.fields] == ["x", "y", "z", "std"]
    assert (cloud.height, cloud.width, info.width) == (2, 3, 160)
    depths = load_model("tiny", threads=1).look(Frame(rgb, CAMERA)).tell_depth_at(grid_px(CAMERA, 2, 3))
    assert np.allclose(points_of(cloud)[..., 2].ravel(), depths.depth_m, equal_nan=True)
    offered = {name for name, _ in rig.node.get_topic_names_and_types()}
    assert f"{rig.namespace}/depth/image" not in offered and f"{rig.namespace}/depth/points" not in offered


def test_compressed_images_are_read_from_the_topic_of_image_transport(rig):
    rig.start("-p", "image_transport:=compressed", watched=("depth/image",))

    def shoot():
        header = rig.header()
        message = CompressedImage(header=header, format="rgb8; jpeg compressed bgr8")
        message.data.frombytes(cv2.imencode(".jpg", picture(8))[1].tobytes())
        rig.publishers["camera_info"].publish(rectified_camera_info(header, CAMERA))
        rig.publishers["image/compressed"].publish(message)
        return stamp_ns(header)

    assert depth_of(rig.shoot_until("depth/image", shoot)).shape == (120, 160)


def test_names_can_be_remapped(rig):
    rig.publishers["image"] = rig.node.create_publisher(Image, "front/image_raw", 10)
    remaps = ("-r", "image:=front/image_raw", "-r", "camera_info:=camera_info", "-r", "depth/image:=front/depth")
    rig.start(*remaps, watched=())
    rig.node.create_subscription(Image, "front/depth", rig.received["depth/image"].append, 10)
    rig.wait(lambda: rig.node.count_publishers(f"{rig.namespace}/front/depth"), "publisher")
    rig.shoot_until("depth/image")


def test_subscriber_that_asks_for_more_than_the_node_offers_is_reported(rig):
    rig.start(watched=())
    strict = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    rig.node.create_subscription(Image, "depth/image", lambda message: None, strict)
    rig.wait(lambda: "durability" in rig.log and f"{rig.namespace}/depth/image" in rig.log, "warning")


def test_camera_that_offers_less_than_the_node_asks_for_is_reported(rig):
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    rig.publishers["image"] = rig.node.create_publisher(Image, "weak", best_effort)
    override = f"qos_overrides.{rig.namespace}/weak.subscription.reliability:=reliable"
    rig.start("-r", "image:=weak", "-p", override, watched=())
    rig.wait(lambda: "reliability" in rig.log and f"{rig.namespace}/weak is not heard" in rig.log, "warning")
