# SPDX-License-Identifier: Apache-2.0
"""Graphs that the parser of a TensorRT version refuses are found before anything is built."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper, parser  # noqa: E402
from support.paths import TINY  # noqa: E402

from depthlm_ros.errors import BadBundle, UnknownName  # noqa: E402
from depthlm_ros.export.trt_support import check_model, check_onnx  # noqa: E402
from depthlm_ros.export.trt_support_table import TARGETS, parse_version, target_for, target_named  # noqa: E402

pytestmark = pytest.mark.torch
VERSIONS = ("10.3", "10.13", "10.16", "11.4")


def problems(text, version, opset=18, functions=""):
    """Returns the problems of a graph in ONNX's text form, as strings."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1]>\n{text}{functions}')
    return [str(problem) for problem in check_model(model, parse_version(version))]


# Graph, opset, the versions that refuse it, a part of the problem's text.
CASES = {
    "an operator of another runtime": (
        "g (float[2,4] x) => (float[2,4] y) { y = com.microsoft.FastGelu(x) }",
        18,
        VERSIONS,
        "'com.microsoft' is not ONNX's",
    ),
    "an operator that no parser supports": (
        "g (float[2,4] x) => (float[2,4] y) { y = Bernoulli(x) }",
        18,
        VERSIONS,
        "no TensorRT parser supports this operator",
    ),
    "attention": (
        "g (float[1,2,3,4] q, float[1,2,3,4] k, float[1,2,3,4] v) => (float[1,2,3,4] y) { y = Attention(q, k, v) }",
        23,
        ("10.3", "10.13"),
        "from 10.14 on",
    ),
    "attention with a past": (
        "g (float[1,2,3,4] q, float[1,2,3,4] k, float[1,2,3,4] v, float[1,2,5,4] a, float[1,2,5,4] b)"
        " => (float[1,2,3,4] y) { y, c, d = Attention(q, k, v, , a, b) }",
        23,
        ("10.16", "11.4"),
        "no input 4, 5",
    ),
    "attention of 3-D tensors": (
        "g (float[1,3,8] q, float[1,3,8] k, float[1,3,8] v) => (float[1,3,8] y)"
        " { y = Attention <q_num_heads=2, kv_num_heads=2> (q, k, v) }",
        23,
        ("10.16", "11.4"),
        "input 0 is 3-D",
    ),
    "capped attention": (
        "g (float[1,2,3,4] q, float[1,2,3,4] k, float[1,2,3,4] v) => (float[1,2,3,4] y)"
        " { y = Attention <softcap=50.0> (q, k, v) }",
        23,
        ("10.16", "11.4"),
        "softcap = 50.0",
    ),
    "RMS norm": (
        "g (float[2,4] x, float[4] w) => (float[2,4] y) { y = RMSNormalization(x, w) }",
        23,
        ("10.3", "10.13"),
        "from 10.15 on",
    ),
    "opset 24": ("g (float[2] x) => (float[2] y) { y = Abs(x) }", 24, ("10.3", "10.13"), "opset 24 is outside"),
    "opset 22": ("g (float[2] x) => (float[2] y) { y = Abs(x) }", 22, ("10.3",), "opset 22 is outside 9 to 20"),
    "opset 8": ("g (float[2] x) => (float[2] y) { y = Abs(x) }", 8, VERSIONS, "opset 8 is outside"),
    "a scatter that names its reduction": (
        'g (float[4] x, int64[1,1] i, float[1] u) => (float[4] y) { y = ScatterND <reduction="none"> (x, i, u) }',
        18,
        ("10.3",),
        "reduction = none",
    ),
    "a scatter that adds": (
        'g (float[4] x, int64[1,1] i, float[1] u) => (float[4] y) { y = ScatterND <reduction="add"> (x, i, u) }',
        18,
        VERSIONS,
        "reduction = add",
    ),
    "group norm of opset 21": (
        "g (float[1,4,2,2] x, float[4] s, float[4] b) => (float[1,4,2,2] y)"
        " { y = GroupNormalization <num_groups=2> (x, s, b) }",
        21,
        ("10.3",),
        "form of opset 21 is supported from 10.9",
    ),
    "a sum over computed axes": (
        "g (float[2,4] x, int64[1] a) => (float[2] y) { y = ReduceSum <keepdims=0> (x, a) }",
        18,
        VERSIONS,
        "input 1 is computed",
    ),
    "a cumulative sum over a computed axis": (
        "g (float[2,4] x, int64 a) => (float[2,4] y) { y = CumSum(x, a) }",
        18,
        VERSIONS,
        "input 1 is computed",
    ),
    "computed axes of Unsqueeze": (
        "g (float[2,4] x, int64[1] a) => (float[1,2,4] y) { y = Unsqueeze(x, a) }",
        18,
        VERSIONS,
        "input 1 is computed",
    ),
    "padding of named axes": (
        "g (float[2,4] x) => (float[2,6] y) { p = Constant <value_ints=[1,1]> () a = Constant <value_ints=[1]> ()"
        " y = Pad(x, p, , a) }",
        18,
        ("10.3",),
        "no input 3",
    ),
    "a tensor without elements": (
        "g (float[2,4] x) => (float[2,0] y) { s = Constant <value_ints=[0]> () e = Constant <value_ints=[0]> ()"
        " a = Constant <value_ints=[1]> () y = Slice(x, s, e, a) }",
        18,
        VERSIONS,
        "'y' has no elements",
    ),
    "uint8 image that is transposed first": (
        "g (uint8[1,4,6,3] x) => (float[1,3,4,6] y) { t = Transpose <perm=[0,3,1,2]> (x) y = Cast <to=1> (t) }",
        18,
        VERSIONS,
        "works on UINT8",
    ),
    "uint8 inside a graph that notes no types": (
        "g (float[4,6] x) => (float[6,4] y) { b = Cast <to=2> (x) t = Transpose(b) y = Cast <to=1> (t) }",
        18,
        VERSIONS,
        "works on UINT8",
    ),
    "uint8 cast to bfloat16": (
        "g (uint8[4] x) => (bfloat16[4] y) { y = Cast <to=16> (x) }",
        18,
        VERSIONS,
        "casts UINT8 to BF16",
    ),
    "double precision": (
        "g (float[4] x) => (double[4] y) { y = Cast <to=11> (x) }",
        18,
        VERSIONS,
        "casts to FP64",
    ),
    "a convolution in bfloat16": (
        "g (bfloat16[1,3,8,8] x, bfloat16[2,3,2,2] w) => (bfloat16[1,2,7,7] y) { y = Conv(x, w) }",
        20,
        VERSIONS,
        "for BF16 from opset 22",
    ),
    "power of integers": (
        "g (int64[4] x, float[1] p) => (int64[4] y) { y = Pow(x, p) }",
        18,
        ("10.3",),
        "input 0 is INT64",
    ),
    "cubic resizing": (
        "g (float[1,1,4,4] x) => (float[1,1,8,8] y) { s = Constant <value_floats=[1.0,1.0,2.0,2.0]> ()"
        ' y = Resize <mode="cubic"> (x, , s) }',
        18,
        VERSIONS,
        "mode = cubic",
    ),
    "antialiased resizing": (
        "g (float[1,1,4,4] x) => (float[1,1,2,2] y) { s = Constant <value_floats=[1.0,1.0,0.5,0.5]> ()"
        ' y = Resize <mode="linear", antialias=1> (x, , s) }',
        18,
        VERSIONS,
        "antialias = 1",
    ),
    "an Einsum with a diagonal": (
        'g (float[3,3] x) => (float[3] y) { y = Einsum <equation="ii->i"> (x) }',
        18,
        ("10.3",),
        "'ii->i'",
    ),
    "a pooling with indices": (
        "g (float[1,1,4,4] x) => (float[1,1,2,2] y) { y, i = MaxPool <kernel_shape=[2,2], strides=[2,2]> (x) }",
        18,
        VERSIONS,
        "2 outputs",
    ),
    "a TopK with a large k": (
        "g (float[5000] x) => (float[4000] y) { k = Constant <value_ints=[4000]> () y, i = TopK(x, k) }",
        18,
        VERSIONS,
        "k = 4000",
    ),
    "5-D grid sampling": (
        "g (float[1,1,2,2,2] x, float[1,2,2,2,3] c) => (float[1,1,2,2,2] y) { y = GridSample(x, c) }",
        20,
        ("10.3", "10.13", "10.16"),
        "5-D",
    ),
    "an operator inside a branch": (
        "g (bool b, float[2] x) => (float[2] y) { y = If (b) <then_branch = t () => (float[2] o) { o = Bernoulli(x) },"
        " else_branch = e () => (float[2] p) { p = Identity(x) }> }",
        18,
        VERSIONS,
        "Bernoulli",
    ),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", CASES)
def test_unsupported_graphs_are_reported_for_the_versions_that_refuse_them(case, version):
    text, opset, refused_by, part = CASES[case]
    found = [problem for problem in problems(text, version, opset) if part in problem]
    assert bool(found) == (version in refused_by), problems(text, version, opset)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "text",
    [
        "g (uint8[1,4,6,3] x) => (float[1,3,4,6] y) { t = Cast <to=1> (x) y = Transpose <perm=[0,3,1,2]> (t) }",
        "g (float[n,4] x) => (float[n,4] y) { y = Softmax <axis=-1> (x) }",
        "g (bool[4] b, float[4] x, float[4] z) => (float[4] y) { y = Where(b, x, z) }",
        "g (float[2,4] x) => (float[2] y) { a = Constant <value_ints=[1]> () y = ReduceSum <keepdims=0> (x, a) }",
        "g (float[1,1,4,4] x) => (float[1,1,8,8] y) { s = Constant <value_ints=[1,1,8,8]> ()"
        ' y = Resize <mode="linear", nearest_mode="ceil", coordinate_transformation_mode="align_corners"> (x, , , s) }',
        "g (float[2,2] x) => (float y) { s = Constant <value_ints=[4]> () f = Reshape(x, s)"
        " y = ReduceMax <keepdims=0> (f) }",
    ],
)
def test_graphs_that_every_parser_supports_have_no_problems(text, version):
    assert problems(text, version) == []


