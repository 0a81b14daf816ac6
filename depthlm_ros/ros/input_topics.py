# SPDX-License-Identifier: Apache-2.0
"""The names of the topics that the node takes its input from, as the user has remapped them.

Public names: image_topic, compressed_topics, sibling_info_topic, is_remapped.
"""

from __future__ import annotations

from rclpy.node import Node

COMPRESSED_SUFFIX = "/compressed"


def is_remapped(node: Node, name: str) -> bool:
    """Whether the user has given a topic another name. (A rule that maps a name to itself gives none.)"""
    return node.resolve_topic_name(name) != node.resolve_topic_name(name, only_expand=True)


def image_topic(node: Node, is_compressed: bool) -> str:
    """Returns the resolved topic of the images.

    For compressed images it ends with a suffix, as image_transport defines it. Either name may be remapped: `image`, or
    `image/compressed`, as other nodes have it.
    """
    topic = node.resolve_topic_name("image")
    if not is_compressed or topic.endswith(COMPRESSED_SUFFIX):
        return topic
    return compressed_topics(node)[0]


def compressed_topics(node: Node) -> list[str]:
    """Returns where compressed images of the node's camera may be, the most likely topic first."""
    remapped = [node.resolve_topic_name("image" + COMPRESSED_SUFFIX)] if is_remapped(node, "image/compressed") else []
    return [*remapped, node.resolve_topic_name("image") + COMPRESSED_SUFFIX]


def sibling_info_topic(image_topic: str) -> str:
    """Returns the topic on which most drivers publish the calibration: camera_info beside the image."""
    return image_topic.removesuffix(COMPRESSED_SUFFIX).rpartition("/")[0] + "/camera_info"
