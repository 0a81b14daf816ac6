# SPDX-License-Identifier: Apache-2.0
"""Starts the depth node for one camera; `ros2 launch depthlm_ros depth.launch.py --show-args` lists the arguments.

Nothing is downloaded: the weights of `model` must be on this machine. Those of the embedded `tiny` are in the package.
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction
from launch.substitutions import PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from depthlm_ros.ros.tools.launching import BOOLEANS, LOG_LEVELS, ends_launch, flag, missing_program, text, value_as

CONFIG = PathJoinSubstitution([FindPackageShare("depthlm_ros"), "config"])
RESPAWN_DELAY_S = 2.0

# Parameters of the node that are arguments too, with their types. An empty argument leaves the value of params_file,
# so that each value has one default in one place.
PARAMETERS = {
    "model": str,
    "backend": str,
    "device": str,
    "rebuild_engine": bool,
    "num_threads": int,
    "image_transport": str,
    "rectified_input": bool,
    "qos_reliability": str,
    "qos_durability": str,
    "mode": str,
    "depth_encoding": str,
    "min_depth_m": float,
    "max_depth_m": float,
    "cloud_stride": int,
    "autostart": bool,
}


def parameter(name, description, choices=None):
    """Returns the declaration of an argument that sets a parameter of the node."""
    return DeclareLaunchArgument(
        name,
        default_value="",
        choices=["", *choices] if choices else None,
        description=f"{description} Empty: as in params_file.",
    )


CAMERA_ARGUMENTS = [
    DeclareLaunchArgument("image_topic", default_value="image", description="Topic of the camera's images."),
    DeclareLaunchArgument(
        "camera_info_topic",
        default_value="",
        description="Topic of the camera's calibration (CameraInfo). Empty: the camera_info beside image_topic if "
        "somebody publishes it, else camera_info.",
    ),
    parameter("image_transport", "How the images arrive.", choices=["raw", "compressed"]),
    parameter("rectified_input", "true: image_topic is rectified (image_rect). false: it is raw.", choices=BOOLEANS),
    parameter(
        "qos_reliability", "Reliability of the subscriptions to the camera.", choices=["best_effort", "reliable"]
    ),
    parameter("qos_durability", "Durability of the subscription.", choices=["volatile", "transient_local"]),
]
MODEL_ARGUMENTS = [
    parameter("model", "The model: a name, NAME=FOLDER, a folder, or a hub id."),
    parameter(
        "backend",
        "What runs the model. auto: tensorrt if the model has plans, else onnxruntime; torch for a checkpoint.",
        choices=["auto", "onnxruntime", "tensorrt", "torch"],
    ),
    parameter("device", "Where the model runs: cpu, openvino, cuda or cuda:N (tensorrt: cuda or cuda:N)."),
    parameter(
        "rebuild_engine",
        "true: first build TensorRT plans that are missing or belong to another machine, which can take many minutes.",
        choices=BOOLEANS,
    ),
    parameter("num_threads", "CPU threads of the model; 0: all cores."),
    parameter(
        "mode",
        "dense: a depth for every pixel. sparse: a grid of points with standard deviations. questions: services only.",
        choices=["dense", "sparse", "questions"],
    ),
]
OUTPUT_ARGUMENTS = [
    parameter("depth_encoding", "depth/image in metres (32FC1) or millimetres (16UC1).", choices=["32FC1", "16UC1"]),
    parameter("min_depth_m", "Nearer depths are left out, metres."),
    parameter("max_depth_m", "Farther depths are left out, metres."),
    parameter("cloud_stride", "depth/points holds every n-th pixel of every n-th row."),
]
LIFE_ARGUMENTS = [
    DeclareLaunchArgument(
        "namespace", default_value="", description="Namespace of the node and its topics; use one for each camera."
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=PathJoinSubstitution([CONFIG, "depthlm.param.yaml"]),
        description="YAML file with the node's parameters.",
    ),
    parameter("autostart", "false: a lifecycle manager configures and activates the node.", choices=BOOLEANS),
    DeclareLaunchArgument(
        "respawn",
        default_value="false",
        choices=BOOLEANS,
        description=f"true: if the node ends, start it again after {RESPAWN_DELAY_S:g} s; on_exit then has no effect.",
    ),
    DeclareLaunchArgument(
        "on_exit",
        default_value="ignore",
        choices=["ignore", "shutdown"],
        description="shutdown: the launch ends with the node, with exit code 1 if the node failed.",
    ),
    DeclareLaunchArgument(
        "log_level", default_value="info", choices=LOG_LEVELS, description="Least severe messages to log."
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="false",
        choices=BOOLEANS,
        description="Use the time of /clock, for bags and simulation.",
    ),
]
RVIZ_ARGUMENTS = [
    DeclareLaunchArgument(
        "rviz",
        default_value="false",
        choices=BOOLEANS,
        description="Also open RViz with image, depth and cloud, where it is installed.",
    ),
    DeclareLaunchArgument(
        "fixed_frame",
        default_value="camera_optical_frame",
        description="Fixed frame of RViz: the frame_id of the images, which the node logs. Used by RViz only.",
    ),
    DeclareLaunchArgument(
        "target_frame",
        default_value="",
        description="Fixed frame of RViz if another than the camera's is wanted, such as base_link or map; tf must "
        "lead from the camera to it. Empty: fixed_frame. Used by RViz only.",
    ),
]


def params_file(context):
    """Returns the path of the parameter file. Raises RuntimeError if there is none: ROS would go on without it."""
    path = text(context, "params_file")
    if not Path(path).is_file():
        raise RuntimeError(f"launch argument params_file is {path!r}: there is no such file.")
    return path


def depth_node(context):
    """Returns the node, with the launch arguments that were given as parameters."""
    values = {name: text(context, name) for name in PARAMETERS}
    given = {name: value_as(PARAMETERS[name], name, value) for name, value in values.items() if value}
    topics = {"image": text(context, "image_topic"), "camera_info": text(context, "camera_info_topic")}
    respawn = flag(context, "respawn")
    ends = text(context, "on_exit") == "shutdown" and not respawn
    return Node(
        package="depthlm_ros",
        executable="depth_node",
        name="depth_node",
        namespace=text(context, "namespace"),
        parameters=[params_file(context), {"use_sim_time": flag(context, "use_sim_time"), **given}],
        remappings=[(name, topic) for name, topic in topics.items() if topic],
        ros_arguments=["--log-level", text(context, "log_level")],
        respawn=respawn,
        respawn_delay=RESPAWN_DELAY_S,
        on_exit=ends_launch("depth_node") if ends else None,
        output="screen",
    )


def rviz_node(context):
    """Returns RViz in the node's namespace, to which the topics of config/depthlm.rviz are relative."""
    frame = text(context, "target_frame") or text(context, "fixed_frame")
    return Node(
        package="rviz2",
        executable="rviz2",
        namespace=text(context, "namespace"),
        arguments=["-d", PathJoinSubstitution([CONFIG, "depthlm.rviz"]), "-f", frame],
        parameters=[{"use_sim_time": flag(context, "use_sim_time")}],
        remappings=[("image", text(context, "image_topic"))],
        output="screen",
    )


def processes(context):
    """Returns what is to be started, all of it checked before the first process starts."""
    node = depth_node(context)
    if not flag(context, "rviz"):
        return [node]
    missing = missing_program("rviz2", "rviz2")
    return [LogInfo(msg=missing) if missing else rviz_node(context), node]


def generate_launch_description():
    """Returns the launch description; launch calls this function."""
    arguments = [*CAMERA_ARGUMENTS, *MODEL_ARGUMENTS, *OUTPUT_ARGUMENTS, *LIFE_ARGUMENTS, *RVIZ_ARGUMENTS]
    return LaunchDescription([*arguments, OpaqueFunction(function=processes)])
