"""The launch files and the RViz view. Without `launch`, which the ROS 2 wheels lack, the files are read but not run."""

import ast
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from support.paths import ROOT

FILES = sorted((ROOT / "launch").glob("*.launch.py"))
DEPTH_ARGUMENTS = {
    *("image_topic", "camera_info_topic", "model", "backend", "device", "rebuild_engine", "mode", "rectified_input"),
    *("namespace", "params_file"),
    *("rviz", "fixed_frame", "log_level", "use_sim_time"),
}
PUBLISHED = {"depth/image", "depth/points", "depth/sparse"}


def calls(path: Path, name: str) -> list[ast.Call]:
    """Returns the calls of a name in a file."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return [node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name]


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((item.value for item in call.keywords if item.arg == name), None)


def declared(path: Path) -> list[str]:
    """Returns the names of the declared arguments in order."""
    return [ast.literal_eval(call.args[0]) for call in calls(path, "DeclareLaunchArgument")]


def test_depth_launch_declares_its_arguments_once_each():
    assert sorted(declared(ROOT / "launch" / "depth.launch.py")) == sorted(DEPTH_ARGUMENTS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_declared_argument_has_a_default_and_a_description(path):
    for call in calls(path, "DeclareLaunchArgument"):
        assert keyword(call, "default_value") is not None, ast.unparse(call)
        assert len(ast.literal_eval(keyword(call, "description"))) > 5, ast.unparse(call)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_declared_argument_is_used_and_every_used_argument_is_declared(path):
    source = path.read_text()
    used = {ast.literal_eval(call.args[0]) for call in calls(path, "LaunchConfiguration") if is_text(call.args[0])}
    assert used <= set(declared(path))
    assert not [name for name in declared(path) if source.count(f'"{name}"') < 2]


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_launch_files_import_launch_only_and_start_nothing_but_nodes(path):
    """A launch therefore can neither download nor install anything."""
    modules = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
    assert {module.split(".")[0] for module in modules} == {"launch", "launch_ros"}
    assert not [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import)]
    assert "ExecuteProcess" not in path.read_text()


def test_demo_passes_on_only_arguments_of_depth_launch():
    (passed_on,) = [
        ast.literal_eval(node.value)
        for node in ast.walk(ast.parse((ROOT / "launch" / "demo.launch.py").read_text()))
        if isinstance(node, ast.Assign) and node.targets[0].id == "passed_on"
    ]
    assert {"fixed_frame", *passed_on} <= DEPTH_ARGUMENTS


def test_parameter_file_holds_the_values_that_launch_arguments_override():
    parameters = yaml.safe_load((ROOT / "config" / "depthlm.param.yaml").read_text())["/**"]["ros__parameters"]
    assert {"model", "backend", "device", "rebuild_engine", "mode", "rectified_input"} <= set(parameters)


def test_rviz_shows_image_depth_and_coloured_cloud():
    view = yaml.safe_load((ROOT / "config" / "depthlm.rviz").read_text())["Visualization Manager"]
    shown = {display["Topic"]["Value"]: display for display in view["Displays"] if "Topic" in display}
    assert set(shown) == {"image"} | PUBLISHED
    assert shown["depth/points"]["Class"].endswith("/PointCloud2")
    assert shown["depth/points"]["Color Transformer"] == "RGB8"
    assert shown["image"]["Topic"]["Reliability Policy"] == "Best Effort"  # camera drivers publish best effort


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
@pytest.mark.ros
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_ros2_launch_lists_the_arguments(path):
    done = subprocess.run(
        ["ros2", "launch", "depthlm_ros", path.name, "--show-args"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not [name for name in declared(path) if f"'{name}'" not in done.stdout]


@needs_launch
@pytest.mark.ros
def test_ros2_launch_starts_camera_and_node_in_a_namespace():
    import rclpy

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
