# SPDX-License-Identifier: Apache-2.0
"""Exported graphs compute the same as torch, at two sizes, in three opsets and in every precision.

They contain nothing that a TensorRT for that opset would refuse.
"""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from support.small_engines import VOCAB, qwen3  # noqa: E402

from depthlm_ros.backends.generation import Query, generate  # noqa: E402
from depthlm_ros.backends.onnx_runtime import OnnxRuntimeBackend  # noqa: E402
from depthlm_ros.backends.torch_backend import TorchBackend  # noqa: E402
from depthlm_ros.errors import BackendFailed, BadQuestion, SetupError  # noqa: E402
from depthlm_ros.export.onnx_graphs import export_look_graph  # noqa: E402
from depthlm_ros.export.parity import sample_image  # noqa: E402
from depthlm_ros.export.precision import Precision  # noqa: E402
from depthlm_ros.export.trt_support import check_onnx  # noqa: E402
from depthlm_ros.export.trt_support_table import TARGETS  # noqa: E402
from depthlm_ros.export.write_bundle import check_canvases  # noqa: E402

pytestmark = pytest.mark.torch
WATCHED = np.array([3, 7])
# Opset -> the oldest and the newest TensorRT of its targets.
PARSERS = {18: ("10.3",), 20: ("10.3",), 22: ("10.13",), 23: ("10.16", "11.4")}
slow = pytest.mark.slow


def backends(bundle, twin):
    texts = (bundle.before, bundle.between, bundle.after)
    return OnnxRuntimeBackend(bundle, 1, "cpu"), TorchBackend(lambda _: twin, texts, 1, "cpu")


def relative_difference(depth_m, expected_m):
    return np.abs(depth_m - expected_m) / expected_m


def replies(backend, look):
    """Appends and decodes rows of different lengths, so that padding and the rows' own slots are used."""
    stops = np.zeros(VOCAB, bool)
    queries = [Query([9, 8, 7, 6, 5, 4][:n], stops, 8) for n in (6, 2, 4)]
    return generate(backend, look, queries, WATCHED)


@pytest.mark.parametrize(("opset", "sizes"), [(20, 1), *(pytest.param(opset, 2, marks=slow) for opset in (18, 20, 23))])
def test_every_graph_of_qwen3_with_a_depth_head_agrees_with_torch(exported, opset, sizes):
    bundle, twin, _ = exported(opset=opset, sizes=sizes)
    ours, reference = backends(bundle, twin)
    for size_px in bundle.canvases_px:
        looks = [backend.look([sample_image(size_px)]) for backend in (ours, reference)]
        assert looks[0].depth_m.dtype == np.float32
        assert relative_difference(looks[0].depth_m, looks[1].depth_m).max() <= 1e-4
        for left, right in zip(looks[0].prefix, looks[1].prefix, strict=True):
            np.testing.assert_allclose(left.numpy(), right, atol=1e-4)
        assert (looks[0].length, looks[0].next_position) == (looks[1].length, looks[1].next_position)
        a, b = (replies(backend, look) for backend, look in zip((ours, reference), looks, strict=True))
        assert [reply.ids for reply in a] == [reply.ids for reply in b]
        for left, right in zip(a, b, strict=True):
            np.testing.assert_allclose(left.log_probability, right.log_probability, atol=1e-4)
            np.testing.assert_allclose(left.watched, right.watched, atol=1e-3)
    assert_clean(bundle, opset)


@pytest.mark.parametrize("opset", [pytest.param(18, marks=slow), 20, pytest.param(23, marks=slow)])
def test_text_of_qwen25_agrees_with_torch(exported, opset):
    bundle, twin, _ = exported("qwen2_5_vl", opset=opset, head="")
    ours, reference = backends(bundle, twin)
    for size_px in bundle.canvases_px:
        looks = [backend.look([sample_image(size_px)]) for backend in (ours, reference)]
        assert looks[0].depth_m is None
        for left, right in zip(looks[0].prefix, looks[1].prefix, strict=True):
            np.testing.assert_allclose(left.numpy(), right, atol=1e-4)
        a, b = (replies(backend, look) for backend, look in zip((ours, reference), looks, strict=True))
        assert [reply.ids for reply in a] == [reply.ids for reply in b]
    assert_clean(bundle, opset)


@slow
def test_without_a_head_the_last_layer_computes_only_keys_and_values(exported):
    """Nothing would use its attention and its feed-forward part, so their weights are not in the graph either."""
    bundle, twin, _ = exported(head="")
    ours, reference = backends(bundle, twin)
    looks = [backend.look([sample_image(bundle.canvases_px[0])]) for backend in (ours, reference)]
    for left, right in zip(looks[0].prefix, looks[1].prefix, strict=True):
        np.testing.assert_allclose(left.numpy(), right, atol=1e-4)
    assert replies(ours, looks[0])[0].ids == replies(reference, looks[1])[0].ids
    layers = twin.vlm.config.text_config.num_hidden_layers
    shape = (twin.vlm.config.text_config.hidden_size, twin.vlm.config.text_config.intermediate_size)
    wide = [t for t in graph_of(bundle.look_path(bundle.canvases_px[0])).initializer if tuple(t.dims) == shape]
    assert len(wide) == 2 * (layers - 1)


def test_depth_only_leaves_out_what_questions_need_and_keeps_the_depth(exported):
    bundle, twin, manifest = exported(only_depth=True)
    ours, _ = backends(bundle, twin)
    look = ours.look([sample_image(bundle.canvases_px[0])])
    whole = TorchBackend(lambda _: twin, (bundle.before, (), (1, 2, 3)), 1, "cpu")
    assert relative_difference(look.depth_m, whole.look([sample_image(bundle.canvases_px[0])]).depth_m).max() <= 1e-4
    assert look.prefix is None and not bundle.step_path.exists() and "step.onnx" not in manifest["files"]
    with pytest.raises(BadQuestion, match="depth only: build it without --depth-only"):
        ours.cache(look, 1, 4)
    assert_clean(bundle, 20)
    with pytest.raises(SetupError, match="no depth head"):
        export_look_graph(qwen3(""), ([1], [2]), ((128, 96),), only_depth=True)


