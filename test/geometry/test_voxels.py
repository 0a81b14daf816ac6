# SPDX-License-Identifier: Apache-2.0
"""Voxels: one point each, the mean of its points and colours; unknown points have none."""

import numpy as np

from depthlm_ros.geometry.voxels import voxel_means


def packed(*rgb: int) -> np.float32:
    return np.array([rgb[0] << 16 | rgb[1] << 8 | rgb[2]], "<u4").view("<f4")[0]


def colours(points: np.ndarray) -> list[list[int]]:
    bits = np.ascontiguousarray(points[:, 3]).view("<u4")
    return np.stack([bits >> 16 & 255, bits >> 8 & 255, bits & 255], axis=-1).tolist()


def test_point_of_a_voxel_is_the_mean_of_its_points_and_colours():
    cloud = np.array(
        [
            [[0.01, 0.02, 1.01, packed(10, 0, 255)], [0.03, 0.04, 1.03, packed(20, 3, 255)]],
            [[-0.01, 0.02, 1.01, packed(7, 8, 9)], [np.nan, np.nan, np.nan, packed(1, 1, 1)]],
        ],
        np.float32,
    )
    points = voxel_means(cloud, 0.05)
    order = np.argsort(points[:, 0])
    assert np.allclose(points[order, :3], [[-0.01, 0.02, 1.01], [0.02, 0.03, 1.02]], atol=1e-6)
    assert colours(points[order]) == [[7, 8, 9], [15, 2, 255]]


def test_voxels_are_those_of_a_grid_in_which_every_point_counts_once():
    rng = np.random.default_rng(0)
    xyz = rng.uniform((-4, -2, 0.3), (4, 2, 9), (5000, 3)).astype(np.float32)
    cloud = np.concatenate([xyz, np.zeros((5000, 1), np.float32)], axis=1)
    points = voxel_means(cloud, 0.5)
    cells, counts = np.unique(np.floor(xyz / np.float32(0.5)), axis=0, return_counts=True)
    assert len(points) == len(cells)
    assert np.allclose(np.sort(np.floor(points[:, :3] / 0.5), axis=0), np.sort(cells, axis=0))
    by_place = np.lexsort(np.floor(points[:, :3] / 0.5).T[::-1])
    assert np.allclose((points[by_place, :3] * counts[:, None]).sum(axis=0), xyz.sum(axis=0), rtol=1e-4)


def test_unknown_and_endless_points_give_no_voxel():
    cloud = np.full((3, 4, 4), np.nan, np.float32)
    assert voxel_means(cloud, 0.1).shape == (0, 4)
    cloud[0, 0, :3] = (0.0, np.inf, 1.0)
    cloud[1, 1] = (1e7, 0.0, 2.0, 0.0)  # beyond the cells that can be numbered
    cloud[2, 2] = (0.25, 0.0, 2.0, 0.0)
    assert voxel_means(cloud, 0.1)[:, :3].tolist() == [[0.25, 0.0, 2.0]]
