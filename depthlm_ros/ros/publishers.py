"""The node's topics out: made and published only while somebody receives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from depthlm_ros.ros import qos
from depthlm_ros.ros.frame_processing import CLOUD_FIELDS, SPARSE_FIELDS, Seen, cloud_builder, told_grid, within_range
from depthlm_ros.ros.message_out import depth_image, point_cloud, rectified_camera_info
from depthlm_ros.ros.parameters import DENSE, QUESTIONS, SPARSE, Parameters

TOPICS: dict[str, dict[str, type]] = {
    DENSE: {"depth/image": Image, "depth/camera_info": CameraInfo, "depth/points": PointCloud2},
    SPARSE: {"depth/camera_info": CameraInfo, "depth/sparse": PointCloud2},
    QUESTIONS: {},
}


class Outlet:
    """The publishers of one mode. tell: takes reason and message of a trouble. Raises SetupError."""

    def __init__(self, node: LifecycleNode, mode: str, tell: Callable[[str, str], None]) -> None:
        self._publishers: dict[str, LifecyclePublisher] = {}
        try:
            for name, kind in TOPICS[mode].items():
                self._publishers[name] = _offer(node, kind, name, tell)
        except Exception:
            self.destroy(node)
            raise
        # Publishing copies, so the large messages are filled anew for every frame.
        self._image, self._cloud = Image(), PointCloud2()

    def destroy(self, node: LifecycleNode) -> None:
        """Take the topics away."""
        for publisher in self._publishers.values():
            node.destroy_lifecycle_publisher(publisher)
        self._publishers = {}

    def is_watched(self) -> bool:
        """Whether anybody receives any of the topics."""
        return any(publisher.get_subscription_count() for publisher in self._publishers.values())

    def publish(self, seen: Seen, parameters: Parameters) -> None:
        """Publish what somebody receives; all messages carry the image's header.

        All are made before the first is sent: sending wakes the receivers, who would take the processor in between.
        """
        messages: dict[str, Any] = {}
        if self._wanted("depth/camera_info"):
            messages["depth/camera_info"] = rectified_camera_info(seen.header, seen.camera)
        if self._wanted("depth/image") or self._wanted("depth/points"):
            messages |= self._dense(seen, parameters)
        if self._wanted("depth/sparse"):
            messages["depth/sparse"] = self._sparse(seen, parameters)
        seen.watch.lap("messages")
        for name, message in messages.items():
            self._publishers[name].publish(message)
        seen.watch.lap("publish")

    def _dense(self, seen: Seen, parameters: Parameters) -> dict[str, Any]:
        near, far = parameters.min_depth_m, parameters.max_depth_m
        seen.watch.lap("messages")
        depth_m = seen.view.depth().depth_m
        seen.watch.lap("depth")
        messages: dict[str, Any] = {}
        if self._wanted("depth/image"):
            ranged_m = within_range(depth_m, near, far)
            messages["depth/image"] = depth_image(seen.header, ranged_m, parameters.depth_encoding, self._image)
        if self._wanted("depth/points"):
            builder = cloud_builder(seen.camera, parameters.cloud_stride, near, far)
            points = builder.build(depth_m, seen.view.frame.rgb)
            messages["depth/points"] = point_cloud(seen.header, points, CLOUD_FIELDS, self._cloud)
        return messages

    def _sparse(self, seen: Seen, parameters: Parameters) -> PointCloud2:
        rows, columns = parameters.sparse_grid
        seen.watch.lap("messages")
        points = told_grid(seen, rows, columns, parameters.min_depth_m, parameters.max_depth_m)
        seen.watch.lap("tell")
        return point_cloud(seen.header, points, SPARSE_FIELDS)

    def _wanted(self, name: str) -> bool:
        return name in self._publishers and self._publishers[name].get_subscription_count() > 0


def _offer(node: LifecycleNode, kind: type, name: str, tell: Callable[[str, str], None]) -> LifecyclePublisher:
    topic = node.resolve_topic_name(name)
    with qos.named_overrides(topic, "publisher"):
        return node.create_lifecycle_publisher(
            kind,
            name,
            qos.profile(qos.OFFERED),
            event_callbacks=qos.on_unserved_subscriber(topic, tell),
            qos_overriding_options=qos.overridable(),
        )
