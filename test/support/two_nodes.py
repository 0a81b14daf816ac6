# SPDX-License-Identifier: Apache-2.0
"""Two depth nodes in one process, as a user composes them. Prints several times which of them publish images; a test
runs this script.
"""

import sys
import time
from pathlib import Path

import rclpy
from rclpy.executors import MultiThreadedExecutor
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

# Python puts only the folder of this script on its path, but `support` lies in the folder above.
sys.path.insert(0, str(Path(__file__).parents[1]))

from depthlm_ros.ros.node import DepthNode, start
from depthlm_ros.ros.ros_process import Spinner
from support.ros_rig import CAMERA, colour_image, picture, rectified_camera_info

rclpy.init()
threads = rclpy.Parameter("num_threads", value=1)
nodes = [DepthNode(namespace=name, parameter_overrides=[threads]) for name in ("left", "right")]
rig = rclpy.create_node("rig")
executor = MultiThreadedExecutor(8)
for node in (*nodes, rig):
    executor.add_node(node)
spinner = Spinner(executor, print)
spinner.start()
received = {"left": [], "right": []}
cameras = {}
for name in received:
    rig.create_subscription(Image, name + "/depth/image", received[name].append, 10)
    cameras[name] = [
        rig.create_publisher(kind, name + "/" + topic, 5)
        for kind, topic in ((CameraInfo, "camera_info"), (Image, "image"))
    ]


def print_publishing_nodes(*expected):
    time.sleep(2)  # messages that are already on their way arrive
    for images in received.values():
        images.clear()
    give_up_s = time.monotonic() + 20
    while not all(received[name] for name in expected) and time.monotonic() < give_up_s:
        header = Header(frame_id="camera", stamp=rig.get_clock().now().to_msg())
        for info, image in cameras.values():
            info.publish(rectified_camera_info(header, CAMERA))
            image.publish(colour_image(header, picture()))
        time.sleep(0.1)
    print(*sorted(name for name in received if received[name]), flush=True)


assert all(start(node) for node in nodes)
print_publishing_nodes("left", "right")
nodes[0].trigger_deactivate()
nodes[0].trigger_cleanup()
print_publishing_nodes("right")
nodes[0].trigger_configure()
nodes[0].trigger_activate()
print_publishing_nodes("left", "right")
nodes[1].release()
executor.remove_node(nodes[1])
nodes[1].destroy_node()
print_publishing_nodes("left")
nodes[0].release()
spinner.end()
rclpy.shutdown()
