# SPDX-License-Identifier: Apache-2.0
"""Records in both published schemas: reading, writing, and the report of each kind of damage."""

import json
import math

import cv2
import numpy as np
import pytest

from depthlm_ros.cli import main
from depthlm_ros.core import Intrinsics
from depthlm_ros.data.check import check_records
from depthlm_ros.data.depthfile import read_depth, read_z, write_depth
from depthlm_ros.data.read import Roots, read_records
from depthlm_ros.data.records import (
    MIXED,
    RANGE,
    RAW_FLOAT32,
    ROTATED_16,
    DepthFile,
    Record,
    Z,
    count_by_reason,
    depth_from_z,
    z_from_depth,
)
from depthlm_ros.data.write import depthlm_line, depthvlm_line
from depthlm_ros.errors import BadImage, BadInput
from depthlm_ros.eval.judges import read_point_records
from depthlm_ros.image_io import image_size

CAMERA = Intrinsics(50.0, 51.0, 15.5, 11.5, 32, 24)
# A line as in DepthVLM's benchmark: points are pixels of the depth map, here a quarter of the image's size.
PUBLISHED = {
    "scene_id": "s1",
    "image": "a.png",
    "depth_path": "d.png",
    "depth_scale": 1000.0,
    "original_rgb_size": [32, 24],
    "original_depth_size": [8, 6],
    "original_fx": 50.0,
    "canonical_fx": 1000.0,
    "canonical_size": [640, 480],
    "prompt": "?",
    "solution": "!",
    "pixel_coords": [[0, 0], [7, 5]],
    "depth": [1.5, 2.0],
    "depth_type": "z_depth",
}
SPARSE = {
    "image": "a.png",
    "intrinsics": [50, 51, 15.5, 11.5, 32, 24],
    "pixel_coords": [[0, 0], [31, 23]],
    "depth": [1.5, 2],
}
# A line with a depth map and no points.
DENSE = {key: value for key, value in PUBLISHED.items() if key not in ("pixel_coords", "depth")}


@pytest.fixture
def folder(tmp_path):
    """Writes an image and a depth map, and returns a function that writes lines beside them."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((24, 32, 3), np.uint8))
    write_depth(tmp_path / "d.png", np.full((6, 8), 1.5), 1000)

    def write(*lines, name="labels.jsonl"):
        path = tmp_path / name
        path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n", encoding="utf-8")
        return path

    tmp_path.joinpath("sub").mkdir()
    write.folder = tmp_path
    return write


def test_depthvlm_points_become_pixels_of_the_image(folder):
    (record,) = read_records(folder(PUBLISHED)).records
    # The first depth pixel covers image columns 0 to 3, whose centre is 1.5.
    assert record.uv_px.tolist() == [[1.5, 1.5], [29.5, 21.5]]
    assert (record.depth_type, record.scene, record.depth.size_px) == (Z, "s1", (8, 6))
    assert record.intrinsics == Intrinsics(50, 50, 15.5, 11.5, 32, 24)


def test_depthvlm_line_needs_no_points(folder):
    line = {key: value for key, value in PUBLISHED.items() if key not in ("pixel_coords", "depth")}
    (record,) = read_records(folder(line)).records
    assert len(record.uv_px) == 0 and read_depth(record.depth)[0, 0] == 1.5


def test_record_without_points_is_not_scored(folder):
    line = {key: value for key, value in PUBLISHED.items() if key not in ("pixel_coords", "depth")}
    labels = read_point_records(folder(SPARSE, line))
    assert len(labels.records) == 1
    assert count_by_reason(labels.problems) == {"record without a usable point": 1}


@pytest.mark.parametrize(("name", "caps_m"), [("waymo_val.jsonl", (0.05, 70.0)), ("x.jsonl", (0.0, math.inf))])
def test_depth_limits_come_from_the_data_set_in_the_file_name(folder, name, caps_m):
    (record,) = read_records(folder(PUBLISHED, name=name)).records
    assert record.depth.caps_m == caps_m


def test_line_may_state_its_own_limits_masks_and_camera(folder):
    cv2.imwrite(str(folder.folder / "m.png"), np.eye(6, 8, dtype=np.uint8))
    extra = {"caps_m": [1.0, 9.0], "mask_valid_path": "m.png", "intrinsics": [50, 51, 15, 11, 32, 24]}
    (record,) = read_records(folder(PUBLISHED | extra)).records
    assert record.depth.caps_m == (1.0, 9.0) and record.intrinsics.fy_px == 51
    assert np.array_equal(np.isfinite(read_depth(record.depth)), np.eye(6, 8) > 0)


def test_image_path_is_read_as_image(folder):
    line = {("image_path" if key == "image" else key): value for key, value in SPARSE.items()}
    assert read_records(folder(line)).records[0].image.name == "a.png"


@pytest.mark.parametrize(("stated", "expected"), [("ray", RANGE), ("range", RANGE), ("z_depth", Z), ("mixed", MIXED)])
def test_each_depth_type_converts_to_the_same_z(folder, stated, expected):
    uv_px = np.array([[0.0, 0.0], [31.0, 23.0], [15.5, 11.5]])
    depth_m = depth_from_z(expected, np.array([1.5, 2.0, 3.0]), uv_px, CAMERA)
    (record,) = read_records(
        folder(SPARSE | {"pixel_coords": uv_px.tolist(), "depth": depth_m.tolist(), "depth_type": stated})
    ).records
    assert record.depth_type == expected
    np.testing.assert_allclose(record.as_z().depth_m, [1.5, 2.0, 3.0])
    np.testing.assert_allclose(z_from_depth(expected, depth_m, uv_px, CAMERA), [1.5, 2.0, 3.0])


def test_mixed_is_neither_z_nor_range():
    """DepthLM's ScanNet++ formula computed by hand: sqrt(0.31^2 + 2^2) at x / z = 0.31."""
    assert depth_from_z(MIXED, np.array([2.0]), np.array([[31.0, 11.5]]), CAMERA)[0] == pytest.approx(
        math.hypot((31 - 15.5) / 50, 2)
    )


