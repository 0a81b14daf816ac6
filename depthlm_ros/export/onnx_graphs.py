"""torch modules -> ONNX models in memory.

Precision is in the graph, that of the modules' own weights: networks in TensorRT are strongly typed. The look graph is
of fixed sizes; the step graph takes any number of rows, tokens and slots, so that reading a question (append) and
decoding are one graph with one copy of the weights.

The form of a norm that runtimes know.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from onnxscript import ir, optimizer
from torch import nn

from depthlm_ros.errors import SetupError
from depthlm_ros.nets.backbone import Backbone
from depthlm_ros.nets.graphs import LookGraph, StepGraph


def divide_by_roots(model: ir.Model) -> None:
    """Writes x * reciprocal(sqrt(y)) as x / sqrt(y): ONNX Runtime makes one operator of a root-mean-square norm in the
    second form only."""
    for node in model.graph.all_nodes():
        if node.op_type != "Mul":
            continue
        for index, factor in enumerate(node.inputs):
            root = _reciprocal_of_root(factor)
            if root is not None:
                other = node.inputs[1 - index]
                node.op_type = "Div"
                node.replace_input_with(0, other)
                node.replace_input_with(1, root)
                break
    optimizer.remove_unused_nodes(model)


def _reciprocal_of_root(value: ir.Value | None) -> ir.Value | None:
    """y of reciprocal(y) where y is a square root, else None."""
    reciprocal = None if value is None else value.producer()
    if reciprocal is None or reciprocal.op_type != "Reciprocal":
        return None
    root = reciprocal.inputs[0]
    above = None if root is None else root.producer()
    return root if above is not None and above.op_type == "Sqrt" else None


# Read by ONNX Runtime 1.17 and TensorRT 10.3 (JetPack 6.2) alike.
OPSET = 20
# Constants of a canvas (resampled positions, angles, weights transposed) are folded up to this many values.
MOST_FOLDED = 1 << 30
IMAGES = ("image", "second")
DEPTH, KEPT, LOGITS = "depth_m", ("keys", "values"), "logits"

Texts = Sequence[Sequence[int]]
Sizes = Sequence[tuple[int, int]]


class LookModule(nn.Module):
    """A LookGraph as it is exported: bytes are made floats before all else, since TensorRT takes bytes as a network's
    input only; without keys and values if only the depth is wanted."""

    def __init__(self, model: Backbone, texts: Texts, sizes_px: Sizes, only_depth: bool) -> None:
        super().__init__()
        self.look, self.only_depth = LookGraph(model, texts, sizes_px), only_depth

    def forward(self, *images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.look(*(image.float() for image in images))
        return outputs[:1] if self.only_depth else outputs


class StepModule(nn.Module):
    """A StepGraph as it is exported: logits are float32, whatever the weights are."""

    def __init__(self, model: Backbone) -> None:
        super().__init__()
        self.step = StepGraph(model)

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits, keys, values = self.step(*given)
        return logits.float(), keys, values


def look_model(
    model: Backbone, texts: Texts, sizes_px: Sizes, opset: int = OPSET, only_depth: bool = False
) -> ir.Model:
    """The look at one or two images of sizes_px (width, height): uint8 (1, H, W, 3) -> float32 depth_m (1, H, W) of
    the first, where the model has a depth head, and keys and values of the prefix.

    texts: token ids before, between and after the images. only_depth: for depth the text behind the image is left out
    too, exactly, because attention is causal. Raises SetupError for only_depth of a model that has no depth head.
    """
    if only_depth and model.depth_head is None:
        raise SetupError("the model has no depth head, so that nothing would be left of it with --depth-only.")
    texts = (*texts[:-1], ()) if only_depth else tuple(texts)
    # Distinct tensors: the exporter takes one tensor given twice for one input.
    images = tuple(torch.zeros(1, height, width, 3, dtype=torch.uint8) for width, height in sizes_px)
    outputs = [*([DEPTH] if model.depth_head is not None else []), *([] if only_depth else KEPT)]
    module = LookModule(model, texts, sizes_px, only_depth)
    return _export(module, images, IMAGES[: len(images)], outputs, ((None,) * len(images),), opset)


def step_model(model: Backbone, opset: int = OPSET) -> ir.Model:
    """Text behind a look, for rows that share one prefix; rows, tokens and lengths are dynamic.

    Inputs and outputs are those of StepGraph; keys and values in the backbone's precision, mask and logits float32.
    """
    attention = model.language.layers[0].self_attn
    layers, size, dtype = len(model.language.layers), attention.head_dim, attention.k_proj.weight.dtype
    heads = attention.k_proj.out_features // size
    rows, count, prefix, own = 3, 5, 7, 6

    def cache(rows: int, length: int) -> torch.Tensor:
        return torch.zeros(layers, rows, heads, length, size, dtype=dtype)

    n, t, p, s = (
        torch.export.Dim(name, min=1, max=limit) for name, limit in (("n", 512), ("t", 1024), ("p", 16384), ("s", 4096))
    )
    named = {
        "ids": (torch.zeros(rows, count, dtype=torch.int64), {0: n, 1: t}),
        "positions": (torch.zeros(rows, count, dtype=torch.int64), {0: n, 1: t}),
        "last": (torch.full((rows,), count - 1), {0: n}),
        "prefix_keys": (cache(1, prefix), {3: p}),
        "prefix_values": (cache(1, prefix), {3: p}),
        "own_keys": (cache(rows, own), {1: n, 3: s}),
        "own_values": (cache(rows, own), {1: n, 3: s}),
        "own_mask": (torch.zeros(rows, own), {0: n, 1: s}),
    }
    arguments, shapes = zip(*named.values(), strict=True)
    return _export(StepModule(model), arguments, tuple(named), [LOGITS, *KEPT], (shapes,), opset)


def fold(model: ir.Model) -> None:
    """Computes what depends on weights and sizes only, so that nobody does it again: what is left are the operators of
    the look itself."""
    optimizer.fold_constants(model, input_size_limit=MOST_FOLDED, output_size_limit=MOST_FOLDED)
    optimizer.remove_unused_nodes(model)


def save(model: ir.Model, path: Path) -> None:
    """Writes an ONNX file, its weights beside it (path + ".data")."""
    ir.save(model, path, external_data=f"{path.name}.data")


def _export(
    module: nn.Module,
    arguments: tuple[torch.Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    shapes: tuple | None,
    opset: int,
) -> ir.Model:
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                module.eval(),
                arguments,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=shapes,
                opset_version=opset,
                dynamo=True,
                verbose=False,
                optimize=True,
            )
    except torch.onnx.OnnxExporterError as exc:
        raise _refused(str(exc.__cause__ or exc)) from exc
    if program is None:
        raise _refused("it returns no program")
    divide_by_roots(program.model)
    _forget_origins(program.model)
    return program.model


def _refused(why: str) -> SetupError:
    return SetupError(
        f"torch {torch.__version__} does not export this model in ONNX ({why}): use the versions in "
        "requirements/torch.txt; if it is those, report it with this message."
    )


def _forget_origins(model: ir.Model) -> None:
    """Takes out what the exporter notes about every node: lines and paths of this machine's sources, megabytes."""
    model.doc_string, model.graph.doc_string = None, None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.doc_string = None
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that it could also make use of."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
