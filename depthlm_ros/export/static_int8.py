# SPDX-License-Identifier: Apache-2.0
"""Convolutions in int8 for a CPU: ranges of activations are measured on pictures while the engine is built.

`read_canvases` reads the pictures as the model sees them, `quantise_convolutions` rewrites a graph. ONNX Runtime's own
quantiser does the work (QDQ: pairs of QuantizeLinear and DequantizeLinear that the runtime fuses with what is between).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from onnxscript import ir

from depthlm_ros.core import Frame, Intrinsics
from depthlm_ros.errors import BadImage, SetupError
from depthlm_ros.geometry.canonical_view import CanvasPlacement, checked_canonical_view
from depthlm_ros.geometry.resize_rules import CanvasRule
from depthlm_ros.image_io import read_rgb

PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Fewer pictures do not show the range of an activation; more than this change nothing and take minutes.
LEAST_PICTURES, MOST_PICTURES = 16, 100
# Pictures of other places beside them, so that ranges also hold where the camera has not been yet.
MOST_RENDERED = 60
# What follows a convolution is computed on its bytes too.
QUANTISED = ("Conv", "Add", "Relu", "Clip")


def read_canvases(
    folder: Path,
    camera: Intrinsics,
    rule: CanvasRule,
    photographs: Callable[[Intrinsics, int], Iterable[np.ndarray]] | None = None,
) -> list[np.ndarray]:
    """Returns uint8 (1, h, w, 3) of the pictures below a folder: what the model sees of them with this camera.

    rule: with one canvas. A picture of another size is resized to that of the camera. Of more than MOST_PICTURES, some
    at even steps are taken. Unreadable files are left out. photographs: makes pictures of other places with a camera;
    as many of them follow, up to MOST_RENDERED. Raises SetupError for fewer than LEAST_PICTURES.
    """
    if not folder.is_dir():
        raise SetupError(f"{folder} is not a folder: name one with pictures of the engine's camera (--pictures).")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    view = checked_canonical_view(camera, rule)
    canvases = []
    for path in paths[:: max(1, len(paths) // MOST_PICTURES)]:
        try:
            rgb = read_rgb(path)
        except BadImage:
            continue
        if (rgb.shape[1], rgb.shape[0]) != camera.size_px:
            rgb = cv2.resize(rgb, camera.size_px, interpolation=cv2.INTER_AREA)
        canvases.append(CanvasPlacement(Frame(rgb, camera), view).canvas[None])
    if len(canvases) < LEAST_PICTURES:
        raise SetupError(
            f"{folder} holds {len(canvases)} readable pictures; at least {LEAST_PICTURES} are needed, of places like "
            "those where the camera will be: record some, or leave out --pictures."
        )
    canvases = canvases[:MOST_PICTURES]
    if photographs is not None:
        others = photographs(view.canvas_camera(camera), min(len(canvases), MOST_RENDERED))
        canvases += [rgb[None] for rgb in others]
    return canvases


def quantise_convolutions(graph: ir.Model, canvases: Sequence[np.ndarray]) -> ir.Model:
    """Returns the graph of a look with int8 convolutions. The first and the last ones stay as they are.

    canvases: uint8 (1, h, w, 3), on which activations are measured. Weights have 7 bits: without VNNI the CPU adds
    pairs of products in 16 bits, which 8 bits would overflow. Weights must be constants (onnx_graphs.fold_constants).
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as name:
        single, rounded = Path(name) / "single.onnx", Path(name) / "int8.onnx"
        ir.save(graph, single)
        quantize_static(
            single,
            rounded,
            _Reader(graph.graph.inputs[0].name or "", canvases),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_outer_convolutions(graph),
        )
        return ir.from_proto(ir.to_proto(ir.load(rounded)))  # in memory: the files go


def _outer_convolutions(graph: ir.Model) -> list[str]:
    """Returns the names of the convolution that sees the image and of those that give outputs.

    Their rounding would not be corrected by anything, and they have hardly any weights.
    """
    nodes = list(graph.graph)
    first = next(node for node in nodes if node.op_type == "Conv")
    outer, reached = {first.name}, {value for value in graph.graph.outputs}
    for node in reversed(nodes):
        if any(value in reached for value in node.outputs):
            if node.op_type == "Conv":
                outer.add(node.name)
            else:
                reached.update(value for value in node.inputs if value is not None)
    return [name for name in outer if name]


class _Reader:
    """Gives the quantiser one canvas after the other (onnxruntime's CalibrationDataReader)."""

    def __init__(self, name: str, canvases: Sequence[np.ndarray]) -> None:
        self._rows: Iterator[dict[str, np.ndarray]] = iter([{name: canvas} for canvas in canvases])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Returns the next input, None at the end."""
        return next(self._rows, None)
