# SPDX-License-Identifier: Apache-2.0
"""Curation of indoor and multi-view data sets, on miniature copies of their files, and defects of the releases."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.small_data_sets import (
    curate_and_read,
    depth_by_pixel,
    make_job,
    make_transform,
    write_file,
    write_grey_image,
    write_image,
)

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.depthfile import read_depth, read_z
from depthlm_ros.data.pairs import PairOptions, curate_pairs
from depthlm_ros.data.read import iter_pairs
from depthlm_ros.data.sets import NAMES, data_set
from depthlm_ros.data.sets.eth3d import ColmapCamera, compute_source_pixels
from depthlm_ros.errors import UnknownName
from depthlm_ros.image_io import read_rgb


def ray_length(record):
    """Returns the length of each point's ray up to z = 1."""
    k = record.intrinsics
    u, v = record.uv_px.T
    return np.sqrt(1 + ((u - k.cx_px) / k.fx_px) ** 2 + ((v - k.cy_px) / k.fy_px) ** 2)


def test_every_data_set_describes_its_layout_and_corrections():
    for name in NAMES:
        chosen = data_set(name)
        assert chosen.name == name and chosen.layout.endswith(".") and (chosen.corrections or name == "folder")


def test_unknown_data_set_is_rejected_with_the_known_names():
    with pytest.raises(UnknownName, match=r"'kitti' is unknown: choose one of argoverse2, .*waymo"):
        data_set("kitti")


# ---- SUN RGB-D and NYUv2


def write_sun(root, scene, metres):
    """Writes a scene whose PNG files hold one row of these depths, as the toolbox encodes them."""
    folder = root / "SUNRGBD" / scene
    write_image(folder / "image" / "0.jpg", len(metres), 1)
    millimetres = (np.array([metres]) * 1000).astype(np.uint16)
    rotated = (millimetres << np.uint16(3)) | (millimetres >> np.uint16(13))
    for kind in ("depth", "depth_bfx"):
        write_grey_image(folder / kind / "0.png", rotated)
    write_file(folder / "intrinsics.txt", "2 0 1.5\n0 2 0\n0 0 1\n")


def test_sun_rgbd_excludes_nyuv2_and_depth_beyond_its_sensors(tmp_path):
    write_sun(tmp_path, "kv2/k/s1", [1.0, 4.0, 7.5, 9.0])
    write_sun(tmp_path, "kv1/NYUdata/NYU0001", [1.0, 4.0, 7.5, 9.0])
    (record,), _ = curate_and_read("sunrgbd", tmp_path, tmp_path / "out")
    assert depth_by_pixel(record) == pytest.approx({(0, 0): 1.0, (1, 0): 4.0, (2, 0): 7.5})
    (record,), _ = curate_and_read("nyuv2", tmp_path, tmp_path / "nyu")
    assert depth_by_pixel(record) == pytest.approx({(0, 0): 1.0, (1, 0): 4.0, (2, 0): 7.5, (3, 0): 9.0})
    assert record.scene == "NYU0001"


def test_sun_rgbd_as_released_is_eight_tenths_of_the_truth_along_the_ray(tmp_path):
    write_sun(tmp_path, "kv2/k/s1", [1.0, 4.0])
    (record,), _ = curate_and_read("sunrgbd", tmp_path, tmp_path / "out", as_released=True)
    assert record.depth_type == "range"
    truth = {(0.0, 0.0): 1.0, (1.0, 0.0): 4.0}
    expected = [0.8 * truth[tuple(uv)] for uv in record.uv_px] * ray_length(record)
    np.testing.assert_allclose(record.depth_m, expected, rtol=1e-3)


