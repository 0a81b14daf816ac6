"""The red arrow with which DepthLM is shown a pixel, drawn exactly as its checkpoints were trained (SPEC: nine pixels
of pure red to the left of the target, which itself stays untouched, head against it).

Around a target (u, v): shaft (u - k, v) for k = 1 to 5, head (u - 2, v +- 1) and (u - 3, v +- 2).
"""

from __future__ import annotations

import numpy as np

from depthlm_ros.errors import BadQuestion

RED = (255, 0, 0)
# Columns and rows that an arrow needs around its target, by the released rule.
BORDER_PX = 5
# (du, dv) of the nine pixels.
ARROW_PX = np.array([(-k, 0) for k in range(1, 6)] + [(-2, -1), (-2, 1), (-3, -2), (-3, 2)])


def marked_pixels(uv_px: np.ndarray) -> np.ndarray:
    """int64 (N, 2): the pixel in which each (u, v) lies, which is the nearest, halves upwards.

    The released code cuts the fraction off instead; on whole pixels both are the same.
    """
    return np.floor(np.asarray(uv_px, np.float64).reshape(-1, 2) + 0.5).astype(np.int64)


def fits(uv_px: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """bool (N,): the released border rule, 5 <= u < W - 5 and 5 <= v < H - 5, for (u, v) in an image of (W, H).

    The released evaluation leaves out what does not fit; `pad_for_marks` makes room for it instead.
    """
    uv_px = np.asarray(uv_px, np.float64).reshape(-1, 2)
    inside = np.zeros(len(uv_px), bool)
    known = np.isfinite(uv_px).all(1)
    pixels = marked_pixels(uv_px[known])
    inside[known] = ((pixels >= BORDER_PX) & (pixels < np.array(size_px) - BORDER_PX)).all(1)
    return inside


def draw_marks(image: np.ndarray, uv_px: np.ndarray) -> np.ndarray:
    """A copy of an image uint8 (H, W, 3), red first, with an arrow at each pixel (N, 2), in their order.

    Raises BadQuestion for a pixel at which no whole arrow fits.
    """
    height, width = image.shape[:2]
    uv_px = np.asarray(uv_px, np.float64).reshape(-1, 2)
    for u, v in uv_px[~fits(uv_px, (width, height))]:
        raise BadQuestion(
            f"no arrow fits at pixel ({u:g}, {v:g}) of a {width} x {height} image: it must be {BORDER_PX} pixels away "
            "from every side, or the image padded."
        )
    marked = image.copy()
    u, v = (marked_pixels(uv_px)[:, None] + ARROW_PX).reshape(-1, 2).T
    marked[v, u] = RED
    return marked


def pad_for_marks(image: np.ndarray, px: int) -> np.ndarray:
    """The image uint8 (H, W, 3) with its edge pixels repeated over px >= 5 more on every side, so that an arrow fits
    at all of it. Pixel (u, v) becomes (u + px, v + px); focal lengths stay."""
    if px < BORDER_PX:
        raise ValueError(f"padding of {px} pixels: an arrow needs {BORDER_PX}.")
    return np.pad(image, ((px, px), (px, px), (0, 0)), mode="edge")
