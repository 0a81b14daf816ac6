# SPDX-License-Identifier: Apache-2.0
"""Points in another frame: the node listens to tf once a request needs it, and a request that waits holds a place."""

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")
pytest.importorskip("depthlm_ros.srv")

from lifecycle_msgs.msg import Transition  # noqa: E402
from support.paths import TINY  # noqa: E402
from support.ros_rig import new_rig  # noqa: E402

from depthlm_ros.ros.tf import rotate_and_shift  # noqa: E402
from depthlm_ros.srv import SpatialQuery  # noqa: E402

if not TINY.is_dir():
    pytest.skip("engines/tiny is not here: `make train` makes it", allow_module_level=True)

Codes = SpatialQuery.Response
# Replaces tf2_ros: it knows the frame `base` (a quarter turn and a shift), and prints what is done with it.
TF2_ROS = """
import time
from geometry_msgs.msg import TransformStamped

class TransformException(Exception):
    pass

class Buffer:
    def lookup_transform(self, target, source, stamp, timeout):
        if target != "base":
            print("tf: waiting", flush=True)
            time.sleep(3.0)
            raise TransformException(f"{target} does not exist")
        found = TransformStamped()
        found.transform.translation.x = 10.0
        found.transform.rotation.z = found.transform.rotation.w = 0.5 ** 0.5
        return found

class TransformListener:
    def __init__(self, buffer, node):
        print("tf: listening", flush=True)

    def unregister(self):
        print("tf: unregistered", flush=True)
"""


@pytest.fixture
def rig(tmp_path, monkeypatch):
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / "tf2_ros.py").write_text(TF2_ROS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stub"), prepend=":")
    with new_rig(tmp_path) as rig:
        yield rig


def ask(target_frame: str) -> SpatialQuery.Request:
    return SpatialQuery.Request(question="How far is the red box?", target_frame=target_frame, timeout_s=15.0)


def test_node_listens_to_tf_from_the_first_target_frame_to_deactivation(rig):
    rig.start()
    rig.shoot_until("depth/image")
    own = rig.ask("spatial_query", ask(""))
    assert own.status != Codes.BAD_REQUEST and "tf: listening" not in rig.log
    moved = rig.ask("spatial_query", ask("base"))
    assert moved.status == own.status and moved.header.frame_id == "base"
    assert len(moved.points) == len(own.points)
    for there, here in zip(moved.points, own.points, strict=True):
        assert np.allclose([there.x, there.y, there.z], [10.0 - here.y, here.x, here.z], equal_nan=True)
    assert rig.log.count("tf: listening") == 1
    rig.ask("spatial_query", ask("base"))
    assert rig.log.count("tf: listening") == 1
    assert rig.transition(Transition.TRANSITION_DEACTIVATE) and rig.log.count("tf: unregistered") == 1
    assert rig.transition(Transition.TRANSITION_ACTIVATE)
    rig.shoot_until("depth/image")
    assert rig.log.count("tf: listening") == 1 and rig.ask("spatial_query", ask("base")).header.frame_id == "base"


def test_request_that_waits_for_a_transform_holds_a_place(rig):
    rig.start("-p", "max_waiting_questions:=2")
    rig.shoot_until("depth/image")
    waiting = [rig.begin("spatial_query", ask("nowhere")) for _ in range(2)]
    rig.wait(lambda: rig.log.count("tf: waiting") == 2, "two requests that wait")
    assert rig.ask("spatial_query", ask("")).status == Codes.BUSY
    for future in waiting:
        answer = rig.finish(future)
        assert answer.status == Codes.BAD_REQUEST and "'nowhere'" in answer.message
        assert "began to listen to tf" in answer.message and "ask again" in answer.message
    assert rig.ask("spatial_query", ask("")).status != Codes.BUSY


def test_response_says_what_to_install_if_tf2_ros_is_missing(rig, tmp_path):
    (tmp_path / "stub" / "tf2_ros.py").write_text("raise ImportError('no tf2_ros here')")
    rig.start()
    rig.shoot_until("depth/image")
    answer = rig.ask("spatial_query", ask("base"))
    assert answer.status == Codes.BAD_REQUEST and not answer.success
    assert "'base'" in answer.message and "no tf2_ros here" in answer.message and "tf2-ros-py" in answer.message


def test_points_are_rotated_and_then_shifted():
    quarter = (0.0, 0.0, 0.5**0.5, 0.5**0.5)  # about z: x becomes y
    moved = rotate_and_shift(np.array([[1.0, 2.0, 3.0], [np.nan] * 3]), quarter, (10.0, 0.0, -1.0))
    assert np.allclose(moved[0], [8.0, 1.0, 2.0]) and np.isnan(moved[1]).all()
