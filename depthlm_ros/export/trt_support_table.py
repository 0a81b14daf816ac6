"""What the ONNX parser of TensorRT 10.3 to 11.4 takes, as a table.

Sources, read on 2026-11-21:
- onnx-tensorrt, docs/operators.md as of TensorRT 10.6 (commit 0137504e) and of TensorRT 10.15 (commit fa5aa9f6):
  operators, types and restrictions. What the two disagree on is dated by the next source.
- onnx-tensorrt, docs/Changelog.md as of TensorRT 10.15: the version that brought each operator or lifted a
  restriction. (ScatterND's entry of 10.9, "fixed support for opset 18+", is the `reduction` attribute.)
- TensorRT's release pages 11.0 (Swish), 11.2 (DFT, GridSample of 5-D tensors) and 11.4 (no change of the parser's
  operators); none for 10.16. "ONNX Opset Guide" of TensorRT 11 (opsets).
- TensorRT's Python API, DataType: uint8 becomes fp32 or fp16 and nothing else; operators.md: uint8 only as input or
  output of the network.
The parser itself was not run: a graph without problems here is a graph whose operators, types and attributes the
documents allow, not one that was parsed. ONNX types are named as in those documents.

The machines engines are made for: which TensorRT they have, and in which ONNX opset a graph for it is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from depthlm_ros.errors import UnknownName

Version = tuple[int, int]
OLDEST: Version = (10, 3)
ALWAYS: Version = (0, 0)

# TensorRT -> newest opset its parser reads (10.3 as 10.0 to 10.5; the documents name no other versions).
OPSETS: Mapping[Version, int] = {(10, 0): 20, (10, 6): 22, (10, 15): 24, (11, 0): 25}
OLDEST_OPSET = 9

_FLOATS = "FP32 FP16 BF16"
_NUMBERS = f"{_FLOATS} INT32 INT64"
_ALL = f"{_NUMBERS} BOOL"

# Types of an operator's data -> operators that take them, from every version in the table on.
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

# Operators that came later: version and types.
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
class Operator:
    """since: the first version that takes it. types: of its data."""

    since: Version
    types: frozenset[str]


OPERATORS: Mapping[str, Operator] = {
    **{
        name: Operator(ALWAYS, frozenset(types.split())) for types, names in _BY_TYPES.items() for name in names.split()
    },
    **{name: Operator(since, frozenset(types.split())) for name, (since, types) in _LATER.items()},
}

# Input whose type is the operator's, where it is not the first.
DATA_INPUT: Mapping[str, int] = {"Where": 1, "OneHot": 2}


@dataclass(frozen=True)
class Allowed:
    """Values an attribute may have; `values` empty: it may not be there at all. before: lifted in that version."""

    operator: str
    attribute: str
    values: tuple[int | str, ...]
    before: Version | None = None


_COORDINATES = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")
ATTRIBUTES: tuple[Allowed, ...] = (
    Allowed("Attention", "softcap", (0,)),
    Allowed("Attention", "qk_matmul_output_mode", (0,)),
    Allowed("AveragePool", "dilations", (1,)),
    Allowed("BatchNormalization", "training_mode", (0,)),
    Allowed("Constant", "sparse_value", ()),
    Allowed("Constant", "value_string", ()),
    Allowed("Constant", "value_strings", ()),
    Allowed("LSTM", "input_forget", (0,)),
    Allowed("LSTM", "layout", (0,)),
    Allowed("LpPool", "dilations", (1,)),
    Allowed("MaxPool", "dilations", (1,)),
    Allowed("Resize", "antialias", (0,)),
    Allowed("Resize", "coordinate_transformation_mode", _COORDINATES),
    Allowed("Resize", "keep_aspect_ratio_policy", ("stretch",)),
    Allowed("Resize", "mode", ("nearest", "linear")),
    Allowed("ScatterND", "reduction", (), before=(10, 9)),
    Allowed("ScatterND", "reduction", ("none",)),
    Allowed("TensorScatter", "axis", (-2,)),
    Allowed("TopK", "sorted", (1,)),
)

# Inputs (by index) that must be known when the engine is built; the version that lifted it, or None.
CONSTANT_INPUTS: Mapping[str, tuple[int, Version | None]] = {
    **{name: (1, None) for name in OPERATORS if name.startswith("Reduce")},
    "CumSum": (1, None),
    "OneHot": (1, None),
    "Squeeze": (1, (10, 7)),
    "Unsqueeze": (1, (10, 7)),
}

# Inputs that must not be given; the version that lifted it, or None.
FORBIDDEN_INPUTS: Mapping[str, tuple[tuple[int, ...], Version | None]] = {
    "Attention": ((4, 5, 6), None),
    "Pad": ((3,), (10, 4)),
}
# Outputs that an operator may have at most.
MOST_OUTPUTS: Mapping[str, int] = {"Attention": 1, "LayerNormalization": 1, "MaxPool": 1}
# Input index -> rank it must have; the version that lifted it, or None.
RANKS: Mapping[str, tuple[Mapping[int, int], Version | None]] = {
    "Attention": ({0: 4, 1: 4, 2: 4, 3: 4}, None),
    "GridSample": ({0: 4}, (11, 2)),
    "TensorScatter": ({0: 4, 1: 4}, None),
}
# Operators whose definition of a later opset is taken only from a version on: opset, version.
LATER_OPSETS: Mapping[str, tuple[int, Version]] = {"GroupNormalization": (21, (10, 9))}
# Largest number that TopK returns (exclusive).
TOP_K_LIMIT = 3840
# Operators whose integer inputs came later: input index -> version.
INTEGER_SINCE: Mapping[str, Mapping[int, Version]] = {"Pow": {0: (10, 12), 1: (10, 8)}}
# Types to which uint8 is cast.
UINT8_TO = ("FP32", "FP16")
# Einsum with an ellipsis or a letter twice in one operand.
EINSUM_DIAGONALS_SINCE: Version = (10, 12)


@dataclass(frozen=True)
class Target:
    """tensorrt: (major, minor) that the machine's software brings. opset: that in which to export for it."""

    name: str
    machine: str
    tensorrt: Version
    opset: int
    notes: str


