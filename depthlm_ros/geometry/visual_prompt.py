# SPDX-License-Identifier: Apache-2.0
"""The red arrow that marks a pixel in the image itself: the visual prompt of DepthLM.

It is drawn exactly as in the images that the released checkpoints were trained on: nine pixels of pure red to the left
of the target, with the head towards the target, which keeps its own colour. For a target (u, v) these are the shaft
(u - k, v) for k = 1 to 5, and the head (u - 2, v +- 1) and (u - 3, v +- 2).
"""

from __future__ import annotations

import numpy as np

from depthlm_ros.errors import BadQuestion
from depthlm_ros.geometry.pinhole import nearest_pixel

RED = (255, 0, 0)
# Columns and rows that an arrow needs around its target, by the rule of the released code.
MARKER_BORDER_PX = 5
# (du, dv) of the nine pixels, from the target.
ARROW_OFFSETS_PX = np.array([(-k, 0) for k in range(1, 6)] + [(-2, -1), (-2, 1), (-3, -2), (-3, 2)])


def markers_fit(uv_px: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """Returns bool (N,): whether an arrow fits at each pixel (N, 2) of an image of this size (width, height).

    The border rule of the released code is 5 <= u < W - 5 and 5 <= v < H - 5. This is narrower than
    `pinhole.pixels_inside`, which has no margin. The released evaluation leaves out the other pixels;
    `pad_for_markers` makes room for their arrows instead. False for NaN.
    """
    uv_px = np.asarray(uv_px, np.float64).reshape(-1, 2)
    fits = np.zeros(len(uv_px), bool)
    finite = np.isfinite(uv_px).all(1)
    # The released code cuts the fraction off instead of rounding; on whole pixels both give the same.
    pixels = nearest_pixel(uv_px[finite])
    fits[finite] = ((pixels >= MARKER_BORDER_PX) & (pixels < np.array(size_px) - MARKER_BORDER_PX)).all(1)
    return fits


def draw_markers(image: np.ndarray, uv_px: np.ndarray) -> np.ndarray:
    """Returns a copy of an image, uint8 (H, W, 3), red first, with an arrow at each pixel (N, 2), in their order.

    Raises BadQuestion for a pixel at which no complete arrow fits.
    """
    height, width = image.shape[:2]
    uv_px = np.asarray(uv_px, np.float64).reshape(-1, 2)
    for u, v in uv_px[~markers_fit(uv_px, (width, height))]:
        raise BadQuestion(
            f"no arrow fits at pixel ({u:g}, {v:g}) of a {width} x {height} image: it must be {MARKER_BORDER_PX} "
            "pixels away from every side, or the image padded."
        )
    marked = image.copy()
    u, v = (nearest_pixel(uv_px)[:, None] + ARROW_OFFSETS_PX).reshape(-1, 2).T
    marked[v, u] = RED
    return marked


def pad_for_markers(image: np.ndarray, padding_px: int) -> np.ndarray:
    """Returns the image, uint8 (H, W, 3), with its edge pixels repeated over this many pixels on every side.

    With at least MARKER_BORDER_PX pixels of padding an arrow fits at every pixel of the image. Pixel (u, v) becomes
    (u + padding_px, v + padding_px); focal lengths stay the same. Raises ValueError for a smaller padding.
    """
    if padding_px < MARKER_BORDER_PX:
        raise ValueError(f"padding of {padding_px} pixels: an arrow needs {MARKER_BORDER_PX}.")
    return np.pad(image, ((padding_px, padding_px), (padding_px, padding_px), (0, 0)), mode="edge")
