# SPDX-License-Identifier: Apache-2.0
"""Pictures that hold their own depth, and a network that reads it: the model's depth is then exactly known.

The mean of a pixel's three channels is the depth; green differs from it in one way by as much as red and blue together
in the other, so that the picture also shows a texture.
"""

from pathlib import Path

import numpy as np

from depthlm_ros.core import Intrinsics
from support.depth_networks import write_network

MOST_M, TEXTURE = 8.0, 60
LEVELS_PER_M = (255 - 2 * TEXTURE) / MOST_M


def depth_picture(depth_m: np.ndarray, grey: np.ndarray | None = None) -> np.ndarray:
    """Returns uint8 (H, W, 3) that holds a depth up to MOST_M. grey: uint8 (H, W), the texture."""
    thirds = np.rint(3 * (TEXTURE + LEVELS_PER_M * np.clip(depth_m, 0, MOST_M))).astype(int)
    low, rest = np.divmod(thirds, 3)
    texture = (
        np.zeros_like(low) if grey is None else np.clip((grey.astype(int) - 128) // 2, -TEXTURE // 2, TEXTURE // 2)
    )
    red, green, blue = low - texture + (rest > 0), low + 2 * texture + (rest > 1), low - texture
    return np.stack([red, green, blue], axis=-1).clip(0, 255).astype(np.uint8)


def write_reader(folder: Path, camera: Intrinsics, factor: float = 1.0) -> Path:
    """Writes the network that tells `factor` times the depth in such pictures, and returns its folder."""
    fields = {
        "image": {"input": "image", "fit": "squeeze", "size_px": list(camera.size_px)},
        "depth": {"output": "depth", "kind": "metres", "true_at_focal_widths": camera.fx_px / camera.width_px},
    }
    per_level = factor / LEVELS_PER_M  # the network gets levels from 0 to 1
    return write_network(folder, fields, gain=255 * per_level, offset=-per_level * TEXTURE)
