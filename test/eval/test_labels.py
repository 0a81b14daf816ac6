# SPDX-License-Identifier: Apache-2.0
"""Labels in DepthLM's JSONL schema: how they are read, and how each kind of bad line is reported."""

import json
import math

import cv2
import numpy as np
import pytest

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.records import count_by_reason
from depthlm_ros.errors import BadInput
from depthlm_ros.eval.judges import read_point_records
from depthlm_ros.geometry.pinhole import pixels_inside

GOOD = {
    "image": "a.png",
    "intrinsics": [50, 51, 15.5, 11.5, 32, 24],
    "pixel_coords": [[0, 0], [31, 23]],
    "depth": [1.5, 2],
}


@pytest.fixture
def write_labels(tmp_path):
    """Returns a function that writes lines (objects or text) beside an image and returns the path of the labels."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((24, 32, 3), np.uint8))

    def write(*lines):
        path = tmp_path / "labels.jsonl"
        path.write_text(
            "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8"
        )
        return path

    return write


def test_image_path_of_a_good_line_is_relative_to_the_file(write_labels, tmp_path):
    labels = read_point_records(write_labels(GOOD))
    (record,) = labels.records
    assert record.image == tmp_path / "a.png"
    assert record.intrinsics == Intrinsics(50, 51, 15.5, 11.5, 32, 24)
    assert record.uv_px.dtype == np.float64 and record.uv_px.tolist() == [[0, 0], [31, 23]]
    assert record.depth_m.tolist() == [1.5, 2.0]
    assert labels.problems == ()


def test_blank_lines_are_skipped_but_counted_as_lines(write_labels):
    labels = read_point_records(write_labels("", GOOD, "  ", "{", GOOD))
    assert len(labels.records) == 2
    assert [p.where.rsplit(":", 1)[1] for p in labels.problems] == ["4"]


@pytest.mark.parametrize(
    ("line", "reason", "named"),
    [
        ("{not json", "not JSON", "JSON"),
        ("[1, 2]", "not JSON", "list"),
        ({k: v for k, v in GOOD.items() if k != "depth"}, "key missing", "'depth'"),
        (GOOD | {"image": "b.png"}, "image missing", "b.png"),
        (GOOD | {"image": 3}, "image path malformed", "3"),
        (GOOD | {"intrinsics": [50, 50, 15, 11]}, "intrinsics malformed", "(4,)"),
        (GOOD | {"intrinsics": [50, 50, 15, 11, 32.5, 24]}, "intrinsics malformed", "32.5"),
        (GOOD | {"intrinsics": [50, "x", 15, 11, 32, 24]}, "intrinsics malformed", "x"),
        (GOOD | {"intrinsics": [0, 50, 15, 11, 32, 24]}, "intrinsics unusable", "fx = 0"),
        (GOOD | {"intrinsics": [50, math.nan, 15, 11, 32, 24]}, "intrinsics unusable", "fy = nan"),
        (GOOD | {"intrinsics": [50, 50, 15, 11, math.inf, 24]}, "intrinsics malformed", "inf"),
        (GOOD | {"depth": [1.0]}, "points malformed", "(1,)"),
        (GOOD | {"pixel_coords": [[1, 2], [3]]}, "pixel_coords malformed", "list of numbers"),
        (GOOD | {"pixel_coords": [], "depth": []}, "record without a usable point", "empty"),
        (GOOD | {"depth": [math.nan, -1]}, "record without a usable point", "nan"),
        (GOOD | {"depth_type": "disparity"}, "depth_type unknown", "disparity"),
    ],
)
def test_bad_line_is_counted_by_reason_with_file_and_line(write_labels, line, reason, named):
    path = write_labels(GOOD, line)
    labels = read_point_records(path)
    assert len(labels.records) == 1
    (problem,) = labels.problems
    assert problem.reason == reason
    assert named in problem.message
    assert str(problem).startswith(f"{path}:2: ")


def test_bad_points_are_left_out_and_the_others_are_kept(write_labels):
    uv_px = [[0, 0], [32, 0], [0, -1], [5, 5], [6, 6]]
    labels = read_point_records(write_labels(GOOD | {"pixel_coords": uv_px, "depth": [1, 2, 3, math.nan, 5]}))
    assert labels.records[0].uv_px.tolist() == [[0, 0], [6, 6]]
    assert labels.records[0].depth_m.tolist() == [1, 5]
    assert count_by_reason(labels.problems) == {"point outside the image": 2, "point without a depth": 1}
    assert "(32, 0)" in str(labels.problems[0])


def test_file_with_only_bad_lines_is_an_error_that_says_why(write_labels):
    path = write_labels(GOOD | {"image": "b.png"}, GOOD | {"image": "c.png"})
    with pytest.raises(BadInput, match=r"no usable record: 2 problems, the first is .*labels.jsonl:1: image .*b.png"):
        read_point_records(path)


def test_empty_missing_or_binary_file_is_an_error(write_labels, tmp_path):
    with pytest.raises(BadInput, match="no lines"):
        read_point_records(write_labels())
    with pytest.raises(BadInput, match=r"nowhere\.jsonl: cannot be read"):
        read_point_records(tmp_path / "nowhere.jsonl")
    with pytest.raises(BadInput, match="no usable record"):
        read_point_records(tmp_path / "a.png")


def test_line_with_bytes_that_are_not_text_is_left_out_alone(write_labels):
    path = write_labels(GOOD, GOOD, GOOD)
    first, second, third = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join((first, second.replace(b"a.png", b"\xff.png"), third)))
    found = read_point_records(path)
    assert len(found.records) == 2 and [problem.reason for problem in found.problems] == ["image missing"]


def test_distance_along_the_ray_is_converted_to_z(write_labels):
    line = GOOD | {"pixel_coords": [[15.5, 11.5], [31, 23]], "depth": [2, 2], "depth_type": "ray"}
    depth_m = read_point_records(write_labels(line)).records[0].depth_m
    assert depth_m[0] == 2.0
    assert depth_m[1] == pytest.approx(2 / math.sqrt(1 + (15.5 / 50) ** 2 + (11.5 / 51) ** 2))


def test_image_extends_half_a_pixel_beyond_its_outer_pixel_centres():
    camera = Intrinsics(50, 50, 15, 11, 32, 24)
    uv_px = np.array([[0, 0], [31.4, 23.4], [31.5, 0], [0, 23.5], [-0.4, 0], [-0.5, 0], [math.nan, 1]])
    assert pixels_inside(uv_px, camera.size_px).tolist() == [True, True, False, False, True, True, False]
