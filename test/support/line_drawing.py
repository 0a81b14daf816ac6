# SPDX-License-Identifier: Apache-2.0
"""A drawing of a room from whose lines the focal length can be estimated."""

import cv2
import numpy as np

from depthlm_ros.geometry.rotations import rotation_from_angles

SIZE_PX = (640, 480)


def drawing(focal_px, yaw_deg, pitch_deg, size_px=SIZE_PX):
    """Returns a room of 6 x 4 x 3 m with a grid on its walls, drawn as lines, seen from its middle."""
    turn = rotation_from_angles(yaw_deg, pitch_deg, 3.0)
    half, centre = np.array([3.0, 1.5, 2.0]), (np.array(size_px) - 1) / 2
    rgb = np.full((size_px[1], size_px[0], 3), 200, np.uint8)
    for axis in range(3):
        for a in np.linspace(-1, 1, 5):
            for b in (-1.0, -0.5, 0.5, 1.0):
                across = np.insert(np.array([a, b]), axis, 0.0)
                if np.abs(across).max() < 1:
                    continue  # This line would be inside the room.
                along = np.eye(3)[axis]
                ends = np.stack([across + t * along for t in np.linspace(-1, 1, 400)]) * half
                seen = ends @ turn
                seen = seen[seen[:, 2] > 0.3]
                if len(seen) > 1:
                    points = np.rint((seen[:, :2] / seen[:, 2:] * focal_px + centre) * 16).astype(int)
                    line = points[[0, -1]].tolist()
                    cv2.line(rgb, line[0], line[1], (20, 20, 20), 1, cv2.LINE_AA, 4)
    return rgb
