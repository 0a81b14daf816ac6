# SPDX-License-Identifier: Apache-2.0
"""Finds what the ONNX parser of a TensorRT version would refuse in a graph, before anything is built.

check_onnx checks a file, check_model a model in memory; both use the rules in trt_support_table.py. GraphView and
NodeView show a model node by node, with the types and shapes of its tensors.
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

# ONNX element type -> its name in TensorRT's documents.
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
# TensorRT's name of a type -> its name in the schemas of ONNX.
_ONNX_NAMES = {name: f"tensor({helper.tensor_dtype_to_string(kind)[12:].lower()})" for kind, name in TYPES.items()}
_NETWORK_INPUT_TYPES = ("FP32", "FP16", "BF16", "INT32", "INT64", "UINT8", "BOOL", "INT8", "FP8")

# Sizes of a tensor, None where they are not known.
Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class ParserProblem:
    """Something in a graph that TensorRT's parser refuses.

    node: its name in the graph, "" for the graph as a whole. reason: what is not supported. remedy: what to do.
    """

    node: str
    operator: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.operator} {self.node!r}: " if self.operator else ""
        return f"{where}{self.reason}. {self.remedy}"


def check_onnx(path: Path, trt_version: str) -> list[ParserProblem]:
    """Returns what TensorRT `trt_version` ("10.3", "11.4.0.106") would refuse in the file, in the order of the graph.

    External data are not read. Raises BadBundle for a file that is not an ONNX graph, UnknownName for a text that is
    not a version.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as exc:  # protobuf raises errors of several kinds
        raise BadBundle(f"{path} cannot be read as an ONNX graph ({exc}): export the model again.") from exc
    if not model.graph.node:
        raise BadBundle(f"{path} is not an ONNX graph, or it is empty: export the model again.")
    return list(check_model(model, parse_version(trt_version)))


def check_model(model: onnx.ModelProto, version: Version) -> Iterator[ParserProblem]:
    """Yields what TensorRT `version` would refuse in a model in memory."""
    oldest = trt_support_table.OLDEST
    if version < oldest:
        yield ParserProblem("", "", f"TensorRT {_text(version)} is older than {_text(oldest)}", "Update TensorRT")
        return
    graph = GraphView(model)
    yield from _check_opset(graph.opset, version)
    yield from _check_graph_inputs(graph)
    for node in graph.nodes():
        if node.proto.domain not in ("", "ai.onnx"):
            yield from _check_other_domain(graph, node)
        else:
            yield from _check_operator(node, version)


def _check_opset(opset: int, version: Version) -> Iterator[ParserProblem]:
    oldest = trt_support_table.OLDEST_OPSET
    newest = max(limit for since, limit in trt_support_table.OPSETS.items() if since <= version)
    if not oldest <= opset <= newest:
        reason = f"opset {opset} is outside {oldest} to {newest}, which TensorRT {_text(version)} reads"
        yield ParserProblem("", "", reason, f"Export with opset {newest} or less")


def _check_graph_inputs(graph: GraphView) -> Iterator[ParserProblem]:
    for name, kind in graph.inputs.items():
        if kind not in _NETWORK_INPUT_TYPES:
            yield ParserProblem(name, "input", f"its type is {kind}", f"Use one of {', '.join(_NETWORK_INPUT_TYPES)}")


def _check_other_domain(graph: GraphView, node: NodeView) -> Iterator[ParserProblem]:
    """An operator of another domain must be a function of the model itself, which the parser expands."""
    if not graph.has_function(node.proto.domain, node.proto.op_type):
        reason = f"its domain {node.proto.domain!r} is not ONNX's, and the model has no function of that name"
        yield _problem(node, reason, "Export without contributed operators (no optimiser of another runtime)")


