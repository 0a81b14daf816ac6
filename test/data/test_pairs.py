# SPDX-License-Identifier: Apache-2.0
"""Pairs of views: matches, occlusion, covisibility and the relative pose, compared with a scene computed by hand."""

import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.small_data_sets import OPTICAL_MOUNT, make_job, make_transform, write_file, write_grey_image, write_image

from depthlm_ros.cli import main
from depthlm_ros.core import Intrinsics
from depthlm_ros.data.pairs import (
    PairOptions,
    PosedDepth,
    compute_covisibility,
    compute_relative_pose,
    curate_pairs,
    find_correspondences,
    posed_depth,
)
from depthlm_ros.data.read import iter_pairs
from depthlm_ros.data.records import BadRecord, DepthFile, count_by_reason
from depthlm_ros.data.source_view import SourceView
from depthlm_ros.geometry.rotations import rotation_angle_deg, rotation_from_angles

CAMERA = Intrinsics(60.0, 62.0, 31.5, 23.5, 64, 48)
# A wall 4 m ahead in the world and, in front of it, a board 2 m ahead, 0.8 m wide.
WALL_M, BOARD_M, BOARD_HALF_M = 4.0, 2.0, 0.4


def render_depth(pose, camera=CAMERA):
    """Returns depth (H, W) of the wall and the board from a pose (4, 4), camera to world, by casting every ray."""
    u, v = np.meshgrid(np.arange(camera.width_px), np.arange(camera.height_px))
    rays = np.stack([(u - camera.cx_px) / camera.fx_px, (v - camera.cy_px) / camera.fy_px, np.ones_like(u)], axis=-1)
    turned, eye = rays @ pose[:3, :3].T, pose[:3, 3]
    wall = (WALL_M - eye[2]) / turned[..., 2]
    board = (BOARD_M - eye[2]) / turned[..., 2]
    hit = np.abs(eye[0] + board * turned[..., 0]) < BOARD_HALF_M
    return np.where(hit & (board > 0), board, wall)


def render_view(pose):
    return PosedDepth(CAMERA, render_depth(pose), pose)


def test_a_pose_where_the_tracking_was_lost_is_told_from_a_missing_one():
    lost = np.full((4, 4), -np.inf)
    view = SourceView("a", Path("a.png"), CAMERA, render_depth(np.eye(4)), DepthFile(Path("d.png"), 1000.0), pose=lost)
    with pytest.raises(BadRecord, match=r"-inf.*tracking was lost"):
        posed_depth(view)
    with pytest.raises(BadRecord, match="has no pose"):
        posed_depth(replace(view, pose=None))


def every_pixel():
    u, v = np.meshgrid(np.arange(64), np.arange(48))
    return np.stack([u.ravel(), v.ravel()], axis=1)


def test_matches_show_the_same_point_of_the_scene():
    first, second = make_transform("y", 0), make_transform("y", 4, (0.3, -0.05, 0.1))
    uv_px = every_pixel()
    matched_px = find_correspondences(render_view(first), render_view(second), uv_px)
    found = np.isfinite(matched_px[:, 0])
    assert 0.4 < found.mean() < 0.95
    u, v = uv_px[found].T
    z = render_depth(first)[v, u]
    world = np.stack([(u - 31.5) / 60 * z, (v - 23.5) / 62 * z, z], axis=1)
    local = (world - second[:3, 3]) @ second[:3, :3]
    by_hand = np.stack([local[:, 0] / local[:, 2] * 60 + 31.5, local[:, 1] / local[:, 2] * 62 + 23.5], axis=1)
    np.testing.assert_allclose(matched_px[found], by_hand, atol=1e-9)


def test_point_hidden_in_the_other_view_has_no_match():
    first, second = make_transform("y", 0), make_transform("y", 0, (0.5, 0, 0))
    matched_px = find_correspondences(render_view(first), render_view(second), every_pixel()).reshape(48, 64, 2)
    # From 0.5 m to the right, the board, which ends at x = 0.4 m, does not hide the wall at x = 0.9 m.
    column = round(0.9 / WALL_M * 60 + 31.5)
    assert np.isfinite(matched_px[24, column]).all()
    # But it hides the wall at x = -1 m, which the first camera sees.
    column = round(-1.0 / WALL_M * 60 + 31.5)
    assert render_depth(first)[24, column] == WALL_M
    assert np.isnan(matched_px[24, column]).all()