def test_nyuv2_as_released_by_depthvlm_is_wrong_beyond_8_metres(tmp_path):
    write_sun(tmp_path, "kv1/NYUdata/NYU0001", [1.0, 9.0])
    (record,), _ = curate_and_read("nyuv2", tmp_path, tmp_path / "out", as_released=True, format="depthvlm")
    assert depth_by_pixel(record) == pytest.approx({(0, 0): 1.0, (1, 0): 0.808}, abs=1e-3)
    assert record.depth.path.parent.name == "depth_bfx" and record.depth.scale == 8000
    (record,), _ = curate_and_read("nyuv2", tmp_path, tmp_path / "corrected", format="depthvlm")
    np.testing.assert_allclose(read_depth(record.depth), [[1.0, 9.0]], rtol=1e-6)


# ---- iBims-1


def test_ibims_masks_exclude_glass_unless_as_released(tmp_path):
    root = tmp_path / "ibims1_core_raw"
    write_image(root / "rgb" / "room_01.png", 3, 1)
    write_grey_image(root / "depth" / "room_01.png", np.array([[65535 / 25, 65535 / 10, 65535 / 5]]))  # 2, 5 and 10 m
    write_grey_image(root / "mask_invalid" / "room_01.png", np.array([[True, True, False]]))
    write_grey_image(root / "mask_transp" / "room_01.png", np.array([[True, False, True]]))
    write_file(root / "calib" / "room_01.txt", "5.5,5.6,1.0,0.0\n")
    (record,), _ = curate_and_read("ibims1", tmp_path, tmp_path / "out")
    assert depth_by_pixel(record) == pytest.approx({(0, 0): 2.0}, rel=1e-3)
    (record,), _ = curate_and_read("ibims1", tmp_path, tmp_path / "raw", as_released=True)
    assert sorted(record.depth_m) == pytest.approx([2.0, 5.0, 10.0], rel=1e-3) and record.depth_type == "z"
    (record,), _ = curate_and_read("ibims1", tmp_path, tmp_path / "dense", format="depthvlm")
    assert [mask.parent.name for mask in record.depth.masks] == ["mask_invalid", "mask_transp"]
    assert np.isfinite(read_depth(record.depth)).tolist() == [[True, False, False]]


# ---- Taskonomy and HM3D


@pytest.mark.parametrize("component", ["taskonomy", "hm3d"])
def test_omnidata_focal_length_is_computed_for_the_image_width(tmp_path, component):
    names = [("rgb", "png"), ("depth_zbuffer", "png"), ("point_info", "json"), ("mask_valid", "png")]
    stem = "point_3_view_1_domain"
    rgb, depth, info, mask = (tmp_path / d / component / "house" / f"{stem}_{d}.{s}" for d, s in names)
    write_image(rgb, 4, 4)
    values = np.full((4, 4), 2 * 512)
    values[0] = [65535, 0, 60 * 512, 3 * 512]
    write_grey_image(depth, values)
    write_grey_image(mask, np.tri(4, 4, 2, bool))
    write_file(info, {"field_of_view_rads": math.pi / 2, "resolution": 1024})
    (record,), _ = curate_and_read(component, tmp_path, tmp_path / "out")
    k = record.intrinsics
    assert (k.fx_px, k.fy_px, k.cx_px, k.size_px) == (pytest.approx(2.0), pytest.approx(2.0), 1.5, (4, 4))
    masked = {(float(u), float(v)) for v, u in np.argwhere(np.tri(4, 4, 2, bool)) if v > 0}
    assert depth_by_pixel(record) == pytest.approx({uv: 2.0 for uv in masked})
    (record,), _ = curate_and_read(component, tmp_path, tmp_path / "raw", as_released=True)
    assert record.intrinsics.fx_px == pytest.approx(512.0)


