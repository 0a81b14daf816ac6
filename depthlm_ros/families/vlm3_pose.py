"""VLM3-pose: four questions about two images, whose answers give the pose of the second camera.

Answers read as "Rotation angle: 89.7 degrees", "Yaw=+89.6°, Pitch=+2.6°, Roll=+6.1°", "The camera moves left, forward,
unit vector (-0.69, +0.02, +0.72)." and "Translation distance: 1.98 meters".
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np

from depthlm_ros.core import RelativePose
from depthlm_ros.families.base import Family, Prompt
from depthlm_ros.families.numbers import SIGNED, signed, stated, tuples_in
from depthlm_ros.families.text import without_thinking
from depthlm_ros.geometry.rotations import rotation_from_angles, unit

QUESTIONS = {
    "rotation": (
        "Given these two images captured from different viewpoints, what is the relative rotation angle (in degrees) "
        "between the two camera poses?"
    ),
    "orientation": (
        "Treating the first image as the reference viewpoint, describe the camera's reorientation needed to reach the "
        "second image's viewpoint as yaw, pitch and roll about the first camera's local axes, applied intrinsically in "
        "the order yaw -> pitch -> roll.  Conventions: yaw is rotation about the vertical (down) axis, positive = turn "
        "right; pitch is about the lateral (right) axis after yaw, positive = look up; roll is about the optical "
        "(forward) axis after yaw and pitch, positive = bank to the right (image content rotates clockwise from the "
        "operator's POV)."
    ),
    "direction": (
        "Where did the camera move, expressed in the first camera's local frame (X right, Y down, Z forward)?  Give a "
        "qualitative direction and the precise unit direction vector (x, y, z)."
    ),
    "distance": "Estimate the magnitude of the camera translation between the two viewpoints.",
}
REPLY_TOKENS = 512

_ANGLES = tuple(
    re.compile(rf"\b{name}\s*(?:=\s*)?({SIGNED})(?!,[0-9])", re.IGNORECASE) for name in ("yaw", "pitch", "roll")
)


class Vlm3Pose(Family):
    """facebook/VLM3-pose."""

    name = "vlm3-pose"
    abilities = frozenset({"pose"})

    def pose_prompts(self) -> dict[str, Prompt]:
        return {name: Prompt(question, max_new_tokens=REPLY_TOKENS) for name, question in QUESTIONS.items()}

    def read_pose(self, replies: Mapping[str, str]) -> RelativePose:
        said = {name: without_thinking(replies.get(name, "")) for name in QUESTIONS}
        direction, distance_m = read_direction(said["direction"]), stated(said["distance"], ("m",))[0]
        return RelativePose(
            rotation=read_rotation(said["orientation"]),
            translation_m=distance_m * direction,
            angle_deg=read_angle(said["rotation"]),
            direction=direction,
            distance_m=distance_m,
            replies=dict(replies),
        )


def read_angle(reply: str) -> float:
    """Degrees in [0, 180]; NaN if the reply does not state them."""
    angle_deg, _ = stated(reply, ("deg",))
    return angle_deg if angle_deg <= 180.0 else math.nan


def read_rotation(reply: str) -> np.ndarray:
    """float64 (3, 3) from yaw, pitch and roll; NaN if one of them is missing or more than a turn."""
    found = [pattern.search(reply) for pattern in _ANGLES]
    angles = [signed(match[1]) for match in found if match is not None]
    if len(angles) < 3 or not all(abs(angle) <= 360.0 for angle in angles):
        return np.full((3, 3), np.nan)
    return rotation_from_angles(*angles)


def read_direction(reply: str) -> np.ndarray:
    """float64 (3,), unit; NaN without a vector, or with one of length zero."""
    vectors = [found for found in tuples_in(reply) if len(found) == 3]
    return unit(np.array(vectors[0])) if vectors else np.full(3, np.nan)