def test_unknown_depth_on_either_side_has_no_match():
    first, second = render_view(make_transform("y", 0)), render_view(make_transform("y", 0, (0.1, 0, 0)))
    holes = first.depth_m.copy()
    holes[:24] = np.nan
    uv_px = every_pixel()
    assert not np.isfinite(
        find_correspondences(PosedDepth(CAMERA, holes, first.camera_to_world), second, uv_px[: 24 * 64])
    ).any()
    matched = find_correspondences(first, PosedDepth(CAMERA, holes, second.camera_to_world), uv_px)
    assert np.nanmin(matched[:, 1]) > 23


def test_covisibility_is_the_smaller_share():
    here = render_view(make_transform("y", 0))
    assert compute_covisibility(here, here) == 1.0
    assert compute_covisibility(here, render_view(make_transform("y", 180))) == 0.0
    near = render_view(make_transform("y", 0, (0, 0, 1.5)))  # sees only a part of what the other sees
    assert compute_covisibility(here, near) == compute_covisibility(near, here) < 0.6


def test_relative_pose_follows_vlm3s_convention():
    """R turns camera 2 into camera 1, and C2 is in camera 1: yaw to the right is positive in any world frame."""
    world = make_transform("z", 70, (5, 6, 7)) @ OPTICAL_MOUNT
    step = np.eye(4)
    step[:3, :3], step[:3, 3] = rotation_from_angles(30, 10, -5), (0.5, -0.2, 1.0)
    rotation, translation_m = compute_relative_pose(world, world @ step)
    np.testing.assert_allclose(rotation, rotation_from_angles(30, 10, -5), atol=1e-12)
    np.testing.assert_allclose(translation_m, [0.5, -0.2, 1.0], atol=1e-12)
    to_the_right = compute_relative_pose(np.eye(4), make_transform("y", 30))[0] @ [0, 0, 1]
    assert to_the_right[0] == pytest.approx(math.sin(math.radians(30)))


POSES = [
    make_transform("y", 0),
    make_transform("y", 5, (0.3, 0, 0)),
    make_transform("y", -5, (-0.3, 0.1, 0.2)),
    make_transform("y", 180),
]


def write_room(root):
    """Writes the scene as the data set `folder`, seen from POSES."""
    for n, pose in enumerate(POSES):
        write_image(root / "rgb" / f"{n}.png", 64, 48)
        (root / "depth").mkdir(exist_ok=True)
        np.save(root / "depth" / f"{n}.npy", np.where(render_depth(pose) > 0, render_depth(pose), 0).astype(np.float32))
        write_file(root / "pose" / f"{n}.txt", " ".join(f"{x:.17g}" for x in pose.ravel()))
    write_file(root / "intrinsics.txt", "60 0 31.5 0 62 23.5 0 0 1")


def read_pairs(report):
    problems = []
    pairs = list(iter_pairs(Path(report["file"]), problems))
    assert not problems
    return pairs


def test_pairs_of_a_scene_share_enough_and_have_the_right_pose(tmp_path):
    write_room(tmp_path / "in")
    report = curate_pairs(make_job("folder", tmp_path / "in", tmp_path / "out"), PairOptions(per_view=3, points=40), 1)
    pairs = read_pairs(report)
    assert {tuple(path.stem for path in pair.images) for pair in pairs} == {("0", "1"), ("0", "2"), ("1", "2")}
    for pair in pairs:
        first, second = (POSES[int(path.stem)] for path in pair.images)
        assert pair.covisibility > 0.25 and len(pair.uv_px) == 40
        rotation, translation_m = compute_relative_pose(first, second)
        np.testing.assert_allclose(pair.rotation, rotation, atol=1e-8)
        np.testing.assert_allclose(pair.translation_m, translation_m, atol=1e-5)
        u, v = pair.uv_px.astype(int).T
        depth_m = render_depth(first)[v, u]
        in_first = np.stack([(u - 31.5) / 60 * depth_m, (v - 23.5) / 62 * depth_m, depth_m], axis=1)
        # The pose and the matches agree: p2 = R^T (p1 - C2).
        in_second = (in_first - pair.translation_m) @ pair.rotation
        by_pose = in_second[:, :2] / in_second[:, 2:] * [60, 62] + [31.5, 23.5]
        np.testing.assert_allclose(pair.matched_px, by_pose, atol=2e-3)


