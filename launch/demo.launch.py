# SPDX-License-Identifier: Apache-2.0
"""Starts a camera made of files, the depth node and RViz: `ros2 launch depthlm_ros demo.launch.py`.

Without `images` the camera moves through a rendered room. Nothing is downloaded. Every argument of depth.launch.py
works here too.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from depthlm_ros.ros.tools.launching import BOOLEANS, LOG_LEVELS, ends_launch, text, value_as

FRAME_ID = "camera_optical_frame"
LENS = ("fx", "fy", "cx", "cy")

ARGUMENTS = [
    DeclareLaunchArgument(
        "images", default_value="", description="Folder of images, or a video. Empty: a camera in a rendered room."
    ),
    DeclareLaunchArgument("fx", default_value="", description="Focal length of `images` along u, pixels."),
    DeclareLaunchArgument("fy", default_value="", description="Focal length of `images` along v, pixels."),
    DeclareLaunchArgument("cx", default_value="", description="Principal point of `images`, u, pixels."),
    DeclareLaunchArgument("cy", default_value="", description="Principal point of `images`, v, pixels."),
    DeclareLaunchArgument("rate", default_value="10", description="Images per second."),
    DeclareLaunchArgument(
        "model", default_value="", description="Model: a name, or a folder. Empty: as in config/depthlm.param.yaml."
    ),
    DeclareLaunchArgument(
        "namespace", default_value="", description="Namespace of the camera, the node and their topics."
    ),
    DeclareLaunchArgument("rviz", default_value="true", choices=BOOLEANS, description="Open RViz if it is installed."),
    DeclareLaunchArgument(
        "on_exit",
        default_value="shutdown",
        choices=["ignore", "shutdown"],
        description="shutdown: the launch ends with the camera or the node, with exit code 1 if that failed.",
    ),
    DeclareLaunchArgument(
        "log_level", default_value="info", choices=LOG_LEVELS, description="Least severe messages to log."
    ),
]


def lens_options(context):
    """Returns the options of the replay camera for the lens that was given."""
    given = {name: text(context, name) for name in LENS}
    for name, value in given.items():
        if value:
            value_as(float, name, value)
    return [word for name, value in given.items() if value for word in (f"--{name}", value)]


def camera(context):
    """Returns the replay camera, with the lens if there are images."""
    images = text(context, "images")
    rate = value_as(float, "rate", text(context, "rate"))
    return Node(
        package="depthlm_ros",
        executable="replay_camera",
        name="replay_camera",
        namespace=text(context, "namespace"),
        arguments=[
            *(["--images", images, *lens_options(context)] if images else []),
            *("--rate", f"{rate:g}"),
            *("--frame-id", FRAME_ID),
        ],
        ros_arguments=["--log-level", text(context, "log_level")],
        on_exit=ends_launch("replay_camera") if text(context, "on_exit") == "shutdown" else None,
        output="screen",
    )


def depth_launch():
    """Returns the depth node and RViz, as depth.launch.py starts them; it reads its arguments from this launch."""
    source = PathJoinSubstitution([FindPackageShare("depthlm_ros"), "launch", "depth.launch.py"])
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(source), launch_arguments={"fixed_frame": FRAME_ID}.items()
    )


def checked(context):
    """Returns nothing: it raises what `camera` would raise, but before the depth node runs."""
    camera(context)
    return []


def generate_launch_description():
    """Returns the launch description; launch calls this function. The arguments of each file are checked before its
    process starts, and those of the camera before the node."""
    return LaunchDescription(
        [
            *ARGUMENTS,
            OpaqueFunction(function=checked),
            depth_launch(),
            OpaqueFunction(function=lambda context: [camera(context)]),
        ]
    )
