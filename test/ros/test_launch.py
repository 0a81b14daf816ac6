# SPDX-License-Identifier: Apache-2.0
"""The launch files and the views. Without `launch`, which the ROS 2 wheels lack, a double of it runs the files."""

import ast
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import yaml

rclpy = pytest.importorskip("rclpy")

from sensor_msgs.msg import Image  # noqa: E402
from support.launch_double import failed_launch, in_place_of_launch, launched  # noqa: E402
from support.paths import ROOT  # noqa: E402
from support.ros_rig import picture  # noqa: E402

from depthlm_ros.ros.child_process import ChildProcess, graph_environment  # noqa: E402
from depthlm_ros.ros.tools import launching  # noqa: E402
from depthlm_ros.srv import SpatialQuery  # noqa: E402

FILES = sorted((ROOT / "launch").glob("*.launch.py"))
TEXTS = {
    **{"model": "tiny", "backend": "onnxruntime", "device": "cpu", "image_transport": "compressed"},
    **{"qos_reliability": "reliable", "qos_durability": "transient_local", "mode": "sparse", "depth_encoding": "16UC1"},
}
NUMBERS = {"num_threads": 2, "min_depth_m": 0.5, "max_depth_m": 20.0, "cloud_stride": 4}
FLAGS = ["rebuild_engine", "rectified_input", "autostart"]
PUBLISHED = {"depth/image", "depth/points", "depth/sparse"}

pytestmark = pytest.mark.ros  # the index of installed packages comes with ROS


@pytest.fixture
def no_rviz(monkeypatch):
    """A machine without RViz, whether this one has it or not."""
    monkeypatch.setattr(launching, "get_package_prefix", missing_package)


def missing_package(name: str) -> str:
    raise launching.PackageNotFoundError(name)


@pytest.fixture
def every_package(monkeypatch, tmp_path):
    """A machine on which RViz and the scanner are installed."""
    for package, executable in {
        "rviz2": "rviz2",
        "depthimage_to_laserscan": "depthimage_to_laserscan_node",
    }.items():
        folder = tmp_path / "lib" / package
        folder.mkdir(parents=True)
        (folder / executable).touch()
    monkeypatch.setattr(launching, "get_package_prefix", lambda name: str(tmp_path))


def started(file: str, **arguments: str) -> list[str]:
    return [node.executable for node in launched(file, **arguments).started]


def the_node(file: str = "depth.launch.py", **arguments: str):
    (node,) = [node for node in launched(file, **arguments).started if node.executable == "depth_node"]
    return node


# ---- arguments


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_argument_has_a_default_and_a_description(path):
    declared = launched(path.name).declared
    assert declared
    assert not [name for name, argument in declared.items() if argument.default_value is None]
    assert not [name for name, argument in declared.items() if len((argument.description or "").split()) < 3]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_argument_is_described_in_the_documentation(path):
    page = (ROOT / "docs" / "PARAMETERS.md").read_text()
    missing = [name for name in launched(path.name).declared if f"`{name}`" not in page]
    assert path.name in page
    assert not missing


def test_arguments_that_are_not_given_leave_the_parameter_file_in_force():
    node = the_node()
    assert node.given == {"use_sim_time": False}
    assert node.files == [str(ROOT / "config" / "depthlm.param.yaml")]
    assert node.remapped == {"image": "image"}  # camera_info is looked for beside the images


def test_every_argument_of_the_node_reaches_its_parameter_in_its_type():
    given = {**TEXTS, **{name: str(value) for name, value in NUMBERS.items()}, **dict.fromkeys(FLAGS, "true")}
    parameters = the_node(**given).given
    assert {name: parameters[name] for name in TEXTS} == TEXTS
    assert {name: parameters[name] for name in NUMBERS} == NUMBERS
    assert all(type(parameters[name]) is type(value) for name, value in NUMBERS.items())
    assert {parameters[name] for name in FLAGS} == {True}


@pytest.mark.parametrize(("word", "value"), [("true", True), ("True", True), ("false", False), ("False", False)])
def test_both_spellings_of_true_and_false_are_taken_by_every_switch(word, value, every_package):
    switches = dict.fromkeys([*FLAGS, "use_sim_time", "respawn", "rviz"], word)
    node = the_node(**switches)
    assert {node.given[name] for name in [*FLAGS, "use_sim_time"]} == {value}
    assert node.respawn is value
    assert ("rviz2" in started("depth.launch.py", **switches)) is value
    assert ("depthimage_to_laserscan_node" in started("navigation.launch.py", scan=word)) is value


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("depth.launch.py", "rviz", "yes"),
        ("depth.launch.py", "mode", "dens"),
        ("depth.launch.py", "image_transport", "theora"),
        ("depth.launch.py", "depth_encoding", "16uc1"),
        ("depth.launch.py", "qos_reliability", "best effort"),
        ("depth.launch.py", "on_exit", "stop"),
        ("depth.launch.py", "log_level", "verbose"),
        ("depth.launch.py", "num_threads", "two"),
        ("depth.launch.py", "cloud_stride", "1.5"),
        ("depth.launch.py", "max_depth_m", "5,5"),
        ("depth.launch.py", "params_file", "/no/such/file.yaml"),
        ("demo.launch.py", "rate", "fast"),
        ("demo.launch.py", "mode", "dens"),
        ("navigation.launch.py", "range_max_m", "far"),
        ("navigation.launch.py", "cloud_stride", "x"),
        ("multi_camera.launch.py", "cameras", "front,,rear"),
        ("multi_camera.launch.py", "cameras", "front,/front"),
        ("multi_camera.launch.py", "cameras", "left eye"),
        ("multi_camera.launch.py", "mode", "dens"),
    ],
)
def test_a_wrong_argument_is_named_before_any_process_starts(file, name, value, every_package):
    message, context = failed_launch(file, **{"rviz": "true", name: value})
    assert name in message and value in message
    assert not context.started


