"""torch modules -> ONNX files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from depthlm_ros.nets.graphs import LookGraph, StepGraph

# Read by ONNX Runtime 1.17 and TensorRT 10.3 (JetPack 6.2) alike.
OPSET = 18


def export_look(graph: LookGraph, size_px: tuple[int, int], path: Path, opset: int = OPSET) -> None:
    """Writes the look graph for images of size_px (width, height)."""
    image = torch.zeros(1, size_px[1], size_px[0], 3, dtype=torch.uint8)
    _export(graph, (image,), path, ["image"], ["depth_m", "keys", "values"], None, opset)


def export_step(graph: StepGraph, path: Path, opset: int = OPSET) -> None:
    """Writes the step graph; rows, tokens and past length are dynamic."""
    text = graph.model.vlm.config.text_config
    rows, count, past = 3, 5, 7
    cache = torch.zeros(text.num_hidden_layers, rows, text.num_key_value_heads, past, text.head_dim)
    ids = torch.zeros(rows, count, dtype=torch.int64)
    last = torch.full((rows,), count - 1)
    n, t, s = (torch.export.Dim(name, min=1, max=limit) for name, limit in (("n", 512), ("t", 1024), ("s", 4096)))
    shapes = ({0: n, 1: t}, {0: n, 1: t}, {0: n}, {1: n, 3: s}, {1: n, 3: s}, {0: n, 1: s})
    # Distinct tensors: the exporter takes one tensor given twice for one input.
    arguments = (ids, ids.clone(), last, cache, cache.clone(), torch.zeros(rows, past))
    inputs = ["ids", "positions", "last", "past_keys", "past_values", "past_mask"]
    _export(graph, arguments, path, inputs, ["logits", "keys", "values"], shapes, opset)


def _export(
    graph: nn.Module,
    arguments: tuple[torch.Tensor, ...],
    path: Path,
    inputs: list[str],
    outputs: list[str],
    shapes: tuple | None,
    opset: int,
) -> None:
    with torch.no_grad():
        torch.onnx.export(
            graph.eval(),
            arguments,
            str(path),
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=shapes,
            opset_version=opset,
            dynamo=True,
            external_data=True,
            verbose=False,
            optimize=True,
        )