# JetPack's TensorRT versions are those of its release notes.
_TARGETS = (
    Target(
        "jetpack6",
        "Jetson Orin, JetPack 6.2",
        (10, 3),
        20,
        "No native Attention or RMSNormalization; ONNX knows no bfloat16 convolution in this opset, so what convolves "
        "is fp16 or fp32; memory is shared with the CPU, so cap the builder's workspace.",
    ),
    Target(
        "jetpack7.1",
        "Jetson Thor, JetPack 7.1",
        (10, 13),
        22,
        "bfloat16 throughout; no native Attention or RMSNormalization.",
    ),
    Target(
        "jetpack7.2",
        "Jetson Thor and Orin, JetPack 7.2",
        (10, 16),
        23,
        "Native Attention (4-D, without past), RMSNormalization and RotaryEmbedding.",
    ),
    Target(
        "desktop",
        "discrete GPU, JetPack 7.2.2 and later",
        (11, 4),
        23,
        "Networks are always strongly typed; otherwise as jetpack7.2.",
    ),
)
TARGETS = {target.name: target for target in _TARGETS}


def target_named(name: str) -> Target:
    """Raises UnknownName listing the targets that exist."""
    if name not in TARGETS:
        known = ", ".join(f"{target.name} ({target.machine})" for target in _TARGETS)
        raise UnknownName(f"target {name!r} is not one of {known}.")
    return TARGETS[name]


def target_for(tensorrt: Version) -> Target:
    """The newest target whose TensorRT is not newer than the given one: what it takes, later versions take.

    Raises UnknownName for a TensorRT older than every target's.
    """
    fitting = [target for target in _TARGETS if target.tensorrt <= tensorrt]
    if not fitting:
        raise UnknownName(
            f"TensorRT {tensorrt[0]}.{tensorrt[1]} is too old: {_TARGETS[0].tensorrt[0]}.{_TARGETS[0].tensorrt[1]} is "
            "the oldest for which engines are made. Update JetPack, or use backend onnxruntime."
        )
    return fitting[-1]


def parse_version(text: str) -> Version:
    """(major, minor) of "10.3", "10.13.3.9.post1" and the like. Raises UnknownName for what is no version."""
    match = re.match(r"(\d+)\.(\d+)(?!\d)", text.strip())
    if match is None:
        raise UnknownName(f"{text!r} is no TensorRT version: expected for example 10.3.")
    return int(match[1]), int(match[2])