# ---- what is started


@pytest.mark.parametrize("file", ["depth.launch.py", "demo.launch.py"])
def test_without_rviz_the_launch_goes_on_and_says_what_is_missing(file, no_rviz):
    context = launched(file, rviz="true")
    assert "depth_node" in [node.executable for node in context.started]
    assert "rviz2" not in [node.executable for node in context.started]
    assert "rviz2 is not installed" in context.messages[0]


def test_rviz_opens_in_the_frame_that_was_asked_for(every_package):
    def frame(**arguments):
        rviz = launched("depth.launch.py", rviz="true", **arguments).started[0]
        return rviz.words[rviz.words.index("-f") + 1]

    assert frame() == "camera_optical_frame"
    assert frame(fixed_frame="camera_color_optical_frame") == "camera_color_optical_frame"
    assert frame(fixed_frame="camera_color_optical_frame", target_frame="base_link") == "base_link"


def test_the_demo_hands_every_argument_on_to_the_depth_node():
    node = the_node("demo.launch.py", mode="sparse", namespace="front", cloud_stride="2")
    assert (node.given["mode"], node.namespace, node.given["cloud_stride"]) == ("sparse", "front", 2)


def test_the_launch_ends_with_the_node_where_that_is_wanted():
    assert the_node().on_exit is None
    assert the_node(on_exit="shutdown", respawn="true").on_exit is None
    node = the_node("demo.launch.py")
    with in_place_of_launch():
        assert [type(action).__name__ for action in node.ended(0)] == ["Shutdown"]
        with pytest.raises(RuntimeError, match="depth_node has ended with exit code 1"):
            node.ended(1)
        node.context.is_shutdown = True
        assert node.ended(-2) is None  # ended by Ctrl-C, as everything else


def test_every_camera_has_a_process_in_its_own_namespace():
    nodes = launched("multi_camera.launch.py", cameras="front, rear", model="tiny", cloud_stride="3").started
    assert [(node.executable, node.namespace) for node in nodes] == [("depth_node", "front"), ("depth_node", "rear")]
    assert [node.remapped for node in nodes] == [{"image": "image_raw", "camera_info": "camera_info"}] * 2
    assert [(node.given["cloud_stride"], node.given["num_threads"]) for node in nodes] == [(3, 1)] * 2


def test_the_scan_is_made_of_the_depth_image_and_its_calibration(every_package):
    context = launched("navigation.launch.py", namespace="front", scan_frame="front_link", range_max_m="4")
    node, scanner = context.started
    assert (node.executable, scanner.package) == ("depth_node", "depthimage_to_laserscan")
    assert scanner.remapped == {"depth": "depth/image", "depth_camera_info": "depth/camera_info", "scan": "scan"}
    assert (scanner.given["output_frame"], scanner.given["range_max"]) == ("front_link", 4.0)


def test_without_the_scanner_the_depth_node_runs_and_the_package_is_named(no_rviz):
    context = launched("navigation.launch.py")
    assert [node.executable for node in context.started] == ["depth_node"]
    assert "ros-$ROS_DISTRO-depthimage-to-laserscan" in context.messages[0]


def test_the_demo_s_processes_run_with_the_command_lines_of_the_launch_file(tmp_path, no_rviz):
    """The replay camera and the node, as real processes: depth arrives in the namespace of the launch argument."""
    frames = tmp_path / "frames"
    frames.mkdir()
    cv2.imwrite(str(frames / "0.png"), picture())
    context = launched(
        "demo.launch.py", namespace="launched", images=str(frames), fx="150", num_threads="1", depth_encoding="16UC1"
    )
    env = graph_environment()
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(ChildProcess(node.name, node.command(tmp_path), tmp_path / f"{node.name}.log", env))
            for node in context.started
        ]
        rclpy.init(domain_id=int(env["ROS_DOMAIN_ID"]))
        stack.callback(rclpy.shutdown)
        listener = rclpy.create_node("listener")
        received: list[Image] = []
        listener.create_subscription(Image, "/launched/depth/image", received.append, 1)
        give_up_s = time.monotonic() + 60
        while not received and time.monotonic() < give_up_s:
            rclpy.spin_once(listener, timeout_sec=0.2)
            for process in processes:
                process.check()
        assert received[0].encoding == "16UC1"


