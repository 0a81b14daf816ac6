# SPDX-License-Identifier: Apache-2.0
"""Tests of reading a camera from a calibration file or from an echoed CameraInfo."""

import numpy as np
import pytest
import yaml

from depthlm_ros.errors import BadIntrinsics
from depthlm_ros.geometry.calibration_file import read_camera

# In the format of camera_calibration_parsers, which writes numbers without a point before the exponent.
CALIBRATION = """\
image_width: 640
image_height: 480
camera_name: head
camera_matrix:
  rows: 3
  cols: 3
  data: [430.25, 0, 307.5, 0, 430.75, 228.5, 0, 0, 1]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [-0.33, 0.12, 1e-05, -2e-04, 0]
rectification_matrix:
  rows: 3
  cols: 3
  data: [1, 0, 0, 0, 1, 0, 0, 0, 1]
projection_matrix:
  rows: 3
  cols: 4
  data: [345.5, 0, 300.25, 0, 0, 390.5, 227.75, 0, 0, 0, 1, 0]
"""

ECHO = """\
header:
  stamp:
    sec: 3
    nanosec: 0
  frame_id: head
height: 480
width: 640
distortion_model: rational_polynomial
d:
- 0.1
- -0.05
- 0.0
- 0.0
- 0.01
- 0.0
- 0.0
- 0.0
k:
- 430.25
- 0.0
- 307.5
- 0.0
- 430.75
- 228.5
- 0.0
- 0.0
- 1.0
r: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
p: [400.0, 0.0, 300.0, 0.0, 0.0, 410.0, 230.0, 0.0, 0.0, 0.0, 1.0, 0.0]
binning_x: 2
binning_y: 2
roi:
  x_offset: 40
  y_offset: 20
  height: 400
  width: 560
  do_rectify: true
---
"""


@pytest.fixture
def read(tmp_path):
    def write_and_read(text):
        path = tmp_path / "camera.yaml"
        path.write_text(text)
        return read_camera(path)

    return write_and_read


def changed(text, **fields):
    content = next(yaml.safe_load_all(text))
    for name, value in fields.items():
        if value is None:
            del content[name]
        else:
            content[name] = value
    return yaml.safe_dump(content)


def test_a_calibration_file_is_read_field_by_field(read):
    camera = read(CALIBRATION)
    assert (camera.width_px, camera.height_px, camera.distortion_model) == (640, 480, "plumb_bob")
    assert camera.d == (-0.33, 0.12, 1e-05, -2e-04, 0.0)
    np.testing.assert_array_equal(camera.k, [[430.25, 0, 307.5], [0, 430.75, 228.5], [0, 0, 1]])
    np.testing.assert_array_equal(camera.r, np.eye(3))
    intrinsics = camera.rectified_intrinsics
    assert (intrinsics.fx_px, intrinsics.fy_px, intrinsics.cx_px, intrinsics.cy_px) == (345.5, 390.5, 300.25, 227.75)
    assert intrinsics.size_px == (640, 480)


def test_an_echoed_message_is_read_with_binning_and_window(read):
    camera = read(ECHO)
    assert camera.distortion_model == "rational_polynomial" and len(camera.d) == 8
    assert camera.delivered_size_px == (280, 200)
    assert camera.rectified_intrinsics.fx_px == 200.0
    assert camera.rectified_intrinsics.cx_px == (300.0 - 40) / 2
    assert camera.roi.do_rectify


def test_the_first_of_several_messages_is_read_and_capital_names_are_accepted(read):
    second = ECHO.replace("width: 640", "width: 320")
    capitals = ECHO.replace("\nd:", "\nD:").replace("\nk:", "\nK:").replace("\nr:", "\nR:").replace("\np:", "\nP:")
    assert read(ECHO + second) == read(ECHO) == read(capitals)


def test_a_calibration_may_omit_optional_fields(read):
    camera = read(changed(CALIBRATION, projection_matrix=None, rectification_matrix=None, distortion_model=None))
    assert camera.distortion_model == "plumb_bob" and not camera.has_p
    assert camera.rectified_intrinsics.fx_px == 430.25


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "None"),
        ("just words", "just words"),
        ("a: [", "not YAML"),
        ("name: head\nsize: 3\n", r"\['name', 'size'\]"),
        (changed(CALIBRATION, image_width=None), "image_width is missing"),
        (changed(CALIBRATION, image_width=640.5), "image_width is 640.5"),
        (changed(CALIBRATION, image_height="tall"), "image_height is 'tall'"),
        (changed(CALIBRATION, camera_matrix=[1, 2]), r"camera_matrix is \[1, 2\]"),
        (changed(CALIBRATION, camera_matrix={"rows": 3, "cols": 3, "data": [1, 2]}), "camera_matrix has 2 values"),
        (changed(CALIBRATION, projection_matrix={"rows": 3, "cols": 3, "data": [0] * 9}), "projection_matrix is 3 x 3"),
        (
            changed(CALIBRATION, camera_matrix={"rows": 3, "cols": 3, "data": ["wide"] + [0] * 8}),
            r"camera_matrix\.data is \['wide'",
        ),
        (changed(CALIBRATION, camera_matrix={"rows": 3, "cols": 3, "data": [0] * 9}), "fx = 0.0"),
        (changed(CALIBRATION, distortion_model="fisheye9"), "'fisheye9'"),
        (changed(CALIBRATION, distortion_model=5), "distortion_model is 5"),
        (changed(ECHO, k=[1.0, 2.0]), "2 values in K"),
        (changed(ECHO, d="..."), "d is '...'"),
        (changed(ECHO, roi=[0, 0]), r"roi is \[0, 0\]"),
        (changed(ECHO, height=None), "height is missing"),
    ],
)
def test_an_unusable_file_is_refused_with_the_field_and_its_value(read, text, said):
    with pytest.raises(BadIntrinsics, match=rf"camera\.yaml.*{said}"):
        read(text)


