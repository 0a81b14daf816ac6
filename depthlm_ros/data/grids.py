"""Pixels of one picture in another of another size that shows the same: the edges coincide, not the outer centres."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from depthlm_ros.core import Intrinsics


def between_grids(uv_px: np.ndarray, from_px: tuple[int, int], to_px: tuple[int, int]) -> np.ndarray:
    """float64 (N, 2): pixels (N, 2) of a picture of size (width, height) in one of another size."""
    uv_px = np.asarray(uv_px, np.float64).reshape(-1, 2)
    if from_px == to_px:
        return uv_px
    scale = np.array(to_px, np.float64) / np.array(from_px, np.float64)
    return (uv_px + 0.5) * scale - 0.5


def resized(intrinsics: Intrinsics, size_px: tuple[int, int]) -> Intrinsics:
    """The camera of the same picture at another size (width, height)."""
    width, height = size_px
    sx, sy = width / intrinsics.width_px, height / intrinsics.height_px
    return replace(
        intrinsics,
        fx_px=intrinsics.fx_px * sx,
        fy_px=intrinsics.fy_px * sy,
        cx_px=(intrinsics.cx_px + 0.5) * sx - 0.5,
        cy_px=(intrinsics.cy_px + 0.5) * sy - 0.5,
        width_px=width,
        height_px=height,
    )
