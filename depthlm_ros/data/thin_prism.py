"""The thin-prism fisheye lens: where a pinhole camera's pixels are in the image of such a lens.

Formula: COLMAP's THIN_PRISM_FISHEYE (src/colmap/sensor/models.h), parameters fx, fy, cx, cy, k1, k2, p1, p2, k3, k4,
sx1, sy1, also given in ETH3D's documentation. With r = |(u, v)| of a ray (u, v, 1) and (a, b) = (u, v) atan(r) / r:
    a' = a + a R + 2 p1 a b + p2 (q + 2 a^2) + sx1 q,   b' = b + b R + 2 p2 a b + p1 (q + 2 b^2) + sy1 q
where q = a^2 + b^2 and R = k1 q + k2 q^2 + k3 q^3 + k4 q^4.
"""

from __future__ import annotations

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.colmap import Lens
from depthlm_ros.data.problems import BadRecord

PINHOLE, THIN_PRISM = "PINHOLE", "THIN_PRISM_FISHEYE"


def source_pixels(lens: Lens, camera: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
    """float32 (H, W) twice: column and row in the lens's image of each pixel of a pinhole camera with the same axis.

    Pixel centres are whole numbers on both sides. Raises BadRecord for another lens model.
    """
    u = ((np.arange(camera.width_px) - camera.cx_px) / camera.fx_px)[None, :]
    v = ((np.arange(camera.height_px) - camera.cy_px) / camera.fy_px)[:, None]
    fx, fy, cx, cy = lens.parameters[:4]
    a, b = _distorted(lens, *np.broadcast_arrays(u, v))
    return (fx * a + cx - 0.5).astype(np.float32), (fy * b + cy - 0.5).astype(np.float32)


def _distorted(lens: Lens, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if lens.model == PINHOLE:
        return u, v
    if lens.model != THIN_PRISM or len(lens.parameters) != 12:
        raise BadRecord("lens unknown", f"lens model {lens.model} with {len(lens.parameters)} parameters is not read.")
    k1, k2, p1, p2, k3, k4, sx1, sy1 = lens.parameters[4:]
    radius = np.hypot(u, v)
    shrink = np.where(radius > 1e-9, np.arctan(radius) / np.maximum(radius, 1e-9), 1.0)
    a, b = u * shrink, v * shrink
    q = a * a + b * b
    radial = q * (k1 + q * (k2 + q * (k3 + q * k4)))
    return (
        a + a * radial + 2 * p1 * a * b + p2 * (q + 2 * a * a) + sx1 * q,
        b + b * radial + 2 * p2 * a * b + p1 * (q + 2 * b * b) + sy1 * q,
    )
