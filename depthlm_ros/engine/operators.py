"""Reads an ONNX graph and tells what the parser of a TensorRT version would not take, from the table trt_operators."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from depthlm_ros.engine import trt_operators as table
from depthlm_ros.engine.graphview import GraphView, NodeView
from depthlm_ros.engine.targets import Version, parse_version
from depthlm_ros.errors import BadBundle


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
    if version < table.OLDEST:
        yield Problem("", "", f"TensorRT {_text(version)} is older than {_text(table.OLDEST)}", "Update TensorRT")
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
    newest = max(limit for since, limit in table.OPSETS.items() if since <= version)
    if not table.OLDEST_OPSET <= opset <= newest:
        reason = f"opset {opset} is outside {table.OLDEST_OPSET} to {newest}, which TensorRT {_text(version)} reads"
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
    known = table.OPERATORS.get(node.operator)
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
    allowed = table.OPERATORS[node.operator].types
    kind = node.data_type(table.DATA_INPUT.get(node.operator, 0))
    if kind and kind not in allowed:
        yield _problem(node, f"it works on {kind}; taken are {', '.join(sorted(allowed))}", _type_remedy(kind))
    if node.operator == "Cast":
        yield from _cast(node, kind, allowed)
    for index, since in table.INTEGER_SINCE.get(node.operator, {}).items():
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
    elif kind == "UINT8" and to not in table.UINT8_TO:
        yield _problem(node, f"it casts UINT8 to {to}", f"Cast to {' or '.join(table.UINT8_TO)} first")


def _type_remedy(kind: str) -> str:
    if kind == "UINT8":
        return "Cast to FP32 before anything else is done: TensorRT takes UINT8 only as the network's input and output"
    return "Cast before it, to a type that is taken"


def _attributes(node: NodeView, version: Version) -> Iterator[Problem]:
    for rule in table.ATTRIBUTES:
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
    index, lifted = table.CONSTANT_INPUTS.get(node.operator, (-1, None))
    if index >= 0 and not _lifted(lifted, version) and node.has_input(index) and not node.is_constant(index):
        yield _problem(node, f"its input {index} is computed; it must be a constant", "Give a constant")
    indices, lifted = table.FORBIDDEN_INPUTS.get(node.operator, ((), None))
    given = [] if _lifted(lifted, version) else [index for index in indices if node.has_input(index)]
    if given:
        reason = f"TensorRT takes no input {', '.join(map(str, given))} of it"
        yield _problem(node, reason, "Export with an older opset, or write it with other operators")


def _outputs(node: NodeView, version: Version) -> Iterator[Problem]:
    most = table.MOST_OUTPUTS.get(node.operator)
    given = [name for name in node.proto.output if name]
    if most is not None and len(given) > most:
        yield _problem(node, f"it has {len(given)} outputs; TensorRT gives {most}", "Use the first output only")


def _shapes(node: NodeView, version: Version) -> Iterator[Problem]:
    ranks, lifted = table.RANKS.get(node.operator, ({}, None))
    for index, rank in ({} if _lifted(lifted, version) else ranks).items():
        shape = node.shape_of(index)
        if shape is not None and len(shape) != rank:
            yield _problem(node, f"its input {index} is {len(shape)}-D; TensorRT takes {rank}-D", "Reshape it")
    for name in node.empty_tensors():
        yield _problem(node, f"tensor {name!r} has no elements", "Leave out what is empty when the graph is made")


def _later_opset(node: NodeView, version: Version) -> Iterator[Problem]:
    opset, since = table.LATER_OPSETS.get(node.operator, (0, table.ALWAYS))
    if opset and node.opset >= opset and version < since:
        yield _problem(
            node, f"its form of opset {opset} is taken from {_text(since)} on", f"Export with opset {opset - 1}"
        )


def _einsum(node: NodeView, version: Version) -> Iterator[Problem]:
    if node.operator != "Einsum" or version >= table.EINSUM_DIAGONALS_SINCE:
        return
    equation = str(node.attribute("equation"))
    operands = equation.replace(" ", "").split("->")[0].split(",")
    if "..." in equation or any(len(set(letters)) < len(letters) for letters in operands):
        reason = f"{equation!r} has an ellipsis or a diagonal, taken from {_text(table.EINSUM_DIAGONALS_SINCE)} on"
        yield _problem(node, reason, "Write it with MatMul")


def _top_k(node: NodeView, version: Version) -> Iterator[Problem]:
    values = node.constant_integers(1) if node.operator == "TopK" else None
    if values and max(values) >= table.TOP_K_LIMIT:
        yield _problem(node, f"k = {max(values)}; TensorRT takes less than {table.TOP_K_LIMIT}", "Ask for fewer")


def _problem(node: NodeView, reason: str, remedy: str) -> Problem:
    return Problem(node.proto.name or (node.proto.output or [""])[0], node.operator, reason, remedy)


def _lifted(since: Version | None, version: Version) -> bool:
    return since is not None and version >= since


def _text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
