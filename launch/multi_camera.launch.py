# SPDX-License-Identifier: Apache-2.0
"""Starts one depth node for each of several cameras, each a process of its own in the camera's namespace.

    ros2 launch depthlm_ros multi_camera.launch.py cameras:=front,rear image_topic:=image_raw mode:=dense

subscribes to /front/image_raw and /rear/image_raw and publishes /front/depth/image and so on. Every argument of
depth.launch.py but `namespace` works here too, for all the cameras.
"""

import re

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

from depthlm_ros.ros.tools.launching import text

NAMESPACE = re.compile(r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*")

ARGUMENTS = [
    DeclareLaunchArgument(
        "cameras", default_value="front,rear", description="Namespaces of the cameras, separated by commas."
    ),
    DeclareLaunchArgument(
        "image_topic", default_value="image_raw", description="Topic of the images, in the namespace of each camera."
    ),
    DeclareLaunchArgument(
        "camera_info_topic",
        default_value="camera_info",
        description="Topic of the calibration (CameraInfo), in the namespace of each camera.",
    ),
    DeclareLaunchArgument(
        "num_threads", default_value="1", description="CPU threads of each node's model; 0: all cores, for every node."
    ),
]


def camera_names(context):
    """Returns the namespaces. Raises RuntimeError if one is no name or is given twice."""
    names = [name.strip() for name in text(context, "cameras").split(",")]
    wrong = [name for name in names if not NAMESPACE.fullmatch(name)]
    if wrong or len({name.strip("/") for name in names}) < len(names):
        raise RuntimeError(
            f"launch argument cameras is {text(context, 'cameras')!r}: give different names of letters, digits and "
            "underscores, separated by commas, such as front,rear."
        )
    return names


def depth_launches(context):
    """Returns depth.launch.py once for each camera; what one of them sets does not reach the next."""
    source = PathJoinSubstitution([FindPackageShare("depthlm_ros"), "launch", "depth.launch.py"])
    return [
        GroupAction(
            [
                IncludeLaunchDescription(
                    PythonLaunchDescriptionSource(source), launch_arguments={"namespace": name}.items()
                )
            ],
            scoped=True,
        )
        for name in camera_names(context)
    ]


def generate_launch_description():
    """Returns the launch description; launch calls this function."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=depth_launches)])
