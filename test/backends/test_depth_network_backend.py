# SPDX-License-Identifier: Apache-2.0
"""A network for depth becomes metres as its YAML file says: sizes, colours, kinds of depth, cameras. A YAML file that
does not fit the graph is refused with the names and shapes that the graph has."""

import cv2
import numpy as np
import pytest
from support.depth_networks import HALF, UINT8, write_network

from depthlm_ros.core import Frame, Intrinsics, Region
from depthlm_ros.errors import BackendFailed, BadBundle, BadQuestion, SetupError
from depthlm_ros.geometry.canonical_view import checked_canonical_view
from depthlm_ros.measurement.measure import measure
from depthlm_ros.model import load_model

CAMERA = Intrinsics(100.0, 102.0, 30.0, 25.0, 64, 48)
SQUEEZE = {"input": "image", "fit": "squeeze", "size_px": [32, 32]}
METRES = {"output": "depth", "kind": "metres"}
GREY = np.full((48, 64, 3), 51, np.uint8)  # 0.2 of white


def model_of(folder, image=SQUEEZE, depth=METRES, **network):
    return load_model(str(write_network(folder, {"image": image, "depth": depth}, **network)), threads=1)


def look(model, rgb=GREY, camera=CAMERA):
    return model.look(Frame(rgb, camera))


def depth_m(model, rgb=GREY, camera=CAMERA):
    return look(model, rgb, camera).depth().depth_m


def canvas_view(model):
    return checked_canonical_view(CAMERA, model.spec.canvas)


def canvas_depth_m(model, canvas):
    return model.backend.look_through(canvas[None], canvas_view(model).canvas_camera(CAMERA)).depth_m[0]


def noise(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)


# ---- kinds of depth


@pytest.mark.parametrize(
    ("depth", "expected_m"),
    [
        (METRES, 2.2),
        (METRES | {"kind": "inverse"}, 1 / 2.2),
        (METRES | {"kind": "log"}, np.exp(2.2)),
        (METRES | {"kind": "disparity", "scale": 0.1, "shift": 0.05}, 1 / (0.1 * 2.2 + 0.05)),
        (METRES | {"clamp_m": [3.0, 20.0]}, 3.0),
        (METRES | {"output": "three", "channel": 2}, 2.2),
        (METRES | {"output": "half"}, 2.2),
    ],
)
def test_output_of_each_kind_becomes_metres(tmp_path, depth, expected_m):
    found_m = depth_m(model_of(tmp_path / "net", depth=depth, offset=2.0))
    assert found_m.shape == (48, 64) and found_m.dtype == np.float32
    np.testing.assert_allclose(found_m, expected_m, rtol=1e-5)


@pytest.mark.parametrize("gain", [-10.0, float("inf")])
def test_depth_that_is_not_a_positive_finite_number_is_unknown(tmp_path, gain):
    assert np.isnan(depth_m(model_of(tmp_path / "net", gain=gain))).all()


def test_clamp_does_not_make_unknown_depth_known(tmp_path):
    assert np.isnan(depth_m(model_of(tmp_path / "net", depth=METRES | {"clamp_m": [0.5, 9.0]}, gain=-1.0))).all()


def test_disparity_without_its_scale_and_shift_is_refused(tmp_path):
    with pytest.raises(SetupError, match=r"depth\.kind is 'disparity', which has no metres: shift missing") as caught:
        model_of(tmp_path / "net", depth=METRES | {"kind": "disparity", "scale": 2.0})
    assert "1 / z = scale * x + shift" in str(caught.value) and "depth_map.yaml" in str(caught.value)


def test_spread_of_the_network_is_the_looks(tmp_path):
    model = model_of(tmp_path / "net", depth=METRES | {"relative_std": "spread"}, offset=1.0)
    found = model.backend.look([np.zeros((1, 32, 32, 3), np.uint8)])
    np.testing.assert_allclose(found.relative_std, np.full((1, 32, 32), 0.1), rtol=1e-6)


# ---- what goes in


def test_pixels_are_scaled_and_ordered_as_the_file_says(tmp_path):
    image = SQUEEZE | {"colour": "bgr", "divide_by": 100.0, "mean": [0.5, 0.0, 0.0], "std": [1.0, 2.0, 4.0]}
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 200  # the last channel of bgr: (200 / 100 - 0) / 4 = 0.5; blue: -0.5
    np.testing.assert_allclose(depth_m(model_of(tmp_path / "net", image, offset=1.0), red), 1.0, rtol=1e-5)
    image |= {"colour": "rgb"}  # red first: 2 - 0.5 = 1.5
    np.testing.assert_allclose(depth_m(model_of(tmp_path / "rgb", image, offset=1.0), red), 1.5, rtol=1e-5)