def test_functions_of_the_model_are_checked():
    function = '<domain: "mine", opset_import: ["": 18]> twice (x) => (y) { z = Bernoulli(x) y = Add(z, z) }'
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18, "mine": 1]> g (float[2] x) => (float[2] y) { y = mine.twice(x) }'
    )
    model.functions.append(parser.parse_function(function))
    found = [str(problem) for problem in check_model(model, (10, 13))]
    assert len(found) == 1 and "Bernoulli" in found[0]


def test_problem_names_node_operator_reason_and_remedy(tmp_path):
    node = helper.make_node("ScatterND", ["x", "i", "u"], ["y"], name="/depth/scatter", reduction="add")
    values = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in _SCATTER]
    graph = helper.make_graph([node], "g", values[:3], values[3:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "g.onnx")
    (problem,) = check_onnx(tmp_path / "g.onnx", "10.16.1.11")
    assert (problem.node, problem.operator) == ("/depth/scatter", "ScatterND")
    assert "add" in problem.reason and "none" in problem.reason and problem.remedy
    assert str(problem).startswith("ScatterND '/depth/scatter': ")


_SCATTER = [
    ("x", TensorProto.FLOAT, [4]),
    ("i", TensorProto.INT64, [1, 1]),
    ("u", TensorProto.FLOAT, [1]),
    ("y", TensorProto.FLOAT, [4]),
]


def test_external_data_are_not_needed(tmp_path):
    """A model of eight gigabytes is checked without its weights."""
    weights = numpy_helper.from_array(np.zeros((64, 64), np.float32), "w")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 64]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    onnx.save(model, tmp_path / "g.onnx", save_as_external_data=True, location="g.data", size_threshold=0)
    (tmp_path / "g.data").unlink()
    assert check_onnx(tmp_path / "g.onnx", "10.3") == []


