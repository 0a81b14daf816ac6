# SPDX-License-Identifier: Apache-2.0
"""The precision in which a model computes.

set_precision rounds the weights of a model before its export, because the types of a graph are those of its weights.
run_bf16_convolutions_in_fp32 and quantise_linear_layers change an exported graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from onnxscript import ir
from onnxscript.ir import convenience

from depthlm_ros.errors import SetupError
from depthlm_ros.nets.backbone import Backbone
from depthlm_ros.nets.depth_first import DepthFirstModel
from depthlm_ros.nets.depth_heads import DptHead

TORCH_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.float32}
HEAD_PRECISIONS = ("fp32", "fp16")
# ONNX has a bfloat16 convolution from this opset on.
BF16_CONV_OPSET = 22
# Largest integer for a weight in int8. -128 is not used, so that zero lies in the middle.
LARGEST_INT8 = 127


@dataclass(frozen=True)
class Precision:
    """Precision of the two parts of a model.

    backbone: "fp32", "fp16", "bf16", or "int8" (weights of the linear layers in int8, everything else fp32; only for
    ONNX Runtime). head: of what gives depth, "fp32" or "fp16": the DPT head's convolutions, or encoder and decoder of a
    model that gives depth first; bfloat16 would have steps of 6 cm at 10 m.
    """

    backbone: str = "fp32"
    head: str = "fp32"

    @classmethod
    def of(cls, backbone: str, head: str = "") -> Precision:
        """Checks both names. head "": fp16 for a backbone in half precision, otherwise fp32. Raises SetupError."""
        if backbone not in TORCH_TYPES or (head and head not in HEAD_PRECISIONS):
            raise SetupError(
                f"precision {backbone!r} with head {head!r} does not exist: use one of {', '.join(TORCH_TYPES)}, and "
                f"{' or '.join(HEAD_PRECISIONS)} for the head."
            )
        # With a backbone in half precision, a head in single precision would cost time.
        return cls(backbone, head or ("fp16" if backbone in ("fp16", "bf16") else "fp32"))


def set_precision(model: Backbone, precision: Precision) -> Precision:
    """Rounds the model's weights in place. Buffers, such as rotary frequencies, do not change.

    Returns the precision that the model then has: an MLP head is small and stays in single precision, and without a
    depth head the head's precision is "".
    """
    if isinstance(model, DepthFirstModel):
        _set_depth_first_precision(model, precision)
        return precision
    for parameter in model.vlm.parameters():
        parameter.data = parameter.data.to(TORCH_TYPES[precision.backbone])
    if not isinstance(model.depth_head, DptHead):
        return Precision(precision.backbone, "fp32" if model.depth_head is not None else "")
    for name, parameter in model.depth_head.named_parameters():
        # The norm reads the backbone's features, which can be larger than float16 allows.
        dtype = torch.float32 if name.startswith("norm.") else TORCH_TYPES[precision.head]
        parameter.data = parameter.data.to(dtype)
    return precision


def _set_depth_first_precision(model: DepthFirstModel, precision: Precision) -> None:
    for name, parameter in model.named_parameters():
        if name.startswith(("vlm.", "token_builder.")):
            dtype = TORCH_TYPES[precision.backbone]
        else:
            # From here on, an error of a logit is one of the depth.
            dtype = torch.float32 if name.startswith("decoder.to_bins.") else TORCH_TYPES[precision.head]
        parameter.data = parameter.data.to(dtype)


def run_bf16_convolutions_in_fp32(model: ir.Model) -> None:
    """Adds casts around bfloat16 convolutions, which opsets before BF16_CONV_OPSET do not have."""
    if model.graph.opset_imports[""] >= BF16_CONV_OPSET:
        return
    for node in [node for node in model.graph if node.op_type == "Conv"]:
        if node.inputs[0] is None or node.inputs[0].dtype != ir.DataType.BFLOAT16:
            continue
        casts = [_cast(value, ir.DataType.FLOAT) for value in node.inputs if value is not None]
        single = ir.node("Conv", [cast.outputs[0] for cast in casts], attributes=node.attributes, name=node.name)
        back = _cast(single.outputs[0], ir.DataType.BFLOAT16)
        back.outputs[0].shape = node.outputs[0].shape
        _replace(model.graph, node, [*casts, single, back])


def quantise_linear_layers(model: ir.Model) -> None:
    """Rewrites linear layers in int8: weights are rounded column by column, activations while the graph runs (dynamic
    quantisation).

    ONNX Runtime fuses the operators to one. Weights must be constants (onnx_graphs.fold_constants).
    """
    graph = model.graph
    activations: dict[ir.Value, tuple[ir.Value, ...]] = {}
    weights: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
    for node in [node for node in graph if node.op_type == "MatMul"]:
        x, weight = node.inputs
        if x is None or weight is None or weight.const_value is None or len(weight.const_value.shape) != 2:
            continue
        nodes = []
        if x not in activations:
            rounding = ir.node("DynamicQuantizeLinear", [x], num_outputs=3)
            activations[x] = tuple(rounding.outputs)
            nodes.append(rounding)
        if weight not in weights:
            weights[weight] = _quantise_weight(graph, weight)
        _replace(graph, node, [*nodes, *_integer_product(activations[x], weights[weight])])


def _integer_product(x: tuple[ir.Value, ...], weight: tuple[ir.Value, ir.Value]) -> list[ir.Node]:
    """x: bytes, scale and zero point. weight: int8 values and the scale of each column."""
    product = ir.node("MatMulInteger", [x[0], weight[0], x[2]])
    single = _cast(product.outputs[0], ir.DataType.FLOAT)
    scales = ir.node("Mul", [x[1], weight[1]])
    return [product, single, scales, ir.node("Mul", [single.outputs[0], scales.outputs[0]])]


def _quantise_weight(graph: ir.Graph, weight: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Adds the rounded weight, int8, and the scale of each column to the graph, and returns both."""
    array = weight.const_value.numpy()  # type: ignore[union-attr]
    scale = (abs(array).max(0) / LARGEST_INT8).clip(min=1e-12).astype("float32")
    rounded = (array / scale).round().astype("int8")
    return _add_constant(graph, f"{weight.name}.int8", rounded), _add_constant(graph, f"{weight.name}.scale", scale)


def _add_constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
    graph.register_initializer(value)
    return value


def _cast(value: ir.Value, to: ir.DataType) -> ir.Node:
    return ir.node("Cast", [value], attributes={"to": to.value})


def _replace(graph: ir.Graph, old: ir.Node, new: list[ir.Node]) -> None:
    """Puts `new` in the place of `old`. The output of the last new node replaces the output of `old`."""
    convenience.replace_nodes_and_values(graph, old, [old], new, old.outputs, new[-1].outputs)
