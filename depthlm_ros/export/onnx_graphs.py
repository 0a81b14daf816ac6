# SPDX-License-Identifier: Apache-2.0
"""Exports torch modules as ONNX models in memory.

export_look_graph and export_step_graph export the two graphs of a model, export_depth_graph, export_read_graph and
export_step_graph the three of a model that gives depth first. fold_constants and save_model finish them.
The precision of a graph is the precision of the module's own weights, because TensorRT networks are strongly typed.
Look and read graphs have fixed sizes. The step graph takes any number of rows, tokens and slots: reading a question and
decoding its answer are therefore one graph, with one copy of the weights.
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
from depthlm_ros.model_files.bundle import READ_INPUTS
from depthlm_ros.nets.backbone import Backbone
from depthlm_ros.nets.depth_first import DepthFirstModel
from depthlm_ros.nets.graphs import DepthLookGraph, LookGraph, ReadGraph, StepGraph

# Both ONNX Runtime 1.17 and TensorRT 10.3 (JetPack 6.2) read this opset.
OPSET = 20
# Constants that depend on the canvas (resampled positions, angles, transposed weights) are folded up to this size.
MAX_FOLDED_VALUES = 1 << 30
IMAGE_INPUTS = ("image", "second")
DEPTH_OUTPUT, CACHE_OUTPUTS, LOGITS_OUTPUT = "depth_m", ("keys", "values"), "logits"

# Token ids before, between and after the images.
TokenTexts = Sequence[Sequence[int]]
ImageSizes = Sequence[tuple[int, int]]


class LookModule(nn.Module):
    """A LookGraph in the form in which it is exported.

    uint8 images become floats before anything else, because TensorRT takes uint8 only as the input of a network. If
    only the depth is wanted, keys and values are not outputs.
    """

    def __init__(self, model: Backbone, texts: TokenTexts, sizes_px: ImageSizes, only_depth: bool) -> None:
        super().__init__()
        self.look, self.only_depth = LookGraph(model, texts, sizes_px), only_depth

    def forward(self, *images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.look(*(image.float() for image in images))
        return outputs[:1] if self.only_depth else outputs


class DepthModule(nn.Module):
    """A DepthLookGraph in the form in which it is exported: bytes become floats first, as in LookModule. If only the
    depth is wanted, features are not an output."""

    def __init__(self, model: DepthFirstModel, only_depth: bool) -> None:
        super().__init__()
        self.look, self.only_depth = DepthLookGraph(model), only_depth

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        depth_m, relative_std, features = self.look(image.float())
        return (depth_m, relative_std) if self.only_depth else (depth_m, relative_std, features)


class StepModule(nn.Module):
    """A StepGraph in the form in which it is exported: its logits are float32 for weights of every precision."""

    def __init__(self, model: Backbone) -> None:
        super().__init__()
        self.step = StepGraph(model)

    # The exporter orders the nodes of the graph by this parameter's name: another name gives another file.
    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits, keys, values = self.step(*given)
        return logits.float(), keys, values


def export_look_graph(
    model: Backbone, texts: TokenTexts, sizes_px: ImageSizes, opset: int = OPSET, only_depth: bool = False
) -> ir.Model:
    """Exports the look at one or two images.

    Inputs: uint8 images (1, H, W, 3). Outputs: depth_m, float32 (1, H, W), of the first image if the model has a depth
    head; keys and values of the prefix. texts: token ids before, between and after the images. sizes_px: (width,
    height) of each image. only_depth: leave out keys and values, and the text after the image, which cannot change the
    depth because attention is causal. Raises SetupError for only_depth of a model without a depth head.
    """
    if only_depth and model.depth_head is None:
        raise SetupError("the model has no depth head, so --depth-only would leave nothing of it.")
    texts = (*texts[:-1], ()) if only_depth else tuple(texts)
    # The tensors must differ: the exporter takes one tensor that is passed twice for one input.
    images = tuple(torch.zeros(1, height, width, 3, dtype=torch.uint8) for width, height in sizes_px)
    outputs = [*([DEPTH_OUTPUT] if model.depth_head is not None else []), *([] if only_depth else CACHE_OUTPUTS)]
    module = LookModule(model, texts, sizes_px, only_depth)
    return _export(module, images, IMAGE_INPUTS[: len(images)], outputs, ((None,) * len(images),), opset)


def export_depth_graph(
    model: DepthFirstModel, size_px: tuple[int, int], opset: int = OPSET, only_depth: bool = False
) -> ir.Model:
    """Exports the look of a model that gives depth first, at an image of size_px (width, height).

    Input: uint8 (1, H, W, 3). Outputs: depth_m and relative_std, float32 (1, H, W), and unless only_depth the features
    (1, C, H/16, W/16), in the precision of the encoder.
    """
    image = torch.zeros(1, size_px[1], size_px[0], 3, dtype=torch.uint8)
    features, *maps = READ_INPUTS
    outputs = [*maps, *([] if only_depth else [features])]
    return _export(DepthModule(model, only_depth), (image,), IMAGE_INPUTS[:1], outputs, None, opset)


def export_read_graph(
    model: DepthFirstModel, texts: TokenTexts, size_px: tuple[int, int], opset: int = OPSET
) -> ir.Model:
    """Exports the reading of an image of size_px (width, height) by a model that gives depth first.

    Inputs: the outputs of export_depth_graph. Outputs: keys and values of the prefix. texts: token ids before and after
    the image.
    """
    width, height = size_px
    # The tensors must differ: the exporter takes one tensor that is passed twice for one input.
    arguments = (model.empty_features(size_px), *(torch.ones(1, height, width) for _ in range(2)))
    module = ReadGraph(model, texts, (size_px,))
    return _export(module, arguments, list(READ_INPUTS), CACHE_OUTPUTS, None, opset)


def export_step_graph(model: Backbone, opset: int = OPSET) -> ir.Model:
    """Exports the step: text after a look, for rows that share one prefix. Rows, tokens and lengths are dynamic.

    Inputs and outputs are those of StepGraph. Keys and values have the backbone's precision; the mask and the logits
    are float32.
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
    inputs = {
        "ids": (torch.zeros(rows, count, dtype=torch.int64), {0: n, 1: t}),
        "positions": (torch.zeros(rows, count, dtype=torch.int64), {0: n, 1: t}),
        "last": (torch.full((rows,), count - 1), {0: n}),
        "prefix_keys": (cache(1, prefix), {3: p}),
        "prefix_values": (cache(1, prefix), {3: p}),
        "own_keys": (cache(rows, own), {1: n, 3: s}),
        "own_values": (cache(rows, own), {1: n, 3: s}),
        "own_mask": (torch.zeros(rows, own), {0: n, 1: s}),
    }
    arguments, shapes = zip(*inputs.values(), strict=True)
    return _export(StepModule(model), arguments, tuple(inputs), [LOGITS_OUTPUT, *CACHE_OUTPUTS], (shapes,), opset)


