# SPDX-License-Identifier: Apache-2.0
"""Tests of CameraModel: the camera of the delivered image, and which CameraInfos are refused."""

import math

import numpy as np
import pytest

from depthlm_ros.errors import BadIntrinsics
from depthlm_ros.geometry.camera_model import CameraModel, Roi, rectified_camera
from depthlm_ros.geometry.rectify import Rectifier

K = (525.0, 0.0, 319.5, 0.0, 520.0, 241.0, 0.0, 0.0, 1.0)
P = (500.0, 0.0, 310.0, 0.0, 0.0, 505.0, 250.0, 0.0, 0.0, 0.0, 1.0, 0.0)
NO_P = (0.0,) * 12


def camera(**changes):
    fields = {
        "width_px": 640,
        "height_px": 480,
        "distortion_model": "plumb_bob",
        "d": (0.1, -0.2, 0.001, 0.002, 0.05),
        "k": K,
        "r": np.eye(3),
        "p": P,
    }
    return CameraModel(**{**fields, **changes})


def test_rectified_camera_comes_from_p_if_p_is_given():
    out = camera().rectified_intrinsics
    assert (out.fx_px, out.fy_px, out.cx_px, out.cy_px, *out.size_px) == (500.0, 505.0, 310.0, 250.0, 640, 480)


def test_rectified_camera_comes_from_k_if_p_is_all_zero():
    out = camera(p=NO_P).rectified_intrinsics
    assert (out.fx_px, out.fy_px, out.cx_px, out.cy_px) == (525.0, 520.0, 319.5, 241.0)


def test_binning_zero_means_one():
    assert camera(binning_x=0, binning_y=0) == camera(binning_x=1, binning_y=1)
    assert camera(binning_x=0, binning_y=0).delivered_size_px == (640, 480)


def test_window_is_cut_before_binning():
    model = camera(roi=Roi(100, 40, 402, 302), binning_x=2, binning_y=4)
    assert model.delivered_size_px == (201, 75)
    expected_k = [[525 / 2, 0, (319.5 - 100) / 2], [0, 520 / 4, (241 - 40) / 4], [0, 0, 1]]
    np.testing.assert_allclose(model.delivered_k, expected_k)
    out = model.rectified_intrinsics
    assert (out.fx_px, out.fy_px, out.cx_px, out.cy_px) == (250.0, 505 / 4, 105.0, 210 / 4)
    assert out.size_px == (201, 75)


def test_stereo_baseline_in_p_scales_with_binning():
    p = list(P)
    p[3] = -60.0
    np.testing.assert_allclose(camera(p=p, binning_x=2, binning_y=2).delivered_p[:, 3], (-30.0, 0.0, 0.0))


def test_roi_of_zeros_and_roi_of_the_whole_sensor_are_the_same_image():
    whole = camera(roi=Roi(0, 0, 640, 480))
    assert whole.rectified_intrinsics == camera().rectified_intrinsics


def test_equal_numbers_are_equal_models_and_any_changed_number_is_not():
    assert camera() == camera()
    assert hash(camera()) == hash(camera())
    changed_k = list(K)
    changed_k[2] += 1e-9
    for other in (camera(k=changed_k), camera(d=(0.1, -0.2, 0.001, 0.002)), camera(roi=Roi(0, 0, 640, 470))):
        assert other != camera()


def test_model_does_not_follow_later_changes_of_the_callers_arrays():
    k = np.array(K)
    model = camera(k=k)
    k[0] = 1.0
    assert model.k[0, 0] == 525.0
    with pytest.raises(ValueError, match="read-only"):
        model.k[0, 0] = 1.0


def test_all_zero_rotation_counts_as_identity():
    np.testing.assert_array_equal(camera(r=np.zeros(9)).r, np.eye(3))


@pytest.mark.parametrize("focal", [0.0, -525.0, math.nan, math.inf])
@pytest.mark.parametrize(("index", "name"), [(0, "fx"), (4, "fy")])
def test_impossible_focal_length_is_refused_by_name_and_value(focal, index, name):
    k = list(K)
    k[index] = focal
    with pytest.raises(BadIntrinsics, match=f"camera_info has {name} = {focal}: the camera is not calibrated"):
        camera(k=k)


@pytest.mark.parametrize(("field", "length", "index"), [("k", 9, 2), ("r", 9, 0), ("p", 12, 6)])
def test_nan_in_a_matrix_is_refused(field, length, index):
    values = list({"k": K, "r": np.eye(3).ravel(), "p": P}[field])
    assert len(values) == length
    values[index] = math.nan
    with pytest.raises(BadIntrinsics, match=f"NaN or inf in {field.upper()}"):
        camera(**{field: values})


def test_negative_focal_length_in_p_is_refused():
    with pytest.raises(BadIntrinsics, match=r"P with fx = -500\.0"):
        camera(p=(-500.0, *P[1:]))


def test_matrix_with_too_few_values_is_refused():
    with pytest.raises(BadIntrinsics, match="8 values in K: expected 3 x 3"):
        camera(k=K[:8])