def test_pairs_of_scannetpp_are_in_pixels_of_the_image(tmp_path):
    scene = tmp_path / "abc" / "iphone"
    small = Intrinsics(15.0, 15.5, 7.5, 5.5, 16, 12)  # a quarter of the image
    poses = {}
    for n, pose in zip((0, 10), POSES, strict=False):
        write_image(scene / "rgb" / f"frame_{n:06d}.jpg", 64, 48)
        write_grey_image(scene / "depth" / f"frame_{n:06d}.png", render_depth(pose, small) * 1000)
        poses[f"frame_{n:06d}"] = {"intrinsic": CAMERA.matrix.tolist(), "aligned_pose": pose.tolist()}
    for n in range(1, 10):
        write_image(scene / "rgb" / f"frame_{n:06d}.jpg", 64, 48)
    write_file(scene / "pose_intrinsic_imu.json", poses)
    (pair,) = read_pairs(curate_pairs(make_job("scannetpp", tmp_path, tmp_path / "out"), PairOptions(points=50), 1))
    u, v = pair.uv_px.T
    np.testing.assert_allclose((u - 1.5) % 4, 0)  # centres of depth pixels
    depth_m = render_depth(POSES[0], small)[((v - 1.5) / 4).astype(int), ((u - 1.5) / 4).astype(int)]
    in_first = np.stack([(u - 31.5) / 60 * depth_m, (v - 23.5) / 62 * depth_m, depth_m], axis=1)
    in_second = (in_first - pair.translation_m) @ pair.rotation
    by_pose = in_second[:, :2] / in_second[:, 2:] * [60, 62] + [31.5, 23.5]
    np.testing.assert_allclose(pair.matched_px, by_pose, atol=0.02)


def test_matterport_poses_become_optical(tmp_path):
    """Its cameras look along -z with y up, so that a step along -z is a step forward."""
    scan = tmp_path / "house"
    lines = []
    for n, forward in enumerate((0.0, 0.5)):
        pose = np.eye(4)
        pose[2, 3] = -forward
        write_image(scan / "undistorted_color_images" / f"a_i0_{n}.jpg", 64, 48)
        write_grey_image(scan / "undistorted_depth_images" / f"a_d0_{n}.png", np.full((48, 64), (4.0 - forward) * 4000))
        lines += ["intrinsics_matrix 60 0 31.5 0 62 23.5 0 0 1"]
        lines += [f"scan a_d0_{n}.png a_i0_{n}.jpg {' '.join(map(str, pose.ravel()))}"]
    write_file(scan / "undistorted_camera_parameters" / "house.conf", "\n".join(lines))
    (pair,) = read_pairs(curate_pairs(make_job("matterport3d", tmp_path, tmp_path / "out"), PairOptions(), 1))
    np.testing.assert_allclose(pair.translation_m, [0, 0, 0.5], atol=1e-9)
    assert rotation_angle_deg(pair.rotation) < 1e-4


def test_views_without_a_pose_are_counted(tmp_path):
    write_room(tmp_path / "in")
    (tmp_path / "in" / "pose" / "1.txt").unlink()
    report = curate_pairs(make_job("folder", tmp_path / "in", tmp_path / "out"), PairOptions(), 1)
    assert report["problems"] == {"pose missing": 1, "view without depth": 1} and report["records"] == 1


