# SPDX-License-Identifier: Apache-2.0
"""Makes the messages that show an answer to other programs: markers for RViz, detections, and a picture.

Each thing that the answer is about (its regions, else the question's pixels) is shown by the points that were measured
on it in the depth map. A thing of unknown depth is not shown in 3-D.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Pose, PoseWithCovariance, Vector3
from sensor_msgs.msg import Image
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from depthlm_ros.core import Answer, Frame, Question, Status
from depthlm_ros.ros.message_out import colour_image
from depthlm_ros.visualization import answer_picture

if TYPE_CHECKING:
    from vision_msgs.msg import Detection3D, Detection3DArray

# An answer is about one moment: after this it disappears, if the next one has not replaced it.
LIFETIME_S = 30
NAMESPACE = "answer"
POINT_DIAMETER_M, LEAST_SIDE_M, TEXT_HEIGHT_M = 0.05, 0.01, 0.08
# An answer without any place in space stands here, before the camera.
AHEAD_M = (0.0, 0.0, 1.0)
MOST_TEXT_CHARS = 300
COLOURS = {Status.OK: (0.2, 0.8, 0.3), Status.INCONSISTENT: (1.0, 0.6, 0.1)}
OTHER_COLOUR = (0.6, 0.6, 0.6)


@dataclass(frozen=True)
class ShownAnswer:
    """An answer and what it was given for.

    camera_header: that of the image. header: with the frame of the answer's points. measured_m: the points (K, 3) of
    each of the answer's measurements, in that frame.
    """

    question: Question
    answer: Answer
    frame: Frame
    camera_header: Header
    header: Header
    measured_m: Sequence[np.ndarray]


@dataclass(frozen=True)
class Thing:
    """A thing with a known place, in the frame of the answer: the box around the points that were measured on it.

    low_m, high_m: (3,), its least and greatest coordinates; equal for a single point. distance_std_m: standard
    deviation of its distance from the camera, NaN if unknown.
    """

    label: str
    low_m: np.ndarray
    high_m: np.ndarray
    distance_std_m: float

    @property
    def centre_m(self) -> np.ndarray:
        """(3,), the middle of the box."""
        return (self.low_m + self.high_m) / 2

    @property
    def size_m(self) -> np.ndarray:
        """(3,), the sides of the box along the axes of the frame."""
        return self.high_m - self.low_m


def things_of(shown: ShownAnswer) -> list[Thing]:
    """Returns the things with a known place, in the order of the regions and pixels."""
    answer = shown.answer
    labels = [*(region.label for region in answer.regions), *("" for _ in shown.question.uv_px)]
    measured = list(zip(answer.measurements, shown.measured_m, strict=True))
    things = []
    for index, label in enumerate(labels):
        own = [(measurement, points_m) for measurement, points_m in measured if measurement.about == (index,)]
        points_m = np.concatenate([np.zeros((0, 3)), *(points_m for _, points_m in own)])
        points_m = points_m[np.isfinite(points_m).all(axis=1)]
        if len(points_m):
            stds_m = [measurement.std for measurement, _ in own if measurement.quantity == "distance"]
            things.append(Thing(label, points_m.min(0), points_m.max(0), stds_m[0] if stds_m else math.nan))
    return things


def markers(shown: ShownAnswer) -> MarkerArray:
    """Returns a box for each thing of some size, a sphere for each point, and the words above the first of them.

    The first marker removes those of the answer before. An answer without any place has its words ahead of the camera.
    """
    things = things_of(shown)
    text = shown.answer.text[:MOST_TEXT_CHARS]
    made = [Marker(header=shown.header, action=Marker.DELETEALL)]
    if not things:
        made.append(_text(shown, shown.camera_header, AHEAD_M, text))
    for number, thing in enumerate(things):
        made.append(_body(shown, thing))
        words = "\n".join(filter(None, (thing.label, text if number == 0 else "")))
        if words:
            made.append(_text(shown, shown.header, _above(shown, thing), words))
    for number, marker in enumerate(made):
        marker.ns, marker.id = NAMESPACE, number
    return MarkerArray(markers=made)


def detections(shown: ShownAnswer) -> Detection3DArray:
    """Returns a detection for each thing with a known place. vision_msgs must be installed."""
    from vision_msgs.msg import Detection3DArray

    found = [_detection(shown, thing) for thing in things_of(shown)]
    return Detection3DArray(header=shown.header, detections=found)


def picture(shown: ShownAnswer) -> Image:
    """Returns the picture with the regions, the pixels of the question, and the words below it."""
    question, answer = shown.question, shown.answer
    boxes_px = [(each.label, (each.x_px, each.y_px, each.width_px, each.height_px)) for each in answer.regions]
    drawn = answer_picture(shown.frame.rgb, boxes_px, question.uv_px, (question.text, answer.text))
    return colour_image(shown.camera_header, drawn)


def _detection(shown: ShownAnswer, thing: Thing) -> Detection3D:
    """Returns a thing as a detection, class_id its name in the model's words (may be empty), with the confidence.

    The covariance of the position has the variance of the distance along each axis: it lies along the line of sight,
    and no other error is larger. The box has the axes of the frame, so that its orientation has no error.
    """
    from vision_msgs.msg import BoundingBox3D, Detection3D, ObjectHypothesis, ObjectHypothesisWithPose

    pose, covariance = _pose(thing.centre_m), np.zeros((6, 6))
    covariance[:3, :3] = np.diag([thing.distance_std_m**2] * 3)
    hypothesis = ObjectHypothesisWithPose(
        hypothesis=ObjectHypothesis(class_id=thing.label, score=float(shown.answer.confidence)),
        pose=PoseWithCovariance(pose=pose, covariance=covariance.ravel()),
    )
    box = BoundingBox3D(center=pose, size=_vector(thing.size_m))
    return Detection3D(header=shown.header, results=[hypothesis], bbox=box)


def _body(shown: ShownAnswer, thing: Thing) -> Marker:
    if thing.size_m.max() > LEAST_SIDE_M:
        kind, alpha, size_m = Marker.CUBE, 0.4, np.maximum(thing.size_m, LEAST_SIDE_M)
    else:
        kind, alpha, size_m = Marker.SPHERE, 0.9, np.full(3, POINT_DIAMETER_M)
    marker = _marker(shown, shown.header, kind, thing.centre_m, alpha)
    marker.scale = _vector(size_m)
    return marker


def _text(shown: ShownAnswer, header: Header, at_m: Sequence[float], text: str) -> Marker:
    marker = _marker(shown, header, Marker.TEXT_VIEW_FACING, at_m, 1.0)
    marker.scale.z, marker.text = TEXT_HEIGHT_M, text
    return marker


def _marker(shown: ShownAnswer, header: Header, kind: int, at_m: Sequence[float], alpha: float) -> Marker:
    red, green, blue = COLOURS.get(shown.answer.status, OTHER_COLOUR)
    return Marker(
        header=header,
        type=kind,
        action=Marker.ADD,
        pose=_pose(at_m),
        color=ColorRGBA(r=red, g=green, b=blue, a=alpha),
        lifetime=Duration(sec=LIFETIME_S),
    )


def _above(shown: ShownAnswer, thing: Thing) -> np.ndarray:
    """Returns the place of a thing's words: above it in an optical frame (y down), else in a frame with z up."""
    above_m = thing.centre_m.copy()
    if shown.header.frame_id == shown.camera_header.frame_id:
        above_m[1] = thing.low_m[1] - TEXT_HEIGHT_M
    else:
        above_m[2] = thing.high_m[2] + TEXT_HEIGHT_M
    return above_m


def _pose(at_m: Sequence[float]) -> Pose:
    x, y, z = map(float, at_m)
    return Pose(position=Point(x=x, y=y, z=z))


def _vector(xyz_m: Sequence[float]) -> Vector3:
    x, y, z = map(float, xyz_m)
    return Vector3(x=x, y=y, z=z)
