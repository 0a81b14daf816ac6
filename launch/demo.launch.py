"""Starts a camera made of files, the depth node and RViz: `ros2 launch depthlm_ros demo.launch.py`.

Without `images` the camera moves through a rendered room. Nothing is downloaded.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

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
    DeclareLaunchArgument("rviz", default_value="true", choices=["true", "false"], description="Open RViz."),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        description="Least severe messages to log: debug, info, warn, error or fatal.",
    ),
]


def camera(context):
    """Returns the replay camera, with the lens if there are images."""
    images = LaunchConfiguration("images").perform(context)
    lens = {name: LaunchConfiguration(name).perform(context) for name in LENS}
    given = [word for name, value in lens.items() if value for word in (f"--{name}", value)]
    node = Node(
        package="depthlm_ros",
        executable="replay_camera",
        name="replay_camera",
        namespace=LaunchConfiguration("namespace"),
        arguments=[
            *(["--images", images, *given] if images else []),
            *("--rate", LaunchConfiguration("rate")),
            *("--frame-id", FRAME_ID),
        ],
        ros_arguments=["--log-level", LaunchConfiguration("log_level")],
        output="screen",
    )
    return [node]


def depth_launch():
    """Returns the depth node and RViz, as depth.launch.py starts them."""
    passed_on = ("model", "namespace", "rviz", "log_level")
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(
            PathJoinSubstitution([FindPackageShare("depthlm_ros"), "launch", "depth.launch.py"])
        ),
        launch_arguments={
            "fixed_frame": FRAME_ID,
            **{name: LaunchConfiguration(name) for name in passed_on},
        }.items(),
    )


def generate_launch_description():
    """Returns the launch description; launch calls this function."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=camera), depth_launch()])