def test_head_in_half_precision_differs_little(exported):
    bundle, twin, manifest = exported(precision=Precision("fp32", "fp16"), only_depth=True)
    ours, reference = backends(bundle, twin)
    for size_px in bundle.canvases_px:
        found, expected = (backend.look([sample_image(size_px)]).depth_m for backend in (ours, reference))
        assert 0 < relative_difference(found, expected).mean() <= 0.002
    kinds = {t.data_type for t in graph_of(bundle.look_path(bundle.canvases_px[0])).initializer}
    assert {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16} <= kinds
    assert manifest["precision"] == {"backbone": "fp32", "head": "fp16"}
    assert_clean(bundle, 20)


@slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_models_in_low_precision_stay_close_to_torch(exported, precision):
    bundle, twin, _ = exported(precision=Precision.of(precision))
    ours, reference = backends(bundle, twin)
    looks = [backend.look([sample_image(bundle.canvases_px[0])]) for backend in (ours, reference)]
    assert 0 < relative_difference(looks[0].depth_m, looks[1].depth_m).mean() <= (0.01 if precision == "fp16" else 0.1)
    assert looks[0].prefix[0].numpy().dtype == (np.float16 if precision == "fp16" else np.float32)
    ours_replies, expected = (replies(backend, look) for backend, look in zip((ours, reference), looks, strict=True))
    np.testing.assert_allclose(ours_replies[0].watched[0], expected[0].watched[0], atol=0.3)
    if precision == "int8":
        graph = graph_of(bundle.look_path(bundle.canvases_px[0]))
        assert sum(node.op_type == "MatMulInteger" for node in graph.node) > 20
        assert (bundle.folder / "weights.data").stat().st_size < 0.7 * sum(p.nbytes for p in twin.parameters())


@slow
@pytest.mark.parametrize("opset", [20, 22, 23])
def test_bfloat16_graphs_are_supported_by_tensorrt_for_that_opset(exported, opset):
    """No runtime here computes in bfloat16, so the types and operators are checked, and that ONNX Runtime refuses."""
    bundle, _, _ = exported(precision=Precision.of("bf16"), opset=opset)
    assert_clean(bundle, opset)
    types = {value.name: value.type.tensor_type.elem_type for value in graph_of(bundle.graphs[0]).output}
    assert types == {"depth_m": onnx.TensorProto.FLOAT, **dict.fromkeys(("keys", "values"), onnx.TensorProto.BFLOAT16)}
    step = {
        v.name: v.type.tensor_type.elem_type
        for v in (*graph_of(bundle.step_path).input, *graph_of(bundle.step_path).output)
    }
    assert step["own_keys"] == step["keys"] == onnx.TensorProto.BFLOAT16
    assert step["own_mask"] == step["logits"] == onnx.TensorProto.FLOAT
    with pytest.raises(BackendFailed, match=r"bf16.*--precision fp32"):
        OnnxRuntimeBackend(bundle)


def test_every_weight_is_stored_once_for_all_graphs(exported):
    bundle, twin, manifest = exported(sizes=2)
    weights = sum(parameter.nbytes for parameter in twin.parameters())
    constants = 300_000  # positions and angles of two canvases
    assert (bundle.folder / "weights.data").stat().st_size < weights + constants + 4096 * len(list(twin.parameters()))
    assert set(manifest["files"]) == {path.name for path in bundle.folder.iterdir()} - {"manifest.json"}


@pytest.mark.parametrize("names", [("fp8", ""), ("fp32", "bf16"), ("bf16", "bf16")])
def test_unknown_precisions_are_refused(names):
    with pytest.raises(SetupError, match="fp32, fp16, bf16, int8"):
        Precision.of(*names)


def test_canvas_size_that_is_not_a_multiple_of_a_token_is_refused():
    check_canvases(((96, 64), (16, 16)), 16)
    with pytest.raises(SetupError, match="canvas 100 x 70: both sides must be multiples of 16 px"):
        check_canvases(((96, 64), (100, 70)), 16)


def test_the_opset_of_every_target_is_tested_here():
    assert {target.opset for target in TARGETS.values()} <= set(PARSERS)


def graph_of(path):
    return onnx.load(path, load_external_data=False).graph


def assert_clean(bundle, opset):
    """Checks that a parser for this opset accepts the graphs, and that they hold no source paths.

    A look graph must not hold the text embeddings.
    """
    for path in bundle.graphs:
        for version in PARSERS[opset]:
            assert [str(problem) for problem in check_onnx(path, version)] == []
        model = onnx.load(path, load_external_data=False)
        assert model.opset_import[0].version == opset
        onnx.checker.check_model(str(path))
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
        assert b".py" not in path.read_bytes()
        if path != bundle.step_path:
            assert not [t.name for t in model.graph.initializer if VOCAB in t.dims]


def test_onnx_runtime_fuses_every_root_mean_square_norm_into_one_operator(exported, tmp_path):
    import onnxruntime

    bundle, twin, _ = exported(sizes=2)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    path = bundle.look_path(bundle.canvases_px[0], 1)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph.node]
    # Each layer has a norm before attention, of the queries, of the keys, and before the feed-forward part; one more
    # follows the last layer.
    assert kinds.count("SimplifiedLayerNormalization") == 4 * len(twin.language.layers) + 1
    assert not {"Reciprocal", "Sqrt"} & set(kinds)