@pytest.mark.parametrize("kind", [UINT8, HALF])
def test_images_of_bytes_and_half_precision_are_given_as_the_graph_asks(tmp_path, kind):
    image = SQUEEZE | {"divide_by": 1.0}
    np.testing.assert_allclose(depth_m(model_of(tmp_path / "net", image, input_type=kind)), 51.0, rtol=1e-3)


def test_layout_with_channels_last(tmp_path):
    image = SQUEEZE | {"layout": "nhwc"}
    model = model_of(tmp_path / "net", image, offset=1.0, shape=(1, 32, 32, 3))
    np.testing.assert_allclose(depth_m(model), 1.2, rtol=1e-5)


def test_squeezed_image_is_the_mean_of_the_areas_and_depth_returns_to_its_place(tmp_path):
    rgb = noise()
    model = model_of(tmp_path / "net", SQUEEZE | {"resampling": "area"}, offset=1.0)
    seen = cv2.resize(rgb, (32, 32), interpolation=cv2.INTER_AREA)
    canvas = canvas_view(model).image_to_canvas(rgb)
    np.testing.assert_array_equal(canvas, seen)
    np.testing.assert_allclose(canvas_depth_m(model, canvas), 1 + seen.mean(-1) / 255, rtol=1e-5)
    # A brighter half of the image is farther, on the same side.
    rgb[:, :32] //= 4
    found_m = depth_m(model, rgb)
    assert found_m[:, :28].mean() + 0.2 < found_m[:, 36:].mean()


def test_letterbox_keeps_the_aspect_and_depth_beside_the_image_is_not_used(tmp_path):
    image = SQUEEZE | {"fit": "letterbox", "size_px": [64, 64], "resampling": "linear"}
    model = model_of(tmp_path / "net", image, offset=1.0)
    canvas = canvas_view(model).image_to_canvas(GREY)
    assert (canvas[8:56] == 51).all() and (canvas[:8] == 128).all() and (canvas[56:] == 128).all()
    np.testing.assert_allclose(depth_m(model), 1.2, rtol=1e-5)


@pytest.mark.parametrize(
    ("side", "size_px"),
    [({"shortest_px": 42}, (56, 42)), ({"longest_px": 42}, (42, 28)), ({"longest_px": 98}, (98, 70))],
)
def test_image_of_many_sizes_is_made_of_multiples(tmp_path, side, size_px):
    image = {"input": "image", "fit": "multiple", "multiple_px": 14, **side}
    model = model_of(tmp_path / "net", image, offset=1.0)
    assert canvas_view(model).canvas_size_px == size_px
    np.testing.assert_allclose(depth_m(model), 1.2, rtol=1e-5)


# ---- the camera


def test_metres_that_are_true_at_one_focal_length_are_scaled_for_another(tmp_path):
    # 100 px of a 64 px wide image: 50 px on the canvas, 1.5625 widths.
    by_px = METRES | {"true_at_focal_px": 25.0}
    by_widths = METRES | {"true_at_focal_widths": 3.125}
    np.testing.assert_allclose(depth_m(model_of(tmp_path / "px", depth=by_px, offset=1.0)), 2 * 1.2, rtol=1e-5)
    np.testing.assert_allclose(depth_m(model_of(tmp_path / "widths", depth=by_widths, offset=1.0)), 0.6, rtol=1e-5)


def test_image_at_the_canonical_focal_length_leaves_the_rest_unknown(tmp_path):
    image = {"input": "image", "fit": "focal", "size_px": [32, 32], "focal_px": 100.0}
    found_m = depth_m(model_of(tmp_path / "net", image, offset=1.0))
    assert np.isnan(found_m[:, 0]).all() and np.isnan(found_m[0]).all()
    np.testing.assert_allclose(found_m[24, 32], 1.2, rtol=1e-5)


def test_camera_matrix_is_that_of_the_networks_image(tmp_path):
    image = SQUEEZE | {"size_px": [128, 32]}
    fields = {"image": image, "depth": METRES, "camera": {"input": "K", "kind": "matrix"}}
    model = load_model(str(write_network(tmp_path / "net", fields, camera=("K", "matrix"), gain=5.0)), threads=1)
    # The mean is 0.2, times 5; the largest number of K is fx = 100 * 128 / 64.
    np.testing.assert_allclose(depth_m(model), 200.0, rtol=1e-5)