def _check_operator(node: NodeView, version: Version) -> Iterator[ParserProblem]:
    support = trt_support_table.OPERATORS.get(node.operator)
    if support is None:
        yield _problem(node, "no TensorRT parser supports this operator", "Write it with other operators")
        return
    if version < support.since:
        yield _problem(
            node,
            f"TensorRT supports it from {_text(support.since)} on, not in {_text(version)}",
            "Export with an older opset, which writes it with simpler operators",
        )
        return
    checks = (
        _check_types,
        _check_attributes,
        _check_inputs,
        _check_outputs,
        _check_shapes,
        _check_later_opset,
        _check_einsum,
        _check_top_k,
    )
    for check in checks:
        yield from check(node, version)


def _check_types(node: NodeView, version: Version) -> Iterator[ParserProblem]:
    supported = trt_support_table.OPERATORS[node.operator].types
    kind = node.data_type(trt_support_table.DATA_INPUT.get(node.operator, 0))
    if kind and kind not in supported:
        reason = f"it works on {kind}; supported are {', '.join(sorted(supported))}"
        yield _problem(node, reason, _type_remedy(kind))
    if node.operator == "Cast":
        yield from _check_cast(node, kind, supported)
    for index, since in trt_support_table.INTEGER_SINCE.get(node.operator, {}).items():
        if version < since and (node.type_of(index) or "").startswith("INT"):
            reason = f"its input {index} is {node.type_of(index)}, which is supported from {_text(since)} on"
            yield _problem(node, reason, "Cast it to FP32")
    needed = node.opset_for_type(kind)
    if needed is not None and needed > node.opset:
        reason = f"ONNX has it for {kind} from opset {needed} on, not in {node.opset}"
        yield _problem(node, reason, f"Export with opset {needed}, or keep this part in FP16 or FP32")


def _check_cast(node: NodeView, kind: str | None, supported: frozenset[str]) -> Iterator[ParserProblem]:
    to = node.cast_to()
    if to not in supported:
        yield _problem(node, f"it casts to {to}; supported are {', '.join(sorted(supported))}", _type_remedy(to))
    elif kind == "UINT8" and to not in trt_support_table.UINT8_TO:
        yield _problem(node, f"it casts UINT8 to {to}", f"Cast to {' or '.join(trt_support_table.UINT8_TO)} first")


def _type_remedy(kind: str) -> str:
    if kind == "UINT8":
        return (
            "Cast to FP32 before any other operation: TensorRT supports UINT8 only as the input and output of the "
            "network"
        )
    return "Cast before it, to a supported type"


def _check_attributes(node: NodeView, version: Version) -> Iterator[ParserProblem]:
    for rule in trt_support_table.ATTRIBUTES:
        if rule.operator != node.operator or (rule.before is not None and version >= rule.before):
            continue
        value = node.attribute(rule.attribute)
        values = value if isinstance(value, list) else [value]
        if value is None or (rule.values and all(one in rule.values for one in values)):
            continue
        allowed = f"only {', '.join(map(str, rule.values))}" if rule.values else "no such attribute"
        until = f" before {_text(rule.before)}" if rule.before else ""
        reason = f"{rule.attribute} = {value}; TensorRT supports {allowed}{until}"
        yield _problem(node, reason, "Write it without this attribute")


def _check_inputs(node: NodeView, version: Version) -> Iterator[ParserProblem]:
    index, lifted = trt_support_table.CONSTANT_INPUTS.get(node.operator, (-1, None))
    if index >= 0 and not _is_lifted(lifted, version) and node.has_input(index) and not node.is_constant(index):
        yield _problem(node, f"its input {index} is computed; it must be a constant", "Give a constant")
    indices, lifted = trt_support_table.FORBIDDEN_INPUTS.get(node.operator, ((), None))
    given = [] if _is_lifted(lifted, version) else [index for index in indices if node.has_input(index)]
    if given:
        reason = f"TensorRT supports no input {', '.join(map(str, given))} of it"
        yield _problem(node, reason, "Export with an older opset, or write it with other operators")


