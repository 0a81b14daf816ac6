"""Reads an ONNX graph and tells what the parser of a TensorRT version would not take, from the table trt_operators.

An ONNX model seen node by node, with the types and shapes of what each node takes and gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, defs, helper, numpy_helper

from depthlm_ros.errors import BadBundle
from depthlm_ros.export import trt_support_table
from depthlm_ros.export.trt_support_table import Version, parse_version

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


@dataclass(frozen=True)
class Problem:
    """node: its name in the graph, "" for the graph as a whole. reason: what is not taken; remedy: what to do."""

    node: str
    operator: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.operator} {self.node!r}: " if self.operator else ""
        return f"{where}{self.reason}. {self.remedy}"


def check_onnx(path: Path, trt_version: str) -> list[Problem]:
    """What TensorRT `trt_version` ("10.3", "11.4.0.106") would refuse in the graph at `path`, in the graph's order.

    External data are not read. Raises BadBundle for a file that is no ONNX graph, UnknownName for no version.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as exc:  # protobuf's errors are of several kinds
        raise BadBundle(f"{path} cannot be read as an ONNX graph ({exc}): export the model again.") from exc
    if not model.graph.node:
        raise BadBundle(f"{path} is no ONNX graph, or an empty one: export the model again.")
    return list(check_model(model, parse_version(trt_version)))


def check_model(model: onnx.ModelProto, version: Version) -> Iterator[Problem]:
    """As check_onnx, for a model in memory."""
    if version < trt_support_table.OLDEST:
        yield Problem(
            "", "", f"TensorRT {_text(version)} is older than {_text(trt_support_table.OLDEST)}", "Update TensorRT"
        )
        return
    graph = GraphView(model)
    yield from _opset(graph.opset, version)
    yield from _graph_inputs(graph)
    for node in graph.nodes():
        if node.proto.domain not in ("", "ai.onnx"):
            yield from _foreign(graph, node)
        else:
            yield from _operator(node, version)


def _opset(opset: int, version: Version) -> Iterator[Problem]:
    newest = max(limit for since, limit in trt_support_table.OPSETS.items() if since <= version)
    if not trt_support_table.OLDEST_OPSET <= opset <= newest:
        oldest = trt_support_table.OLDEST_OPSET
        reason = f"opset {opset} is outside {oldest} to {newest}, which TensorRT {_text(version)} reads"
        yield Problem("", "", reason, f"Export with opset {newest} or less")


def _graph_inputs(graph: GraphView) -> Iterator[Problem]:
    for name, kind in graph.inputs.items():
        if kind not in _NETWORK_TYPES:
            yield Problem(name, "input", f"its type is {kind}", f"Use one of {', '.join(_NETWORK_TYPES)}")


_NETWORK_TYPES = ("FP32", "FP16", "BF16", "INT32", "INT64", "UINT8", "BOOL", "INT8", "FP8")


def _foreign(graph: GraphView, node: NodeView) -> Iterator[Problem]:
    """An operator of another domain: a function of the model itself is taken apart by the parser."""
    if not graph.has_function(node.proto.domain, node.proto.op_type):
        reason = f"its domain {node.proto.domain!r} is not ONNX's, and the model holds no function of that name"
        yield _problem(node, reason, "Export without contributed operators (no optimiser of another runtime)")


def _operator(node: NodeView, version: Version) -> Iterator[Problem]:
    known = trt_support_table.OPERATORS.get(node.operator)
    if known is None:
        yield _problem(node, "no TensorRT parser takes this operator", "Write it with other operators")
        return
    if version < known.since:
        yield _problem(
            node,
            f"TensorRT takes it from {_text(known.since)} on, not in {_text(version)}",
            "Export with an older opset, which writes it with simpler operators",
        )
        return
    for check in (_types, _attributes, _inputs, _outputs, _shapes, _later_opset, _einsum, _top_k):
        yield from check(node, version)


def _types(node: NodeView, version: Version) -> Iterator[Problem]:
    allowed = trt_support_table.OPERATORS[node.operator].types
    kind = node.data_type(trt_support_table.DATA_INPUT.get(node.operator, 0))
    if kind and kind not in allowed:
        yield _problem(node, f"it works on {kind}; taken are {', '.join(sorted(allowed))}", _type_remedy(kind))
    if node.operator == "Cast":
        yield from _cast(node, kind, allowed)
    for index, since in trt_support_table.INTEGER_SINCE.get(node.operator, {}).items():
        if version < since and (node.type_of(index) or "").startswith("INT"):
            yield _problem(
                node, f"its input {index} is {node.type_of(index)}, taken from {_text(since)} on", "Cast it to FP32"
            )
    needed = node.opset_for_type(kind)
    if needed is not None and needed > node.opset:
        reason = f"ONNX has it for {kind} from opset {needed} on, not in {node.opset}"
        yield _problem(node, reason, f"Export with opset {needed}, or keep this part in FP16 or FP32")


