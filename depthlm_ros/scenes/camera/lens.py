"""A lens that rectification did not straighten wholly: where its pixels look in the camera without it.

The rays are bent, not the picture: colour, depth and object ids of a pixel agree, whatever the lens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from depthlm_ros.core import Intrinsics
from depthlm_ros.scenes.renderer.jit import JIT, cached


@dataclass(frozen=True)
class Lens:
    """Numbers of Brown's model (Close-range camera calibration, 1971), which leads from the pixel that shows a point
    to where a camera without lens would show it: k1, k2 along the radius, p1, p2 for elements out of centre, in units
    of the focal length. dx_px, dy_px: how far the true principal point is from where the camera's calibration says."""

    k1: float = 0.0
    k2: float = 0.0
    p1: float = 0.0
    p2: float = 0.0
    dx_px: float = 0.0
    dy_px: float = 0.0

    def vector(self) -> np.ndarray:
        """float64 (6,), as the kernels read it."""
        return np.array([self.k1, self.k2, self.p1, self.p2, self.dx_px, self.dy_px])


@njit(forceinline=True, **JIT)
def straight_px(lens, cam, u, v):
    """Where the camera without lens shows what pixel (u, v) shows. cam: fx, fy, cx, cy, pixels; lens: Lens.vector."""
    x, y = (u - lens[4] - cam[2]) / cam[0], (v - lens[5] - cam[3]) / cam[1]
    r2 = x * x + y * y
    gain = 1.0 + r2 * (lens[0] + r2 * lens[1])
    a = x * gain + lens[2] * (r2 + 2.0 * x * x) + 2.0 * lens[3] * x * y
    b = y * gain + lens[3] * (r2 + 2.0 * y * y) + 2.0 * lens[2] * x * y
    return a * cam[0] + cam[2], b * cam[1] + cam[3]


@cached
def bent_lattice(lens, cam, offset, height, width):
    """float64 (h, w, 2): straight_px of each ray; ray (i, j) leaves the lens at pixel (i, j) + offset."""
    bent = np.empty((height, width, 2))
    for j in range(height):
        for i in range(width):
            bent[j, i, 0], bent[j, i, 1] = straight_px(lens, cam, i + offset, j + offset)
    return bent


def sample_lens(rng: np.random.Generator, intrinsics: Intrinsics) -> Lens:
    """What a calibration leaves over: near the picture's corner about 0.5 % of the way there (standard deviation), and
    a principal point 0.4 % of the width off, never more than 1 %."""
    reach2 = ((intrinsics.width_px / intrinsics.fx_px) ** 2 + (intrinsics.height_px / intrinsics.fy_px) ** 2) / 4
    k1, k2 = rng.normal(0, 0.005) / reach2, rng.normal(0, 0.002) / reach2**2
    p1, p2 = rng.normal(0, 0.001, 2) / reach2**0.5
    dx_px, dy_px = np.clip(rng.normal(0, 0.004, 2), -0.01, 0.01) * intrinsics.width_px
    return Lens(float(k1), float(k2), float(p1), float(p2), float(dx_px), float(dy_px))
