# SPDX-License-Identifier: Apache-2.0
"""Recorded bags without a running graph: reads rosbag2 (mcap, sqlite3) and ROS 1 bags, and writes depth and answers.

`bag_images.list_images` finds the images and their cameras, `frame_messages.FrameLabeller` makes the messages of one
image, `write_bag.write_bag` writes them as an mcap bag. Files are read message by message, so that a damaged bag loses
only what is damaged. The library rosbags knows the message types and writes the bag; rclpy is not needed.
"""

__all__ = ["bag_images", "frame_messages", "write_bag"]