def test_every_view_is_in_a_pair_or_counted_by_reason(tmp_path):
    write_room(tmp_path / "in")
    pose = 2 * POSES[1]
    write_file(tmp_path / "in" / "pose" / "1.txt", " ".join(map(str, pose.ravel())))
    np.save(tmp_path / "in" / "depth" / "2.npy", np.full((48, 64), np.nan, np.float32))
    for n, size, pose in ((4, (20, 20), POSES[0]), (5, (32, 24), POSES[0]), (6, (64, 48), POSES[3])):
        write_image(tmp_path / "in" / "rgb" / f"{n}.png", 64, 48)
        np.save(tmp_path / "in" / "depth" / f"{n}.npy", np.full(size[::-1], 4.0, np.float32))
        write_file(tmp_path / "in" / "pose" / f"{n}.txt", " ".join(map(str, pose.ravel())))
    report = curate_pairs(make_job("folder", tmp_path / "in", tmp_path / "out"), PairOptions(), 1)
    assert report["problems"] == {
        "pose not rigid": 1,
        "view without depth": 2,  # one of them sees nothing
        "depth map of another shape": 1,
        "view without a partner": 1,  # it looks the other way
    }
    assert [tuple(path.stem for path in pair.images) for pair in read_pairs(report)] == [("0", "5")]


def test_command_line_makes_pairs(tmp_path, capsys):
    write_room(tmp_path / "in")
    options = ["--out", str(tmp_path / "out"), "--workers", "1", "--covisibility", "0.6", "--points", "7"]
    assert main(["data", "pairs", "folder", str(tmp_path / "in"), *options]) == 0
    assert "folder.pairs.jsonl" in capsys.readouterr().out
    lines = (tmp_path / "out" / "folder.pairs.jsonl").read_text().splitlines()
    assert lines and all(json.loads(line)["covisibility"] > 0.6 for line in lines)


def test_data_set_without_poses_is_rejected(tmp_path, capsys):
    assert main(["data", "pairs", "waymo", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "pairs are made of eth3d, folder, matterport3d, scannetpp" in capsys.readouterr().err


def test_show_prints_pair_statistics_and_draws_a_sheet(tmp_path, capsys):
    write_room(tmp_path / "in")
    report = curate_pairs(make_job("folder", tmp_path / "in", tmp_path / "out"), PairOptions(points=20), 1)
    write_image(tmp_path / "in" / "rgb" / "2.png", 32, 24)
    sheet = tmp_path / "sheet.png"
    assert main(["data", "show", report["file"], "--sheet", str(sheet)]) == 0
    output = capsys.readouterr().out
    assert "pairs            3" in output and "2 x image of another size" in output
    drawn = cv2.imread(str(sheet))
    assert drawn.shape == (488, 2 * 644, 3)
    # The first cell has red lines; the images have no red.
    assert (drawn[:220, :640, 2].astype(int) - drawn[:220, :640, 0] > 100).sum() > 200


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"images": ["../in/rgb/0.png"]}, "images malformed"),
        ({"images": ["../in/rgb/0.png", "no.png"]}, "image missing"),
        ({"rotation": [[1, 0, 0], [0, 1, 0], [0, 0, 2]]}, "rotation malformed"),
        ({"rotation": [[1, 0, 0], [0, 1, 0], [0, 0, -1]]}, "rotation malformed"),
        ({"translation": [1, 2]}, "translation malformed"),
        ({"translation": [1, 2, math.nan]}, "translation malformed"),
        ({"rotation": [[1, 0, 0], [0, math.nan, 0], [0, 0, 1]]}, "rotation malformed"),
        ({"covisibility": math.nan}, "covisibility malformed"),
        ({"covisibility": 7}, "covisibility malformed"),
        ({"matched_coords": [[1, 2]]}, "points malformed"),
        ({"matched_coords": None}, "points malformed"),
    ],
)
def test_bad_pair_is_counted_by_reason(tmp_path, change, reason):
    write_room(tmp_path / "in")
    report = curate_pairs(make_job("folder", tmp_path / "in", tmp_path / "out"), PairOptions(points=5), 1)
    path = Path(report["file"])
    fields = json.loads(path.read_text().splitlines()[0])
    fields["pixel_coords"][0] = [999, 0]
    path.write_text("\n".join([json.dumps(fields), json.dumps(fields | change)]))
    problems = []
    (pair,) = iter_pairs(path, problems)
    assert len(pair.uv_px) == 4
    assert count_by_reason(problems)[reason] >= 1 and problems[-1].where.endswith(":2")
