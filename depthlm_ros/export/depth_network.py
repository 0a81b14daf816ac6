# SPDX-License-Identifier: Apache-2.0
"""Builds an engine of a network for depth: its ONNX graph for one camera, from the canvas's bytes to metres.

build_network_graphs makes the engine that an EngineRequest describes. Its look graph holds what the YAML file of the
network says about input and output, so that it runs like any other engine built for depth only, also as a TensorRT
plan. engine_graph makes the graph, convert_precision changes its numbers to half precision or its weights to int8.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxscript import ir, optimizer
from tokenizers import Tokenizer

from depthlm_ros.backends.depth_network import LARGEST, DepthNetworkBackend, camera_input
from depthlm_ros.backends.onnx_runtime import OnnxRuntimeBackend
from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BackendFailed, BadBundle, SetupError
from depthlm_ros.export.build import (
    BuildReport,
    EngineRequest,
    check_backend_precision,
    engine_name,
    origin_fields,
    parity_fields,
)
from depthlm_ros.export.build_progress import BuildProgress, StageProgress
from depthlm_ros.export.engine_store import build_lock, check_output_folder
from depthlm_ros.export.parity import MAX_MEAN_DIFFERENCE, Parity, sample_image
from depthlm_ros.export.precision import Precision, quantise_linear_layers
from depthlm_ros.export.trt_support import check_model
from depthlm_ros.export.write_bundle import ExportOptions, write_network_engine
from depthlm_ros.geometry.canonical_view import checked_canonical_view
from depthlm_ros.model_files.bundle import ModelBundle
from depthlm_ros.model_files.depth_network import (
    DISPARITY,
    INVERSE,
    LOG,
    WORDLESS_TOKENIZER,
    DepthNetwork,
    DepthOutput,
    ImageInput,
)
from depthlm_ros.model_files.install_paths import default_engine_root
from depthlm_ros.model_files.spec import ModelSpec

# From this opset on, the operators around the network have the form in which they are written here.
MIN_OPSET = 13
PREFIX = "network/"
# Shape of every output of the network for one canvas.
OutputShapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Fitted:
    """The network with one canvas. camera: of the canvas. look: the network's own depth of the sample image."""

    spec: ModelSpec
    camera: Intrinsics
    depth_m: np.ndarray
    shapes: OutputShapes


def build_network_graphs(
    request: EngineRequest, source: DepthNetwork, progress: BuildProgress, report: Callable[[str], None]
) -> BuildReport:
    """Makes an engine of a network for depth in a folder of its own. See build.build_graphs.

    Raises SetupError for a precision that the network cannot have, BadIntrinsics for a camera that it cannot serve, and
    BackendFailed for a graph that does not compute the same as the network.
    """
    check_backend_precision(request)
    folder = request.out or default_engine_root() / engine_name(request, source.spec.name)
    check_output_folder(folder)
    seconds: dict[str, float] = {}
    parity: Parity | str = ""
    with build_lock(folder, report), StageProgress(progress) as report_stage:
        began_s = time.monotonic()
        report_stage("run the network once", 0, 1)
        fitted = _fit(source, request.camera, folder.name)
        seconds["load"] = time.monotonic() - began_s
        model = engine_graph(source, fitted.camera, fitted.shapes, request.precision)
        _report_parser_problems(model, request, report)
        options = ExportOptions(
            fitted.spec,
            _opset(model),
            only_depth=True,
            precision=Precision(request.precision, request.precision),
            extra_fields=origin_fields(request, source, folder),
        )

        def compare(bundle: ModelBundle) -> dict[str, object]:
            nonlocal parity
            seconds["export"] = time.monotonic() - began_s - seconds["load"]
            report_stage("compare with the network", 0, 1)
            parity = "not asked for" if request.check is False else _compare(fitted, bundle)
            return {"parity": parity_fields(parity)}

        tokenizer = Tokenizer.from_str(WORDLESS_TOKENIZER)
        manifest = write_network_engine(ir.from_proto(model), tokenizer, options, folder, compare)
        seconds["check and finish"] = time.monotonic() - began_s - sum(seconds.values())
    return BuildReport(
        folder=folder,
        camera=request.camera,
        canvases_px=options.sizes_px,
        opset=options.opset,
        precision=request.precision,
        head=request.precision,
        only_depth=True,
        parity=parity,
        file_bytes={name: (folder / name).stat().st_size for name in manifest["files"]},
        seconds=seconds,
        weight_bytes=sum(_tensor_bytes(tensor) for tensor in model.graph.initializer),
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        reference="the network",
    )


