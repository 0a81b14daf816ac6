"""The node's topics out: made and published only while somebody receives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from depthlm_ros.ros import qos
from depthlm_ros.ros.messages import depth_image, point_cloud, rectified_camera_info
from depthlm_ros.ros.parameters import Parameters
from depthlm_ros.ros.pipeline import (
    CLOUD_FIELDS,
    SPARSE_FIELDS,
    Seen,
    cloud_builder,
    told_grid,
    within_range,
)

DENSE = {"depth/image": Image, "depth/camera_info": CameraInfo, "depth/points": PointCloud2}
SPARSE = {"depth/camera_info": CameraInfo, "depth/sparse": PointCloud2}


class Outlet:
    """The publishers of one mode. tell: takes reason and message of a trouble."""

    def __init__(self, node: LifecycleNode, mode: str, tell: Callable[[str, str], None]) -> None:
        self._publishers: dict[str, LifecyclePublisher] = {
            name: node.create_lifecycle_publisher(
                kind,
                name,
                qos.profile(qos.OFFERED),
                event_callbacks=qos.on_unserved_subscriber(node.resolve_topic_name(name), tell),
                qos_overriding_options=qos.overridable(),
            )
            for name, kind in (DENSE if mode == "dense" else SPARSE).items()
        }
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
        """Publish what somebody receives; all messages carry the image's header."""
        self._send("depth/camera_info", lambda: rectified_camera_info(seen.header, seen.camera))
        if self._wanted("depth/image") or self._wanted("depth/points"):
            self._publish_dense(seen, parameters)
        if self._wanted("depth/sparse"):
            self._publish_sparse(seen, parameters)
        seen.watch.lap("publish")

    def _publish_dense(self, seen: Seen, parameters: Parameters) -> None:
        near, far = parameters.min_depth_m, parameters.max_depth_m
        seen.watch.lap("publish")
        depth_m = seen.view.depth().depth_m
        seen.watch.lap("depth")
        self._send(
            "depth/image",
            lambda: depth_image(seen.header, within_range(depth_m, near, far), parameters.depth_encoding, self._image),
        )
        builder = cloud_builder(seen.camera, parameters.cloud_stride, near, far)
        self._send(
            "depth/points",
            lambda: point_cloud(seen.header, builder.build(depth_m, seen.view.frame.rgb), CLOUD_FIELDS, self._cloud),
        )

    def _publish_sparse(self, seen: Seen, parameters: Parameters) -> None:
        near, far = parameters.min_depth_m, parameters.max_depth_m
        seen.watch.lap("publish")
        rows, columns = parameters.sparse_grid
        points = told_grid(seen, rows, columns, near, far)
        seen.watch.lap("tell")
        self._send("depth/sparse", lambda: point_cloud(seen.header, points, SPARSE_FIELDS))

    def _wanted(self, name: str) -> bool:
        return name in self._publishers and self._publishers[name].get_subscription_count() > 0

    def _send(self, name: str, message: Callable[[], Any]) -> None:
        if self._wanted(name):
            self._publishers[name].publish(message())
