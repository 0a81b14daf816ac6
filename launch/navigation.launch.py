# SPDX-License-Identifier: Apache-2.0
"""Starts the depth node and makes a laser scan of its depth, for Nav2 and SLAM: an example to copy from.

    ros2 launch depthlm_ros navigation.launch.py image_topic:=/camera/image_raw scan_frame:=camera_link

depthimage_to_laserscan, a standard package, makes the scan. A costmap can also take depth/points itself, as
config/nav2_costmap.yaml shows; then no scan is needed (scan:=false). Every argument of depth.launch.py works here too.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, LogInfo, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from depthlm_ros.ros.tools.launching import BOOLEANS, flag, missing_program, text, value_as

SCANNER = ("depthimage_to_laserscan", "depthimage_to_laserscan_node")

ARGUMENTS = [
    DeclareLaunchArgument(
        "namespace", default_value="", description="Namespace of the nodes and their topics; use one for each camera."
    ),
    DeclareLaunchArgument("scan", default_value="true", choices=BOOLEANS, description="Make the laser scan."),
    DeclareLaunchArgument("scan_topic", default_value="scan", description="Topic of the laser scan."),
    DeclareLaunchArgument(
        "scan_frame",
        default_value="camera_link",
        description="frame_id of the scan: the camera's frame whose x axis points forward, not the optical frame.",
    ),
    DeclareLaunchArgument(
        "scan_height", default_value="10", description="Rows of the depth image, around its middle, that are looked at."
    ),
    DeclareLaunchArgument("range_min_m", default_value="0.3", description="Nearer points are left out, metres."),
    DeclareLaunchArgument("range_max_m", default_value="5.0", description="Farther points are left out, metres."),
    DeclareLaunchArgument(
        "use_sim_time", default_value="false", choices=BOOLEANS, description="Use the time of /clock."
    ),
]


def scanner(context):
    """Returns the node that makes the scan, or a message if its package is missing."""
    missing = missing_program(*SCANNER)
    parameters = {
        "output_frame": text(context, "scan_frame"),
        "scan_height": value_as(int, "scan_height", text(context, "scan_height")),
        "range_min": value_as(float, "range_min_m", text(context, "range_min_m")),
        "range_max": value_as(float, "range_max_m", text(context, "range_max_m")),
        "use_sim_time": flag(context, "use_sim_time"),
    }
    if not flag(context, "scan"):
        return []
    if missing:
        return [LogInfo(msg=missing)]
    package, executable = SCANNER
    node = Node(
        package=package,
        executable=executable,
        name=package,
        namespace=text(context, "namespace"),
        parameters=[parameters],
        remappings=[
            ("depth", "depth/image"),
            ("depth_camera_info", "depth/camera_info"),
            ("scan", text(context, "scan_topic")),
        ],
        output="screen",
    )
    return [node]


def checked(context):
    """Returns nothing: it raises what `scanner` would raise, but before the depth node runs."""
    scanner(context)
    return []


def generate_launch_description():
    """Returns the launch description; launch calls this function."""
    source = PathJoinSubstitution([FindPackageShare("depthlm_ros"), "launch", "depth.launch.py"])
    depth = IncludeLaunchDescription(PythonLaunchDescriptionSource(source))
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=checked), depth, OpaqueFunction(function=scanner)])