def _cast(node: NodeView, kind: str | None, allowed: frozenset[str]) -> Iterator[Problem]:
    to = node.cast_to()
    if to not in allowed:
        yield _problem(node, f"it casts to {to}; taken are {', '.join(sorted(allowed))}", _type_remedy(to))
    elif kind == "UINT8" and to not in trt_support_table.UINT8_TO:
        yield _problem(node, f"it casts UINT8 to {to}", f"Cast to {' or '.join(trt_support_table.UINT8_TO)} first")


def _type_remedy(kind: str) -> str:
    if kind == "UINT8":
        return "Cast to FP32 before anything else is done: TensorRT takes UINT8 only as the network's input and output"
    return "Cast before it, to a type that is taken"


def _attributes(node: NodeView, version: Version) -> Iterator[Problem]:
    for rule in trt_support_table.ATTRIBUTES:
        if rule.operator != node.operator or (rule.before is not None and version >= rule.before):
            continue
        value = node.attribute(rule.attribute)
        values = value if isinstance(value, list) else [value]
        if value is None or (rule.values and all(one in rule.values for one in values)):
            continue
        taken = f"only {', '.join(map(str, rule.values))}" if rule.values else "no such attribute"
        until = f" before {_text(rule.before)}" if rule.before else ""
        yield _problem(node, f"{rule.attribute} = {value}; TensorRT takes {taken}{until}", "Write it without")


def _inputs(node: NodeView, version: Version) -> Iterator[Problem]:
    index, lifted = trt_support_table.CONSTANT_INPUTS.get(node.operator, (-1, None))
    if index >= 0 and not _lifted(lifted, version) and node.has_input(index) and not node.is_constant(index):
        yield _problem(node, f"its input {index} is computed; it must be a constant", "Give a constant")
    indices, lifted = trt_support_table.FORBIDDEN_INPUTS.get(node.operator, ((), None))
    given = [] if _lifted(lifted, version) else [index for index in indices if node.has_input(index)]
    if given:
        reason = f"TensorRT takes no input {', '.join(map(str, given))} of it"
        yield _problem(node, reason, "Export with an older opset, or write it with other operators")


def _outputs(node: NodeView, version: Version) -> Iterator[Problem]:
    most = trt_support_table.MOST_OUTPUTS.get(node.operator)
    given = [name for name in node.proto.output if name]
    if most is not None and len(given) > most:
        yield _problem(node, f"it has {len(given)} outputs; TensorRT gives {most}", "Use the first output only")


def _shapes(node: NodeView, version: Version) -> Iterator[Problem]:
    ranks, lifted = trt_support_table.RANKS.get(node.operator, ({}, None))
    for index, rank in ({} if _lifted(lifted, version) else ranks).items():
        shape = node.shape_of(index)
        if shape is not None and len(shape) != rank:
            yield _problem(node, f"its input {index} is {len(shape)}-D; TensorRT takes {rank}-D", "Reshape it")
    for name in node.empty_tensors():
        yield _problem(node, f"tensor {name!r} has no elements", "Leave out what is empty when the graph is made")


def _later_opset(node: NodeView, version: Version) -> Iterator[Problem]:
    opset, since = trt_support_table.LATER_OPSETS.get(node.operator, (0, trt_support_table.ALWAYS))
    if opset and node.opset >= opset and version < since:
        yield _problem(
            node, f"its form of opset {opset} is taken from {_text(since)} on", f"Export with opset {opset - 1}"
        )


def _einsum(node: NodeView, version: Version) -> Iterator[Problem]:
    if node.operator != "Einsum" or version >= trt_support_table.EINSUM_DIAGONALS_SINCE:
        return
    equation = str(node.attribute("equation"))
    operands = equation.replace(" ", "").split("->")[0].split(",")
    if "..." in equation or any(len(set(letters)) < len(letters) for letters in operands):
        since = _text(trt_support_table.EINSUM_DIAGONALS_SINCE)
        reason = f"{equation!r} has an ellipsis or a diagonal, taken from {since} on"
        yield _problem(node, reason, "Write it with MatMul")


def _top_k(node: NodeView, version: Version) -> Iterator[Problem]:
    values = node.constant_integers(1) if node.operator == "TopK" else None
    if values and max(values) >= trt_support_table.TOP_K_LIMIT:
        yield _problem(
            node, f"k = {max(values)}; TensorRT takes less than {trt_support_table.TOP_K_LIMIT}", "Ask for fewer"
        )


def _problem(node: NodeView, reason: str, remedy: str) -> Problem:
    return Problem(node.proto.name or (node.proto.output or [""])[0], node.operator, reason, remedy)


def _lifted(since: Version | None, version: Version) -> bool:
    return since is not None and version >= since


def _text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
