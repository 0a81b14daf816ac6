# SPDX-License-Identifier: Apache-2.0
"""An engine of a network for depth computes what the network does, in one graph from bytes to metres. Precisions that
it cannot have are refused, and TensorRT's parser takes the graph."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")

from support.command_line import own_engines  # noqa: E402
from support.depth_networks import HALF, TEACHER, write_network  # noqa: E402

from depthlm_ros.cli import main  # noqa: E402
from depthlm_ros.core import Frame, Intrinsics  # noqa: E402
from depthlm_ros.errors import BadIntrinsics, BadQuestion  # noqa: E402
from depthlm_ros.export.trt_support import check_onnx  # noqa: E402
from depthlm_ros.model import load_model  # noqa: E402
from depthlm_ros.model_files.bundle import find_bundle, load_bundle  # noqa: E402

pytestmark = pytest.mark.torch
CAMERA = Intrinsics(100.0, 100.0, 31.5, 23.5, 64, 48)
SQUEEZE = {"input": "image", "fit": "squeeze", "size_px": [32, 32], "resampling": "area"}
METRES = {"output": "depth", "kind": "metres"}
RAYS = {"input": "rays", "kind": "rays"}


@pytest.fixture(autouse=True)
def engine_root(tmp_path):
    with own_engines(tmp_path / "engines") as folder:
        yield folder


def build(model, *options, size="64x48", focal="100"):
    words = ["engine", "build", "--model", model, "--size", size, "--focal", focal, *options]
    return main([str(word) for word in words])


def frame(camera=CAMERA, seed=0):
    rgb = np.random.default_rng(seed).integers(0, 256, (camera.height_px, camera.width_px, 3), dtype=np.uint8)
    return Frame(rgb, camera)


def depth_m(model, camera=CAMERA):
    return model.look(frame(camera)).depth().depth_m


BGR = SQUEEZE | {"colour": "bgr", "std": [0.2, 0.3, 0.4]}
LETTERBOX = SQUEEZE | {"fit": "letterbox", "size_px": [64, 64]}
MULTIPLE = {"input": "image", "fit": "multiple", "longest_px": 70, "multiple_px": 14}
FOCAL = {"input": "image", "fit": "focal", "size_px": [48, 48], "focal_px": 80}
DISPARITY = METRES | {"kind": "disparity", "scale": 0.3, "shift": 0.05, "clamp_m": [0.5, 4.2]}
MATRIX = {"input": "K", "kind": "matrix"}
# Name -> fields of the YAML file that differ, and options of write_network.
CASES = {
    "metres": ({}, {}),
    "inverse": ({"depth": METRES | {"kind": "inverse", "output": "half"}}, {}),
    "log": ({"image": BGR, "depth": METRES | {"kind": "log"}}, {}),
    "disparity": ({"depth": DISPARITY}, {}),
    "points": ({"depth": METRES | {"output": "three", "channel": 2}}, {}),
    "letterbox": ({"image": LETTERBOX, "depth": METRES | {"true_at_focal_px": 300.0, "relative_std": "spread"}}, {}),
    "multiple": ({"image": MULTIPLE}, {}),
    "focal": ({"image": FOCAL}, {}),
    "matrix": ({"camera": MATRIX}, {"camera": ("K", "matrix")}),
    "rays": ({"camera": RAYS}, {"camera": ("rays", "rays")}),
    "channels last": ({"image": SQUEEZE | {"layout": "nhwc"}}, {"shape": (1, 32, 32, 3)}),
    "half-precision input": ({}, {"input_type": HALF}),
    "old opset": ({}, {"opset": 11}),
}


@pytest.mark.parametrize("case", CASES)
def test_engine_gives_the_depth_of_the_network(tmp_path, case):
    fields, network = CASES[case]
    fields = {"image": SQUEEZE, "depth": METRES} | fields
    folder = write_network(tmp_path / "net", fields, gain=0.7, offset=0.3, **network)
    assert build(folder, "--backend", "onnxruntime") == 0
    ours, engine = load_model(str(folder), threads=1), load_model("net-64x48-f100-fp32", threads=1)
    expected_m, found_m = depth_m(ours), depth_m(engine)
    np.testing.assert_array_equal(np.isnan(found_m), np.isnan(expected_m))
    np.testing.assert_allclose(found_m, expected_m, rtol=1e-4)
    assert np.isfinite(found_m).any() and len(np.unique(found_m)) > 100
    with pytest.raises(BadQuestion, match="network for depth alone"):
        engine.look(frame()).ask("How far is it?")


def test_engine_in_half_precision_is_near_the_network_and_tensorrt_takes_its_graph(tmp_path, capsys):
    fields = {"image": SQUEEZE, "depth": METRES}
    folder = write_network(tmp_path / "net", fields, gain=0.7, offset=0.3, convolution=True)
    assert build(folder, "--target", "jetpack6") == 0
    out, err = capsys.readouterr()
    assert "depth differs from the network by" in out and "backbone fp16" in out and "will refuse" not in err
    bundle = load_bundle(find_bundle("net-64x48-f100-fp16-jetpack6"))
    (look,) = bundle.graphs
    assert bundle.only_depth and not check_onnx(look, "10.3")
    graph = onnx.load(look).graph
    kinds = {tensor.name.partition("/")[2]: tensor.data_type for tensor in graph.initializer}
    assert "Conv" in {node.op_type for node in graph.node} and kinds["kernel"] == onnx.TensorProto.FLOAT16
    expected_m = depth_m(load_model(str(folder), threads=1))
    np.testing.assert_allclose(depth_m(load_model(str(bundle.folder), threads=1)), expected_m, rtol=5e-3)


def test_focal_rule_holds_for_another_camera_too(tmp_path):
    fields = {"image": SQUEEZE, "depth": METRES | {"true_at_focal_widths": 2.0}}
    folder = write_network(tmp_path / "net", fields, gain=0.7, offset=0.3)
    assert build(folder, "--backend", "onnxruntime") == 0
    other = Intrinsics(150.0, 150.0, 31.5, 23.5, 64, 48)
    engine = load_model("net-64x48-f100-fp32", threads=1)
    np.testing.assert_allclose(depth_m(engine, other), 1.5 * depth_m(engine), rtol=1e-5)


def test_engine_that_holds_its_camera_refuses_another_one(tmp_path):
    fields = {"image": SQUEEZE, "depth": METRES, "camera": RAYS}
    folder = write_network(tmp_path / "net", fields, camera=("rays", "rays"))
    assert build(folder, "--backend", "onnxruntime") == 0
    engine = load_model("net-64x48-f100-fp32", threads=1)
    with pytest.raises(BadIntrinsics, match=r"focal length of 75 pixels, but this engine holds .* with 50: build"):
        depth_m(engine, Intrinsics(150.0, 150.0, 31.5, 23.5, 64, 48))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--backend", "onnxruntime", "--precision", "int8"), "has no linear layers"),
        (("--target", "jetpack6", "--precision", "bf16"), "cannot be converted to bf16 here: use --precision fp16"),
        (("--target", "jetpack6", "--precision", "int8"), "backend tensorrt does not run int8"),
    ],
)
def test_precision_that_the_network_cannot_have_is_refused(tmp_path, capsys, options, words):
    folder = write_network(tmp_path / "net", {"image": SQUEEZE, "depth": METRES})
    assert build(folder, *options) != 0
    assert words in capsys.readouterr().err and not list((tmp_path / "engines").glob("*/manifest.json"))


@pytest.mark.skipif(not TEACHER.is_file(), reason="fastdepth.onnx is not here")
def test_engine_of_a_published_network_gives_its_depth(tmp_path):
    import yaml
    from support.depth_networks import FASTDEPTH

    folder = tmp_path / "fastdepth"
    folder.mkdir()
    (folder / "fastdepth.onnx").symlink_to(TEACHER)
    (folder / "depth_map.yaml").write_text(yaml.safe_dump(FASTDEPTH))
    for precision, near in (("fp32", 1e-4), ("fp16", 0.02)):
        assert build(folder, "--backend", "onnxruntime", "--precision", precision, size="640x480", focal="560") == 0
        camera = Intrinsics(560.0, 560.0, 319.5, 239.5, 640, 480)
        engine = load_model(f"fastdepth-640x480-f560-{precision}", threads=1)
        expected_m = depth_m(load_model(str(folder), threads=1), camera)
        np.testing.assert_allclose(depth_m(engine, camera), expected_m, rtol=near)
