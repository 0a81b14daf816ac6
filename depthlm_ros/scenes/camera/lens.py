# SPDX-License-Identifier: Apache-2.0
"""Lens distortion that remains after rectification.

`LensDistortion` holds its parameters and `sample_lens` draws them; the other functions tell the renderer which ray
each pixel shows. The renderer bends the rays, not the finished picture, so that the colour, depth and object id of a
pixel always belong together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from depthlm_ros.core import Intrinsics
from depthlm_ros.scenes.renderer.jit import JIT, cached_kernel


@dataclass(frozen=True)
class LensDistortion:
    """Parameters of Brown's model (Close-range camera calibration, 1971).

    The model maps the pixel that shows a point to the pixel where a camera without distortion would show it. k1, k2:
    radial terms; p1, p2: tangential terms, all in units of the focal length. dx_px, dy_px: offset of the true
    principal point from the calibrated one.
    """

    k1: float = 0.0
    k2: float = 0.0
    p1: float = 0.0
    p2: float = 0.0
    dx_px: float = 0.0
    dy_px: float = 0.0

    def vector(self) -> np.ndarray:
        """Returns the parameters as float64 (6,), as the kernels read them."""
        return np.array([self.k1, self.k2, self.p1, self.p2, self.dx_px, self.dy_px])


@njit(forceinline=True, **JIT)
def undistorted_px(lens, cam, u, v):
    """Returns where a camera without distortion shows what pixel (u, v) shows.

    cam: fx, fy, cx, cy in pixels. lens: LensDistortion.vector().
    """
    x, y = (u - lens[4] - cam[2]) / cam[0], (v - lens[5] - cam[3]) / cam[1]
    r2 = x * x + y * y
    gain = 1.0 + r2 * (lens[0] + r2 * lens[1])
    a = x * gain + lens[2] * (r2 + 2.0 * x * x) + 2.0 * lens[3] * x * y
    b = y * gain + lens[3] * (r2 + 2.0 * y * y) + 2.0 * lens[2] * x * y
    return a * cam[0] + cam[2], b * cam[1] + cam[3]


@cached_kernel
def undistorted_lattice(lens, cam, offset, height, width):
    """Returns undistorted_px of each ray, float64 (h, w, 2); ray (i, j) belongs to pixel (i, j) + offset."""
    lattice = np.empty((height, width, 2))
    for j in range(height):
        for i in range(width):
            lattice[j, i, 0], lattice[j, i, 1] = undistorted_px(lens, cam, i + offset, j + offset)
    return lattice


def sample_lens(rng: np.random.Generator, intrinsics: Intrinsics) -> LensDistortion:
    """Draws the distortion that a usual calibration leaves.

    Near the picture's corners it is about 0.5 % of the distance from the centre (standard deviation); the principal
    point is off by 0.4 % of the width (standard deviation), never by more than 1 %.
    """
    reach2 = ((intrinsics.width_px / intrinsics.fx_px) ** 2 + (intrinsics.height_px / intrinsics.fy_px) ** 2) / 4
    k1, k2 = rng.normal(0, 0.005) / reach2, rng.normal(0, 0.002) / reach2**2
    p1, p2 = rng.normal(0, 0.001, 2) / reach2**0.5
    dx_px, dy_px = np.clip(rng.normal(0, 0.004, 2), -0.01, 0.01) * intrinsics.width_px
    return LensDistortion(float(k1), float(k2), float(p1), float(p2), float(dx_px), float(dy_px))