def test_taskonomy_archives_and_splits_are_read(tmp_path):
    for house in ("a", "b"):
        write_image(tmp_path / house / "rgb" / "point_0_view_0_domain_rgb.png", 4, 4)
        write_grey_image(
            tmp_path / house / "depth_zbuffer" / "point_0_view_0_domain_depth_zbuffer.png", np.full((4, 4), 512)
        )
        write_file(
            tmp_path / house / "point_info" / "point_0_view_0_domain_point_info.json", {"field_of_view_rads": 1.0}
        )
    write_file(tmp_path / "train_val_test_fullplus.csv", "id,train,val,test\na,1,0,0\nb,0,1,0\n")
    (record,), _ = curate_and_read("taskonomy", tmp_path, tmp_path / "out", split="val")
    assert (record.scene, record.split) == ("b", "val")


def test_view_without_a_camera_is_counted(tmp_path):
    write_image(tmp_path / "a" / "rgb" / "point_0_view_0_domain_rgb.png", 4, 4)
    _, report = curate_and_read("taskonomy", tmp_path, tmp_path / "out")
    assert report["problems"] == {"point info missing": 1}


# ---- ScanNet++


def write_scannetpp(root, frames=12):
    scene = root / "data" / "abc" / "iphone"
    poses = {}
    for n in range(frames):
        write_image(scene / "rgb" / f"frame_{n:06d}.jpg", 32, 24)
        write_grey_image(scene / "depth" / f"frame_{n:06d}.png", np.full((6, 8), 1500 + n))
        k = [[25.0 + n, 0, 15.5], [0, 26.0 + n, 11.5], [0, 0, 1]]
        poses[f"frame_{n:06d}"] = {"intrinsic": k, "aligned_pose": make_transform("y", n, (n / 10, 0, 0)).tolist()}
    person = np.ones((24, 32), bool)
    person[:, 16:] = False
    write_grey_image(scene / "rgb_masks" / "frame_000000.png", person)
    write_file(scene / "pose_intrinsic_imu.json", poses)


def test_scannetpp_uses_every_tenth_frame_with_its_own_camera(tmp_path):
    write_scannetpp(tmp_path)
    records, _ = curate_and_read("scannetpp", tmp_path, tmp_path / "out")
    assert [record.image.stem for record in records] == ["frame_000000", "frame_000010"]
    assert [record.intrinsics.fx_px for record in records] == [25.0, 35.0]
    assert [len(record.uv_px) for record in records] == [24, 48]  # half of the first shows a person
    # The first depth pixel covers 4 x 4 pixels of the image.
    assert (1.5, 1.5) in depth_by_pixel(records[0]) and set(records[1].depth_m) == {1.51}


def test_scannetpp_as_released_is_neither_z_nor_range(tmp_path):
    write_scannetpp(tmp_path)
    (record, _), _ = curate_and_read("scannetpp", tmp_path, tmp_path / "out", as_released=True)
    k = record.intrinsics
    assert (k.fx_px, k.fy_px, k.size_px) == (951.625, 951.625, (1280, 960)) and record.depth_type == "mixed"
    u, v = record.uv_px.T
    x, y = (u - k.cx_px) / k.fx_px, (v - k.cy_px) / k.fy_px
    np.testing.assert_allclose(record.depth_m, np.sqrt(x * x + y * y + 1.5**2), atol=1e-3)
    np.testing.assert_allclose(record.as_z().depth_m, 1.5, atol=1e-3)


# ---- Matterport3D


def write_matterport(root, lenses=2):
    scan = root / "v1" / "scans" / "house1"
    lines = ["dataset matterport", f"n_images {lenses}"]
    for lens in range(lenses):
        write_image(scan / "undistorted_color_images" / f"uuid_i{lens}_0.jpg", 16, 12)
        write_grey_image(
            scan / "undistorted_depth_images" / f"uuid_d{lens}_0.png", np.full((12, 16), 4000 * (lens + 1))
        )
        pose = make_transform("z", 90, (1, 2, 3)).ravel()
        lines += ["", f"intrinsics_matrix {20 + lens} 0 7.1  0 {21 + lens} 4.0  0 0 1"]
        lines += [f"scan uuid_d{lens}_0.png uuid_i{lens}_0.jpg {' '.join(f'{x:.9f}' for x in pose)}"]
    write_file(scan / "undistorted_camera_parameters" / "house1.conf", "\n".join(lines) + "\n")


