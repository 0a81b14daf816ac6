# SPDX-License-Identifier: Apache-2.0
"""The node's output topics. A message is made and published only while somebody receives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

import numpy as np
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from depthlm_ros.core import DepthMap, Intrinsics
from depthlm_ros.geometry.voxels import voxel_means
from depthlm_ros.msg import DepthScale
from depthlm_ros.ros import qos
from depthlm_ros.ros.answer_topics import AnswerPublishers
from depthlm_ros.ros.compressed_depth import compressed_depth
from depthlm_ros.ros.frame_processing import (
    CLOUD_FIELDS,
    SPARSE_FIELDS,
    FrameResult,
    cached_cloud_builder,
    sparse_points,
)
from depthlm_ros.ros.message_fields import mark_out_of_range
from depthlm_ros.ros.message_out import depth_image, own_memory, point_cloud, rectified_camera_info, scale_message
from depthlm_ros.ros.parameters import DENSE, QUESTIONS, SPARSE, Parameters
from depthlm_ros.ros.scale_monitor import ScaleReport

Message: TypeAlias = CameraInfo | CompressedImage | Image | PointCloud2

IMAGE, CAMERA_INFO, CLOUD, SPARSE_CLOUD = "depth/image", "depth/camera_info", "depth/points", "depth/sparse"
# image_transport looks for this name below that of the image.
COMPRESSED, STD, SCALE = IMAGE + "/compressedDepth", "depth/std", "depth/scale"
FROM_DEPTH = {IMAGE, COMPRESSED, STD, CLOUD}
TOPICS: dict[str, dict[str, type]] = {
    DENSE: {
        IMAGE: Image,
        COMPRESSED: CompressedImage,
        STD: Image,
        CAMERA_INFO: CameraInfo,
        CLOUD: PointCloud2,
        SCALE: DepthScale,
    },
    SPARSE: {CAMERA_INFO: CameraInfo, SPARSE_CLOUD: PointCloud2},
    QUESTIONS: {},
}


class Publishers:
    """The publishers of one mode. answers: those of answers, in all modes.

    parameters: returns the node's parameters with their present values. report: takes reason and message of a problem.
    Raises SetupError if a publisher cannot be made; none remains then.
    """

    def __init__(self, node: LifecycleNode, parameters: Callable[[], Parameters], report: qos.Report) -> None:
        self._parameters, self._report = parameters, report
        self._publishers: dict[str, LifecyclePublisher] = {}
        self.answers = AnswerPublishers(node, partial(_create_publisher, node, report), report)
        try:
            for name, message_type in TOPICS[parameters().mode].items():
                self._publishers[name] = _create_publisher(node, report, message_type, name)
        except Exception:
            self.destroy(node)
            raise
        # Publishing copies the data, so these large messages can be filled again for every frame.
        self._image, self._cloud = Image(), PointCloud2()
        self._info: tuple[Intrinsics, CameraInfo] | None = None

    def destroy(self, node: LifecycleNode) -> None:
        """Removes the topics."""
        for publisher in self._publishers.values():
            node.destroy_lifecycle_publisher(publisher)
        self._publishers = {}
        self.answers.destroy(node)

    def is_watched(self) -> bool:
        """Whether anybody receives any of the topics, without those of answers, which need no image."""
        return any(publisher.get_subscription_count() for publisher in self._publishers.values())

    def publish(self, result: FrameResult) -> None:
        """Publishes what somebody receives. All messages carry the header of the image.

        All messages are made before the first is sent: sending wakes the receivers, and they would take the processor.
        """
        parameters, header, stopwatch = self._parameters(), result.image.message.header, result.stopwatch
        watched = {name: each for name, each in self._publishers.items() if each.get_subscription_count() > 0}
        messages: dict[str, Message] = {}
        if CAMERA_INFO in watched:
            messages[CAMERA_INFO] = self._info_message(result.view.frame.intrinsics)
            messages[CAMERA_INFO].header = header
        if FROM_DEPTH & watched.keys():
            messages |= self._dense_messages(result, parameters, watched)
        if SPARSE_CLOUD in watched:
            messages[SPARSE_CLOUD] = self._sparse_message(result, parameters)
        stopwatch.lap("messages")
        for name, message in messages.items():
            watched[name].publish(message)
        stopwatch.lap("publish")

    def publish_scale(self, result: FrameResult, report: ScaleReport) -> None:
        """Publishes what is known of the scale of a frame, if somebody receives it."""
        publisher = self._publishers.get(SCALE)
        if publisher and publisher.get_subscription_count() > 0:
            publisher.publish(scale_message(result.image.message.header, report.estimate, report.applied))

    def _dense_messages(
        self, result: FrameResult, parameters: Parameters, watched: Mapping[str, LifecyclePublisher]
    ) -> dict[str, Message]:
        header, frame = result.image.message.header, result.view.frame
        min_m, max_m = parameters.min_depth_m, parameters.max_depth_m
        result.stopwatch.lap("messages")
        depth = result.view.depth(with_std=STD in watched)
        result.stopwatch.lap("depth")
        messages: dict[str, Message] = {}
        if watched.keys() & {IMAGE, COMPRESSED, STD}:
            marked_m = mark_out_of_range(depth.depth_m, min_m, max_m)
        if IMAGE in watched:
            messages[IMAGE] = depth_image(header, marked_m, parameters.depth_encoding, self._image)
        if COMPRESSED in watched:
            settings = parameters.compressed_max_m, parameters.compressed_quantization, parameters.compressed_png_level
            messages[COMPRESSED] = compressed_depth(header, marked_m, parameters.depth_encoding, *settings)
        if STD in watched:
            messages[STD] = depth_image(header, self._std_m(depth, marked_m), "32FC1")
        if CLOUD in watched:
            builder = cached_cloud_builder(frame.intrinsics, parameters.cloud_stride, min_m, max_m)
            if parameters.cloud_voxel_m:
                points = voxel_means(builder.build(depth.depth_m, frame.rgb), parameters.cloud_voxel_m)[None]
            else:
                points = builder.build(depth.depth_m, frame.rgb, own_memory(self._cloud, builder.shape, "<f4"))
            messages[CLOUD] = point_cloud(header, points, CLOUD_FIELDS, self._cloud)
        return messages

    def _info_message(self, camera: Intrinsics) -> CameraInfo:
        """Returns the calibration without its header. It is made once for each camera."""
        if self._info is None or self._info[0] != camera:
            self._info = camera, rectified_camera_info(Header(), camera)
        return self._info[1]

    def _std_m(self, depth: DepthMap, marked_m: np.ndarray) -> np.ndarray:
        """float32 (H, W): standard deviations, NaN where the depth that is published is no number, or all NaN."""
        if depth.std_m is None:
            self._report("no standard deviation", f"{STD} is NaN everywhere: this model does not tell it.")
            return np.full_like(marked_m, np.nan)
        return np.where(np.isfinite(marked_m), depth.std_m, np.float32(np.nan))

    def _sparse_message(self, result: FrameResult, parameters: Parameters) -> PointCloud2:
        rows, columns = parameters.sparse_grid
        result.stopwatch.lap("messages")
        points = sparse_points(result.view, rows, columns, parameters.min_depth_m, parameters.max_depth_m)
        result.stopwatch.lap("tell")
        return point_cloud(result.image.message.header, points, SPARSE_FIELDS)


def _create_publisher(node: LifecycleNode, report: qos.Report, message_type: type, name: str) -> LifecyclePublisher:
    topic = node.resolve_topic_name(name)
    if name == COMPRESSED and topic == node.resolve_topic_name(name, only_expand=True):
        # Not remapped itself: it stays where image_transport looks for it, below the image.
        name = topic = node.resolve_topic_name(IMAGE) + COMPRESSED.removeprefix(IMAGE)
    with qos.explained_overrides(topic, "publisher"):
        return node.create_lifecycle_publisher(
            message_type,
            name,
            qos.profile(qos.OFFERED),
            event_callbacks=qos.publisher_events(topic, report),
            qos_overriding_options=qos.overriding_options(),
        )
