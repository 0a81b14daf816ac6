# SPDX-License-Identifier: Apache-2.0
"""Thins a point cloud: one point for each voxel, the mean of the points in it."""

from __future__ import annotations

import numpy as np

# The number of a cell along one axis has so many bits; three of them make one number of 63 bits.
AXIS_BITS = 21
_HALF = 1 << (AXIS_BITS - 1)


def voxel_means(cloud: np.ndarray, voxel_m: float) -> np.ndarray:
    """Returns float32 (M, 4): for each voxel with points the mean of their x, y, z and of their colours.

    cloud: float32 (..., 4) as CloudBuilder makes it: x, y, z in metres and packed rgb. Points with a NaN are left out,
    and points beyond 2^20 voxels from the camera along an axis. A voxel is a cube of side voxel_m; its corners are at
    multiples of that.
    """
    points = cloud.reshape(-1, 4)
    reach_m = np.float32((_HALF - 1) * voxel_m)
    is_known = np.abs(points[:, 0]) < reach_m  # False for NaN
    is_known &= (np.abs(points[:, 1]) < reach_m) & (np.abs(points[:, 2]) < reach_m)
    points = points.take(np.flatnonzero(is_known), axis=0)
    if not len(points):
        return np.empty((0, 4), np.float32)
    cells = np.zeros(len(points), np.int64)
    for axis in range(3):
        cells <<= AXIS_BITS
        cells |= np.floor(points[:, axis] / np.float32(voxel_m)).astype(np.int64) + _HALF
    _, voxel, counts = np.unique(cells, return_inverse=True, return_counts=True)
    means = np.empty((len(counts), 4), "<f4")
    for axis in range(3):
        means[:, axis] = np.bincount(voxel, points[:, axis]) / counts
    means[:, 3] = _mean_colours(points[:, 3], voxel, counts)
    return means


def _mean_colours(packed_rgb: np.ndarray, voxel: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """float32 (M,): packed mean colours of voxels. packed_rgb: float32 (N,). voxel: (N,), the voxel of each point."""
    packed = np.ascontiguousarray(packed_rgb, "<f4").view("<u4")
    means = np.zeros(len(counts), "<u4")
    for shift in (16, 8, 0):
        channel = np.bincount(voxel, (packed >> shift) & 0xFF) / counts
        means |= np.rint(channel).astype("<u4") << shift
    return means.view("<f4")