def test_roots_override_a_wrong_depth_type(folder):
    path = folder(PUBLISHED)
    (record,) = read_records(path, Roots(path.parent, path.parent, depth_type="range")).records
    assert record.depth_type == RANGE


def test_roots_set_the_folders_of_images_and_depth_maps(folder):
    path = folder.folder / "sub" / "labels.jsonl"
    path.write_text(json.dumps(PUBLISHED))
    with pytest.raises(BadInput, match="does not exist"):
        read_records(path)
    assert read_records(path, Roots(folder.folder, folder.folder)).records


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (PUBLISHED | {"depth_path": "no.png"}, "depth map missing"),
        (PUBLISHED | {"mask_valid_path": "no.png"}, "mask missing"),
        (PUBLISHED | {"depth_scale": 0}, "depth_scale malformed"),
        (PUBLISHED | {"depth_scale": math.nan}, "depth_scale malformed"),
        (PUBLISHED | {"original_rgb_size": [32.5, 24]}, "original_rgb_size malformed"),
        (PUBLISHED | {"original_depth_size": [8]}, "original_depth_size malformed"),
        (PUBLISHED | {"original_fx": None}, "original_fx malformed"),
        (PUBLISHED | {"caps_m": [1]}, "caps_m malformed"),
        ({k: v for k, v in PUBLISHED.items() if k != "depth"}, "key missing"),
    ],
)
def test_bad_depthvlm_line_is_counted_by_reason_with_its_line_number(folder, line, reason):
    path = folder(PUBLISHED, line)
    found = read_records(path)
    assert len(found.records) == 1
    (problem,) = found.problems
    assert problem.reason == reason and problem.where == f"{path}:2"


def test_both_schemas_are_read_back_as_written(folder):
    here = folder.folder
    depth = DepthFile(here / "d.png", 1000.0, (8, 6), caps_m=(0.1, 9.0))
    record = Record(
        "",
        here / "a.png",
        CAMERA,
        np.array([[1.5, 1.5], [29.5, 21.5]]),
        np.array([1.5, 2.25]),
        RANGE,
        depth,
        "s",
        "c",
        "val",
    )
    for line in (depthlm_line(record, here), depthvlm_line(record, here)):
        (again,) = read_records(folder(line)).records
        np.testing.assert_array_equal(again.uv_px, record.uv_px)
        assert again.depth_m.tolist() == [1.5, 2.25] and again.intrinsics == CAMERA
        assert (again.depth_type, again.scene, again.camera, again.split) == (RANGE, "s", "c", "val")
    assert again.depth == depth


