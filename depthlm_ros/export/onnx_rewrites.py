"""Changes to an exported graph that TensorRT needs or profits from. Each takes a model and changes it in place.

The files that an ONNX graph consists of: itself, and the external data it points into.
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
    """Makes floats of uint8 inputs before anything else is done with them: TensorRT takes uint8 as the network's input
    only, exporters transpose it first."""
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
    # What was noted as bytes is now floats; later casts to floats do nothing.
    kept = [value for value in graph.value_info if value.type.tensor_type.elem_type != TensorProto.UINT8]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def depth_only(model: ModelProto) -> None:
    """Leaves out keys and values of a look: nothing can be asked, and the last layer's work for them is not done."""
    kept = [output for output in model.graph.output if output.name not in ("keys", "values")]
    if not kept:
        raise BadBundle("the look graph gives no depth: a model without a depth head cannot be built for depth only.")
    del model.graph.output[:]
    model.graph.output.extend(kept)


def choose_tokens(model: ModelProto) -> None:
    """Replaces a step's output logits (N, V) by chosen int64 (N,), log_probability (N,) and watched_log_probability
    (N, W), fp32, of the tokens in the new input watched int64 (W,).

    What leaves the GPU is then a token and a few numbers a row, not logits over the vocabulary (600 kB a row for
    Qwen3-VL). The sum of exponentials is taken relative to the largest logit here, because TensorRT's parser writes
    ReduceLogSumExp without that, and it overflows. Raises BadBundle for a graph without logits.
    """
    graph = model.graph
    logits = next((output for output in graph.output if output.name == LOGITS), None)
    if logits is None:
        names = ", ".join(output.name for output in graph.output)
        raise BadBundle(f"the step graph gives {names}, no {LOGITS}: export the model again.")
    rows = logits.type.tensor_type.shape.dim[0]
    n = rows.dim_param or rows.dim_value
    graph.output.remove(logits)
    graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), AXES))
    graph.node.extend(_choice())
    graph.input.append(helper.make_tensor_value_info("watched", TensorProto.INT64, ["w"]))
    graph.output.extend(
        [
            helper.make_tensor_value_info("chosen", TensorProto.INT64, [n]),
            helper.make_tensor_value_info("log_probability", TensorProto.FLOAT, [n]),
            helper.make_tensor_value_info("watched_log_probability", TensorProto.FLOAT, [n, "w"]),
        ]
    )


def _choice() -> list[NodeProto]:
    """Names begin with choice_, which no exporter gives."""
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
    """The graph and its data files, each checked to be there and long enough. Raises BadBundle naming what is not."""
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as exc:  # protobuf's errors are of several kinds
        raise BadBundle(f"{path} cannot be read as an ONNX graph ({exc}): export the model again.") from exc
    needed: dict[str, int] = {}
    for tensor in _external(model.graph):
        place = {entry.key: entry.value for entry in tensor.external_data}
        name = place.get("location", "")
        end = int(place.get("offset", 0)) + int(place.get("length", 0))
        needed[name] = max(needed.get(name, 0), end)
    return [path, *(_checked(path, name, size) for name, size in needed.items())]


def file_digests(path: Path) -> dict[str, str]:
    """SHA-256 by name of a graph's files. Raises BadBundle."""
    return {file.name: file_digest(file) for file in graph_files(path)}


def _external(graph: GraphProto) -> Iterator[TensorProto]:
    for tensor in graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            yield tensor
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _external(inner)


def _checked(path: Path, name: str, size: int) -> Path:
    file = path.parent / name
    if not name or Path(name).name != name:
        raise BadBundle(f"{path} keeps data in {name!r}, which is not a file beside it: export the model again.")
    if not file.is_file():
        raise BadBundle(
            f"{path} keeps its weights in {name}, which is not in {path.parent}: copy both, or export again."
        )
    if file.stat().st_size < size:
        raise BadBundle(f"{file} has {file.stat().st_size} bytes, but {path.name} needs {size}: it is cut short.")
    return file
