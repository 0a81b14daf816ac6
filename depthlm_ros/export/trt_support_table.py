# SPDX-License-Identifier: Apache-2.0
"""What the ONNX parser of TensorRT 10.3 to 11.4 supports, as tables, and the machines for which engines are built.

OPERATORS, ATTRIBUTES and the tables after them are the rules that trt_support.py applies. TARGETS lists the machines,
their TensorRT versions and the ONNX opset of the graphs for them; target_named and target_for choose one.

Sources of the tables, read on 2026-11-21:
- onnx-tensorrt, docs/operators.md as of TensorRT 10.6 (commit 0137504e) and of TensorRT 10.15 (commit fa5aa9f6):
  operators, types and restrictions. Where the two differ, the next source gives the version of the change.
- onnx-tensorrt, docs/Changelog.md as of TensorRT 10.15: the version that brought each operator or lifted a
  restriction. (ScatterND's entry of 10.9, "fixed support for opset 18+", is the `reduction` attribute.)
- TensorRT's release pages 11.0 (Swish), 11.2 (DFT, GridSample of 5-D tensors) and 11.4 (no change of the parser's
  operators); none for 10.16. "ONNX Opset Guide" of TensorRT 11 (opsets).
- TensorRT's Python API, DataType: uint8 becomes fp32 or fp16 and nothing else; operators.md: uint8 only as input or
  output of the network.
A graph without problems is a graph whose operators, types and attributes these documents allow. The parsers of these
versions were not run. That of TensorRT for RTX 1.7, which is as new as TensorRT 11, was: test_rtx_builder.py compares
it with this table, on graphs that it takes and on graphs that it refuses. ONNX types have the names of these documents.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from depthlm_ros.backends.tensorrt.flavour import TENSORRT, TENSORRT_RTX, Flavour
from depthlm_ros.errors import UnknownName

Version = tuple[int, int]
OLDEST: Version = (10, 3)
ALWAYS: Version = (0, 0)

# TensorRT -> newest opset that its parser reads (10.3 like 10.0 to 10.5; the documents name no other versions).
OPSETS: Mapping[Version, int] = {(10, 0): 20, (10, 6): 22, (10, 15): 24, (11, 0): 25}
OLDEST_OPSET = 9

_FLOATS = "FP32 FP16 BF16"
_NUMBERS = f"{_FLOATS} INT32 INT64"
_ALL = f"{_NUMBERS} BOOL"

# Types of an operator's data -> operators that support them in every version of this table.
_BY_TYPES: Mapping[str, str] = {
    _FLOATS: (
        "Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Clip Conv ConvTranspose Cos Cosh "
        "CumSum Dropout Einsum Elu Erf Exp Floor Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool GroupNormalization "
        "GRU HardSigmoid HardSwish Hardmax ImageScaler InstanceNormalization IsInf LayerNormalization LeakyRelu Log "
        "LogSoftmax LRN LSTM LpNormalization LpPool MatMul MaxPool MeanVarianceNormalization ParametricSoftplus PRelu "
        "QuantizeLinear RandomNormal RandomNormalLike RandomUniform RandomUniformLike Reciprocal Resize RNN Round "
        "ScaledTanh Scan Selu Sigmoid Sin Sinh Softmax Softplus Softsign Sqrt Tan Tanh ThresholdedRelu Upsample"
    ),
    "FP32 FP16": "DeformConv GridSample Mish NonMaxSuppression NonZero RoiAlign",
    _NUMBERS: (
        "Abs Add ArgMax ArgMin DepthToSpace Div Equal Greater GreaterOrEqual IsNaN Less LessOrEqual Max Mean Min Mod "
        "Mul Neg Pad Pow Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin "
        "ReduceProd ReduceSum ReduceSumSquare Relu Scatter ScatterElements ScatterND Shrink Sign SpaceToDepth Sub Sum "
        "TopK"
    ),
    _ALL: (
        "Concat Constant ConstantOfShape Expand EyeLike Flatten Gather GatherElements GatherND Identity If Loop OneHot "
        "Reshape ReverseSequence Shape Size Slice Split Squeeze Tile Transpose Trilu Unsqueeze Where"
    ),
    f"{_ALL} UINT8": "Cast CastLike",
    f"{_NUMBERS} INT8": "Gelu",
    "BOOL": "And Not Or Xor",
    "INT8 FP8 INT4": "DequantizeLinear",
}

# Operators of later versions: the first version, and the types.
_LATER: Mapping[str, tuple[Version, str]] = {
    "BlackmanWindow": ((10, 4), "FP32 FP16 INT32 INT64"),
    "HammingWindow": ((10, 4), "FP32 FP16 INT32 INT64"),
    "HannWindow": ((10, 4), "FP32 FP16 INT32 INT64"),
    "STFT": ((10, 5), "FP32"),
    "Attention": ((10, 14), f"{_FLOATS} INT8 FP8"),
    "RMSNormalization": ((10, 15), _FLOATS),
    "RotaryEmbedding": ((10, 15), _FLOATS),
    "TensorScatter": ((10, 15), f"{_FLOATS} INT32"),
    "Swish": ((11, 0), _FLOATS),
    "DFT": ((11, 2), _FLOATS),
}


@dataclass(frozen=True)
class OperatorSupport:
    """since: the first version that supports the operator. types: of its data."""

    since: Version
    types: frozenset[str]


OPERATORS: Mapping[str, OperatorSupport] = {
    name: OperatorSupport(ALWAYS, frozenset(types.split()))
    for types, names in _BY_TYPES.items()
    for name in names.split()
} | {name: OperatorSupport(since, frozenset(types.split())) for name, (since, types) in _LATER.items()}

# Index of the input whose type is the operator's type, if that is not the first input.
DATA_INPUT: Mapping[str, int] = {"Where": 1, "OneHot": 2}


@dataclass(frozen=True)
class AttributeRule:
    """values: the supported values of an attribute, empty if the attribute must not be given. before: the version that
    lifted the rule, None if none did."""

    operator: str
    attribute: str
    values: tuple[int | str, ...]
    before: Version | None = None


_COORDINATES = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")
ATTRIBUTES: tuple[AttributeRule, ...] = (
    AttributeRule("Attention", "softcap", (0,)),
    AttributeRule("Attention", "qk_matmul_output_mode", (0,)),
    AttributeRule("AveragePool", "dilations", (1,)),
    AttributeRule("BatchNormalization", "training_mode", (0,)),
    AttributeRule("Constant", "sparse_value", ()),
    AttributeRule("Constant", "value_string", ()),
    AttributeRule("Constant", "value_strings", ()),
    AttributeRule("LSTM", "input_forget", (0,)),
    AttributeRule("LSTM", "layout", (0,)),
    AttributeRule("LpPool", "dilations", (1,)),
    AttributeRule("MaxPool", "dilations", (1,)),
    AttributeRule("Resize", "antialias", (0,)),
    AttributeRule("Resize", "coordinate_transformation_mode", _COORDINATES),
    AttributeRule("Resize", "keep_aspect_ratio_policy", ("stretch",)),
    AttributeRule("Resize", "mode", ("nearest", "linear")),
    AttributeRule("ScatterND", "reduction", (), before=(10, 9)),
    AttributeRule("ScatterND", "reduction", ("none",)),
    AttributeRule("TensorScatter", "axis", (-2,)),
    AttributeRule("TopK", "sorted", (1,)),
)

# Index of an input that must be a constant; the version that lifted the rule, or None.
CONSTANT_INPUTS: Mapping[str, tuple[int, Version | None]] = {
    **{name: (1, None) for name in OPERATORS if name.startswith("Reduce")},
    "CumSum": (1, None),
    "OneHot": (1, None),
    # The changelog lifts it for 10.7, but the newest parser still refuses axes that are an input of the graph.
    "Squeeze": (1, None),
    "Unsqueeze": (1, None),
}

# Indices of inputs that must not be given; the version that lifted the rule, or None.
FORBIDDEN_INPUTS: Mapping[str, tuple[tuple[int, ...], Version | None]] = {
    "Attention": ((4, 5, 6), None),
    "Pad": ((3,), (10, 4)),
}
# Largest number of outputs of an operator.
MAX_OUTPUTS: Mapping[str, int] = {"Attention": 1, "LayerNormalization": 1, "MaxPool": 1}
# Index of an input -> its only supported rank; the version that lifted the rule, or None.
RANKS: Mapping[str, tuple[Mapping[int, int], Version | None]] = {
    "Attention": ({0: 4, 1: 4, 2: 4, 3: 4}, None),
    "GridSample": ({0: 4}, (11, 2)),
    "TensorScatter": ({0: 4, 1: 4}, None),
}
# Operators whose definition of a later opset is supported only from a version on: opset, version.
LATER_OPSETS: Mapping[str, tuple[int, Version]] = {"GroupNormalization": (21, (10, 9))}
# TopK returns fewer values than this.
TOP_K_LIMIT = 3840
# Operators that support integer inputs only from a version on: index of the input -> version.
INTEGER_SINCE: Mapping[str, Mapping[int, Version]] = {"Pow": {0: (10, 12), 1: (10, 8)}}
# Types to which uint8 can be cast.
UINT8_TO = ("FP32", "FP16")
# First version that supports an Einsum with an ellipsis, or with one letter twice in an operand.
EINSUM_DIAGONALS_SINCE: Version = (10, 12)


@dataclass(frozen=True)
class BuildTarget:
    """A machine for which engines are built. tensorrt: the version in its software. opset: of the graphs for it.
    flavour: the kind of TensorRT; tensorrt is then the version of the ordinary one whose operators its parser has."""

    name: str
    machine: str
    tensorrt: Version
    opset: int
    notes: str
    flavour: Flavour = TENSORRT


# The TensorRT versions of JetPack come from its release notes.
_TARGETS = (
    BuildTarget(
        "jetpack6",
        "Jetson Orin, JetPack 6.2",
        (10, 3),
        20,
        "No native Attention or RMSNormalization; ONNX has no bfloat16 convolution in this opset, so convolutions are "
        "fp16 or fp32; the GPU shares its memory with the CPU, so limit the builder's workspace.",
    ),
    BuildTarget(
        "jetpack7.1",
        "Jetson Thor, JetPack 7.1",
        (10, 13),
        22,
        "bfloat16 throughout; no native Attention or RMSNormalization.",
    ),
    BuildTarget(
        "jetpack7.2",
        "Jetson Thor and Orin, JetPack 7.2",
        (10, 16),
        23,
        "Native Attention (4-D, without past), RMSNormalization and RotaryEmbedding.",
    ),
    BuildTarget(
        "desktop",
        "discrete GPU, JetPack 7.2.2 and later",
        (11, 4),
        23,
        "Networks are always strongly typed; otherwise like jetpack7.2.",
    ),
    BuildTarget(
        TENSORRT_RTX.target,
        "RTX GPU of compute capability 8.0 or later in an x86-64 computer, TensorRT for RTX 1.7",
        (11, 0),
        23,
        "Plans are built on any x86-64 computer, with a GPU or without one.",
        TENSORRT_RTX,
    ),
)
TARGETS = {target.name: target for target in _TARGETS}
# Targets whose plans are built on any machine.
PORTABLE_TARGETS = tuple(target.name for target in _TARGETS if target.flavour.portable)


def target_named(name: str) -> BuildTarget:
    """Returns the target of that name. Raises UnknownName with the targets that exist."""
    if name not in TARGETS:
        known = ", ".join(f"{target.name} ({target.machine})" for target in _TARGETS)
        raise UnknownName(f"target {name!r} is not one of {known}.")
    return TARGETS[name]


def target_for(tensorrt: Version) -> BuildTarget:
    """Returns the newest target whose TensorRT is not newer than the given one. Later versions read its graphs too.

    Raises UnknownName for a TensorRT that is older than that of every target.
    """
    fitting = [target for target in _TARGETS if target.flavour is TENSORRT and target.tensorrt <= tensorrt]
    if not fitting:
        raise UnknownName(
            f"TensorRT {tensorrt[0]}.{tensorrt[1]} is too old: {_TARGETS[0].tensorrt[0]}.{_TARGETS[0].tensorrt[1]} is "
            "the oldest version for which engines are built. Update JetPack, or use backend onnxruntime."
        )
    return fitting[-1]


def parse_version(text: str) -> Version:
    """Returns (major, minor) of "10.3", "10.13.3.9.post1" and so on. Raises UnknownName for any other text."""
    match = re.match(r"(\d+)\.(\d+)(?!\d)", text.strip())
    if match is None:
        raise UnknownName(f"{text!r} is not a TensorRT version: expected for example 10.3.")
    return int(match[1]), int(match[2])
