"""Changes to an exported graph that TensorRT needs or profits from. Each takes a model and changes it in place."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from depthlm_ros.errors import BadBundle

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