def _fit(source: DepthNetwork, camera: Intrinsics, name: str) -> _Fitted:
    """Chooses the canvas of a camera and runs the network there once. Raises BadIntrinsics, BadBundle."""
    rule = replace(source.spec.canvas, built_px=())
    view = checked_canonical_view(camera, rule)
    size_px, canvas_camera = view.canvas_size_px, view.canvas_camera(camera)
    if rule.canvases_px:
        rule = replace(rule, canvases_px=(size_px,))
    else:
        # A graph that holds its camera is right for this camera only.
        focal_px = canvas_camera.fx_px if source.fields.camera else None
        rule = replace(rule, built_px=(size_px,), built_focal_px=focal_px)
    backend = DepthNetworkBackend(source, device="cpu")
    image = sample_image(size_px)
    look = backend.look_through(image, canvas_camera)
    assert look.depth_m is not None
    shapes = backend.output_shapes(image, canvas_camera)
    return _Fitted(replace(source.spec, name=name, canvas=rule), canvas_camera, look.depth_m, shapes)


def _compare(fitted: _Fitted, bundle: ModelBundle) -> Parity | str:
    """Returns the relative difference between the engine and the network, where both know a depth.

    Raises BackendFailed if they do not compute the same.
    """
    found_m = OnnxRuntimeBackend(bundle, device="cpu").look([sample_image(fitted.camera.size_px)]).depth_m
    assert found_m is not None
    expected_m = fitted.depth_m
    known, both = np.isfinite(expected_m), np.isfinite(expected_m) & np.isfinite(found_m)
    if not known.any():
        return "the network knows no depth in the sample image"
    relative = np.abs(found_m[both] - expected_m[both]) / expected_m[both]
    lost, limit = 1.0 - both.sum() / known.sum(), MAX_MEAN_DIFFERENCE[bundle.precision]
    if lost > limit or relative.mean() > limit:
        mean = float(relative.mean()) if len(relative) else 1.0
        raise BackendFailed(
            f"{bundle.name}: in {bundle.precision} the depth differs from that of the network by {mean:.2g} on "
            f"average, and {100 * lost:.2g} % of the pixels have none (at most {limit:g} is rounding): build it with "
            "--precision fp32."
        )
    return Parity(float(relative.max()), float(relative.mean()), None)


def _report_parser_problems(model: ModelProto, request: EngineRequest, report: Callable[[str], None]) -> None:
    """Says which nodes the target's TensorRT would refuse, before anybody copies the engine there."""
    if request.target is None:
        return
    problems = list(check_model(model, request.target.tensorrt))
    for problem in problems[:5]:
        report(f"TensorRT of {request.target.name} will refuse this graph: {problem}")
    if len(problems) > 5:
        report(f"... and {len(problems) - 5} more.")


