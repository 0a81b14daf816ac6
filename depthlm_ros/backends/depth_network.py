# SPDX-License-Identifier: Apache-2.0
"""Runs a network for depth (model_files/depth_network.py) in ONNX Runtime, from its ONNX file as it was published.

The YAML file says how the canvas becomes the network's input and its output becomes metres. `network_inputs` and
`depth_from_output` do this in numpy; the graphs of an engine do the same inside (export/depth_network.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from depthlm_ros.backends.base import KeyValues, Look, StepInput, StepOutput, checked_look
from depthlm_ros.backends.onnx_runtime import OnnxSessions
from depthlm_ros.errors import BackendFailed, BadBundle, BadQuestion
from depthlm_ros.geometry.pinhole import Intrinsics, centred_camera, ray_slopes
from depthlm_ros.model_files.depth_network import (
    DISPARITY,
    INVERSE,
    LOG,
    MATRIX,
    CameraInput,
    DepthNetwork,
    DepthOutput,
    ImageInput,
    check_weight_places,
)

if TYPE_CHECKING:
    import onnxruntime

INPUT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
# The largest number that counts as a known depth or disparity; everything above is infinite for a float32.
LARGEST = np.finfo(np.float32).max


class DepthNetworkBackend(OnnxSessions):
    """Runs the network as one ONNX Runtime session. threads, device: as for OnnxRuntimeBackend.

    Raises BadBundle, with the names and shapes that the graph has, if the YAML file does not fit the graph.
    """

    def __init__(self, network: DepthNetwork, threads: int = 0, device: str = "") -> None:
        super().__init__(threads, device)
        self._network = network
        check_weight_places(network.path)
        self._graph = self._session(network.path)
        self._types = check_graph(network, self._graph.get_inputs(), self._graph.get_outputs())

    def look(self, images: Sequence[np.ndarray]) -> Look:
        """See Backend. A network that is given its camera is given one of 60 degrees: use look_through instead."""
        height, width = images[0].shape[1:3]
        return self.look_through(images[0], centred_camera((width, height), width / (2 * np.tan(np.pi / 6))))

    def look_through(self, image: np.ndarray, camera: Intrinsics) -> Look:
        """Runs the network on one canvas, uint8 (1, h, w, 3), red first. camera: of the canvas.

        The metres are the network's own (CanvasRule.depth_factor is not applied). Raises BackendFailed.
        """
        fields, size_px = self._network.fields, camera.size_px
        outputs = self._outputs(image, camera)
        values = self._map(outputs, fields.depth.output, size_px)
        if np.isnan(values).all():  # some of them may be: networks mark what they do not know
            precision = outputs[fields.depth.output].dtype
            checked_look(Look(values[None], None, 1, 0, 0), str(self._network.path), str(precision))
        depth_m = depth_from_output(values, fields.depth)
        if not fields.depth.relative_std:
            return Look(depth_m[None], None, 1, 0, 0)
        relative_std = self._map(outputs, fields.depth.relative_std, size_px, channel=0)
        return Look(depth_m[None], None, 1, 0, 0, np.maximum(relative_std, 0)[None])

    def read(self, look: Look) -> Look:
        """See Backend. There is nothing to read."""
        return look

    def cache(self, look: Look, rows: int, slots: int) -> KeyValues:
        """See Backend. Raises BadQuestion: a network for depth has no words."""
        raise BadQuestion(f"{self._network.spec.name} is a network for depth alone: it answers no questions in words.")

    def step(self, cache: KeyValues, step_input: StepInput) -> StepOutput:
        """See Backend. Raises BadQuestion: a network for depth has no words."""
        return self.cache(cache, 0, 0)

    def output_shapes(self, image: np.ndarray, camera: Intrinsics) -> dict[str, tuple[int, ...]]:
        """Returns the shape of each of the network's outputs for a canvas, by name."""
        return {name: array.shape for name, array in self._outputs(image, camera).items()}

    def _outputs(self, image: np.ndarray, camera: Intrinsics) -> dict[str, np.ndarray]:
        fields = self._network.fields
        inputs = {fields.image.input: image_input(image, fields.image)}
        if fields.camera is not None:
            inputs[fields.camera.input] = camera_input(camera, fields.camera)
        arrays = {name: array.astype(self._types[name], copy=False) for name, array in inputs.items()}
        return {name: value.numpy() for name, value in self._run(self._graph, arrays).items()}

    def _map(
        self, outputs: Mapping[str, np.ndarray], name: str, size_px: tuple[int, int], channel: int | None = None
    ) -> np.ndarray:
        """Returns float32 (h, w): one channel of an output, resized to the canvas of size_px (width, height)."""
        channel = self._network.fields.depth.channel if channel is None else channel
        try:
            values = output_channel(outputs[name].astype(np.float32), channel)
        except ValueError as exc:
            raise BackendFailed(f"{self._network.path}: output {name} {exc}") from exc
        if values.shape[::-1] != size_px:
            values = cv2.resize(values, size_px, interpolation=cv2.INTER_LINEAR)
        return values