def test_matterport_lenses_have_their_own_cameras_and_rows_count_from_the_top(tmp_path):
    write_matterport(tmp_path)
    records, _ = curate_and_read("matterport3d", tmp_path, tmp_path / "out")
    assert [r.intrinsics.fx_px for r in records] == [20, 21]
    assert {r.intrinsics.cy_px for r in records} == {12 - 1 - 4.0}
    assert [set(r.depth_m) for r in records] == [{1.0}, {2.0}]


def test_matterport_as_released_writes_image_path_and_labels_the_ray(tmp_path):
    write_matterport(tmp_path)
    (record, _), report = curate_and_read("matterport3d", tmp_path, tmp_path / "out", as_released=True)
    fields = json.loads(Path(report["file"]).read_text().splitlines()[0])
    assert "image_path" in fields and "image" not in fields
    assert record.intrinsics.cy_px == 4.0 and record.depth_type == "range"
    np.testing.assert_allclose(record.depth_m, ray_length(record), atol=1e-4)


def test_matterport_as_released_leaves_out_images_with_few_points(tmp_path):
    write_matterport(tmp_path)
    depth = tmp_path / "v1/scans/house1/undistorted_depth_images/uuid_d0_0.png"
    values = np.zeros((12, 16))
    values[:4, :12] = 4000
    write_grey_image(depth, values)
    _, report = curate_and_read("matterport3d", tmp_path, tmp_path / "out", as_released=True)
    assert report["problems"] == {"view without depth": 1}
    assert "48 pixels" in report["examples"]["view without depth"][0]
    assert curate_and_read("matterport3d", tmp_path, tmp_path / "all")[1]["records"] == 2


# ---- ETH3D

THIN = (90.0, 92.0, 60.5, 40.5, -0.2, 0.05, 0.03, -0.04, 0.01, 0.0, 0.02, -0.03)
ETH_PX = (120, 80)


def plane_m(x, y, away_m=3.0):
    """Returns the z of a slanted wall on the ray (x, y, 1); straight ahead it is away_m."""
    return away_m / (1.0 - 0.4 * x + 0.2 * y)


def distort(x, y):
    """Returns the pixel (centres at whole numbers) of the ray (x, y, 1) in the lens: COLMAP's formula once more."""
    fx, fy, cx, cy, k1, k2, p1, p2, k3, k4, sx, sy = THIN
    r = np.maximum(np.hypot(x, y), 1e-12)
    a, b = x * np.arctan(r) / r, y * np.arctan(r) / r
    q = a * a + b * b
    radial = k1 * q + k2 * q**2 + k3 * q**3 + k4 * q**4
    da = a * radial + 2 * p1 * a * b + p2 * (q + 2 * a * a) + sx * q
    db = b * radial + 2 * p2 * a * b + p1 * (q + 2 * b * b) + sy * q
    return fx * (a + da) + cx - 0.5, fy * (b + db) + cy - 0.5


def rays_of_pixels(u, v):
    """Returns the rays of the lens's pixels, by a search that steps against the error."""
    x, y = (u - THIN[2] + 0.5) / THIN[0], (v - THIN[3] + 0.5) / THIN[1]
    for _ in range(100):
        at_u, at_v = distort(x, y)
        x, y = x - 0.8 * (at_u - u) / THIN[0], y - 0.8 * (at_v - v) / THIN[1]
    return x, y


