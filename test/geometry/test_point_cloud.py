# SPDX-License-Identifier: Apache-2.0
"""Tests of point clouds: metric points at their pixels, packed colours, and NaN where the depth is unknown."""

import struct

import numpy as np
import pytest

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadImage
from depthlm_ros.geometry.pinhole import project, rays
from depthlm_ros.geometry.point_cloud import CloudBuilder, packed_rgb, ply_bytes, sparse_cloud

CAMERA = Intrinsics(131.0, 127.0, 40.3, 33.9, 90, 70)
RNG = np.random.default_rng(0)
DEPTH_M = RNG.uniform(0.5, 8.0, (70, 90)).astype(np.float32)
RGB = RNG.integers(0, 256, (70, 90, 3), dtype=np.uint8)


def test_every_point_projects_back_to_its_pixel_at_its_depth():
    cloud = CloudBuilder(CAMERA).build(DEPTH_M, RGB)
    points = cloud[..., :3].reshape(-1, 3)
    uv = np.stack(np.meshgrid(np.arange(90), np.arange(70)), -1).reshape(-1, 2)
    np.testing.assert_allclose(project(points, CAMERA), uv, atol=1e-3)
    np.testing.assert_array_equal(points[:, 2], DEPTH_M.ravel())


def test_cloud_is_rays_times_depth():
    cloud = CloudBuilder(CAMERA).build(DEPTH_M, RGB)
    np.testing.assert_allclose(cloud[..., :3], rays(CAMERA) * DEPTH_M[..., None], rtol=1e-6)


def test_sphere_comes_back_as_that_sphere():
    centre, radius_m = np.array([0.1, -0.05, 3.0]), 0.8
    slope = rays(CAMERA).astype(np.float64)
    a, b, c = (slope**2).sum(-1), slope @ centre, centre @ centre - radius_m**2
    hit = b**2 - a * c > 0
    depth_m = np.where(hit, (b - np.sqrt(np.where(hit, b**2 - a * c, 0))) / a, np.nan).astype(np.float32)
    points = CloudBuilder(CAMERA).build(depth_m, RGB)[..., :3]
    assert hit.sum() > 1000
    np.testing.assert_array_equal(np.isfinite(points).all(-1), hit)
    assert np.abs(np.linalg.norm(points[hit] - centre, axis=1) - radius_m).max() < 1e-3


def test_memory_is_sixteen_bytes_a_point_as_pointcloud2_requires():
    cloud = CloudBuilder(CAMERA).build(DEPTH_M, RGB)
    assert cloud.flags.c_contiguous
    assert cloud.dtype == np.dtype("<f4")
    raw = memoryview(cloud).cast("B")
    assert len(raw) == 70 * 90 * 16
    blue, green, red, unused = raw[(3 * 90 + 7) * 16 + 12 : (3 * 90 + 7) * 16 + 16]
    assert (red, green, blue, unused) == (*RGB[3, 7].tolist(), 0)


def test_colours_are_packed_red_high_and_are_ordinary_numbers():
    bits = packed_rgb(np.array([[[1, 2, 3], [255, 255, 255]]], np.uint8)).view("<u4")
    assert bits.tolist() == [[0x00010203, 0x00FFFFFF]]
    assert np.isfinite(bits.view(np.float32)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.0, -2.0])
def test_unknown_depth_is_a_nan_point_that_keeps_its_colour(bad):
    depth_m = DEPTH_M.copy()
    depth_m[5, 6] = bad
    cloud = CloudBuilder(CAMERA).build(depth_m, RGB)
    assert np.isnan(cloud[5, 6, :3]).all()
    assert np.isfinite(cloud[5, 7, :3]).all()
    assert cloud[5, 6, 3:].view("<u4")[0] == int.from_bytes(bytes(RGB[5, 6].tolist()), "big")


def test_depth_out_of_range_is_unknown_and_the_limits_are_inside():
    depth_m = np.full((70, 90), 2.0, np.float32)
    depth_m[0, :4] = (0.49, 0.5, 4.0, 4.01)
    z = CloudBuilder(CAMERA, min_m=0.5, max_m=4.0).build(depth_m, RGB)[..., 2]
    assert np.isnan(z[0, :4]).tolist() == [True, False, False, True]


