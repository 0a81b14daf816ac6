# SPDX-License-Identifier: Apache-2.0
"""Cameras and pixels: calibration, rectification, the canonical view of a model, rays, point clouds and rotations.

"Where does this pixel land" is answered in two files: pinhole.py (in the image and in space) and canonical_view.py (on
the model's canvas).
"""

__all__ = [
    "calibration_file",
    "camera_model",
    "canonical_view",
    "focal_estimation",
    "pinhole",
    "point_cloud",
    "rectify",
    "resize_rules",
    "rotations",
    "visual_prompt",
]