def test_written_lines_have_the_keys_of_the_published_loaders(folder):
    here = folder.folder
    record = Record("", here / "a.png", CAMERA, depth=DepthFile(here / "d.png", 1000.0, (8, 6)))
    fields = json.loads(depthvlm_line(record, here))
    assert {k: fields[k] for k in ("image", "depth_path", "canonical_fx", "canonical_size", "original_rgb_size")} == {
        "image": "a.png",
        "depth_path": "d.png",
        "canonical_fx": 1000.0,
        "canonical_size": [640, 480],
        "original_rgb_size": [32, 24],
    }
    assert fields["prompt"].endswith("for every pixel of the image.") and "pixel_coords" not in fields


def test_unknown_depth_is_nan_in_every_format(tmp_path):
    depth_m = np.array([[1.0, np.nan], [70.0, 2.0]], np.float32)
    write_depth(tmp_path / "d.png", depth_m, 1000)  # 70 m does not fit into 16 bits
    np.save(tmp_path / "d.npy", np.array([[1.0, -3.0], [np.inf, 2.0]], np.float32))
    np.array([[1.0, np.inf], [0.0, 2.0]], "<f4").tofile(tmp_path / "d.JPG")
    for file in (
        DepthFile(tmp_path / "d.png", 1000),
        DepthFile(tmp_path / "d.npy", 1),
        DepthFile(tmp_path / "d.JPG", 1, (2, 2), RAW_FLOAT32),
    ):
        np.testing.assert_array_equal(read_depth(file), np.array([[1, np.nan], [np.nan, 2]], np.float32))


def test_sun_rgbd_bits_are_rotated_back_beyond_8_metres(tmp_path):
    millimetres = np.array([[1000, 8191, 9000, 0]], np.uint16)
    rotated = (millimetres << np.uint16(3)) | (millimetres >> np.uint16(13))
    cv2.imwrite(str(tmp_path / "d.png"), rotated)
    truth_m = [1.0, 8.191, 9.0, np.nan]
    np.testing.assert_allclose(
        read_depth(DepthFile(tmp_path / "d.png", 1000, format=ROTATED_16))[0], truth_m, rtol=1e-6
    )
    divided_m = read_depth(DepthFile(tmp_path / "d.png", 8000))[0]
    np.testing.assert_allclose(divided_m[:2], truth_m[:2], rtol=1e-6)
    assert divided_m[2] == pytest.approx(0.808, abs=1e-3)  # 9 m, as DepthVLM reads it


def test_range_map_becomes_a_z_map(folder):
    z_m = np.full((24, 32), 2.0)
    uv_px = np.stack(np.meshgrid(np.arange(32), np.arange(24)), axis=-1).reshape(-1, 2)
    np.save(folder.folder / "r.npy", depth_from_z(RANGE, z_m.ravel(), uv_px, CAMERA).reshape(24, 32))
    record = Record(
        "", folder.folder / "a.png", CAMERA, depth_type=RANGE, depth=DepthFile(folder.folder / "r.npy", 1.0)
    )
    np.testing.assert_allclose(read_z(record), 2.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size_px": (9, 9)}, "8 x 6, its record says 9 x 9"),
        ({"format": "zip"}, "'zip' is unknown"),
        ({"format": RAW_FLOAT32, "size_px": (8, 6)}, "not 8 x 6 float32"),
        ({"format": RAW_FLOAT32}, "does not state its size"),
    ],
)
def test_depth_map_that_contradicts_its_record_is_rejected(folder, change, message):
    with pytest.raises(BadImage, match=message):
        read_depth(DepthFile(folder.folder / "d.png", **{"scale": 1.0} | change))


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_damaged_depth_map_is_rejected(tmp_path, content):
    (tmp_path / "d.png").write_bytes(content)
    with pytest.raises(BadImage, match=r"d\.png"):
        read_depth(DepthFile(tmp_path / "d.png", 1.0))


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_image_size_is_read_from_the_first_bytes(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), np.zeros((11, 17, 3), np.uint8))
    assert image_size(path) == (17, 11)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0\x00\x10JF", b"\x89PNG\r\n\x1a\n", b"plain text"])
