# SPDX-License-Identifier: Apache-2.0
"""Cameras in scenes: random viewpoints, a smooth path for the demo, lens distortion, and the photograph that a real
camera would take. The pictures themselves come from the renderer.
"""

__all__ = ["camera_path", "lens", "photo", "viewpoints"]