def check_graph(
    network: DepthNetwork, inputs: Sequence[onnxruntime.NodeArg], outputs: Sequence[onnxruntime.NodeArg]
) -> dict[str, type]:
    """Returns the numpy type of every input by name. Raises BadBundle if the YAML file does not fit the graph."""
    fields = network.fields
    wanted = {"image.input": fields.image.input, "depth.output": fields.depth.output}
    if fields.camera is not None:
        wanted["camera.input"] = fields.camera.input
    if fields.depth.relative_std:
        wanted["depth.relative_std"] = fields.depth.relative_std
    for field_name, name in wanted.items():
        side, values = ("input", inputs) if field_name.endswith("input") else ("output", outputs)
        if name not in [value.name for value in values]:
            raise BadBundle(
                f"{network.fields_path}: {field_name} is {name!r}, but the {side}s of {network.path} are "
                f"{_describe(values)}."
            )
    for value in inputs:
        if value.name not in wanted.values():
            raise BadBundle(
                f"{network.path} needs the input {_describe([value])} too, which {network.fields_path} does not name: "
                "if it takes the camera, add `camera: {input: NAME, kind: matrix}` (or rays); other inputs must be "
                "made constants of the graph."
            )
        if value.type not in INPUT_TYPES:
            raise BadBundle(f"{network.path}: input {_describe([value])}: only {', '.join(INPUT_TYPES)} can be given.")
    image = next(value for value in inputs if value.name == fields.image.input)
    _check_image_shape(image, network)
    return {value.name: INPUT_TYPES[value.type] for value in inputs}


def _check_image_shape(image: onnxruntime.NodeArg, network: DepthNetwork) -> None:
    """Raises BadBundle if the graph's image has another layout or size than the YAML file says."""
    fields, path = network.fields.image, network.fields_path
    channels, height, width = (1, 2, 3) if fields.layout == "nchw" else (3, 1, 2)
    shape = image.shape
    fits = len(shape) == 4 and _can_be(shape[0], 1) and _can_be(shape[channels], 3)
    if not fits:
        raise BadBundle(
            f"{path}: image.layout is {fields.layout!r}, but the image of {network.path} is {_describe([image])}: one "
            "image with 3 channels is needed, (1, 3, height, width) or (1, height, width, 3)."
        )
    fixed = tuple(side for side in (shape[width], shape[height]) if isinstance(side, int))
    if fields.size_px is None:
        if fixed:
            raise BadBundle(
                f"{path}: image.fit is {fields.fit!r}, which gives images of many sizes, but the image of "
                f"{network.path} is {_describe([image])}: use fit: squeeze or letterbox with its size, or export the "
                "network with dynamic axes."
            )
    elif not (_can_be(shape[width], fields.size_px[0]) and _can_be(shape[height], fields.size_px[1])):
        raise BadBundle(
            f"{path}: image.size_px is {list(fields.size_px)} (width, height), but the image of {network.path} is "
            f"{_describe([image])}."
        )


def _can_be(dimension: object, size: int) -> bool:
    """Returns whether a dimension of a graph, a number or a name, allows this size."""
    return not isinstance(dimension, int) or dimension == size


def _describe(values: Sequence[onnxruntime.NodeArg]) -> str:
    """Returns names, types and shapes, for messages."""
    return ", ".join(f"{value.name} ({value.type[7:-1]} {list(value.shape)})" for value in values) or "none"


def image_input(image: np.ndarray, fields: ImageInput) -> np.ndarray:
    """Returns float32 (1, 3, h, w) or (1, h, w, 3): the network's image from a canvas, uint8 (1, h, w, 3)."""
    if fields.colour == "bgr":
        image = image[..., ::-1]
    factor = 1.0 / (fields.divide_by * np.array(fields.std))
    offset = np.array(fields.mean) / np.array(fields.std)
    values = image.astype(np.float32) * factor.astype(np.float32) - offset.astype(np.float32)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2)) if fields.layout == "nchw" else values


def camera_input(camera: Intrinsics, fields: CameraInput) -> np.ndarray:
    """Returns float32: K (1, 3, 3), or the unit vectors (1, 3, h, w) along the rays of a camera's pixels."""
    if fields.kind == MATRIX:
        return camera.matrix.astype(np.float32)[None]
    x, y = np.meshgrid(*ray_slopes(camera))
    rays = np.stack([x, y, np.ones_like(x)])
    return (rays / np.linalg.norm(rays, axis=0)).astype(np.float32)[None]


def output_channel(values: np.ndarray, channel: int) -> np.ndarray:
    """Returns (h, w): a channel of an output (h, w), (1, h, w), (1, C, h, w) or (1, h, w, 1).

    Raises ValueError, for the end of a message, for another shape.
    """
    shape = values.shape
    if values.ndim == 4 and shape[0] == 1 and shape[3] == 1 and shape[1] > 1:
        values = values.transpose(0, 3, 1, 2)
    if values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3 or not 0 <= channel < len(values) or 0 in values.shape:
        raise ValueError(
            f"has the shape {shape}: a map (1, {channel + 1}, height, width) is needed (channel {channel} is read)."
        )
    return values[channel]


def depth_from_output(values: np.ndarray, fields: DepthOutput) -> np.ndarray:
    """Returns float32 (h, w) in metres, NaN where unknown, from the network's values, float32 (h, w)."""
    with np.errstate(all="ignore"):
        if fields.kind == INVERSE:
            depth_m = 1.0 / values
        elif fields.kind == LOG:
            depth_m = np.exp(values)
        elif fields.kind == DISPARITY:
            depth_m = 1.0 / (np.float32(fields.scale) * values + np.float32(fields.shift))
        else:
            depth_m = values
        known = (depth_m > 0) & (depth_m < LARGEST)
    depth_m = np.where(known, depth_m, np.float32(np.nan))
    return depth_m if fields.clamp_m is None else np.clip(depth_m, *map(np.float32, fields.clamp_m))