def test_file_that_is_not_an_image_has_no_size(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(BadImage, match=r"not an image|cut short"):
        image_size(tmp_path / "a.jpg")


def test_every_kind_of_damage_is_counted(folder):
    cv2.imwrite(str(folder.folder / "small.png"), np.zeros((12, 16, 3), np.uint8))
    (folder.folder / "torn.png").write_bytes(b"torn")
    path = folder(
        SPARSE,
        SPARSE,
        "{broken",
        SPARSE | {"image": "no.png"},
        SPARSE | {"image": "small.png"},
        SPARSE | {"image": "torn.png"},
        SPARSE | {"pixel_coords": [[0, 0], [99, 0]]},
        SPARSE | {"depth": [math.nan, -1]},
        SPARSE | {"depth": [1, -1]},
        PUBLISHED | {"original_depth_size": [9, 6]},
    )
    problems = []
    assert len(list(check_records(path, problems))) == 7
    assert count_by_reason(problems) == {
        "duplicate line": 1,
        "not JSON": 1,
        "image missing": 1,
        "image of another size": 1,
        "image unusable": 1,
        "point outside the image": 1,
        "record without a usable point": 1,
        "point without a depth": 1,
        "depth map of another size": 1,
    }
    assert next(p.where for p in problems if p.reason == "duplicate line") == f"{path}:2"


def test_mislabelled_files_of_depthvlm_are_doubted(folder):
    waymo = folder.folder / "waymo"
    waymo.mkdir()
    write_depth(waymo / "d.png", np.full((6, 8), 1.5), 1000)
    problems = []
    list(check_records(folder(PUBLISHED | {"depth_path": "waymo/d.png"}), problems))
    assert [p.reason for p in problems] == ["depth_type doubtful"]


def test_show_prints_numbers_and_problems_and_draws_a_sheet(folder, capsys):
    path, sheet = folder(SPARSE, PUBLISHED, SPARSE | {"image": "no.png"}), folder.folder / "sheet.png"
    assert main(["data", "show", str(path), "--sheet", str(sheet)]) == 0
    output = capsys.readouterr().out
    assert "records          2" in output and "1 x image missing" in output and ":3: image" in output
    picture = cv2.imread(str(sheet))
    assert picture.shape == (266, 2 * 644, 3) and picture.std() > 5


def test_show_as_json_is_plain_json(folder, capsys):
    assert main(["data", "show", str(folder(SPARSE, PUBLISHED)), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["records"], summary["points"], summary["with_depth_map"], summary["problems"]) == (2, 4, 1, {})
    assert summary["depth_m"]["0%"] == pytest.approx(1.5, rel=0.02)
    assert summary["depth_m"]["100%"] == pytest.approx(2.0, rel=0.02)


def test_show_as_json_describes_depth_maps_without_points(folder, capsys):
    assert main(["data", "show", str(folder(DENSE)), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert summary["depth_m"] == {} and summary["map_depth_m"]["50%"] == pytest.approx(1.5, rel=0.02)
    assert summary["map_known_share"] == 1.0
    assert main(["data", "show", str(folder(DENSE)), "--json", "--quick"]) == 0
    assert "map_depth_m" not in json.loads(capsys.readouterr().out)


def test_depth_maps_with_negative_or_no_depth_are_reported(folder):
    maps = {"unknown": np.full((6, 8), np.nan), "negative": np.full((6, 8), -1.0), "half": np.ones((6, 8))}
    maps["half"][:3] = -2
    for name, depth_m in maps.items():
        np.save(folder.folder / f"{name}.npy", depth_m.astype(np.float32))
    lines = (DENSE | {"depth_path": f"{name}.npy", "depth_scale": 1} for name in maps)
    problems, depth_maps = [], []
    assert len(list(check_records(folder(*lines), problems, on_depth_map=depth_maps.append))) == len(depth_maps) == 3
    assert [(p.where[-1], p.reason) for p in problems] == [
        ("1", "depth map without a depth"),
        ("2", "depth map with negative depths"),
        ("2", "depth map without a depth"),
        ("3", "depth map with negative depths"),
    ]
    assert "24 of its 48 depths" in problems[-1].message


def test_show_of_a_file_without_usable_records_fails_and_says_why(folder, capsys):
    assert main(["data", "show", str(folder("{", SPARSE | {"image": "no.png"}))]) == 2
    assert "no usable record: 2 problems" in capsys.readouterr().err
