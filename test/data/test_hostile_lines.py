# SPDX-License-Identifier: Apache-2.0
"""Lines of labels that JSON, a path or an array cannot hold: each costs itself, and is counted by its reason."""

import json

import cv2
import numpy as np
import pytest
from support.small_data_sets import make_job, write_file, write_image

from depthlm_ros.data.curate import curate
from depthlm_ros.data.depthfile import BadDepthMap, read_depth
from depthlm_ros.data.read import read_records
from depthlm_ros.data.records import DepthFile, count_by_reason
from depthlm_ros.file_io import JsonLinesFile, parse_json

GOOD = {"image": "a.png", "intrinsics": [40, 40, 1.5, 1, 4, 3], "pixel_coords": [[1, 1]], "depth": [2.0]}
DIGITS = "9" * 5000


def line(**changes: object) -> str:
    return json.dumps(GOOD | changes)


BAD_LINES = {
    "nested lists": ("[" * 100_000 + "]" * 100_000, "not JSON"),
    "nested objects": ('{"a":' * 100_000 + "1" + "}" * 100_000, "not JSON"),
    "a number of 5,000 digits": (line(x="D").replace('"D"', DIGITS), "not JSON"),
    "a number beyond a float": (line(depth=["D"]).replace('"D"', "9" * 400), "depth malformed"),
    "half a character in a path": (line(image="a\ud800.png"), "half a character"),
    "half a character in a text": (line(scene="a\udfff"), "half a character"),
    "an image as base64": (line(image="data:image/png;base64," + "A" * 5000), "image path malformed"),
    "a path that is too long": (line(image="a" * 5000), "image path malformed"),
    "a path with a zero byte": (line(image="a\0.png"), "image missing"),
    "a path through a file": (line(image="a.png/b.png"), "image missing"),
}


@pytest.mark.parametrize(("bad", "reason"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_line_is_counted_in_a_short_message_and_the_others_are_read(tmp_path, bad, reason):
    write_image(tmp_path / "a.png", 4, 3)
    (tmp_path / "labels.jsonl").write_text(f"{line()}\n{bad}\n{line(scene='room ü 房')}\n")
    found = read_records(tmp_path / "labels.jsonl")
    assert len(found.records) == 2 and found.records[1].scene == "room ü 房"
    (problem,) = found.problems
    assert problem.where.endswith(":2") and len(problem.message) < 400
    assert problem.reason == reason or (reason == "image missing" and problem.reason == "image path malformed")


@pytest.mark.parametrize("text", ["[" * 100_000, DIGITS, "", "{", b"\xff\xfe\x00", "nul"])
def test_json_of_others_is_refused_with_one_kind_of_error(text):
    with pytest.raises(json.JSONDecodeError):
        parse_json(text)


def test_a_journal_with_a_number_of_5000_digits_is_damaged(tmp_path):
    (tmp_path / "a.jsonl").write_text(f'{{"a": {DIGITS}}}\n')
    with pytest.raises(ValueError, match="too long"):
        JsonLinesFile(tmp_path / "a.jsonl")


def test_intrinsics_in_another_unit_are_told_but_used(tmp_path):
    write_image(tmp_path / "a.png", 4, 3)
    (tmp_path / "labels.jsonl").write_text(line(intrinsics=[0.7, 0.9, 0.5, 0.5, 4, 3]) + "\n")
    found = read_records(tmp_path / "labels.jsonl")
    assert len(found.records) == 1 and count_by_reason(found.problems) == {"intrinsics doubtful": 1}
    assert "shares of the image by 4 and 3" in found.problems[0].message


# ---- depth maps


def test_a_picture_of_a_depth_map_is_no_depth_map(tmp_path):
    cv2.imwrite(str(tmp_path / "d.png"), np.full((3, 4), 200, np.uint8))
    with pytest.raises(BadDepthMap, match=r"8 bits.*0\.26 m"):
        read_depth(DepthFile(tmp_path / "d.png", 1000.0))
    assert (read_depth(DepthFile(tmp_path / "d.png", 50.0)) == 4.0).all()  # a map in units of 2 cm


def test_the_largest_number_of_16_bits_is_unknown_depth(tmp_path):
    cv2.imwrite(str(tmp_path / "d.png"), np.array([[65535, 65534, 0, 1000]], np.uint16))
    depth_m = read_depth(DepthFile(tmp_path / "d.png", 1000.0))
    np.testing.assert_allclose(depth_m, [[np.nan, 65.534, np.nan, 1.0]], rtol=1e-6)


def own_folder(folder, depth, intrinsics="4 0 1.5 0 4 1 0 0 1"):
    """Writes one view of the data set `folder`, and returns its curated records and the counted problems."""
    write_image(folder / "rgb" / "a.png", 4, 3)
    (folder / "depth").mkdir()
    if depth.dtype == np.float32:
        np.save(folder / "depth" / "a.npy", depth)
    else:
        cv2.imwrite(str(folder / "depth" / "a.png"), depth)
    write_file(folder / "intrinsics.txt", intrinsics)
    report = curate(make_job("folder", folder, folder / "out"), workers=1)
    return report["records"], report["problems"]


@pytest.mark.parametrize("depth", [np.full((3, 4), 80, np.uint8), np.full((3, 4), 1500, np.float32)])
def test_depth_in_another_unit_costs_its_view(tmp_path, depth):
    assert own_folder(tmp_path, depth) == (0, {"depth map unusable": 1})


@pytest.mark.parametrize(
    "text", ["4,0,1.5\n0,4,1\n0,0,1\n", "[[4. 0. 1.5]\n [0. 4. 1.]\n [0. 0. 1.]]", "[4, 0, 1.5; 0, 4, 1; 0, 0, 1]"]
)
def test_a_matrix_is_read_as_numpy_matlab_and_spreadsheets_print_it(tmp_path, text):
    assert own_folder(tmp_path, np.full((3, 4), 2.5, np.float32), text) == (1, {})


def test_a_matrix_with_words_in_it_names_its_file(tmp_path):
    import depthlm_ros.data.sets.folder as folder

    write_file(tmp_path / "intrinsics.txt", "fx 4 0 1.5 0 4 1 0 0")
    with pytest.raises(ValueError, match=r"intrinsics\.txt.*3 x 3 numbers.*'fx'"):
        folder._read_matrix(tmp_path / "intrinsics.txt", 3)