@pytest.mark.parametrize("version", VERSIONS)
def test_step_graph_of_the_embedded_model_is_supported_by_every_parser(version):
    """The exported graph takes any number of rows, tokens and past tokens."""
    assert check_onnx(TINY / "step.onnx", version) == []


def test_file_that_is_not_a_graph_is_refused_by_name(tmp_path):
    for content in (b"", b"not a graph at all"):
        (tmp_path / "g.onnx").write_bytes(content)
        with pytest.raises(BadBundle, match=r"g\.onnx"):
            check_onnx(tmp_path / "g.onnx", "10.3")
    with pytest.raises(BadBundle, match=r"missing\.onnx"):
        check_onnx(tmp_path / "missing.onnx", "10.3")


def test_tensorrt_older_than_the_table_is_reported():
    assert "older than 10.3" in problems("g (float[2] x) => (float[2] y) { y = Abs(x) }", "8.6")[0]


@pytest.mark.parametrize("text", ["", "new", "10", "10.x"])
def test_text_that_is_not_a_version_is_refused(text):
    with pytest.raises(UnknownName, match="is not a TensorRT version"):
        parse_version(text)


def test_parser_of_every_target_reads_the_opset_of_its_graphs():
    for target in TARGETS.values():
        text = "g (float[2] x) => (float[2] y) { y = Abs(x) }"
        assert problems(text, "{}.{}".format(*target.tensorrt), target.opset) == [], target.name


def test_targets_are_chosen_by_name_and_by_installed_version():
    assert target_named("jetpack6").tensorrt == (10, 3)
    assert target_for((10, 3)).name == "jetpack6"
    assert target_for((10, 15)).name == "jetpack7.1"
    assert target_for((12, 0)).name == "desktop"
    with pytest.raises(UnknownName, match=r"jetpack9.*jetpack6.*desktop"):
        target_named("jetpack9")
    with pytest.raises(UnknownName, match=r"TensorRT 8\.6 is too old"):
        target_for((8, 6))
