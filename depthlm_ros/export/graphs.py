"""torch modules -> ONNX files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from depthlm_ros.nets.graphs import LookGraph, StepGraph

# Read by ONNX Runtime 1.17 and TensorRT 10.3 (JetPack 6.2) alike.
OPSET = 18


def export_look(graph: LookGraph, size_px: tuple[int, int], path: Path, opset: int = OPSET) -> None:
    """Writes the look graph for its one or two images, each of size_px (width, height)."""
    count = len(graph.layout.images)
    # Distinct tensors: the exporter takes one tensor given twice for one input.
    images = tuple(torch.zeros(1, size_px[1], size_px[0], 3, dtype=torch.uint8) for _ in range(count))
    outputs = ["depth_m", "keys", "values"]
    _export(graph, images, path, ["image", "second"][:count], outputs, ((None,) * count,), opset)


def export_step(graph: StepGraph, path: Path, opset: int = OPSET) -> None:
    """Writes the step graph for rows that share one prefix; rows, tokens and lengths are dynamic."""
    text = graph.model.vlm.config.text_config
    rows, count, prefix, own = 3, 5, 7, 6
    heads = (text.num_key_value_heads, text.head_dim)

    def cache(rows: int, length: int) -> torch.Tensor:
        return torch.zeros(text.num_hidden_layers, rows, heads[0], length, heads[1])

    ids = torch.zeros(rows, count, dtype=torch.int64)
    n, t, p, s = (
        torch.export.Dim(name, min=1, max=limit) for name, limit in (("n", 512), ("t", 1024), ("p", 4096), ("s", 4096))
    )
    named = {
        # Distinct tensors: the exporter takes one tensor given twice for one input.
        "ids": (ids, {0: n, 1: t}),
        "positions": (ids.clone(), {0: n, 1: t}),
        "last": (torch.full((rows,), count - 1), {0: n}),
        "prefix_keys": (cache(1, prefix), {3: p}),
        "prefix_values": (cache(1, prefix), {3: p}),
        "own_keys": (cache(rows, own), {1: n, 3: s}),
        "own_values": (cache(rows, own), {1: n, 3: s}),
        "own_mask": (torch.zeros(rows, own), {0: n, 1: s}),
    }
    arguments, shapes = zip(*named.values(), strict=True)
    _export(graph, arguments, path, list(named), ["logits", "keys", "values"], shapes, opset)


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
