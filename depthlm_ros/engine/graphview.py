"""An ONNX model seen node by node, with the types and shapes of what each node takes and gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, defs, helper, numpy_helper

# ONNX element type -> the name that TensorRT's documents use.
TYPES = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.DOUBLE: "FP64",
    TensorProto.INT8: "INT8",
    TensorProto.INT16: "INT16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.UINT8: "UINT8",
    TensorProto.BOOL: "BOOL",
    TensorProto.FLOAT8E4M3FN: "FP8",
    TensorProto.INT4: "INT4",
}
_ONNX_NAMES = {name: f"tensor({helper.tensor_dtype_to_string(kind)[12:].lower()})" for kind, name in TYPES.items()}

Shape = tuple[int | None, ...]


class GraphView:
    """A model and what is known of its tensors. Types that the file does not note are inferred."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
        self._graph = model.graph
        self._functions = {(function.domain, function.name) for function in model.functions}
        self._in_functions = [node for function in model.functions for node in _all_nodes(function.node)]
        self._types: dict[str, str] = {}
        self._shapes: dict[str, Shape] = {}
        self._constants: dict[str, TensorProto] = {}
        self._note(model.graph)
        if any(name not in self._types for node in _all_nodes(model.graph.node) for name in node.output if name):
            self._note(_inferred(model).graph)
        self.inputs = {value.name: self._types.get(value.name, "") for value in model.graph.input}

    def nodes(self) -> Iterator[NodeView]:
        """Every node, those of subgraphs after the node that holds them, those of the model's functions last."""
        for proto in (*_all_nodes(self._graph.node), *self._in_functions):
            yield NodeView(self, proto)

    def has_function(self, domain: str, name: str) -> bool:
        return (domain, name) in self._functions

    def type_of(self, name: str) -> str | None:
        return self._types.get(name)

    def shape_of(self, name: str) -> Shape | None:
        return self._shapes.get(name)

    def constant(self, name: str) -> TensorProto | None:
        return self._constants.get(name)

    def _note(self, graph: GraphProto) -> None:
        for value in (*graph.input, *graph.output, *graph.value_info):
            tensor = value.type.tensor_type
            if tensor.elem_type:
                self._types[value.name] = _name(tensor.elem_type)
            if tensor.HasField("shape"):
                dims = tensor.shape.dim
                self._shapes[value.name] = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)
        for tensor in graph.initializer:
            self._note_constant(tensor.name, tensor)
        for node in graph.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name.startswith("value"):
                    self._note_constant(node.output[0], _constant_tensor(attribute))
                for inner in _subgraphs(attribute):
                    self._note(inner)

    def _note_constant(self, name: str, tensor: TensorProto) -> None:
        self._constants[name] = tensor
        self._types[name] = _name(tensor.data_type)
        self._shapes[name] = tuple(tensor.dims)


class NodeView:
    """One node. Indices are those of its inputs; what is not known is None."""

    def __init__(self, graph: GraphView, proto: NodeProto) -> None:
        self._graph, self.proto, self.operator, self.opset = graph, proto, proto.op_type, graph.opset

    def has_input(self, index: int) -> bool:
        return index < len(self.proto.input) and bool(self.proto.input[index])

    def type_of(self, index: int) -> str | None:
        return self._graph.type_of(self.proto.input[index]) if self.has_input(index) else None

    def shape_of(self, index: int) -> Shape | None:
        return self._graph.shape_of(self.proto.input[index]) if self.has_input(index) else None

    def data_type(self, index: int) -> str | None:
        """Type of the node's data: of its input, or of what it gives if it has none (a constant)."""
        if self.operator == "ConstantOfShape" or not self.proto.input:
            return self._graph.type_of(self.proto.output[0])
        return self.type_of(index)

    def is_constant(self, index: int) -> bool:
        return self._graph.constant(self.proto.input[index]) is not None

    def constant_integers(self, index: int) -> list[int] | None:
        """Values of a constant input that lies in the graph file itself."""
        tensor = self._graph.constant(self.proto.input[index]) if self.has_input(index) else None
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return None
        return [int(value) for value in numpy_helper.to_array(tensor).ravel()]

    def attribute(self, name: str) -> Any:
        """Value of an attribute, texts as str; None if it is not there."""
        for attribute in self.proto.attribute:
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return None

    def cast_to(self) -> str:
        return _name(self.attribute("to"))

    def empty_tensors(self) -> list[str]:
        """Results, and the first input, that have no elements."""
        names = [*self.proto.output, *self.proto.input[:1]]
        return [name for name in names if 0 in (self._graph.shape_of(name) or ())]

    def opset_for_type(self, kind: str | None) -> int | None:
        """The first opset in which ONNX itself lets this operator's first input be of this type; None: any, or none."""
        if kind is None or not self.proto.input:
            return None
        fitting = [opset for opset in range(1, defs.onnx_opset_version() + 1) if _takes(self.operator, opset, kind)]
        if not fitting or self.opset in fitting:
            return None
        return next((opset for opset in fitting if opset > self.opset), None)


def _takes(operator: str, opset: int, kind: str) -> bool:
    if not defs.has(operator, opset, ""):
        return False
    return _ONNX_NAMES[kind] in defs.get_schema(operator, opset, "").inputs[0].types if kind in _ONNX_NAMES else True


def _all_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for inner in _subgraphs(attribute):
                yield from _all_nodes(inner.node)


def _subgraphs(attribute: AttributeProto) -> Sequence[GraphProto]:
    return [attribute.g] if attribute.type == AttributeProto.GRAPH else list(attribute.graphs)


def _constant_tensor(attribute: AttributeProto) -> TensorProto:
    """The tensor of a Constant node's value, value_int, value_floats and so on."""
    value = helper.get_attribute_value(attribute)
    if isinstance(value, TensorProto):
        return value
    kind = TensorProto.FLOAT if "float" in attribute.name else TensorProto.INT64
    if "string" in attribute.name or "sparse" in attribute.name:
        return TensorProto(data_type=TensorProto.STRING)
    values = list(value) if attribute.name.endswith("s") else [value]
    return helper.make_tensor("", kind, [len(values)] if attribute.name.endswith("s") else [], values)


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model)
    except Exception:  # a graph that cannot be inferred is checked by what it notes itself
        return model


def _name(kind: int) -> str:
    return TYPES.get(kind) or TensorProto.DataType.Name(kind)