def _check_outputs(node: NodeView, version: Version) -> Iterator[ParserProblem]:
    limit = trt_support_table.MAX_OUTPUTS.get(node.operator)
    outputs = [name for name in node.proto.output if name]
    if limit is not None and len(outputs) > limit:
        reason = f"it has {len(outputs)} outputs; TensorRT supports {limit}"
        yield _problem(node, reason, "Use the first output only")


def _check_shapes(node: NodeView, version: Version) -> Iterator[ParserProblem]:
    ranks, lifted = trt_support_table.RANKS.get(node.operator, ({}, None))
    for index, rank in ({} if _is_lifted(lifted, version) else ranks).items():
        shape = node.shape_of(index)
        if shape is not None and len(shape) != rank:
            yield _problem(node, f"its input {index} is {len(shape)}-D; TensorRT supports {rank}-D", "Reshape it")
    for name in node.empty_tensors():
        yield _problem(node, f"tensor {name!r} has no elements", "Leave out empty tensors when the graph is made")


def _check_later_opset(node: NodeView, version: Version) -> Iterator[ParserProblem]:
    opset, since = trt_support_table.LATER_OPSETS.get(node.operator, (0, trt_support_table.ALWAYS))
    if opset and node.opset >= opset and version < since:
        reason = f"its form of opset {opset} is supported from {_text(since)} on"
        yield _problem(node, reason, f"Export with opset {opset - 1}")


def _check_einsum(node: NodeView, version: Version) -> Iterator[ParserProblem]:
    if node.operator != "Einsum" or version >= trt_support_table.EINSUM_DIAGONALS_SINCE:
        return
    equation = str(node.attribute("equation"))
    operands = equation.replace(" ", "").split("->")[0].split(",")
    if "..." in equation or any(len(set(letters)) < len(letters) for letters in operands):
        since = _text(trt_support_table.EINSUM_DIAGONALS_SINCE)
        reason = f"{equation!r} has an ellipsis or a diagonal, which is supported from {since} on"
        yield _problem(node, reason, "Write it with MatMul")


def _check_top_k(node: NodeView, version: Version) -> Iterator[ParserProblem]:
    values = node.constant_integers(1) if node.operator == "TopK" else None
    limit = trt_support_table.TOP_K_LIMIT
    if values and max(values) >= limit:
        yield _problem(node, f"k = {max(values)}; TensorRT supports less than {limit}", "Use a smaller k")


def _problem(node: NodeView, reason: str, remedy: str) -> ParserProblem:
    return ParserProblem(node.proto.name or (node.proto.output or [""])[0], node.operator, reason, remedy)


def _is_lifted(since: Version | None, version: Version) -> bool:
    return since is not None and version >= since


def _text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


class GraphView:
    """A model and what is known about its tensors. Types that the file does not contain are inferred."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
        self._graph = model.graph
        self._functions = {(function.domain, function.name) for function in model.functions}
        self._function_nodes = [node for function in model.functions for node in _all_nodes(function.node)]
        self._types: dict[str, str] = {}
        self._shapes: dict[str, Shape] = {}
        self._constants: dict[str, TensorProto] = {}
        self._read_graph(model.graph)
        if any(name not in self._types for node in _all_nodes(model.graph.node) for name in node.output if name):
            self._read_graph(_infer_shapes(model).graph)
        self.inputs = {value.name: self._types.get(value.name, "") for value in model.graph.input}

    def nodes(self) -> Iterator[NodeView]:
        """Yields every node. Nodes of subgraphs follow their parent; those of the model's functions come last."""
        for proto in (*_all_nodes(self._graph.node), *self._function_nodes):
            yield NodeView(self, proto)

    def has_function(self, domain: str, name: str) -> bool:
        return (domain, name) in self._functions

    def type_of(self, name: str) -> str | None:
        return self._types.get(name)

    def shape_of(self, name: str) -> Shape | None:
        return self._shapes.get(name)

    def constant(self, name: str) -> TensorProto | None:
        return self._constants.get(name)

    def _read_graph(self, graph: GraphProto) -> None:
        for value in (*graph.input, *graph.output, *graph.value_info):
            tensor = value.type.tensor_type
            if tensor.elem_type:
                self._types[value.name] = _type_name(tensor.elem_type)
            if tensor.HasField("shape"):
                dims = tensor.shape.dim
                self._shapes[value.name] = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)
        for tensor in graph.initializer:
            self._add_constant(tensor.name, tensor)
        for node in graph.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name.startswith("value"):
                    self._add_constant(node.output[0], _constant_tensor(attribute))
                for inner in _subgraphs(attribute):
                    self._read_graph(inner)

    def _add_constant(self, name: str, tensor: TensorProto) -> None:
        self._constants[name] = tensor
        self._types[name] = _type_name(tensor.data_type)
        self._shapes[name] = tuple(tensor.dims)