def write_eth3d(root, name="DSC_1", away_m=3.0):
    """Writes one image of a slanted wall through the lens; red is brighter to the right."""
    scene = root / "office"
    u, v = np.meshgrid(np.arange(ETH_PX[0], dtype=float), np.arange(ETH_PX[1], dtype=float))
    x, y = rays_of_pixels(u, v)
    depth_m = plane_m(x, y, away_m).astype("<f4")
    depth_m[:4] = np.inf
    image, depth = scene / f"images/dslr_images/{name}.JPG", scene / f"ground_truth_depth/dslr_images/{name}.JPG"
    for path in (image, depth):
        path.parent.mkdir(parents=True, exist_ok=True)
    depth_m.tofile(depth)
    red = np.clip(128 + 120 * x, 0, 255).astype(np.uint8)
    encoded = cv2.imencode(".jpg", cv2.merge([red // 2, red // 2, red]), [cv2.IMWRITE_JPEG_QUALITY, 100])[1]
    image.write_bytes(encoded.tobytes())
    camera = f"# id model width height\n0 THIN_PRISM_FISHEYE {ETH_PX[0]} {ETH_PX[1]} {' '.join(map(str, THIN))}\n"
    write_file(scene / "dslr_calibration_jpg/cameras.txt", camera)
    write_file(
        scene / "dslr_calibration_jpg/images.txt", "# two lines each\n1 1 0 0 0 1 2 3 0 dslr_images/DSC_1.JPG\n\n"
    )


def test_eth3d_undistorts_image_and_depth_together(tmp_path):
    write_eth3d(tmp_path)
    (record,), report = curate_and_read("eth3d", tmp_path, tmp_path / "out", points=300)
    k = record.intrinsics
    assert (k.cx_px, k.cy_px, k.size_px) == (60.0, 40.0, ETH_PX) and report["problems"] == {}
    u, v = record.uv_px.T
    x, y = (u - k.cx_px) / k.fx_px, (v - k.cy_px) / k.fy_px
    np.testing.assert_allclose(record.depth_m, plane_m(x, y), rtol=0.01)  # half a pixel of slope
    assert record.uv_px.min() >= 10 and u.max() < ETH_PX[0] - 10
    rgb = read_rgb(record.image)
    np.testing.assert_allclose(rgb[v.astype(int), u.astype(int), 0], 128 + 120 * x, atol=4)


def test_pairs_of_eth3d_match_undistorted_images(tmp_path):
    """Points of the wall are where the second pinhole camera sees them; COLMAP's poses are world to camera."""
    write_eth3d(tmp_path)
    step_m = np.array([0.3, -0.1, 0.4])
    # The wall is z (1 - 0.4 x + 0.2 y) = 3 in the first camera; in the second it is nearer by the step across it.
    write_eth3d(tmp_path, "DSC_2", 3.0 - step_m @ (-0.4, 0.2, 1.0))
    moved = " ".join(f"{value:g}" for value in (1, 2, 3) - step_m)
    lines = f"1 1 0 0 0 1 2 3 0 dslr_images/DSC_1.JPG\n\n2 1 0 0 0 {moved} 0 dslr_images/DSC_2.JPG\n\n"
    write_file(tmp_path / "office/dslr_calibration_jpg/images.txt", lines)
    report = curate_pairs(make_job("eth3d", tmp_path, tmp_path / "out"), PairOptions(points=60), 1)
    (pair,) = iter_pairs(Path(report["file"]), [])
    assert len(pair.uv_px) == 60 and report["problems"] == {}
    np.testing.assert_allclose(pair.translation_m, step_m, atol=1e-6)
    np.testing.assert_allclose(pair.rotation, np.eye(3), atol=1e-9)
    x, y = (pair.uv_px[:, 0] - 60.0) / THIN[0], (pair.uv_px[:, 1] - 40.0) / THIN[1]
    in_second_m = np.stack([x, y, np.ones_like(x)], axis=1) * plane_m(x, y)[:, None] - step_m
    by_hand_px = in_second_m[:, :2] / in_second_m[:, 2:] * THIN[:2] + [60.0, 40.0]
    np.testing.assert_allclose(pair.matched_px, by_hand_px, atol=0.3)  # half a pixel of slope in the depth


def test_eth3d_as_released_uses_another_lens_model(tmp_path):
    write_eth3d(tmp_path)
    (record,), _ = curate_and_read("eth3d", tmp_path, tmp_path / "out", points=300, as_released=True)
    u, v = record.uv_px.T
    k = record.intrinsics
    x, y = (u - k.cx_px) / k.fx_px, (v - k.cy_px) / k.fy_px
    off = np.abs(record.as_z().depth_m / plane_m(x, y) - 1)
    assert record.depth_type == "range" and off.max() > 0.05


def test_eth3d_pairs_images_and_depth_by_name(tmp_path):
    write_eth3d(tmp_path)
    scene = tmp_path / "office"
    extra = scene / "ground_truth_depth/dslr_images/DSC_0.JPG"
    np.full(ETH_PX[::-1], 1.0, "<f4").tofile(extra)
    (record,), _ = curate_and_read("eth3d", tmp_path, tmp_path / "out")
    assert record.depth_m.max() > 2
    (record,), _ = curate_and_read("eth3d", tmp_path, tmp_path / "raw", as_released=True)
    assert record.as_z().depth_m == pytest.approx(1.0, rel=1e-3)


def test_eth3d_as_released_by_depthvlm_mixes_two_cameras(tmp_path):
    write_eth3d(tmp_path)
    scene = tmp_path / "office"
    write_image(scene / "images/dslr_images_undistorted/DSC_1.JPG", 124, 84)
    write_file(scene / "dslr_calibration_undistorted/cameras.txt", "0 PINHOLE 124 84 91 93 62 42\n")
    write_file(
        scene / "dslr_calibration_undistorted/images.txt", "1 1 0 0 0 1 2 3 0 dslr_images_undistorted/DSC_1.JPG\n\n"
    )
    (record,), _ = curate_and_read("eth3d", tmp_path, tmp_path / "out", as_released=True, format="depthvlm")
    assert record.intrinsics.size_px == (124, 84) and record.depth.size_px == ETH_PX
    assert record.depth.path.suffix == ".JPG" and np.nanmin(read_z(record)) > 1


def test_lens_formula_is_the_one_that_made_the_image():
    camera = Intrinsics(90.0, 92.0, 60.0, 40.0, *ETH_PX)
    map_x, map_y = compute_source_pixels(ColmapCamera("THIN_PRISM_FISHEYE", ETH_PX, THIN), camera)
    u, v = np.meshgrid(np.arange(120.0), np.arange(80.0))
    expected = distort((u - 60) / 90, (v - 40) / 92)
    np.testing.assert_allclose(map_x, expected[0], atol=1e-4)
    np.testing.assert_allclose(map_y, expected[1], atol=1e-4)


def test_unknown_lens_model_costs_only_its_image(tmp_path):
    write_eth3d(tmp_path)
    write_file(tmp_path / "office/dslr_calibration_jpg/cameras.txt", "0 FOV 120 80 1 2 3 4 5\n")
    _, report = curate_and_read("eth3d", tmp_path, tmp_path / "out")
    assert report["problems"] == {"lens unknown": 1}


# ---- A folder of your own images


def test_folder_of_own_images_is_curated(tmp_path):
    write_image(tmp_path / "rgb" / "a.png", 4, 3)
    write_image(tmp_path / "rgb" / "b.png", 4, 3)
    (tmp_path / "depth").mkdir()
    np.save(tmp_path / "depth" / "a.npy", np.full((3, 4), 2.5, np.float32))
    write_file(tmp_path / "intrinsics.txt", "4 0 1.5 0 4 1 0 0 1")
    (record,), report = curate_and_read("folder", tmp_path, tmp_path / "out")
    assert set(record.depth_m) == {2.5} and len(record.uv_px) == 12
    assert report["problems"] == {"depth map missing": 1}
