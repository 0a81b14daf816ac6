# SPDX-License-Identifier: Apache-2.0
"""Makes messages: depth images, calibrations, clouds, and the responses of the services.

Byte fields are copied from buffer to buffer, because assigning bytes or an ndarray to `.data` costs a Python object per
byte. A message that was published may be filled again, because fresh memory for megabytes costs more than writing them.
Numbers are cast to Python's own types, because rclpy does not check them and numpy scalars arrive as garbage.

In responses an unknown number is NaN.
"""

from __future__ import annotations

import array
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Quaternion, TransformStamped, Vector3
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField, RegionOfInterest
from std_msgs.msg import Header

from depthlm_ros.action import AskSpatial
from depthlm_ros.core import Answer, Frame, Intrinsics, Matches, Measurement, Region, RelativePose, Status
from depthlm_ros.geometry.rotations import quaternion_xyzw
from depthlm_ros.measurement.scale import ScaleEstimate
from depthlm_ros.msg import DepthScale
from depthlm_ros.msg import Measurement as MeasurementMessage
from depthlm_ros.ros.camera_info_sync import NS_PER_S
from depthlm_ros.ros.message_fields import set_cloud, set_depth_image, set_rectified_camera
from depthlm_ros.srv import MatchPixels, SpatialQuery
from depthlm_ros.srv import RelativePose as RelativePoseService

SpatialResponse: TypeAlias = SpatialQuery.Response | AskSpatial.Result
_STATUS_CODES = {
    Status.OK: SpatialQuery.Response.OK,
    Status.NOT_FOUND: SpatialQuery.Response.NOT_FOUND,
    Status.NOT_UNDERSTOOD: SpatialQuery.Response.NOT_UNDERSTOOD,
    Status.INCONSISTENT: SpatialQuery.Response.INCONSISTENT,
}
_UNKNOWN_VECTOR, _UNKNOWN_ROTATION = np.full(3, np.nan), np.full((3, 3), np.nan)


def header_of(frame: Frame) -> Header:
    """Returns the header of the image that a frame was made from."""
    sec, nanosec = divmod(frame.stamp_ns, NS_PER_S)
    return Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id=frame.frame_id)


def depth_image(header: Header, depth_m: np.ndarray, encoding: str, message: Image | None = None) -> Image:
    """Returns a depth image from float32 (H, W) metres; see set_depth_image. message: one to be filled again."""
    message = message or Image()
    _fill(message, set_depth_image(message, header, depth_m, encoding))
    return message


def colour_image(header: Header, rgb: np.ndarray) -> Image:
    """Returns an rgb8 image from uint8 (H, W, 3), red first."""
    message = Image(header=header, encoding="rgb8")
    message.height, message.width = rgb.shape[:2]
    message.step = 3 * message.width
    _fill(message, rgb)
    return message


def rectified_camera_info(header: Header, camera: Intrinsics) -> CameraInfo:
    """Returns the calibration of a rectified image: no distortion, R is the identity, K and P agree, no binning."""
    message = CameraInfo(d=[0.0] * 5)
    set_rectified_camera(message, header, camera)
    return message


def point_cloud(
    header: Header, points: np.ndarray, fields: Sequence[str], message: PointCloud2 | None = None
) -> PointCloud2:
    """Returns a cloud from float32 (H, W, len(fields)), one value per field; unknown points are NaN.

    A cloud of one row is unorganised: all of its points must be known. message: one to be filled again.
    """
    message = message or PointCloud2()
    set_cloud(message, header, points, fields, PointField)
    _fill(message, points)
    return message