def engine_graph(source: DepthNetwork, camera: Intrinsics, shapes: OutputShapes, precision: str) -> ModelProto:
    """Returns a graph with input image, uint8 (1, h, w, 3), and output depth_m, float32 (1, h, w), NaN where unknown.

    camera: of the canvas; a network that is given its camera holds this one. shapes: of the network's outputs for this
    canvas. Raises BadBundle for a file that is no graph, SetupError for a precision that it cannot have.
    """
    fields = source.fields
    model = _load(source.path)
    image = fields.image.input
    _fix_size(model.graph, image, camera.size_px, fields.image.layout)
    if fields.camera is not None:
        _make_constant(model.graph, fields.camera.input, camera_input(camera, fields.camera))
    wanted = [fields.depth.output, *([fields.depth.relative_std] if fields.depth.relative_std else [])]
    kept = [output for output in model.graph.output if output.name in wanted]
    del model.graph.output[:], model.graph.value_info[:]
    model.graph.output.extend(kept)
    model = _without_unused(onnx.shape_inference.infer_shapes(model))
    model = onnx.compose.add_prefix(convert_precision(model, precision, source.spec.name), PREFIX)
    return _surround(model, fields.image, fields.depth, camera.size_px, shapes)


def convert_precision(model: ModelProto, precision: str, name: str) -> ModelProto:
    """Returns the model in another precision; its inputs and outputs keep their types.

    fp32: as it is. fp16: all floats that are not listed as too sensitive by ONNX Runtime's converter. int8: the weights
    of linear layers. Raises SetupError for bf16, for a model that is in half precision already, and for int8 without
    linear layers.
    """
    is_half = any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    if precision == "bf16":
        raise SetupError(
            f"{name} is an ONNX file, and its numbers cannot be converted to bf16 here: use --precision fp16 or fp32."
        )
    if is_half and precision != "fp16":
        raise SetupError(f"{name} is in fp16 already: use --precision fp16, or give the file with single precision.")
    if precision == "fp16" and not is_half:
        from onnxruntime.transformers.float16 import convert_float_to_float16

        return convert_float_to_float16(model, keep_io_types=True)
    if precision == "int8":
        graph = ir.from_proto(model)
        quantise_linear_layers(graph)
        if not any(node.op_type == "MatMulInteger" for node in graph.graph):
            raise SetupError(
                f"{name} has no linear layers (MatMul with constant weights), and int8 is for these: use --precision "
                "fp32, or fp16 for a GPU."
            )
        return ir.to_proto(graph)
    return model


def _load(path: Path) -> ModelProto:
    """Reads an ONNX file with its weights, in opset MIN_OPSET or later. Raises BadBundle, SetupError."""
    try:
        model = onnx.load(path)
    except Exception as exc:  # protobuf raises errors of several kinds
        raise BadBundle(f"{path} cannot be read as an ONNX file ({exc}): export or download it again.") from exc
    if _opset(model) >= MIN_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, MIN_OPSET)
    except Exception as exc:  # the converter raises errors of several kinds
        raise SetupError(
            f"{path} has opset {_opset(model)} and cannot be converted to {MIN_OPSET} ({exc}): export it with opset "
            f"{MIN_OPSET} or later."
        ) from exc


def _opset(model: ModelProto) -> int:
    return max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def _tensor_bytes(tensor: TensorProto) -> int:
    return int(numpy_helper.to_array(tensor).nbytes)


def _fix_size(graph: GraphProto, name: str, size_px: tuple[int, int], layout: str) -> None:
    """Gives the network's image its size in the graph."""
    width, height = size_px
    shape = (1, 3, height, width) if layout == "nchw" else (1, height, width, 3)
    value = next(value for value in graph.input if value.name == name)
    for dimension, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
        dimension.dim_value = size


def _make_constant(graph: GraphProto, name: str, array: np.ndarray) -> None:
    """Replaces an input of the graph by a constant of the input's type."""
    value = next(value for value in graph.input if value.name == name)
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    graph.input.remove(value)
    graph.initializer.append(numpy_helper.from_array(array.astype(dtype), name))


def _without_unused(model: ModelProto) -> ModelProto:
    graph = ir.from_proto(model)
    optimizer.remove_unused_nodes(graph)
    return ir.to_proto(graph)