class NodeView:
    """One node. An index is the index of an input. None stands for what is not known."""

    def __init__(self, graph: GraphView, proto: NodeProto) -> None:
        self._graph, self.proto, self.operator, self.opset = graph, proto, proto.op_type, graph.opset

    def has_input(self, index: int) -> bool:
        return index < len(self.proto.input) and bool(self.proto.input[index])

    def type_of(self, index: int) -> str | None:
        return self._graph.type_of(self.proto.input[index]) if self.has_input(index) else None

    def shape_of(self, index: int) -> Shape | None:
        return self._graph.shape_of(self.proto.input[index]) if self.has_input(index) else None

    def data_type(self, index: int) -> str | None:
        """Returns the type of the node's data: of this input, or of the output of a node without inputs."""
        if self.operator == "ConstantOfShape" or not self.proto.input:
            return self._graph.type_of(self.proto.output[0])
        return self.type_of(index)

    def is_constant(self, index: int) -> bool:
        return self._graph.constant(self.proto.input[index]) is not None

    def constant_integers(self, index: int) -> list[int] | None:
        """Returns the values of a constant input, None if they do not lie in the graph file itself."""
        tensor = self._graph.constant(self.proto.input[index]) if self.has_input(index) else None
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return None
        return [int(value) for value in numpy_helper.to_array(tensor).ravel()]

    def attribute(self, name: str) -> Any:
        """Returns the value of an attribute, with texts as str, or None if the node has no such attribute."""
        for attribute in self.proto.attribute:
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return None

    def cast_to(self) -> str:
        return _type_name(self.attribute("to"))

    def empty_tensors(self) -> list[str]:
        """Returns the names of the outputs, and of the first input, that have no elements."""
        names = [*self.proto.output, *self.proto.input[:1]]
        return [name for name in names if 0 in (self._graph.shape_of(name) or ())]

    def opset_for_type(self, kind: str | None) -> int | None:
        """Returns the first later opset in which ONNX itself allows this type as the operator's first input.

        Returns None if this opset allows it, or if no opset does.
        """
        if kind is None or not self.proto.input:
            return None
        opsets = range(1, defs.onnx_opset_version() + 1)
        allowing = [opset for opset in opsets if _schema_allows(self.operator, opset, kind)]
        if not allowing or self.opset in allowing:
            return None
        return next((opset for opset in allowing if opset > self.opset), None)


def _schema_allows(operator: str, opset: int, kind: str) -> bool:
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
    """Returns the tensor of a Constant node's value, value_int, value_floats and so on."""
    value = helper.get_attribute_value(attribute)
    if isinstance(value, TensorProto):
        return value
    kind = TensorProto.FLOAT if "float" in attribute.name else TensorProto.INT64
    if "string" in attribute.name or "sparse" in attribute.name:
        return TensorProto(data_type=TensorProto.STRING)
    values = list(value) if attribute.name.endswith("s") else [value]
    return helper.make_tensor("", kind, [len(values)] if attribute.name.endswith("s") else [], values)


def _infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model)
    except Exception:  # inference fails for some graphs; they are checked by the types in the file alone
        return model


def _type_name(kind: int) -> str:
    return TYPES.get(kind) or TensorProto.DataType.Name(kind)
