# SPDX-License-Identifier: Apache-2.0
"""The outputs beside depth/image: standard deviations, compressed depth and thinned clouds, only for who listens."""

import time

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")
pytest.importorskip("depthlm_ros.srv")

from geometry_msgs.msg import Point  # noqa: E402
from rcl_interfaces.srv import SetParameters  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from support.compressed_depth_reader import read_compressed_depth  # noqa: E402
from support.paths import TINY  # noqa: E402
from support.ros_rig import CAMERA, depth_of, new_rig, picture, points_of  # noqa: E402

from depthlm_ros.core import Frame  # noqa: E402
from depthlm_ros.errors import SetupError  # noqa: E402
from depthlm_ros.model import load_model  # noqa: E402
from depthlm_ros.ros.message_out import colour_image  # noqa: E402
from depthlm_ros.srv import QueryDepth  # noqa: E402

if not TINY.is_dir():
    pytest.skip("engines/tiny is not here: `make train` makes it", allow_module_level=True)

ALL = ("depth/image", "depth/image/compressedDepth", "depth/std", "depth/points")


@pytest.fixture
def rig(tmp_path):
    with new_rig(tmp_path) as rig:
        yield rig


@pytest.fixture(scope="module")
def expected():
    return load_model("tiny", threads=1).look(Frame(picture(4), CAMERA)).depth()


def shoot(rig):
    return rig.shoot(colour_image(rig.header(), picture(4)))


def set_to(rig, **values):
    rig.clients.setdefault("set_parameters", rig.node.create_client(SetParameters, "depth_node/set_parameters"))
    news = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
    return rig.ask("set_parameters", SetParameters.Request(parameters=news)).results[0]


def test_deviations_and_compressed_depth_belong_to_the_depth_image(rig, expected):
    rig.start("-p", f"max_depth_m:={np.median(expected.depth_m):.3f}", watched=ALL)
    rig.shoot_until("depth/image")
    depth, compressed, std, _ = (rig.of_stamp(name, at_ns) for at_ns in [shoot(rig)] for name in ALL)
    assert std.header == compressed.header == depth.header and std.encoding == "32FC1"
    known = np.isfinite(depth_of(depth))
    assert known.any() and not known.all()
    assert np.array_equal(np.isfinite(depth_of(std)), known)
    assert np.allclose(depth_of(std)[known], expected.std_m[known], rtol=1e-3)
    read_m = read_compressed_depth(compressed.data, compressed.format)
    assert np.array_equal(np.isfinite(read_m), known)
    assert np.allclose(read_m[known], depth_of(depth)[known], atol=2e-3)


def test_millimetres_are_compressed_as_they_are_and_deviations_stay_in_metres(rig, expected):
    rig.start("-p", "depth_encoding:=16UC1", watched=ALL[:3])
    rig.shoot_until("depth/image")
    depth, compressed, std = (rig.of_stamp(name, at_ns) for at_ns in [shoot(rig)] for name in ALL[:3])
    assert (compressed.format, std.encoding) == ("16UC1; compressedDepth png", "32FC1")
    stored = np.frombuffer(depth.data, "<u2").reshape(120, 160)
    assert np.array_equal(read_compressed_depth(compressed.data, compressed.format), stored) and stored.any()
    assert np.allclose(depth_of(std), expected.std_m, rtol=1e-3, equal_nan=True)


def test_voxels_thin_the_cloud_while_the_node_runs(rig):
    rig.start(watched=("depth/points",))
    whole = rig.shoot_until("depth/points")
    assert set_to(rig, cloud_voxel_m=0.2).successful
    cloud = rig.of_stamp("depth/points", shoot(rig))
    assert cloud.height == 1 and cloud.is_dense and 0 < cloud.width < whole.width * whole.height / 4
    assert np.isfinite(points_of(cloud)[..., :3]).all()
    cells = np.floor(points_of(cloud)[0, :, :3] / np.float32(0.2))
    assert len(np.unique(cells, axis=0)) > 0.99 * cloud.width
    assert set_to(rig, cloud_voxel_m=0.0).successful
    assert rig.of_stamp("depth/points", shoot(rig)).height == whole.height


def test_compressed_depth_stays_below_the_image_when_that_is_remapped(rig):
    rig.start("-r", "depth/image:=eye/depth", watched=())
    rig.wait(lambda: rig.node.count_publishers(f"{rig.namespace}/eye/depth/compressedDepth"), "publisher")


def test_robot_s_own_body_has_no_depth_and_the_mask_is_set_only_while_the_node_is_not_active(rig, tmp_path):
    from lifecycle_msgs.msg import Transition

    body = np.zeros((120, 160), np.uint8)
    body[90:, 40:100] = 255
    path = tmp_path / "body.png"
    path.write_bytes(cv2.imencode(".png", body)[1].tobytes())
    rig.start(watched=ALL)
    rig.shoot_until("depth/image")
    refused = set_to(rig, mask_file=str(path))
    assert not refused.successful and "deactivate" in refused.reason
    assert rig.transition(Transition.TRANSITION_DEACTIVATE)
    missing = set_to(rig, mask_file=str(tmp_path / "missing.png"))
    assert not missing.successful and "missing.png" in missing.reason
    assert set_to(rig, mask_file=str(path)).successful
    assert rig.transition(Transition.TRANSITION_ACTIVATE)
    at_ns = shoot_until_active(rig)
    depth, compressed, std, cloud = (rig.of_stamp(name, at_ns) for name in ALL)
    compressed_m = read_compressed_depth(compressed.data, compressed.format)
    for values in (depth_of(depth), compressed_m, depth_of(std), points_of(cloud)[..., 2]):
        assert np.array_equal(np.isnan(values), body > 0)
    query = rig.ask("query_depth", QueryDepth.Request(pixels=[Point(x=60.0, y=100.0), Point(x=10.0, y=10.0)]))
    assert np.isnan(query.depth[0]) and np.isfinite(query.depth[1])


def shoot_until_active(rig) -> int:
    """Returns the stamp of an image that was sent and processed after the node became active again."""
    before = len(rig.received["depth/image"])
    rig.wait(lambda: shoot(rig) and len(rig.received["depth/image"]) > before, "depth")
    return shoot(rig)


def test_unreadable_mask_ends_the_start_with_its_name(rig, tmp_path):
    rig.start("-p", f"mask_file:={tmp_path}/none.png", watched=())
    with pytest.raises(SetupError):
        rig.wait(lambda: rig.process.check(), "end of the node")
    assert "mask_file" in rig.log and "none.png" in rig.log


def test_rate_is_limited_while_the_node_runs_and_diagnostics_name_the_set_up(rig):
    rig.start("-p", "max_rate_hz:=4.0", "-p", "device:=cpu")
    rig.shoot_until("depth/image")
    start_s = time.monotonic()
    rig.received["depth/image"].clear()
    while time.monotonic() - start_s < 2.0:
        shoot(rig)
        time.sleep(0.02)
    assert 1 <= len(rig.received["depth/image"]) <= 10
    health = rig.newest_health()
    assert (health["model"], health["backend"], health["device"]) == ("tiny", "onnxruntime", "cpu")
    assert health["canvas"] == "256 x 192" and float(health["max_rate_hz"]) == 4.0
    assert int(health["frames_dropped"]) > 0
    assert set_to(rig, max_rate_hz=0.0).successful
    rig.of_stamp("depth/image", shoot(rig))