def fold_constants(model: ir.Model) -> None:
    """Computes everything that depends only on weights and sizes, so that no runtime computes it again."""
    optimizer.fold_constants(model, input_size_limit=MAX_FOLDED_VALUES, output_size_limit=MAX_FOLDED_VALUES)
    optimizer.remove_unused_nodes(model)


def save_model(model: ir.Model, path: Path) -> None:
    """Writes an ONNX file, and its weights into a file beside it (path + ".data")."""
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
        with torch.no_grad(), _quiet_exporter():
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
        raise _export_error(str(exc.__cause__ or exc)) from exc
    if program is None:
        raise _export_error("it returns no program")
    _write_norms_as_divisions(program.model)
    _remove_source_metadata(program.model)
    return program.model


def _export_error(reason: str) -> SetupError:
    return SetupError(
        f"torch {torch.__version__} does not export this model in ONNX ({reason}): use the versions in "
        "requirements/torch.txt; if you use those, report it with this message."
    )


def _write_norms_as_divisions(model: ir.Model) -> None:
    """Replaces x * reciprocal(sqrt(y)) by x / sqrt(y).

    ONNX Runtime fuses a root-mean-square norm into one operator only in the second form.
    """
    for node in model.graph.all_nodes():
        if node.op_type != "Mul":
            continue
        for index, factor in enumerate(node.inputs):
            root = _root_of_reciprocal(factor)
            if root is not None:
                other = node.inputs[1 - index]
                node.op_type = "Div"
                node.replace_input_with(0, other)
                node.replace_input_with(1, root)
                break
    optimizer.remove_unused_nodes(model)


def _root_of_reciprocal(value: ir.Value | None) -> ir.Value | None:
    """Returns y if the value is reciprocal(y) and y is a square root, else None."""
    reciprocal = None if value is None else value.producer()
    if reciprocal is None or reciprocal.op_type != "Reciprocal":
        return None
    root = reciprocal.inputs[0]
    producer = None if root is None else root.producer()
    return root if producer is not None and producer.op_type == "Sqrt" else None


def _remove_source_metadata(model: ir.Model) -> None:
    """Removes what the exporter notes about every node: lines and paths of source files, which take megabytes."""
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
def _quiet_exporter() -> Iterator[None]:
    """Hides the exporter's remarks about optional packages."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
