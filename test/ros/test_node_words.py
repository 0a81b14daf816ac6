# SPDX-License-Identifier: Apache-2.0
"""What a node says about itself: parameters that do nothing or cannot be set now, and why it cannot answer."""

import subprocess

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")
pytest.importorskip("depthlm_ros.srv")

import rclpy  # noqa: E402
from geometry_msgs.msg import Point  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from rcl_interfaces.srv import GetParameters, SetParameters  # noqa: E402
from support.paths import TINY  # noqa: E402
from support.ros_rig import new_rig  # noqa: E402

from depthlm_ros.ros.child_process import ChildProcess, graph_environment, module_command  # noqa: E402
from depthlm_ros.srv import QueryDepth  # noqa: E402

if not TINY.is_dir():
    pytest.skip("engines/tiny is not here: `make train` makes it", allow_module_level=True)

ONE_PIXEL = QueryDepth.Request(pixels=[Point(x=1.0, y=1.0)])


@pytest.fixture
def rig(tmp_path):
    with new_rig(tmp_path) as rig:
        yield rig


def call(rig, kind, name, request):
    client = rig.node.create_client(kind, f"depth_node/{name}")
    rig.wait(client.service_is_ready, f"service {name}")
    return rig.finish(client.call_async(request), name)


def set_parameter(rig, name, value):
    """Returns the result of `ros2 param set`, which sends the type in which the value is written."""
    request = SetParameters.Request(parameters=[rclpy.Parameter(name, value=value).to_parameter_msg()])
    return call(rig, SetParameters, "set_parameters", request).results[0]


def why_not_active(rig) -> str:
    answer = rig.ask("query_depth", ONE_PIXEL)
    assert answer.status == QueryDepth.Response.NOT_ACTIVE and not answer.success
    return answer.message


def test_mistyped_model_is_mended_without_a_restart_and_each_state_has_its_advice(rig):
    rig.start("-p", "autostart:=false", "-p", "model:=tyni", watched=())
    assert "configure`, then `ros2 lifecycle set" in why_not_active(rig)
    assert not rig.transition(Transition.TRANSITION_CONFIGURE)
    assert "'tyni'" in why_not_active(rig) and "could not be configured" in why_not_active(rig)
    refused = set_parameter(rig, "model", " ")
    assert not refused.successful and "depthlm models" in refused.reason
    for name, value in (("model", "tiny"), ("mode", "questions"), ("depth_encoding", "16UC1")):
        assert set_parameter(rig, name, value).successful
    assert rig.transition(Transition.TRANSITION_CONFIGURE)
    assert why_not_active(rig).endswith(f"`ros2 lifecycle set {rig.namespace}/depth_node activate`.")
    refused = set_parameter(rig, "mode", "dense")
    assert not refused.successful and "parameter mode can only be set while the node is unconfigured" in refused.reason
    assert rig.transition(Transition.TRANSITION_ACTIVATE) and rig.newest_health()["model"] == "tiny"
    assert rig.node.count_publishers(f"{rig.namespace}/depth/image") == 0
    assert rig.transition(Transition.TRANSITION_DEACTIVATE) and rig.transition(Transition.TRANSITION_CLEANUP)
    assert set_parameter(rig, "mode", "dense").successful
    assert rig.transition(Transition.TRANSITION_CONFIGURE)
    rig.wait(lambda: rig.node.count_publishers(f"{rig.namespace}/depth/image"), "topic of the other mode")


def test_whole_number_is_taken_for_a_decimal_parameter_which_stays_decimal(rig):
    rig.start("-p", "min_depth_m:=1", watched=("depth/image",))
    assert set_parameter(rig, "max_depth_m", 20).successful
    values = call(
        rig, GetParameters, "get_parameters", GetParameters.Request(names=["min_depth_m", "max_depth_m"])
    ).values
    assert [(value.type, value.double_value) for value in values] == [(3, 1.0), (3, 20.0)]  # 3: double
    assert not set_parameter(rig, "max_depth_m", True).successful
    assert not set_parameter(rig, "max_depth_m", "20").successful
    assert set_parameter(rig, "max_depth_m", 7.5).successful


def test_parameters_that_do_nothing_are_named(rig):
    overrides = ("max_depth:=5.0", "xyzzy:=1", f"qos_overrides.{rig.namespace}/imagee.subscription.depth:=2")
    rig.start(*(word for override in overrides for word in ("-p", override)))
    assert "parameter max_depth is set, but this node has none of that name: did you mean max_depth_m?" in rig.log
    assert "parameter xyzzy is set, but this node has none of that name." in rig.log
    rig.wait(lambda: f"{rig.namespace}/image.subscription.depth?" in rig.log, "the topic that was meant")
    assert rig.log.count("is set, but this node") == 2


def test_parameters_that_the_node_has_are_not_named(rig):
    own = ("max_depth_m:=5.0", "use_sim_time:=false", f"qos_overrides.{rig.namespace}/image.subscription.depth:=2")
    rig.start(*(word for override in own for word in ("-p", override)))
    assert "does nothing" not in rig.log and "none of that name" not in rig.log


def test_another_node_of_the_same_name_is_named(rig, tmp_path):
    rig.start("-p", "autostart:=false", watched=())
    command = module_command(
        "depthlm_ros.ros.node", "--ros-args", "-r", f"__ns:={rig.namespace}", "-p", "autostart:=false"
    )
    with ChildProcess("second node", command, tmp_path / "second.log", graph_environment()):
        rig.wait(lambda: f"another node named {rig.namespace}/depth_node" in rig.log, "note", patience_s=40.0)


# For each start that fails: arguments, changes to the environment (None: removed), words of the one line.
STARTS = [
    (("--log-level", "verbose"), {}, "give --log-level debug, info, warn, error or fatal."),
    ((), {"HOME": None, "ROS_LOG_DIR": None, "ROS_HOME": None}, "set HOME, or ROS_LOG_DIR"),
    (("-p", "model"), {}, "write -p NAME:=VALUE"),
    (("--params-file", "/no/such.yaml"), {}, "/no/such.yaml"),
    (("--no-such-argument",), {}, "--no-such-argument"),
    ((), {"ROS_DOMAIN_ID": "seven"}, "ROS_DOMAIN_ID"),
]


@pytest.mark.parametrize(("arguments", "changes", "words"), STARTS, ids=[words for *_, words in STARTS])
def test_start_that_ros_refuses_ends_with_one_line(arguments, changes, words):
    environment = {name: value for name, value in (graph_environment() | changes).items() if value is not None}
    command = module_command("depthlm_ros.ros.node", "--ros-args", *arguments)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    output = done.stdout + done.stderr
    assert done.returncode == 1 and "Traceback" not in output
    (line,) = [line for line in output.splitlines() if "[FATAL]" in line]
    assert words in line and ".c:" not in line
