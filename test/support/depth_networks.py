# SPDX-License-Identifier: Apache-2.0
"""Small ONNX networks for depth, written without the package onnx, which the node's environment does not have.

A network's depth is gain * (mean of the image's channels) + offset, so that a test knows what must come out.
"""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from support.paths import ROOT

TEACHER = ROOT.parent / "shared" / "data" / "teachers" / "fastdepth.onnx"
PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "ibims1_dev" / "labels.jsonl"
FASTDEPTH = {
    "file": "fastdepth.onnx",
    "image": {"input": "rgb", "fit": "squeeze", "size_px": [224, 224], "resampling": "area"},
    "depth": {"output": "depth_m", "kind": "metres", "clamp_m": [0.2, 20], "true_at_focal_widths": 0.888},
    "licence": "MIT",
    "source": "https://github.com/dwofk/fast-depth",
}
# Types of ONNX's TensorProto.
FLOAT, UINT8, INT64, HALF = 1, 2, 7, 10
_TYPES = {np.dtype(np.float32): FLOAT, np.dtype(np.int64): INT64, np.dtype(np.float16): HALF}


def write_network(
    folder: Path,
    fields: Mapping[str, object],
    shape: Sequence[int | str] = (1, 3, "h", "w"),
    gain: float = 1.0,
    offset: float = 0.0,
    camera: tuple[str, str] | None = None,
    input_type: int = FLOAT,
    opset: int = 17,
    convolution: bool = False,
) -> Path:
    """Writes net.onnx and depth_map.yaml, and returns the folder.

    fields: of the YAML file, beside those that every test has. shape: of the input "image". camera: (name, kind) of a
    second input: a matrix multiplies the depth by its largest number, rays add their z. Outputs: "depth" (1, 1, h, w),
    "half" (1, 1, h / 2, w / 2), "three" (1, 3, h, w) and "spread", which is 0.1 everywhere. convolution: whether a
    convolution that changes nothing comes first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    is_nchw = shape[1] == 3
    channel_axis = 1 if is_nchw else 3
    constants = {"gain": np.array(gain, np.float32), "offset": np.array(offset, np.float32)}
    nodes = [("Cast", ["image"], ["floats"], {"to": FLOAT})]
    pixels = "floats"
    if convolution:
        constants["kernel"] = np.pad(np.eye(3, dtype=np.float32)[:, :, None, None], ((0, 0), (0, 0), (1, 1), (1, 1)))
        nodes.append(("Conv", ["floats", "kernel"], ["convolved"], {"pads": [1, 1, 1, 1]}))
        pixels = "convolved"
    nodes += [
        ("ReduceMean", [pixels], ["mean"], {"axes": [channel_axis], "keepdims": 1}),
        ("Mul", ["mean", "gain"], ["scaled"], {}),
        ("Add", ["scaled", "offset"], ["plain"], {}),
    ]
    inputs = {"image": (input_type, shape)}
    nodes += _camera_nodes(inputs, constants, camera)
    constants["tenth"], constants["nothing"] = np.array(0.1, np.float32), np.array(0, np.float32)
    nodes += [
        ("AveragePool", ["depth"], ["half"], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Concat", ["nothing_map", "nothing_map", "depth"], ["three"], {"axis": 1}),
        ("Add", ["nothing_map", "tenth"], ["spread"], {}),
    ]
    nodes.insert(-3, ("Mul", ["depth", "nothing"], ["nothing_map"], {}))
    if not is_nchw:
        nodes = [node for node in nodes if node[0] not in ("AveragePool", "Concat")]
    outputs = ["depth", "spread"] if not is_nchw else ["depth", "half", "three", "spread"]
    write_onnx(folder / "net.onnx", inputs, outputs, nodes, constants, opset)
    text = yaml.safe_dump({"file": "net.onnx", **fields}, sort_keys=False)
    (folder / "depth_map.yaml").write_text(text, encoding="utf-8")
    return folder


def _camera_nodes(inputs: dict, constants: dict, camera: tuple[str, str] | None) -> list[tuple]:
    if camera is None:
        return [("Identity", ["plain"], ["depth"], {})]
    name, kind = camera
    if kind == "matrix":
        inputs[name] = (FLOAT, (1, 3, 3))
        largest = ("ReduceMax", [name], ["largest"], {"keepdims": 0})
        return [largest, ("Mul", ["plain", "largest"], ["depth"], {})]
    inputs[name] = (FLOAT, (1, 3, "h", "w"))
    constants["last"] = np.array([2], np.int64)
    return [("Gather", [name, "last"], ["ray_z"], {"axis": 1}), ("Add", ["plain", "ray_z"], ["depth"], {})]


def write_onnx(
    path: Path,
    inputs: Mapping[str, tuple[int, Sequence[int | str]]],
    outputs: Sequence[str],
    nodes: Sequence[tuple[str, list[str], list[str], dict]],
    constants: Mapping[str, np.ndarray],
    opset: int = 17,
) -> None:
    """Writes an ONNX file. inputs: type and shape by name; a text in a shape is a dimension of any size.

    nodes: operator, inputs, outputs, attributes (whole numbers or lists of them). Outputs are floats of any shape.
    """
    graph = b"".join(_field(1, _node(*node)) for node in nodes) + _field(2, b"net")
    graph += b"".join(_field(5, _tensor(name, array)) for name, array in constants.items())
    graph += b"".join(_field(11, _value(name, kind, shape)) for name, (kind, shape) in inputs.items())
    graph += b"".join(_field(12, _value(name, FLOAT, None)) for name in outputs)
    path.write_bytes(_number(1, 8) + _field(7, graph) + _field(8, _number(2, opset)))


def _node(operator: str, inputs: list[str], outputs: list[str], attributes: dict) -> bytes:
    made = b"".join(_field(1, name.encode()) for name in inputs) + b"".join(_field(2, n.encode()) for n in outputs)
    for name, value in attributes.items():
        numbers = b"".join(_number(8, each) for each in value) if isinstance(value, list) else _number(3, value)
        made += _field(5, _field(1, name.encode()) + numbers + _number(20, 7 if isinstance(value, list) else 2))
    return made + _field(3, outputs[0].encode()) + _field(4, operator.encode())


def _tensor(name: str, array: np.ndarray) -> bytes:
    dims = b"".join(_number(1, size) for size in array.shape)
    return dims + _number(2, _TYPES[array.dtype]) + _field(8, name.encode()) + _field(9, array.tobytes())


def _value(name: str, kind: int, shape: Sequence[int | str] | None) -> bytes:
    tensor = _number(1, kind)
    if shape is not None:
        sizes = (_number(1, size) if isinstance(size, int) else _field(2, size.encode()) for size in shape)
        tensor += _field(2, b"".join(_field(1, size) for size in sizes))
    return _field(1, name.encode()) + _field(2, _field(1, tensor))


def _field(number: int, content: bytes) -> bytes:
    """Encodes a field of bytes, a text or a message, as protobuf does."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    made = b""
    while value > 127:
        made, value = made + struct.pack("B", value & 127 | 128), value >> 7
    return made + struct.pack("B", value)
