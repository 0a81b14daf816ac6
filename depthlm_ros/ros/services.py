"""The node's services. They live as long as the node, and say so while it is not active."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile

from depthlm_ros.ros.asking import Site, refuse
from depthlm_ros.ros.pair_questions import answer_match, answer_pose
from depthlm_ros.ros.questions import answer_depth, answer_spatial
from depthlm_ros.srv import MatchPixels, QueryDepth, RelativePose, SpatialQuery

# A request that does not fit into the queue is never answered, not even BUSY: keep many.
REQUESTS_KEPT = 100


def serve(node: Node, site: Callable[[], Site | None]) -> None:
    """Offer the services. site: None while the node is not active."""
    one, two = ReentrantCallbackGroup(), ReentrantCallbackGroup()
    for kind, name, answer, group in (
        (SpatialQuery, "spatial_query", answer_spatial, one),
        (QueryDepth, "query_depth", answer_depth, one),
        (MatchPixels, "match_pixels", answer_match, two),
        (RelativePose, "relative_pose", answer_pose, two),
    ):
        callback = partial(_answer, node, site, answer)
        node.create_service(kind, name, callback, qos_profile=QoSProfile(depth=REQUESTS_KEPT), callback_group=group)


def _answer(node: Node, site: Callable[[], Site | None], answer: Callable, request: Any, response: Any) -> Any:
    active = site()
    if active:
        return answer(active, request, response)
    name = node.get_fully_qualified_name()
    # With autostart it is so for a moment only.
    wait_or = f"wait if it has just been started, else `ros2 lifecycle set {name} activate`"
    return refuse(response, f"the node is not active: {wait_or}.")
