"""In which precision a model computes: set before it is exported, since the graph's types are those of its weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from onnxscript import ir
from onnxscript.ir import convenience

from depthlm_ros.errors import SetupError
from depthlm_ros.nets.backbone import Backbone
from depthlm_ros.nets.depth_heads import DptHead

TORCH = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.float32}
HEADS = ("fp32", "fp16")
# Opset from which ONNX has a convolution in bfloat16.
BF16_CONV_OPSET = 22
# Largest integer that stands for a weight in int8; -128 is not used, so that zero lies in the middle.
LARGEST_INT8 = 127


@dataclass(frozen=True)
class Precision:
    """backbone: "fp32", "fp16", "bf16", or "int8" (weights of the linear layers in int8, all else fp32; ONNX Runtime).
    head: of the DPT head's convolutions, "fp32" or "fp16"; bfloat16 would leave steps of 6 cm at 10 m."""

    backbone: str = "fp32"
    head: str = "fp32"

    @classmethod
    def of(cls, backbone: str, head: str = "") -> Precision:
        """head "": fp16 beside a backbone in half precision, where single precision would cost time."""
        if backbone not in TORCH or (head and head not in HEADS):
            raise SetupError(
                f"precision {backbone!r} with head {head!r}: there are {', '.join(TORCH)}, and {' or '.join(HEADS)} "
                "for the head."
            )
        return cls(backbone, head or ("fp16" if backbone in ("fp16", "bf16") else "fp32"))


def set_precision(model: Backbone, precision: Precision) -> Precision:
    """Rounds the model's weights in place; buffers, such as rotary frequencies, stay as they are. Returns what it came
    to: an MLP head is small and stays in single precision, and where there is no head it is ""."""
    for parameter in model.vlm.parameters():
        parameter.data = parameter.data.to(TORCH[precision.backbone])
    if not isinstance(model.depth_head, DptHead):
        return Precision(precision.backbone, "fp32" if model.depth_head is not None else "")
    for name, parameter in model.depth_head.named_parameters():
        # The norm reads the backbone's features, which may exceed what float16 holds.
        kind = torch.float32 if name.startswith("norm.") else TORCH[precision.head]
        parameter.data = parameter.data.to(kind)
    return precision


def convolve_in_single(model: ir.Model) -> None:
    """Casts around convolutions in bfloat16, which older opsets do not have."""
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


def quantise(model: ir.Model) -> None:
    """Linear layers in int8: weights rounded column by column, activations as they come (dynamic quantisation). ONNX
    Runtime fuses the operators to one. Weights must be constants (graphs.fold)."""
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
            weights[weight] = _rounded(graph, weight)
        _replace(graph, node, [*nodes, *_integer_product(activations[x], weights[weight])])


def _integer_product(x: tuple[ir.Value, ...], weight: tuple[ir.Value, ir.Value]) -> list[ir.Node]:
    """x: bytes, scale and zero point; weight: int8 and the scale of each column."""
    product = ir.node("MatMulInteger", [x[0], weight[0], x[2]])
    single = _cast(product.outputs[0], ir.DataType.FLOAT)
    scales = ir.node("Mul", [x[1], weight[1]])
    return [product, single, scales, ir.node("Mul", [single.outputs[0], scales.outputs[0]])]


def _rounded(graph: ir.Graph, weight: ir.Value) -> tuple[ir.Value, ir.Value]:
    array = weight.const_value.numpy()  # type: ignore[union-attr]
    scale = (abs(array).max(0) / LARGEST_INT8).clip(min=1e-12).astype("float32")
    rounded = (array / scale).round().astype("int8")
    return _constant(graph, f"{weight.name}.int8", rounded), _constant(graph, f"{weight.name}.scale", scale)


def _constant(graph: ir.Graph, name: str, array: object) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
    graph.register_initializer(value)
    return value


def _cast(value: ir.Value, to: ir.DataType) -> ir.Node:
    return ir.node("Cast", [value], attributes={"to": to.value})


def _replace(graph: ir.Graph, old: ir.Node, new: list[ir.Node]) -> None:
    """`new` in the place of `old`; its last node's result is that of `old`."""
    convenience.replace_nodes_and_values(graph, old, [old], new, old.outputs, new[-1].outputs)