def test_rays_are_unit_vectors_through_the_pixels(tmp_path):
    fields = {"image": SQUEEZE | {"size_px": [64, 48]}, "depth": METRES, "camera": {"input": "r", "kind": "rays"}}
    model = load_model(str(write_network(tmp_path / "net", fields, camera=("r", "rays"), gain=0.0)), threads=1)
    v, u = np.mgrid[:48, :64]
    rays = np.stack([(u - CAMERA.cx_px) / CAMERA.fx_px, (v - CAMERA.cy_px) / CAMERA.fy_px, np.ones((48, 64))])
    found_m = canvas_depth_m(model, GREY)
    np.testing.assert_allclose(found_m, 1 / np.linalg.norm(rays, axis=0), rtol=1e-4)


# ---- what such a model can be asked


def test_pixels_and_regions_are_measured_and_words_are_refused(tmp_path):
    model = model_of(tmp_path / "net", offset=1.0)
    view = look(model, noise())
    at = view.depth_at([[10, 20], [40, 30]])
    np.testing.assert_array_equal(at.depth_m, view.depth().depth_m[[20, 30], [10, 40]])
    (distance, *_) = measure(view.depth(), [Region(10, 10, 20, 20)], np.zeros((0, 2)), 0.1)
    assert 1.0 < distance.value < 2.5
    for ask in (lambda: view.ask("How far is it?"), lambda: view.tell_depth_at([[1, 1]])):
        with pytest.raises(BadQuestion, match=r"network for depth alone.*query_depth"):
            ask()
    with pytest.raises(BadQuestion, match="one image at a time"):
        model.look_pair(view.frame, view.frame)
    assert (model.name, model.backend_name) == ("net", "onnxruntime")


@pytest.mark.parametrize("backend", ["torch", "tensorrt"])
def test_other_backends_say_what_to_do(tmp_path, backend):
    folder = write_network(tmp_path / "net", {"image": SQUEEZE, "depth": METRES})
    with pytest.raises(BackendFailed, match=rf"{backend} cannot run as it is: use backend onnxruntime"):
        load_model(str(folder), backend)


# ---- a YAML file that does not fit the graph


@pytest.mark.parametrize(
    ("image", "depth", "words"),
    [
        (SQUEEZE | {"input": "rgb"}, METRES, "image.input is 'rgb', but the inputs of"),
        (SQUEEZE, METRES | {"output": "z"}, "depth.output is 'z', but the outputs of"),
        (SQUEEZE, METRES | {"relative_std": "s"}, "depth.relative_std is 's'"),
        (SQUEEZE | {"layout": "nhwc"}, METRES, "image.layout is 'nhwc'"),
        (SQUEEZE | {"size_px": [32, 64]}, METRES, r"image.size_px is [32, 64] (width, height), but the image of"),
        ({"input": "image", "fit": "multiple", "shortest_px": 32}, METRES, "image.fit is 'multiple'"),
    ],
)
def test_names_and_sizes_that_the_graph_does_not_have_are_refused_with_those_it_has(tmp_path, image, depth, words):
    with pytest.raises(BadBundle) as caught:
        model_of(tmp_path / "net", image, depth, shape=(1, 3, 32, 32))
    assert words in str(caught.value) and "depth_map.yaml" in str(caught.value)
    assert "image (float [1, 3, 32, 32])" in str(caught.value) or "depth (float" in str(caught.value)


def test_input_that_the_file_does_not_name_is_refused(tmp_path):
    folder = write_network(tmp_path / "net", {"image": SQUEEZE, "depth": METRES}, camera=("K", "matrix"))
    with pytest.raises(BadBundle, match=r"needs the input K \(float \[1, 3, 3\]\) too.*camera: \{input: NAME"):
        load_model(str(folder))


def test_channel_that_the_output_does_not_have_fails_with_its_shape(tmp_path):
    model = model_of(tmp_path / "net", depth=METRES | {"channel": 1})
    with pytest.raises(BackendFailed, match=r"output depth has the shape \(1, 1, 32, 32\)"):
        look(model)


def test_file_that_is_no_graph_is_refused(tmp_path):
    folder = write_network(tmp_path / "net", {"image": SQUEEZE, "depth": METRES})
    (folder / "net.onnx").write_bytes(b"no graph")
    with pytest.raises(BadBundle, match=r"net\.onnx is not an ONNX graph"):
        load_model(str(folder))
