# SPDX-License-Identifier: Apache-2.0
"""Changes to exported ONNX graphs that TensorRT needs or that make its plans faster, and the files of a graph.

cast_bytes_first, depth_only and choose_tokens take a model and change it in place. The names of these three functions
are part of every plan's key (trt_builder.plan_key): if you rename one, all plans are built again. graph_files and
file_digests list the files of a graph: the ONNX file itself and the external data that it points into.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from depthlm_ros.errors import BadBundle
from depthlm_ros.model_files.bundle import file_digest

LOGITS = "logits"
AXES = "choice_axes"


def cast_bytes_first(model: ModelProto) -> None:
    """Casts uint8 inputs to floats before any other operation.

    TensorRT takes uint8 only as the input of a network, and exporters transpose the input first.
    """
    graph = model.graph
    casts = []
    for value in graph.input:
        if value.type.tensor_type.elem_type == TensorProto.UINT8:
            floats = f"{value.name}_as_floats"
            for node in graph.node:
                node.input[:] = [floats if name == value.name else name for name in node.input]
            casts.append(_node("Cast", [value.name], floats, to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    # Tensors that the file notes as bytes are floats now. Later casts to floats have no effect.
    kept = [value for value in graph.value_info if value.type.tensor_type.elem_type != TensorProto.UINT8]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def depth_only(model: ModelProto) -> None:
    """Removes the outputs of a look graph that only questions need: keys and values, or the features to be read.

    Raises BadBundle for a graph without depth.
    """
    kept = [output for output in model.graph.output if output.name not in ("keys", "values", "features")]
    if not kept:
        raise BadBundle("the look graph gives no depth: a model without a depth head cannot be built for depth only.")
    del model.graph.output[:]
    model.graph.output.extend(kept)


def choose_tokens(model: ModelProto) -> None:
    """Replaces the output logits (N, V) of a step graph by the choice of a token.

    New outputs: chosen, int64 (N,); log_probability, float32 (N,); watched_log_probability, float32 (N, W), of the
    tokens in the new input watched, int64 (W,). So a token and a few numbers per row leave the GPU instead of logits
    over the vocabulary (600 kB per row for Qwen3-VL). The sum of exponentials is computed relative to the largest
    logit, because TensorRT's parser writes ReduceLogSumExp without that, and it overflows. Raises BadBundle for a graph
    without logits.
    """
    graph = model.graph
    logits = next((output for output in graph.output if output.name == LOGITS), None)
    if logits is None:
        names = ", ".join(output.name for output in graph.output)
        raise BadBundle(f"the step graph gives {names} but no {LOGITS}: export the model again.")
    rows = logits.type.tensor_type.shape.dim[0]
    n = rows.dim_param or rows.dim_value
    graph.output.remove(logits)
    graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), AXES))
    graph.node.extend(_choice_nodes())
    graph.input.append(helper.make_tensor_value_info("watched", TensorProto.INT64, ["w"]))
    graph.output.extend(
        [
            helper.make_tensor_value_info("chosen", TensorProto.INT64, [n]),
            helper.make_tensor_value_info("log_probability", TensorProto.FLOAT, [n]),
            helper.make_tensor_value_info("watched_log_probability", TensorProto.FLOAT, [n, "w"]),
        ]
    )


def _choice_nodes() -> list[NodeProto]:
    """The names begin with choice_, which no exporter uses."""
    return [
        _node("Cast", [LOGITS], "choice_logits", to=TensorProto.FLOAT),
        _node("ArgMax", ["choice_logits"], "chosen", axis=1, keepdims=0),
        _node("ReduceMax", ["choice_logits", AXES], "choice_top", keepdims=1),
        _node("Sub", ["choice_logits", "choice_top"], "choice_below"),
        _node("Exp", ["choice_below"], "choice_odds"),
        _node("ReduceSum", ["choice_odds", AXES], "choice_sum", keepdims=1),
        _node("Log", ["choice_sum"], "choice_total"),
        _node("Neg", ["choice_total"], "choice_of_top"),
        _node("Squeeze", ["choice_of_top", AXES], "log_probability"),
        _node("Gather", ["choice_below", "watched"], "choice_watched", axis=1),
        _node("Sub", ["choice_watched", "choice_total"], "watched_log_probability"),
    ]


def _node(operator: str, inputs: list[str], output: str, **attributes: int) -> NodeProto:
    return helper.make_node(operator, inputs, [output], name=f"{operator}_{output}", **attributes)


def graph_files(path: Path) -> list[Path]:
    """Returns the ONNX file and its data files. Raises BadBundle naming a file that is missing or too short."""
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as exc:  # protobuf raises errors of several kinds
        raise BadBundle(f"{path} cannot be read as an ONNX graph ({exc}): export the model again.") from exc
    needed_bytes: dict[str, int] = {}
    for tensor in _external_tensors(model.graph):
        place = {entry.key: entry.value for entry in tensor.external_data}
        name = place.get("location", "")
        end = int(place.get("offset", 0)) + int(place.get("length", 0))
        needed_bytes[name] = max(needed_bytes.get(name, 0), end)
    return [path, *(_checked_data_file(path, name, size) for name, size in needed_bytes.items())]


def file_digests(path: Path) -> dict[str, str]:
    """Returns the SHA-256 of each file of a graph, by file name. Raises BadBundle as graph_files does."""
    return {file.name: file_digest(file) for file in graph_files(path)}


def _external_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    for tensor in graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            yield tensor
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _external_tensors(inner)


def _checked_data_file(path: Path, name: str, needed_bytes: int) -> Path:
    file = path.parent / name
    if not name or Path(name).name != name:
        raise BadBundle(f"{path} keeps data in {name!r}, which is not a file beside it: export the model again.")
    if not file.is_file():
        raise BadBundle(
            f"{path} keeps its weights in {name}, which is not in {path.parent}: copy both, or export again."
        )
    if file.stat().st_size < needed_bytes:
        raise BadBundle(
            f"{file} has {file.stat().st_size} bytes, but {path.name} needs {needed_bytes}: the file is incomplete. "
            "Copy it again, or export again."
        )
    return file
