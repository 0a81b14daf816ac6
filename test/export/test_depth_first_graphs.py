# SPDX-License-Identifier: Apache-2.0
"""The graphs of the embedded architecture: their names, their constants, and engines in every precision."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from support import tensorrt_double  # noqa: E402
from support.embedded_bundles import embedded_spec, random_embedded_model, tiny_tokenizer  # noqa: E402

from depthlm_ros.backends.generation import Query, generate  # noqa: E402
from depthlm_ros.backends.onnx_runtime import OnnxRuntimeBackend  # noqa: E402
from depthlm_ros.backends.tensorrt.backend import TensorRTBackend  # noqa: E402
from depthlm_ros.backends.tensorrt.cuda_device import open_device  # noqa: E402
from depthlm_ros.backends.tensorrt.plan_file import machine_of  # noqa: E402
from depthlm_ros.backends.torch_backend import TorchBackend  # noqa: E402
from depthlm_ros.core import Intrinsics  # noqa: E402
from depthlm_ros.errors import BadQuestion, SetupError  # noqa: E402
from depthlm_ros.export.build import fitted_spec  # noqa: E402
from depthlm_ros.export.build_progress import BuildProgress  # noqa: E402
from depthlm_ros.export.parity import measure_parity, sample_image  # noqa: E402
from depthlm_ros.export.precision import Precision, set_precision  # noqa: E402
from depthlm_ros.export.static_int8 import LEAST_PICTURES, read_canvases  # noqa: E402
from depthlm_ros.export.trt_builder import StepLimits, build_plan, plan_requests  # noqa: E402
from depthlm_ros.export.trt_support import check_onnx  # noqa: E402
from depthlm_ros.export.write_bundle import ExportOptions, write_bundle, write_engine  # noqa: E402
from depthlm_ros.geometry.pinhole import centred_camera  # noqa: E402
from depthlm_ros.geometry.resize_rules import CanvasRule  # noqa: E402
from depthlm_ros.model_files.bundle import load_bundle  # noqa: E402
from depthlm_ros.scenes.camera.photo import photographs  # noqa: E402

pytestmark = pytest.mark.torch
slow = pytest.mark.slow
SIZE_PX = (96, 64)
FLOAT, HALF, BFLOAT = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
LOOK = {"depth_m": FLOAT, "relative_std": FLOAT}
CACHE = ("keys", "values")
# Operators that compute with sizes or make constants: in graphs of fixed sizes nothing is left of them.
SIZE_OPERATORS = {"Shape", "Range", "ConstantOfShape", "Where", "NonZero", "Loop", "If"}
VERSIONS = {20: ("10.3",), 23: ("10.16", "11.4")}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """Returns a function that builds an engine of a random model for one canvas and one image, once for all tests."""
    made = {}

    def build(precision="fp32", opset=20, only_depth=False):
        key = (precision, opset, only_depth)
        if key not in made:
            model = random_embedded_model()
            # A family without questions about two images, so that there is one read graph.
            spec = replace(embedded_spec("engine", (SIZE_PX,)), family="qwen3-vl")
            options = ExportOptions(spec, opset, only_depth, set_precision(model, Precision.of(precision)))
            folder = tmp_path_factory.mktemp("engines") / "engine"
            write_engine(model, tiny_tokenizer(), options, folder, lambda bundle: {}, lambda stage, done, total: None)
            made[key] = load_bundle(folder), model
        return made[key]

    return build


def graph_of(path):
    return onnx.load(path, load_external_data=False).graph


def types_of(values):
    return {value.name: value.type.tensor_type.elem_type for value in values}


def assert_supported(bundle, opset):
    for path in bundle.graphs:
        for version in VERSIONS[opset]:
            assert [str(problem) for problem in check_onnx(path, version)] == []
        onnx.checker.check_model(str(path))


def difference(found, expected):
    return float((np.abs(found - expected) / expected).mean())


def looks_of(bundle):
    """Returns what the engine and a model in single precision see and read of the sample image."""
    texts = (bundle.before, bundle.between, bundle.after)
    backends = OnnxRuntimeBackend(bundle, 1, "cpu"), TorchBackend(lambda _: random_embedded_model(), texts, 1, "cpu")
    return [backend.read(backend.look([sample_image(SIZE_PX)])) for backend in backends]


def test_graphs_have_the_inputs_and_outputs_of_the_bundles_format(random_bundle):
    for size_px in random_bundle.canvases_px:
        look, read = (graph_of(path) for path in (random_bundle.look_path(size_px), random_bundle.read_path(size_px)))
        assert types_of(look.input) == {"image": onnx.TensorProto.UINT8}
        assert list(types_of(look.output)) == ["depth_m", "relative_std", "features"]
        assert list(types_of(read.input)) == ["features", "depth_m", "relative_std"]
        assert list(types_of(read.output)) == list(CACHE)
    names = {path.name for path in random_bundle.folder.glob("*.onnx")}
    assert names == {path.name for path in random_bundle.graphs} and len(names) == 5


def test_rays_places_and_angles_are_constants(random_bundle):
    for path in random_bundle.graphs:
        if path != random_bundle.step_path:
            assert not {node.op_type for node in graph_of(path).node} & SIZE_OPERATORS


def test_weights_of_convolutions_and_linear_layers_lie_in_the_checkpoint(random_bundle):
    """What a graph holds itself are maps of the canvas and short vectors."""
    for path in random_bundle.graphs:
        tensors = graph_of(path).initializer
        own = [tensor for tensor in tensors if tensor.data_location != onnx.TensorProto.EXTERNAL]
        assert len(tensors) > len(own) and sum(np.prod(tensor.dims) for tensor in own) < 25_000
        assert all(entry.value == "model.safetensors" for t in tensors for entry in t.external_data[:1])


def test_graphs_of_a_bundle_are_supported_by_tensorrt(random_bundle):
    assert_supported(random_bundle, 20)


def test_plans_of_all_graphs_see_read_and_answer_as_onnx_runtime_does(random_bundle, tmp_path, monkeypatch):
    """TensorRT is a double that runs the graphs in ONNX Runtime (tensorrt_double.py)."""
    tensorrt_double.install(monkeypatch)
    machine = machine_of(open_device().facts(), "10.3.0")
    limits = StepLimits(rows=4, tokens=24, slots=40, watched=8)
    for request in plan_requests(random_bundle, tmp_path, "fp32", 1 << 28, limits):
        build_plan(request, machine, tmp_path / "timings.cache", BuildProgress(), print)
    backends = TensorRTBackend(random_bundle, plans=tmp_path), OnnxRuntimeBackend(random_bundle, 1, "cpu")
    query = Query([9, 8, 7, 6], np.zeros(2048, bool), 6)
    for image in (sample_image(SIZE_PX), sample_image(SIZE_PX)[:, :, ::-1]):
        looks = [backend.read(backend.look([image])) for backend in backends]
        np.testing.assert_allclose(looks[0].depth_m, looks[1].depth_m, rtol=1e-4)
        np.testing.assert_allclose(looks[0].relative_std, looks[1].relative_std, rtol=1e-4)
        found, expected = (
            generate(backend, look, [query], np.array([3, 7]))[0] for backend, look in zip(backends, looks, strict=True)
        )
        assert found.ids == expected.ids and looks[0].length == looks[1].length
        np.testing.assert_allclose(found.log_probability, expected.log_probability, atol=1e-3)


def test_engine_for_depth_only_has_one_graph_without_features(engine):
    bundle, model = engine(only_depth=True)
    assert bundle.depth_first and [path.name for path in bundle.folder.glob("*.onnx")] == ["look_96x64.onnx"]
    assert types_of(graph_of(bundle.look_path(SIZE_PX)).output) == LOOK
    parity = measure_parity(model, bundle, 1)
    assert parity.depth_mean < 1e-5 and parity.std_mean < 1e-5 and parity.same_token is None
    backend = OnnxRuntimeBackend(bundle, 1, "cpu")
    look = backend.read(backend.look([sample_image(SIZE_PX)]))
    with pytest.raises(BadQuestion, match="depth only: build it without --depth-only"):
        backend.cache(look, 1, 4)
    # Neither the language model nor what only its tokens need.
    numbers = (bundle.folder / "weights.data").stat().st_size
    assert numbers < 4.2 * sum(p.numel() for part in (model.encoder, model.decoder) for p in part.parameters()) + 4e5


@slow
def test_engine_stores_every_weight_once(engine):
    bundle, model = engine()
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert (bundle.folder / "weights.data").stat().st_size < weights + 4096 * len(list(model.parameters())) + 100_000
    parity = measure_parity(model, bundle, 1)
    assert parity.depth_max < 1e-3 and parity.std_mean < 1e-5 and parity.same_token is True


@slow
def test_half_precision_stays_close_and_the_last_layer_stays_in_single_precision(engine):
    bundle, model = engine("fp16")
    assert {p.dtype for p in model.decoder.to_bins.parameters()} == {torch.float32}
    look, read = graph_of(bundle.look_path(SIZE_PX)), graph_of(bundle.read_path(SIZE_PX))
    assert types_of(look.output) == LOOK | {"features": HALF}
    assert types_of(read.input) == LOOK | {"features": HALF} and set(types_of(read.output).values()) == {HALF}
    found, expected = looks_of(bundle)
    assert 0 < difference(found.depth_m, expected.depth_m) < 0.01
    assert 0 < difference(found.relative_std, expected.relative_std) < 0.01
    for left, right in zip(found.prefix, expected.prefix, strict=True):
        assert np.abs(left.numpy() - right.numpy()).mean() < 0.02 * np.abs(right.numpy()).mean()
    assert_supported(bundle, 20)


@slow
def test_int8_rounds_linear_layers_and_leaves_convolutions(engine):
    bundle, _ = engine("int8")
    look, read = (
        [node.op_type for node in graph_of(path).node]
        for path in (bundle.look_path(SIZE_PX), bundle.read_path(SIZE_PX))
    )
    # Four in the context layer, and that of the names.
    assert look.count("MatMulInteger") == 5 and look.count("Conv") > 60
    assert read.count("MatMulInteger") == 8
    found, expected = looks_of(bundle)
    assert 0 < difference(found.depth_m, expected.depth_m) < 0.05
    assert 0 < difference(found.relative_std, expected.relative_std) < 0.05
    for left, right in zip(found.prefix, expected.prefix, strict=True):
        # Rounding is coarse in layers of 48 channels. Unrelated numbers would differ by more than their own size.
        assert np.abs(left.numpy() - right.numpy()).mean() < 0.3 * np.abs(right.numpy()).mean()


def test_int8_rounds_convolutions_where_there_are_pictures(tmp_path):
    model, rng = random_embedded_model(), np.random.default_rng(0)
    spec = replace(embedded_spec("engine", (SIZE_PX,)), family="qwen3-vl")
    blurred = [cv2.GaussianBlur(rng.integers(0, 256, (64, 96, 3), np.uint8), (0, 0), 2.0)[None] for _ in range(4)]
    precision = set_precision(model, Precision.of("int8"))
    options = ExportOptions(spec, 20, True, precision, canvases=blurred)
    write_engine(model, tiny_tokenizer(), options, tmp_path, lambda bundle: {}, lambda stage, done, total: None)
    bundle = load_bundle(tmp_path)
    graph = graph_of(bundle.look_path(SIZE_PX))
    producers = {output: node.op_type for node in graph.node for output in node.output}
    weights = [producers.get(node.input[1], "float") for node in graph.node if node.op_type == "Conv"]
    assert weights.count("DequantizeLinear") > 60
    assert weights[0] == "float" and 1 <= weights.count("float") <= 4  # those at the image and at the outputs
    texts = (bundle.before, bundle.between, bundle.after)
    found = OnnxRuntimeBackend(bundle, 1, "cpu").look([blurred[0]]).depth_m
    expected = TorchBackend(lambda _: random_embedded_model(), texts, 1, "cpu").look([blurred[0]]).depth_m
    assert 0 < difference(found, expected) < 0.2  # random weights; those of tiny differ by 0.03


def test_pictures_for_int8_are_those_of_the_camera_and_enough(tmp_path):
    camera = centred_camera((192, 128), 240.0)
    rule = replace(embedded_spec("engine", (SIZE_PX,)).canvas, focal_px=120.0)
    for index in range(LEAST_PICTURES - 1):
        cv2.imwrite(str(tmp_path / f"{index:03d}.png"), np.full((64, 96, 3), index, np.uint8))
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8 no picture")
    with pytest.raises(SetupError, match=f"holds {LEAST_PICTURES - 1} readable pictures; at least {LEAST_PICTURES}"):
        read_canvases(tmp_path, camera, rule)
    cv2.imwrite(str(tmp_path / "last.png"), np.full((128, 192, 3), 200, np.uint8))
    canvases = read_canvases(tmp_path, camera, rule)
    assert len(canvases) == LEAST_PICTURES and {canvas.shape for canvas in canvases} == {(1, 64, 96, 3)}
    assert canvases[-1].mean() == 200
    with pytest.raises(SetupError, match="is not a folder"):
        read_canvases(tmp_path / "last.png", camera, rule)


def test_pictures_of_other_places_follow_those_of_the_camera(tmp_path):
    camera = centred_camera((192, 128), 240.0)
    rule = replace(embedded_spec("engine", (SIZE_PX,)).canvas, focal_px=120.0)
    for index in range(LEAST_PICTURES):
        cv2.imwrite(str(tmp_path / f"{index:03d}.png"), np.full((128, 192, 3), index, np.uint8))
    *own, last = read_canvases(tmp_path, camera, rule, photographs)
    assert len(own) + 1 == 2 * LEAST_PICTURES and {canvas.shape for canvas in own} == {(1, 64, 96, 3)}
    assert [int(canvas.mean()) for canvas in own[:LEAST_PICTURES]] == list(range(LEAST_PICTURES))
    expected = list(photographs(centred_camera((96, 64), 120.0), LEAST_PICTURES))
    assert np.array_equal(last[0], expected[-1]) and last.std() > 10


@slow
@pytest.mark.parametrize("opset", [20, 23])
def test_bfloat16_is_for_the_language_model_and_depth_is_in_half_precision(engine, opset):
    """No runtime here computes in bfloat16: types and operators are checked."""
    bundle, _ = engine("bf16", opset)
    look, read = graph_of(bundle.look_path(SIZE_PX)), graph_of(bundle.read_path(SIZE_PX))
    assert types_of(look.output) == types_of(read.input) == LOOK | {"features": HALF}
    assert types_of(read.output) == dict.fromkeys(CACHE, BFLOAT)
    assert BFLOAT not in {tensor.data_type for tensor in look.initializer}
    assert_supported(bundle, opset)


def test_canvas_that_the_encoder_cannot_halve_five_times_is_refused(tmp_path):
    with pytest.raises(SetupError, match="canvas 96 x 80: both sides must be multiples of 32 px"):
        spec = embedded_spec("odd", ((96, 80),))
        write_bundle(random_embedded_model(), tiny_tokenizer(), spec, tmp_path / "odd")
    assert not list(tmp_path.glob("odd/*"))


@pytest.mark.parametrize(
    ("camera_px", "focal_px", "canvas_px"),
    [((640, 480), 525.0, (256, 192)), ((640, 480), 480.0, (256, 192)), ((641, 480), 480.0, (288, 192))],
)
def test_fitted_canvas_covers_the_camera_in_multiples_of_the_encoders_stride(camera_px, focal_px, canvas_px):
    spec = replace(embedded_spec("any"), canvas=CanvasRule(192.0, ((256, 192),)))
    width, height = camera_px
    camera = Intrinsics(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2, width, height)
    assert fitted_spec(spec, camera, "fitted").canvas.canvases_px == (canvas_px,)