def own_memory(message: Image | PointCloud2, shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray:
    """Returns a message's own data as an array to write to, with the old content. Other sizes get new memory."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if len(message.data) != size:
        message.data = array.array("B", bytes(size))
    return np.frombuffer(message.data, dtype).reshape(shape)


def _fill(message: Image | PointCloud2, values: np.ndarray) -> None:
    """Copies the values into the message, unless they were written there (own_memory)."""
    memory = own_memory(message, values.shape, values.dtype)
    if values.ctypes.data != memory.ctypes.data:
        memory[...] = values


def points_from(points_m: np.ndarray) -> list[Point]:
    """Returns a geometry_msgs/Point for each row of (N, 3)."""
    return [Point(x=float(x), y=float(y), z=float(z)) for x, y, z in points_m]


def pixels_from(points: Sequence[Point]) -> np.ndarray:
    """float64 (N, 2): u = x and v = y of the points of a request."""
    return np.array([(point.x, point.y) for point in points], np.float64).reshape(-1, 2)


def regions_from(messages: Sequence[RegionOfInterest]) -> tuple[Region, ...]:
    """Returns the regions of a request."""
    return tuple(Region(float(m.x_offset), float(m.y_offset), float(m.width), float(m.height)) for m in messages)


def region_message(region: Region, camera: Intrinsics) -> RegionOfInterest:
    """Returns the smallest box of whole pixels around a region, cut to the image."""
    left, top = max(0, math.floor(region.x_px)), max(0, math.floor(region.y_px))
    right = min(camera.width_px, math.ceil(region.x_px + region.width_px))
    bottom = min(camera.height_px, math.ceil(region.y_px + region.height_px))
    return RegionOfInterest(x_offset=left, y_offset=top, width=max(0, right - left), height=max(0, bottom - top))


def measurement_message(measurement: Measurement, points_m: np.ndarray) -> MeasurementMessage:
    """Returns a measurement as a message. points_m: (K, 3), its points in the frame of the answer."""
    return MeasurementMessage(
        quantity=measurement.quantity,
        value=float(measurement.value),
        unit=measurement.unit,
        std=float(measurement.std),
        about=[int(index) for index in measurement.about],
        points=points_from(points_m),
    )


def scale_message(header: Header, estimate: ScaleEstimate, applied: float) -> DepthScale:
    """Returns what is known of the scale. applied: what the depth of this image was multiplied by."""
    return DepthScale(
        header=header,
        ratio=float(estimate.ratio),
        std=float(estimate.std),
        samples=estimate.count,
        sources=list(estimate.samples),
        source_samples=list(estimate.samples.values()),
        applied=float(applied),
    )


def clear_numbers(response: object) -> None:
    """Sets every number of a response to NaN: by default numbers are zero, and a rotation is the identity."""
    if isinstance(response, SpatialQuery.Response | AskSpatial.Result):
        response.value = response.std = math.nan
    elif isinstance(response, RelativePoseService.Response):
        response.rotation_angle = response.distance = math.nan
        response.direction = vector(_UNKNOWN_VECTOR)
        set_transform(response.transform, _UNKNOWN_ROTATION, _UNKNOWN_VECTOR)


def fill_answer(response: SpatialResponse, answer: Answer, points_m: Sequence[np.ndarray], camera: Intrinsics) -> None:
    """Fills in an answer in words. points_m: (N, 3) of the answer, then of each measurement, in response.header."""
    response.status = int(_STATUS_CODES[answer.status])
    response.answer = answer.text
    response.value, response.std, response.unit = float(answer.value), float(answer.std), answer.unit
    response.points = points_from(points_m[0])
    response.regions = [region_message(region, camera) for region in answer.regions]
    response.region_labels = [region.label for region in answer.regions]
    response.measurements = [
        measurement_message(measurement, measured_m)
        for measurement, measured_m in zip(answer.measurements, points_m[1:], strict=True)
    ]
    if answer.status is Status.NOT_FOUND:
        response.message = "the model does not see what the question is about."
    elif answer.status is Status.NOT_UNDERSTOOD:
        response.message = (
            "the model does not understand the question: word it as in the README, "
            "and name a point or a place by `pixels` or `regions`."
        )
    elif answer.status is Status.INCONSISTENT:
        response.message = (
            "the model's words and the depth map contradict each other: `value` is the measured number, `answer` has "
            "both; ask again with a fresh image, or measure in another way."
        )


def fill_matches(response: MatchPixels.Response, matches: Matches) -> None:
    """Fills in the pixels that were found; NaN for the others."""
    is_found = np.isfinite(matches.matched_px).all(axis=1)
    response.pixels = [
        Point(x=float(u), y=float(v)) if found else Point(x=math.nan, y=math.nan)
        for (u, v), found in zip(matches.matched_px, is_found, strict=True)
    ]
    response.replies = list(matches.replies)
    response.status = int(MatchPixels.Response.OK if is_found.any() else MatchPixels.Response.NOT_FOUND)
    if not is_found.any():
        words = "; `replies` holds its words" if any(matches.replies) else ""
        response.message = f"the model finds none of the pixels in the second image{words}."


def fill_pose(response: RelativePoseService.Response, pose: RelativePose, child_frame_id: str) -> None:
    """Fills in a pose, NaN where it is unknown. The response must hold the headers of the two images already."""
    response.has_rotation = bool(np.isfinite(pose.rotation).all())
    response.has_translation = bool(np.isfinite(pose.translation_m).all())
    response.transform.header.stamp = response.second_header.stamp
    response.transform.header.frame_id = response.first_header.frame_id
    response.transform.child_frame_id = child_frame_id
    set_transform(response.transform, pose.rotation, pose.translation_m)
    response.rotation_angle = math.radians(pose.angle_deg)
    response.direction = vector(pose.direction)
    response.distance = float(pose.distance_m)
    response.reply_names, response.replies = list(pose.replies), list(pose.replies.values())
    is_known = {
        "rotation": response.has_rotation,
        "translation": response.has_translation,
        "direction": bool(np.isfinite(pose.direction).all()),
        "distance": math.isfinite(pose.distance_m),
    }
    if pose.replies:
        # A measured pose states no angle beside its rotation.
        is_known["rotation_angle"] = math.isfinite(pose.angle_deg)
    codes = RelativePoseService.Response
    response.status = int(codes.OK if any(is_known.values()) else codes.NOT_UNDERSTOOD)
    if not all(is_known.values()):
        unknown = ", ".join(name for name, known in is_known.items() if not known)
        response.message = (
            f"the model's words do not tell: {unknown} (or leave it open); `replies` holds them."
            if pose.replies
            else f"the images do not tell: {unknown}. Take images that show the same things."
        )


def set_transform(transform: TransformStamped, rotation: np.ndarray, translation_m: np.ndarray) -> None:
    """Sets rotation (3, 3) and translation (3,). If any number of one is unknown, all of its numbers are NaN."""
    is_known = np.isfinite(rotation).all()
    x, y, z, w = quaternion_xyzw(rotation) if is_known else np.full(4, np.nan)
    transform.transform.rotation = Quaternion(x=float(x), y=float(y), z=float(z), w=float(w))
    transform.transform.translation = vector(translation_m)


def vector(xyz: np.ndarray) -> Vector3:
    """Returns geometry_msgs/Vector3 of (3,); all of its numbers are NaN if any of them is not finite."""
    x, y, z = xyz if np.isfinite(xyz).all() else _UNKNOWN_VECTOR
    return Vector3(x=float(x), y=float(y), z=float(z))