@pytest.mark.parametrize(
    "k",
    [np.array(K).reshape(3, 3).T.ravel(), (*K[:1], 6.0, *K[2:]), (*K[:7], 300.0, 1.0)],
    ids=["columns", "skew", "k7"],
)
def test_a_k_in_wrong_order_is_refused_with_the_right_order(k):
    with pytest.raises(BadIntrinsics, match=r"K = \[525\.0.*expected \[fx, 0, cx, 0, fy, cy, 0, 0, 1\], row by row"):
        camera(k=k)


def test_a_skew_of_a_pixel_is_accepted():
    assert camera(k=(*K[:1], 0.8, *K[2:]), p=NO_P).rectified_intrinsics == camera(p=NO_P).rectified_intrinsics


def test_r_that_is_not_a_rotation_is_refused():
    with pytest.raises(BadIntrinsics, match="not a rotation"):
        camera(r=2 * np.eye(3))


@pytest.mark.parametrize(
    ("model", "count"),
    [("plumb_bob", 3), ("plumb_bob", 8), ("rational_polynomial", 5), ("equidistant", 5), ("equidistant", 0)],
)
def test_wrong_number_of_coefficients_names_the_model_and_the_number(model, count):
    with pytest.raises(BadIntrinsics, match=f"has {count} distortion coefficients for '{model}': expected"):
        camera(distortion_model=model, d=(0.01,) * count)


@pytest.mark.parametrize(("model", "count"), [("plumb_bob", 5), ("rational_polynomial", 8), ("equidistant", 4)])
def test_zeros_after_the_coefficients_of_the_model_change_nothing(model, count):
    d = (0.1, -0.02, 0.003, 0.004, 0.05, 0.06, 0.07, 0.08)[:count]
    padded = camera(distortion_model=model, d=d + (0.0,) * 7)
    plain = camera(distortion_model=model, d=d)
    grid = np.mgrid[0:480, 0:640].astype(np.float32).sum(0)
    np.testing.assert_array_equal(Rectifier(padded, False).rectify(grid), Rectifier(plain, False).rectify(grid))


def test_cutting_zeros_keeps_those_that_belong_to_the_model():
    assert camera(d=(0.1, 0.0, 0.0, 0.0, 0.0, 0.0)) == camera(d=(0.1, 0.0, 0.0, 0.0, 0.0))
    assert not camera(distortion_model="rational_polynomial", d=(0.0,) * 5).has_distortion


@pytest.mark.parametrize("last", [1e-9, math.nan])
def test_a_surplus_coefficient_that_is_not_zero_is_refused(last):
    with pytest.raises(BadIntrinsics, match=r"6 distortion coefficients.*expected 4 or 5, and only zeros"):
        camera(d=(0.1, 0.0, 0.0, 0.0, 0.0, last))


def test_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(BadIntrinsics, match=r"'thin_prism'.*plumb_bob, rational_polynomial, equidistant"):
        camera(distortion_model="thin_prism")
    with pytest.raises(BadIntrinsics, match="distortion_model ''"):
        camera(distortion_model="", d=(0.1, 0, 0, 0, 0))


def test_nan_coefficient_is_refused():
    with pytest.raises(BadIntrinsics, match="coefficient must be finite"):
        camera(d=(0.1, math.nan, 0, 0, 0))


@pytest.mark.parametrize(("model", "d"), [("", ()), ("", (0.0,) * 5), ("plumb_bob", ()), ("rational_polynomial", ())])
def test_no_coefficients_mean_no_distortion(model, d):
    assert not camera(distortion_model=model, d=d).has_distortion


def test_equidistant_lens_bends_rays_even_with_zero_coefficients():
    assert camera(distortion_model="equidistant", d=(0.0,) * 4).has_distortion


@pytest.mark.parametrize(
    "roi", [Roi(600, 0, 100, 100), Roi(0, 400, 100, 100), Roi(-1, 0, 10, 10), Roi(10, 10, 0, 0), Roi(0, 0, 100, 0)]
)
def test_roi_outside_the_sensor_is_refused(roi):
    with pytest.raises(BadIntrinsics, match=r"is not inside the sensor 640 x 480"):
        camera(roi=roi)


@pytest.mark.parametrize("width", [0, 2**31])
def test_impossible_size_is_refused(width):
    with pytest.raises(BadIntrinsics, match=f"image is {width} x 480: publish the calibrated size"):
        camera(width_px=width)


def test_binning_that_leaves_no_pixel_is_refused():
    with pytest.raises(BadIntrinsics, match="leaves no pixel"):
        camera(binning_x=1000)


def test_image_of_another_size_is_refused_with_both_sizes():
    model = camera(binning_x=2, binning_y=2)
    model.check_image_size(320, 240)
    with pytest.raises(BadIntrinsics, match="image is 640 x 480 but camera_info says 320 x 240"):
        model.check_image_size(640, 480)


