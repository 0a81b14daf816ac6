"""The depth node on one camera; `ros2 launch depthlm_ros depth.launch.py --show-args` lists what can be set.

Nothing is downloaded: the weights of `model` must be on this machine (those of the embedded `tiny` are).
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

CONFIG = PathJoinSubstitution([FindPackageShare("depthlm_ros"), "config"])

# Empty means: as in params_file, so that a value has one default, in one place.
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
        description="What runs the model. auto: tensorrt where plans lie beside the exported model, else onnxruntime; "
        "torch for a checkpoint. Empty: as in params_file.",
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
        description="true: TensorRT plans that are missing or were not built for this machine are built first, which "
        "may take many minutes. Empty: as in params_file.",
    ),
    DeclareLaunchArgument(
        "mode",
        default_value="",
        choices=["", "dense", "sparse", "questions"],
        description="dense: a depth for every pixel. sparse: a grid of points with standard deviations. "
        "questions: only the services. Empty: as in params_file.",
    ),
    DeclareLaunchArgument(
        "rectified_input",
        default_value="",
        choices=["", "true", "false"],
        description="true: image_topic is rectified already (image_rect). false: it is raw. Empty: as in params_file.",
    ),
    DeclareLaunchArgument(
        "namespace", default_value="", description="Namespace of the node and its topics; one for each camera."
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
        description="Take the time from /clock, for bags and simulation.",
    ),
]


def depth_node(context):
    """The node, with those parameters of the launch arguments that were given."""
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
    """RViz in the node's namespace, where the relative topics of config/depthlm.rviz are."""
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
    """Called by launch."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=depth_node), rviz_node()])