def test_parameter_file_holds_the_values_that_launch_arguments_override():
    parameters = yaml.safe_load((ROOT / "config" / "depthlm.param.yaml").read_text())["/**"]["ros__parameters"]
    assert {*TEXTS, *NUMBERS, *FLAGS} <= set(parameters)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_launch_files_start_nothing_but_nodes(path):
    """A launch therefore can neither download nor install anything."""
    modules = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
    allowed = {"launch", "launch_ros", "pathlib", "depthlm_ros"}
    assert {module.split(".")[0] for module in modules} <= allowed
    assert {
        node.module
        for node in ast.walk(ast.parse(Path(launching.__file__).read_text()))
        if isinstance(node, ast.ImportFrom)
    } <= {
        *("__future__", "collections.abc", "pathlib", "typing", "ament_index_python.packages"),
        *("launch.actions", "launch.events.process", "launch.launch_context", "launch.substitutions"),
        "launch_ros.parameter_descriptions",
    }
    assert "ExecuteProcess" not in path.read_text()


# ---- views


def test_rviz_shows_image_depth_and_coloured_cloud():
    view = yaml.safe_load((ROOT / "config" / "depthlm.rviz").read_text())["Visualization Manager"]
    shown = {display["Topic"]["Value"]: display for display in view["Displays"] if "Topic" in display}
    assert {"image"} | PUBLISHED <= set(shown)
    assert shown["depth/points"]["Class"].endswith("/PointCloud2")
    assert shown["depth/points"]["Color Transformer"] == "RGB8"
    assert shown["image"]["Topic"]["Reliability Policy"] == "Best Effort"  # camera drivers publish best effort


def test_rviz_has_the_usual_tools():
    view = yaml.safe_load((ROOT / "config" / "depthlm.rviz").read_text())["Visualization Manager"]
    displays = {display["Class"].split("/")[-1] for display in view["Displays"]}
    assert {"Grid", "TF", "Axes"} <= displays
    assert {"PublishPoint", "Measure", "Select"} <= {tool["Class"].split("/")[-1] for tool in view["Tools"]}


def test_the_foxglove_layout_shows_the_topics_and_calls_the_service():
    layout = json.loads((ROOT / "config" / "depthlm_foxglove.json").read_text())
    panels = layout["configById"]
    assert sorted(leaves(layout["layout"])) == sorted(panels)
    by_kind = {name.split("!")[0]: panel for name, panel in panels.items()}
    assert by_kind["CallService"]["serviceName"] == "/spatial_query"
    assert set(json.loads(by_kind["CallService"]["requestPayload"])) <= set(
        SpatialQuery.Request.get_fields_and_field_types()
    )
    assert by_kind["DiagnosticSummary"]["topicToRender"] == "/diagnostics"
    images = {panel["imageMode"]["imageTopic"] for name, panel in panels.items() if name.startswith("Image!")}
    assert {"/image", "/depth/image"} <= images
    assert by_kind["3D"]["topics"]["/depth/points"]["visible"]


def leaves(layout: str | dict) -> list[str]:
    """Returns the panels of a layout, which is a tree of splits."""
    return [layout] if isinstance(layout, str) else [*leaves(layout["first"]), *leaves(layout["second"])]


# ---- tests that need launch


def has_launch() -> bool:
    """Looks for launch.actions, because `import launch` would also find this repository's folder launch/."""
    try:
        return all(importlib.util.find_spec(name) for name in ("launch.actions", "launch_ros.actions"))
    except ModuleNotFoundError:
        return False


needs_launch = pytest.mark.skipif(
    not has_launch() or shutil.which("ros2") is None,
    reason="launch, launch_ros and the command ros2 exist only in a ROS 2 distribution",
)


@needs_launch
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_ros2_launch_lists_the_arguments(path):
    done = subprocess.run(
        ["ros2", "launch", "depthlm_ros", path.name, "--show-args"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not [name for name in launched(path.name).declared if f"'{name}'" not in done.stdout]


@needs_launch
def test_ros2_launch_starts_camera_and_node_in_a_namespace():
    command = ["ros2", "launch", "depthlm_ros", "demo.launch.py", "rviz:=false", "namespace:=front"]
    process = subprocess.Popen(command, start_new_session=True, stdout=sys.stderr)
    rclpy.init()
    try:
        watcher = rclpy.create_node("watcher")
        wanted = {("depth_node", "/front"), ("replay_camera", "/front")}
        give_up_s = time.monotonic() + 60
        while not wanted <= set(watcher.get_node_names_and_namespaces()) and time.monotonic() < give_up_s:
            assert process.poll() is None, "ros2 launch has ended"
            time.sleep(0.2)
        assert wanted <= set(watcher.get_node_names_and_namespaces())
        assert "/front/depth/image" in dict(watcher.get_topic_names_and_types())
    finally:
        rclpy.shutdown()
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)