def test_a_missing_or_binary_file_is_refused_by_name(tmp_path):
    with pytest.raises(BadIntrinsics, match=r"nowhere\.yaml"):
        read_camera(tmp_path / "nowhere.yaml")
    (tmp_path / "camera.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadIntrinsics, match=r"camera\.yaml is not YAML"):
        read_camera(tmp_path / "camera.yaml")


OPENCV = """\
%YAML:1.0
---
calibration_time: "Tue 01 Jan 2030"
image_width: 640
image_height: 480
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 4.3025000000000000e+02, 0., 3.0750000000000000e+02, 0.,
       4.3075e+02, 2.285e+02, 0., 0., 1. ]
distortion_coefficients: !!opencv-matrix
   rows: 5
   cols: 1
   dt: d
   data: [ -3.3e-01, 1.2e-01, 1.0e-05, -2.0e-04, 0. ]
avg_reprojection_error: 2.1e-01
"""


def test_calibration_of_opencv_is_read_like_that_of_ros(tmp_path):
    (tmp_path / "opencv.yaml").write_text(OPENCV)
    (tmp_path / "ros.yaml").write_text(CALIBRATION.partition("rectification_matrix")[0])
    assert read_camera(tmp_path / "opencv.yaml") == read_camera(tmp_path / "ros.yaml")


def test_names_of_opencv_s_samples_are_known(tmp_path):
    other = OPENCV.replace("camera_matrix", "Camera_Matrix").replace("distortion_coefficients", "distCoeffs")
    for name, text in {"a.yaml": OPENCV, "b.yaml": other}.items():
        (tmp_path / name).write_text(text)
    assert read_camera(tmp_path / "a.yaml") == read_camera(tmp_path / "b.yaml")


def test_eight_coefficients_of_opencv_are_a_rational_polynomial(tmp_path):
    text = OPENCV.replace("rows: 5", "rows: 8").replace("-2.0e-04, 0. ]", "-2.0e-04, 0., 0.1, 0.2, 0.3 ]")
    (tmp_path / "a.yaml").write_text(text)
    assert read_camera(tmp_path / "a.yaml").distortion_model == "rational_polynomial"


FOUR = CALIBRATION.replace("cols: 5", "cols: 4").replace("-2e-04, 0]", "-2e-04]")


@pytest.mark.parametrize("flag", ["camera_model: fisheye", "fisheye_model: 1", "camera_model: equidistant"])
def test_a_fisheye_that_names_no_distortion_model_is_equidistant(tmp_path, flag):
    (tmp_path / "a.yaml").write_text(FOUR.replace("distortion_model: plumb_bob", flag))
    assert read_camera(tmp_path / "a.yaml").distortion_model == "equidistant"


@pytest.mark.parametrize("lens", ["equidistant", "fisheye"])
def test_a_fisheye_may_name_its_lens_twice(tmp_path, lens):
    text = FOUR.replace("distortion_model: plumb_bob", f"camera_model: fisheye\ndistortion_model: {lens}")
    (tmp_path / "a.yaml").write_text(text)
    assert read_camera(tmp_path / "a.yaml").distortion_model == "equidistant"


@pytest.mark.parametrize("camera", ["fisheye", "omni"])
def test_a_camera_that_contradicts_its_distortion_model_is_refused(tmp_path, camera):
    (tmp_path / "a.yaml").write_text(f"camera_model: {camera}\n{FOUR}")
    with pytest.raises(BadIntrinsics, match=rf"a\.yaml: camera_model is '{camera}'.*'plumb_bob'"):
        read_camera(tmp_path / "a.yaml")


@pytest.mark.parametrize("text", ["[" * 100_000, "k: " + "9" * 5000, "%YAML:1.0", "\x00"])
def test_a_file_that_yaml_does_not_take_is_refused_by_name(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(BadIntrinsics, match=r"a\.yaml"):
        read_camera(tmp_path / "a.yaml")
