"""What a model said becomes the responses of the services. What is not known is NaN there, never a number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, Quaternion, TransformStamped, Vector3

from depthlm_ros.core import Answer, Intrinsics, Matches, Measurement, RelativePose, Status
from depthlm_ros.geometry.rotations import quaternion_xyzw
from depthlm_ros.msg import Measurement as MeasurementMessage
from depthlm_ros.ros.messages import points_from, region_message
from depthlm_ros.srv import MatchPixels, SpatialQuery
from depthlm_ros.srv import RelativePose as PoseService

CODE_OF_STATUS = {
    Status.OK: SpatialQuery.Response.OK,
    Status.NOT_FOUND: SpatialQuery.Response.NOT_FOUND,
    Status.NOT_UNDERSTOOD: SpatialQuery.Response.NOT_UNDERSTOOD,
}
NOWHERE = np.full(3, np.nan)


def forget(response: Any) -> None:
    """NaN in every number of a response: by default they are zero, and a rotation is the identity."""
    if isinstance(response, SpatialQuery.Response):
        response.value = response.std = math.nan
    elif isinstance(response, PoseService.Response):
        response.rotation_angle = response.distance = math.nan
        response.direction = vector(NOWHERE)
        place(response.transform, np.full((3, 3), np.nan), NOWHERE)


def fill_answer(response: SpatialQuery.Response, answer: Answer, camera: Intrinsics) -> None:
    """An answer in words, but for its points and measurements."""
    response.status = int(CODE_OF_STATUS[answer.status])
    response.answer = answer.text
    response.value, response.std, response.unit = float(answer.value), float(answer.std), answer.unit
    response.regions = [region_message(region, camera) for region in answer.regions]
    response.region_labels = [region.label for region in answer.regions]
    if answer.status is Status.NOT_FOUND:
        response.message = "the model does not see what the question is about."
    elif answer.status is Status.NOT_UNDERSTOOD:
        response.message = (
            "the model does not understand the question: put it as in the README, "
            "and name a point or a place by `pixels` or `regions`."
        )


def measurement_message(measurement: Measurement, points_m: np.ndarray) -> MeasurementMessage:
    """points_m: (K, 3), the measurement's points in the frame of the answer."""
    return MeasurementMessage(
        quantity=measurement.quantity,
        value=float(measurement.value),
        unit=measurement.unit,
        std=float(measurement.std),
        about=[int(index) for index in measurement.about],
        points=points_from(points_m),
    )


def fill_matches(response: MatchPixels.Response, matches: Matches) -> None:
    """Pixels found, NaN where not."""
    found = np.isfinite(matches.matched_px).all(axis=1)
    response.pixels = [
        Point(x=float(u), y=float(v)) if is_found else Point(x=math.nan, y=math.nan)
        for (u, v), is_found in zip(matches.matched_px, found, strict=True)
    ]
    response.replies = list(matches.replies)
    response.status = int(MatchPixels.Response.OK if found.any() else MatchPixels.Response.NOT_FOUND)
    if not found.any():
        response.message = "the model finds none of the pixels in the second image; `replies` holds its words."


def fill_pose(response: PoseService.Response, pose: RelativePose, child_frame_id: str) -> None:
    """A pose, NaN where it is unknown; the headers of the two images must be in the response."""
    response.has_rotation = bool(np.isfinite(pose.rotation).all())
    response.has_translation = bool(np.isfinite(pose.translation_m).all())
    response.transform.header.stamp = response.second_header.stamp
    response.transform.header.frame_id = response.first_header.frame_id
    response.transform.child_frame_id = child_frame_id
    place(response.transform, pose.rotation, pose.translation_m)
    response.rotation_angle = math.radians(pose.angle_deg)
    response.direction = vector(pose.direction)
    response.distance = float(pose.distance_m)
    response.reply_names, response.replies = list(pose.replies), list(pose.replies.values())
    known = {
        "rotation": response.has_rotation,
        "translation": response.has_translation,
        "rotation_angle": math.isfinite(pose.angle_deg),
        "direction": bool(np.isfinite(pose.direction).all()),
        "distance": math.isfinite(pose.distance_m),
    }
    response.status = int(PoseService.Response.OK if any(known.values()) else PoseService.Response.NOT_UNDERSTOOD)
    if not all(known.values()):
        unknown = ", ".join(name for name, is_known in known.items() if not is_known)
        response.message = f"the model's words do not tell: {unknown} (or leave it open); `replies` holds them."


def place(transform: TransformStamped, rotation: np.ndarray, translation_m: np.ndarray) -> None:
    """Sets rotation (3, 3) and translation (3,); all of one is NaN if any of it is."""
    is_known = np.isfinite(rotation).all()
    x, y, z, w = quaternion_xyzw(rotation) if is_known else np.full(4, np.nan)
    transform.transform.rotation = Quaternion(x=float(x), y=float(y), z=float(z), w=float(w))
    transform.transform.translation = vector(translation_m)


def vector(xyz: np.ndarray) -> Vector3:
    """geometry_msgs/Vector3 of (3,); NaN throughout if any of it is not finite."""
    x, y, z = xyz if np.isfinite(xyz).all() else NOWHERE
    return Vector3(x=float(x), y=float(y), z=float(z))