@pytest.mark.parametrize("name", ["none", "", "NONE", "pinhole", "perspective", "brown_conrady", "no_such_lens"])
@pytest.mark.parametrize("d", [(), (0.0,) * 3, (0.0,) * 5])
def test_a_foreign_lens_without_coefficients_is_a_pinhole(name, d):
    grid = np.mgrid[0:480, 0:640].astype(np.float32).sum(0)
    plain = Rectifier(camera(d=()), False)
    foreign = Rectifier(camera(distortion_model=name, d=d), False)
    np.testing.assert_array_equal(foreign.rectify(grid), plain.rectify(grid))


@pytest.mark.parametrize("name", ["none", "", "pinhole", "no_such_lens"])
@pytest.mark.parametrize("d", [(0.1, 0.0, 0.0, 0.0, 0.0), (math.nan,)])
def test_coefficients_of_a_foreign_lens_are_refused_with_name_and_values(name, d):
    with pytest.raises(BadIntrinsics) as caught:
        camera(distortion_model=name, d=d)
    for part in (repr(name), str(d[0]), "plumb_bob, rational_polynomial, equidistant"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("fisheye", "equidistant with its 4"),
        ("Kannala_Brandt4", "equidistant with its 4"),
        ("radtan", "plumb_bob with"),
    ],
)
def test_another_name_of_a_known_lens_is_refused_with_the_name_to_use(name, own):
    with pytest.raises(BadIntrinsics, match=f"publish it as {own}"):
        camera(distortion_model=name, d=(0.01, 0.0, 0.0, 0.0))


@pytest.mark.parametrize("name", ["fisheye", "double_sphere", "omni", "f-theta"])
@pytest.mark.parametrize("d", [(), (0.0,) * 4])
def test_a_lens_that_bends_rays_without_coefficients_is_refused(name, d):
    with pytest.raises(BadIntrinsics, match=name):
        camera(distortion_model=name, d=d)


def test_the_name_of_a_lens_may_be_in_capitals():
    assert camera(distortion_model=" Plumb_Bob ") == camera()


def test_p_with_skew_is_refused_by_name():
    with pytest.raises(BadIntrinsics, match=r"P = \[500\.0, 40\.0.*rectify"):
        camera(p=(500.0, 40.0, *P[2:]))


NAN9 = (math.nan,) * 9
RAW_NUMBERS = {
    "k of zeros": {"k": (0.0,) * 9},
    "k of nan": {"k": NAN9},
    "k with skew": {"k": (525.0, 60.0, *K[2:])},
    "k too short": {"k": ()},
    "lens of an unknown name": {"distortion_model": "mei", "d": (0.4,) * 7},
    "nan in d": {"d": (math.nan,) * 5},
    "r that is no rotation": {"r": 5 * np.eye(3)},
    "nan in r": {"r": NAN9},
}


@pytest.mark.parametrize("raw", RAW_NUMBERS.values(), ids=RAW_NUMBERS.keys())
def test_of_rectified_images_only_p_size_and_window_count(raw):
    fields = {
        "width_px": 640,
        "height_px": 480,
        "distortion_model": "plumb_bob",
        "d": (),
        "k": K,
        "r": np.eye(3),
        "p": P,
    }
    window = {"binning_x": 2, "binning_y": 2, "roi": Roi(100, 40, 402, 302)}
    expected = camera(**window).rectified_intrinsics
    assert rectified_camera(**{**fields, **raw}, **window).rectified_intrinsics == expected
    with pytest.raises(BadIntrinsics):
        camera(**raw)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"p": (math.nan, *P[1:])}, "NaN or inf in P"),
        ({"p": (-500.0, *P[1:])}, "P with fx = -500"),
        ({"p": (*P[:5], 0.0, *P[6:])}, "fy = 0"),
        ({"p": P[:11]}, "11 values in P"),
        ({"p": (*P[:6], math.inf, *P[7:])}, "NaN or inf in P"),
        ({"p": (500.0, 40.0, *P[2:])}, "P = "),
        ({"p": NO_P, "k": (0.0,) * 9}, "fx = 0"),
        ({"width_px": 0}, "0 x 480"),
        ({"roi": Roi(600, 0, 100, 100)}, "not inside the sensor"),
        ({"binning_x": 1000}, "leaves no pixel"),
    ],
)
def test_of_rectified_images_a_bad_p_size_or_window_is_refused(bad, message):
    fields = {
        "width_px": 640,
        "height_px": 480,
        "distortion_model": "plumb_bob",
        "d": (),
        "k": K,
        "r": np.eye(3),
        "p": P,
    }
    with pytest.raises(BadIntrinsics, match=message):
        rectified_camera(**{**fields, **bad})


def test_of_rectified_images_without_p_k_counts():
    fields = {"width_px": 640, "height_px": 480, "distortion_model": "omni", "d": (9.0,), "r": np.zeros(9), "p": NO_P}
    assert rectified_camera(k=K, **fields).rectified_intrinsics == camera(p=NO_P).rectified_intrinsics
