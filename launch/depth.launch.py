"""Starts the depth node for one camera; `ros2 launch depthlm_ros depth.launch.py --show-args` lists the arguments.

Nothing is downloaded: the weights of `model` must be on this machine. Those of the embedded `tiny` are in the package.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

CONFIG = PathJoinSubstitution([FindPackageShare("depthlm_ros"), "config"])

# An empty argument leaves the value of params_file, so that each value has one default in one place.
ARGUMENTS = [
    DeclareLaunchArgument("image_topic", default_value="image", description="Topic of the camera's images."),
    DeclareLaunchArgument(
        "camera_info_topic", default_value="camera_info", description="Topic of the camera's calibration (CameraInfo)."
    ),
    DeclareLaunchArgument(
        "model",
        default_value="",
        description="The model: a name, NAME=FOLDER, a folder, or a hub id. Empty: as in params_file.",
    ),
    DeclareLaunchArgument(
        "backend",
        default_value="",
        choices=["", "auto", "onnxruntime", "tensorrt", "torch"],
        description="What runs the model. auto: tensorrt if the exported model has plans, else onnxruntime; torch for "
        "a checkpoint. Empty: as in params_file.",
    ),
    DeclareLaunchArgument(
        "device",
        default_value="",
        description="Where the model runs: cpu, cuda or cuda:N (tensorrt: cuda or cuda:N). Empty: as in params_file.",
    ),
    DeclareLaunchArgument(
        "rebuild_engine",
        default_value="",
        choices=["", "true", "false"],
        description="true: first build TensorRT plans that are missing or belong to another machine, which can take "
        "many minutes. Empty: as in params_file.",
    ),
    DeclareLaunchArgument(
        "mode",
        default_value="",
        choices=["", "dense", "sparse", "questions"],
        description="dense: a depth for every pixel. sparse: a grid of points with standard deviations. "
        "questions: services only. Empty: as in params_file.",
    ),
    DeclareLaunchArgument(
        "rectified_input",
        default_value="",
        choices=["", "true", "false"],
        description="true: image_topic is already rectified (image_rect). false: it is raw. Empty: as in params_file.",
    ),
    DeclareLaunchArgument(
        "namespace", default_value="", description="Namespace of the node and its topics; use one for each camera."
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=PathJoinSubstitution([CONFIG, "depthlm.param.yaml"]),
        description="YAML file with the node's parameters.",
    ),
    DeclareLaunchArgument(
        "rviz",
        default_value="false",
        choices=["true", "false"],
        description="Also open RViz with image, depth and cloud.",
    ),
    DeclareLaunchArgument(
        "fixed_frame",
        default_value="camera_optical_frame",
        description="Frame in which RViz shows the cloud: the frame_id of the images. Used by RViz only.",
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        description="Least severe messages to log: debug, info, warn, error or fatal.",
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="false",
        choices=["true", "false"],
        description="Use the time of /clock, for bags and simulation.",
    ),
]


def depth_node(context):
    """Returns the node, with the launch arguments that were given as parameters."""
    names = ("model", "backend", "device", "mode")
    values = {name: LaunchConfiguration(name).perform(context) for name in names}
    given = {name: ParameterValue(value, value_type=str) for name, value in values.items() if value}
    for name in ("rectified_input", "rebuild_engine"):
        if value := LaunchConfiguration(name).perform(context):
            given[name] = value == "true"
    use_sim_time = ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)
    node = Node(
        package="depthlm_ros",
        executable="depth_node",
        name="depth_node",
        namespace=LaunchConfiguration("namespace"),
        parameters=[LaunchConfiguration("params_file"), {"use_sim_time": use_sim_time, **given}],
        remappings=[
            ("image", LaunchConfiguration("image_topic")),
            ("camera_info", LaunchConfiguration("camera_info_topic")),
        ],
        ros_arguments=["--log-level", LaunchConfiguration("log_level")],
        output="screen",
    )
    return [node]


def rviz_node():
    """Returns RViz in the node's namespace, to which the topics of config/depthlm.rviz are relative."""
    return Node(
        package="rviz2",
        executable="rviz2",
        namespace=LaunchConfiguration("namespace"),
        arguments=["-d", PathJoinSubstitution([CONFIG, "depthlm.rviz"]), "-f", LaunchConfiguration("fixed_frame")],
        parameters=[{"use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)}],
        remappings=[("image", LaunchConfiguration("image_topic"))],
        condition=IfCondition(LaunchConfiguration("rviz")),
        output="screen",
    )


def generate_launch_description():
    """Returns the launch description; launch calls this function."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=depth_node), rviz_node()])
