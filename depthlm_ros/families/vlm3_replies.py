"""True answers in VLM3's words, for training.

The formats are those of its published samples. From which component on a direction is named in words, and from which
distance a camera has moved at all, is not published.
"""

from __future__ import annotations

import numpy as np

from depthlm_ros.geometry.rotations import angles_from_rotation, rotation_angle_deg

# A camera that moved less has no direction worth learning.
LEAST_MOVE_M = 0.05
# A component of the unit direction that is larger than this is named in words.
NAMED = 0.3
WORDS = (("right", "left"), ("down", "up"), ("forward", "backward"))


def pose_replies(rotation: np.ndarray, translation_m: np.ndarray) -> dict[str, str]:
    """The answers to the four questions of vlm3_pose about a second camera: rotation (3, 3) turns its vectors into the
    first camera, translation_m (3,) is its centre there. No direction of a camera that hardly moved."""
    yaw, pitch, roll = (round(angle, 1) + 0.0 for angle in angles_from_rotation(rotation))
    distance_m = float(np.linalg.norm(translation_m))
    replies = {
        "rotation": f"Rotation angle: {rotation_angle_deg(rotation):.1f} degrees",
        "orientation": f"Yaw={yaw:+.1f}°, Pitch={pitch:+.1f}°, Roll={roll:+.1f}°",
        "distance": f"Translation distance: {distance_m:.2f} meters",
    }
    if distance_m >= LEAST_MOVE_M:
        direction = translation_m / distance_m
        named = [names[int(value < 0)] for value, names in zip(direction, WORDS, strict=True) if abs(value) > NAMED]
        x, y, z = (round(float(value), 2) + 0.0 for value in direction)
        replies["direction"] = f"The camera moves {', '.join(named)}, unit vector ({x:+.2f}, {y:+.2f}, {z:+.2f})."
    return replies