@pytest.mark.parametrize("stride", [2, 3, 7])
def test_stride_takes_every_nth_pixel_with_its_own_point_and_colour(stride):
    full = CloudBuilder(CAMERA).build(DEPTH_M, RGB)
    thin = CloudBuilder(CAMERA, stride=stride).build(DEPTH_M, RGB)
    assert thin.shape == (-(-70 // stride), -(-90 // stride), 4)
    assert thin.flags.c_contiguous
    np.testing.assert_array_equal(thin.view("<u4"), full[::stride, ::stride].view("<u4"))


def test_a_new_cloud_leaves_earlier_ones_alone():
    builder = CloudBuilder(CAMERA)
    first = builder.build(DEPTH_M, RGB)
    kept = first.copy()
    builder.build(DEPTH_M * 2, RGB)
    np.testing.assert_array_equal(first, kept)


def test_cloud_can_be_built_in_memory_of_the_caller():
    memory = bytearray(70 * 90 * 16)
    out = np.frombuffer(memory, np.float32).reshape(70, 90, 4)
    assert CloudBuilder(CAMERA).build(DEPTH_M, RGB, out=out) is out
    assert bytes(memory) == CloudBuilder(CAMERA).build(DEPTH_M, RGB).tobytes()


@pytest.mark.parametrize("shape", [(70, 90, 3), (35, 90, 4), (90, 70, 4)])
def test_memory_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="out is"):
        CloudBuilder(CAMERA).build(DEPTH_M, RGB, out=np.zeros(shape, np.float32))


def test_mirrored_views_of_an_image_are_accepted():
    cloud = CloudBuilder(CAMERA).build(DEPTH_M[:, ::-1], RGB[..., ::-1])
    assert cloud[0, 0, 2] == DEPTH_M[0, -1]
    assert cloud[0, 0, 3:].view("<u4")[0] == int.from_bytes(bytes(RGB[0, 0, ::-1].tolist()), "big")


def test_depth_or_image_of_another_size_is_refused():
    with pytest.raises(BadImage, match="depth is 45 x 70 but the cloud's camera is 90 x 70"):
        CloudBuilder(CAMERA).build(DEPTH_M[:, ::2], RGB)
    with pytest.raises(BadImage, match="image is 90 x 35 but"):
        CloudBuilder(CAMERA).build(DEPTH_M, RGB[::2])


def test_stride_zero_is_refused():
    with pytest.raises(ValueError, match="stride is 0"):
        CloudBuilder(CAMERA, stride=0)


def test_sparse_cloud_contains_points_with_the_deviation_of_their_depth():
    uv = np.array([[40.3, 33.9], [80.0, 10.0], [5.5, 60.25]])
    depth_m, std_m = np.array([1.0, 2.5, 4.0]), np.array([0.1, 0.2, np.nan])
    cloud = sparse_cloud(uv, depth_m, std_m, CAMERA)
    assert cloud.dtype == np.float32
    np.testing.assert_allclose(project(cloud[:, :3], CAMERA), uv, atol=1e-4)
    np.testing.assert_allclose(cloud[:, 2:], np.stack([depth_m, std_m], 1), rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, -1.0])
def test_sparse_cloud_has_no_point_where_depth_is_unknown(bad):
    cloud = sparse_cloud(np.array([[10.0, 10.0]]), np.array([bad]), np.array([0.1]), CAMERA)
    assert np.isnan(cloud).all()


def test_sparse_cloud_of_nothing_is_empty():
    assert sparse_cloud(np.zeros((0, 2)), np.zeros(0), np.zeros(0), CAMERA).shape == (0, 4)


def test_ply_leaves_out_unknown_points_and_keeps_numbers_and_colours():
    points_m = np.array([[[1.0, -2.0, 3.5], [np.nan, 0, 1]], [[0, 0, np.inf], [0.25, 0.5, 0.75]]])
    rgb = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    header, body = ply_bytes(points_m, rgb).split(b"end_header\n")
    assert header.split(b"\n")[:3] == [b"ply", b"format binary_little_endian 1.0", b"element vertex 2"]
    assert body == b"".join(
        struct.pack("<fff3B", *point, *colour)
        for point, colour in (((1.0, -2.0, 3.5), (0, 1, 2)), ((0.25, 0.5, 0.75), (9, 10, 11)))
    )
    assert b"element vertex 0\n" in ply_bytes(np.full((3, 3), np.nan), np.zeros((3, 3), np.uint8))
