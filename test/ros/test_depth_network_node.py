# SPDX-License-Identifier: Apache-2.0
"""A network for depth in the node, in a real graph: parameter `model` is its folder, everything else is as usual."""

import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")
pytest.importorskip("depthlm_ros.srv")

from geometry_msgs.msg import Point  # noqa: E402
from support.depth_networks import write_network  # noqa: E402
from support.paths import ROOT  # noqa: E402
from support.ros_rig import CAMERA, depth_of, new_rig, picture, points_of  # noqa: E402

from depthlm_ros.core import Frame  # noqa: E402
from depthlm_ros.geometry.pinhole import backproject  # noqa: E402
from depthlm_ros.model import load_model  # noqa: E402
from depthlm_ros.ros.message_out import colour_image  # noqa: E402
from depthlm_ros.srv import QueryDepth, SpatialQuery  # noqa: E402

FIELDS = {
    "image": {"input": "image", "fit": "squeeze", "size_px": [32, 32]},
    "depth": {"output": "depth", "kind": "metres", "true_at_focal_widths": 1.0},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("networks") / "own", FIELDS, gain=2.0, offset=1.0)


@pytest.fixture(scope="module")
def rig(folder, tmp_path_factory):
    with new_rig(tmp_path_factory.mktemp("node")) as rig:
        rig.start("-p", f"model:={folder}", watched=("depth/image", "depth/points"))
        rig.shoot_until("depth/image")
        yield rig


def test_depth_cloud_and_queried_depth_are_those_of_the_network(rig, folder):
    rgb = picture(5)
    at_ns = rig.shoot(colour_image(rig.header(), rgb))
    expected_m = load_model(str(folder), threads=1).look(Frame(rgb, CAMERA)).depth().depth_m
    np.testing.assert_allclose(depth_of(rig.of_stamp("depth/image", at_ns)), expected_m, rtol=1e-5)
    cloud = points_of(rig.of_stamp("depth/points", at_ns))
    np.testing.assert_allclose(cloud[30, 40, 2], expected_m[30, 40], rtol=1e-5)
    response = rig.ask("query_depth", QueryDepth.Request(pixels=[Point(x=40.0, y=30.0)], timeout_s=5.0))
    assert response.status == QueryDepth.Response.OK
    expected_xyz_m = backproject(np.array([[40.0, 30.0]]), np.array(response.depth), CAMERA)[0]
    assert response.depth[0] > 0 and response.points[0].x == pytest.approx(expected_xyz_m[0], rel=1e-4)


def test_question_in_words_is_refused_with_what_to_use(rig):
    response = rig.ask("spatial_query", SpatialQuery.Request(question="How far is the box?", timeout_s=5.0))
    assert response.status == SpatialQuery.Response.BAD_REQUEST
    assert "network for depth alone" in response.message and "query_depth" in response.message


@pytest.fixture
def words_folder(tmp_path):
    """A depth-first bundle. It is written with the package onnx, which the node's environment does not have."""
    python = next((each for each in (ROOT / ".venv-torch/bin/python", sys.executable) if has_onnx(each)), None)
    if python is None:
        pytest.skip("the package onnx is not here: run `make setup-torch`")
    code = (
        "import sys, pathlib; sys.path[:0] = sys.argv[2:]; import support.depth_first_bundle as small; "
        "small.write_depth_first_bundle(pathlib.Path(sys.argv[1]))"
    )
    folder = tmp_path / "small"
    subprocess.run([str(python), "-c", code, str(folder), str(ROOT), str(ROOT / "test")], check=True)
    return folder


def has_onnx(python):
    try:
        return subprocess.run([str(python), "-c", "import onnx"], capture_output=True).returncode == 0
    except OSError:
        return False


def test_question_in_words_is_answered_by_the_model_that_the_network_names(words_folder, tmp_path):
    both = write_network(tmp_path / "own", FIELDS | {"words": str(words_folder)}, gain=2.0, offset=1.0)
    with new_rig(tmp_path) as rig:
        rig.start("-p", f"model:={both}", watched=("depth/image",))
        rig.shoot_until("depth/image")
        assert "model own+small on onnxruntime" in rig.log
        at_ns = rig.shoot(colour_image(rig.header(), picture(5)))
        view = load_model(str(both), threads=1).look(Frame(picture(5), CAMERA))
        published_m = depth_of(rig.of_stamp("depth/image", at_ns))
        np.testing.assert_allclose(published_m, view.depth().depth_m, rtol=1e-5)
        question = SpatialQuery.Request(question="How far is this point?", pixels=[Point(x=40.0, y=30.0)])
        response, expected = rig.ask("spatial_query", question), view.ask("How far is this point?", [(40, 30)])
        assert (response.answer, response.model) == (expected.text, "own+small") and expected.text
        health = rig.wait(lambda: float(rig.newest_health()["answer_p50_ms"]) > 0 and rig.newest_health(), "answer")
        assert (health["model"], health["questions_answered"]) == ("own+small", "1")
        assert float(health["look_ms"]) > 0 and float(health["peak_memory_mb"]) > 0


def test_mode_that_needs_words_is_refused(folder, tmp_path):
    with new_rig(tmp_path) as rig:
        rig.start("-p", f"model:={folder}", "-p", "mode:=sparse", watched=())
        rig.wait(lambda: "mode sparse is impossible" in rig.log, "message about the mode")
        assert "mode: dense" in rig.log
