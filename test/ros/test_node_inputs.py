# SPDX-License-Identifier: Apache-2.0
"""A node whose inputs do not fit each other as they should: what it takes all the same, and what it refuses."""

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")
pytest.importorskip("depthlm_ros.srv")

from sensor_msgs.msg import CameraInfo, CompressedImage  # noqa: E402
from support.paths import TINY  # noqa: E402
from support.ros_rig import CAMERA, depth_of, new_rig, picture  # noqa: E402

from depthlm_ros.ros.message_out import colour_image, rectified_camera_info  # noqa: E402

if not TINY.is_dir():
    pytest.skip("engines/tiny is not here: `make train` makes it", allow_module_level=True)


@pytest.fixture
def rig(tmp_path):
    with new_rig(tmp_path) as rig:
        yield rig


def shoot_with_other_frame_id(rig) -> int:
    image = colour_image(rig.header(), picture())
    return rig.shoot(image, rectified_camera_info(rig.header(frame_id="optical"), CAMERA))


def test_frame_id_of_the_only_camera_info_may_differ_until_another_camera_sends_too(rig):
    rig.start()
    depth = rig.shoot_until("depth/image", lambda: shoot_with_other_frame_id(rig))
    assert np.isfinite(depth_of(depth)).any() and depth.header.frame_id == "camera"
    assert rig.log.count("'camera' but camera_info is of 'optical'") == 1
    rig.node.create_publisher(CameraInfo, "camera_info", 1)
    rig.wait(lambda: shoot_with_other_frame_id(rig) and "another camera" in rig.log, "refusal")


def test_strict_frame_ids_refuse_another_frame_id_but_not_a_slash(rig):
    rig.start("-p", "strict_frame_ids:=true")
    rig.wait(lambda: shoot_with_other_frame_id(rig) and "another camera" in rig.log, "refusal")
    assert not rig.received["depth/image"]
    info = rectified_camera_info(rig.header(frame_id="/camera"), CAMERA)
    rig.shoot_until("depth/image", lambda: rig.shoot(colour_image(rig.header(), picture()), info))


def test_nearly_black_images_of_16_bits_are_reported_with_the_parameter_that_mends_them(rig):
    rig.start("-p", "image_transport:=compressed")
    grey = picture()[..., 0].astype(np.uint16) * 4  # 10 bits
    message = CompressedImage(format="mono16; png compressed ")
    message.data.frombytes(cv2.imencode(".png", grey)[1].tobytes())

    def shoot() -> int:
        message.header = rig.header()
        rig.publishers["camera_info"].publish(rectified_camera_info(message.header, CAMERA))
        rig.publishers["image/compressed"].publish(message)
        return 1

    rig.wait(lambda: shoot() and "image_bit_depth" in rig.log, "warning of a black picture")