def _surround(
    model: ModelProto, image: ImageInput, depth: DepthOutput, size_px: tuple[int, int], shapes: OutputShapes
) -> ModelProto:
    """Puts the nodes before and behind the network, whose names begin with PREFIX."""
    graph, (width, height) = model.graph, size_px
    inner = next(value for value in graph.input if value.name == PREFIX + image.input)
    before = _Nodes()
    pixels = before.add("Cast", "image", to=TensorProto.FLOAT)
    if image.colour == "bgr":
        pixels = before.add("Gather", pixels, np.array([2, 1, 0]), axis=3)
    std = np.array(image.std)
    pixels = before.add("Mul", pixels, (1.0 / (image.divide_by * std)).astype(np.float32))
    pixels = before.add("Sub", pixels, (np.array(image.mean) / std).astype(np.float32))
    if image.layout == "nchw":
        pixels = before.add("Transpose", pixels, perm=[0, 3, 1, 2])
    before.add("Cast", pixels, to=inner.type.tensor_type.elem_type, output=inner.name)

    behind, names = _Nodes(), {"depth_m": depth.output}
    if depth.relative_std:
        names["relative_std"] = depth.relative_std
    for name, output in names.items():
        channel = depth.channel if name == "depth_m" else 0
        values = behind.map(PREFIX + output, shapes[output], channel, size_px)
        values = behind.metres(values, depth) if name == "depth_m" else behind.add("Relu", values)
        behind.add("Reshape", values, np.array([1, height, width]), output=name)

    nodes = [*before.nodes, *graph.node, *behind.nodes]
    constants = [*graph.initializer, *before.constants, *behind.constants]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, height, width]) for name in names]
    given = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, height, width, 3])
    whole = helper.make_graph(nodes, "look", [given], outputs, constants, value_info=graph.value_info)
    made = helper.make_model(whole, opset_imports=model.opset_import, functions=model.functions)
    made.ir_version = max(model.ir_version, 8)
    return made


class _Nodes:
    """Nodes in their order, and the constants that they use."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def add(self, operator: str, *inputs: str | np.ndarray, output: str = "", **attributes: object) -> str:
        """Adds a node and returns the name of its output. An array among the inputs becomes a constant."""
        names = [self._constant(value) if isinstance(value, np.ndarray) else value for value in inputs]
        output = output or f"depthlm/{operator}_{id(self)}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [output], name=output, **attributes))
        return output

    def _constant(self, array: np.ndarray) -> str:
        name = f"depthlm/constant_{id(self)}_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def map(self, name: str, shape: tuple[int, ...], channel: int, size_px: tuple[int, int]) -> str:
        """Adds nodes that take one channel of an output and resize it to the canvas, float32 (1, 1, h, w)."""
        values = self.add("Cast", name, to=TensorProto.FLOAT)
        if len(shape) == 4 and shape[3] == 1 and shape[1] > 1:
            shape = (1, 1, *shape[1:3])
        channels = shape[-3] if len(shape) > 2 else 1
        values = self.add("Reshape", values, np.array([1, channels, *shape[-2:]]))
        if channels > 1:
            values = self.add("Gather", values, np.array([channel]), axis=1)
        width, height = size_px
        if shape[-2:] != (height, width):
            sizes, none = np.array([1, 1, height, width]), ""
            options = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
            values = self.add("Resize", values, none, none, sizes, **options)
        return values

    def metres(self, values: str, depth: DepthOutput) -> str:
        """Adds nodes that turn the network's values into metres, NaN where they are not positive finite numbers."""
        if depth.kind == DISPARITY:
            values = self.add("Mul", values, np.array(depth.scale, np.float32))
            values = self.add("Add", values, np.array(depth.shift, np.float32))
        if depth.kind in (DISPARITY, INVERSE):
            values = self.add("Reciprocal", values)
        elif depth.kind == LOG:
            values = self.add("Exp", values)
        is_positive = self.add("Greater", values, np.array(0, np.float32))
        known = self.add("And", is_positive, self.add("Less", values, np.array(LARGEST, np.float32)))
        if depth.clamp_m is not None:
            values = self.add("Clip", values, *(np.array(limit, np.float32) for limit in depth.clamp_m))
        return self.add("Where", known, values, np.array(np.nan, np.float32))
