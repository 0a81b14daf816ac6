# SPDX-License-Identifier: Apache-2.0
"""A small depth-first bundle of ONNX graphs that are made by hand, so that every number in it can be foretold.

A grey image of brightness g is g / 100 + 1 metres away, with a relative standard deviation of g / 10000 + 0.05. The
model's reply to every question is the token whose id is ten times the largest depth that it has read, in metres, plus
the largest red value (g).
write_one_pass_bundle writes the same model with keys and values that come from its look graphs.
Importing this module needs onnx.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from depthlm_ros.model_files.bundle import (
    FORMAT,
    MANIFEST,
    READ_INPUTS,
    STEP_FILE,
    TOKENIZER_FILE,
    ModelBundle,
    file_digest,
    load_bundle,
    look_graph_name,
    manifest_text,
    read_graph_name,
)
from support.paths import TINY

SIZES_PX = ((64, 32), (96, 64))
TOKEN_PX, VOCABULARY = 16, 1536
BEFORE, BETWEEN, AFTER = (5, 6), (7,), (8,)
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def write_depth_first_bundle(folder: Path, **fields: object) -> ModelBundle:
    """Writes the bundle and loads it. fields: of the manifest, in place of the usual ones."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(TINY / TOKENIZER_FILE, folder)
    for size_px in SIZES_PX:
        onnx.save(look_graph(size_px), folder / look_graph_name(size_px))
        onnx.save(read_graph(size_px), folder / read_graph_name(size_px))
    onnx.save(step_graph(), folder / STEP_FILE)
    write_manifest(folder, **fields)
    return load_bundle(folder)


def write_one_pass_bundle(folder: Path, **fields: object) -> ModelBundle:
    """Writes the model as a bundle whose look graphs, of one and of two images, give depth, keys and values."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(TINY / TOKENIZER_FILE, folder)
    for size_px in SIZES_PX:
        for images in (1, 2):
            onnx.save(one_pass_graph(size_px, images), folder / look_graph_name(size_px, images))
    onnx.save(step_graph(), folder / STEP_FILE)
    write_manifest(folder, depth_first=False, **fields)
    return load_bundle(folder)


def write_manifest(folder: Path, **fields: object) -> None:
    """Writes a manifest that vouches for the files that are in the folder."""
    manifest = {
        "format": FORMAT,
        "name": "small",
        "family": "tiny",
        "architecture": "depth_first",
        "head": "dpt",
        "licence": "",
        "focal_px": 50.0,
        "depth_type": "z",
        "canvases_px": [list(size_px) for size_px in SIZES_PX],
        "pixels_per_token": TOKEN_PX,
        "chat": "qwen",
        "system": "",
        "prefix": {"before": BEFORE, "between": BETWEEN, "after": AFTER},
        "pairs": True,
        "only_depth": False,
        "depth_first": True,
        "calibration": {},
        "precision": {"backbone": "fp32"},
        "files": {path.name: file_digest(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST},
    }
    (folder / MANIFEST).write_text(manifest_text(json.loads(json.dumps(manifest | fields))))


def look_graph(size_px: tuple[int, int]) -> onnx.ModelProto:
    """Image -> depth_m, relative_std, features (the mean colours of the tokens)."""
    width, height = size_px
    nodes = [
        _node("Cast", ["image"], "floats", to=FLOAT),
        _node("ReduceMean", ["floats", "last_axis"], "grey", keepdims=0),
        _node("Div", ["grey", "hundred"], "far"),
        _node("Add", ["far", "one"], "depth_m"),
        _node("Div", ["far", "hundred"], "doubt"),
        _node("Add", ["doubt", "least_std"], "relative_std"),
        _node("Transpose", ["floats"], "planes", perm=[0, 3, 1, 2]),
        _node("AveragePool", ["planes"], "features", kernel_shape=[TOKEN_PX] * 2, strides=[TOKEN_PX] * 2),
    ]
    constants = {"last_axis": np.array([3]), "hundred": _float(100), "one": _float(1), "least_std": _float(0.05)}
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, height, width, 3])
    return _model(
        nodes, [image], [_map("depth_m", size_px), _map("relative_std", size_px), _features(size_px)], constants
    )


def read_graph(size_px: tuple[int, int], images: int = 1) -> onnx.ModelProto:
    """Features, depth and deviation of one or two images -> keys (feature, deviation), values (depth, deviation).

    The tokens of the texts are zeros.
    """
    inputs, nodes, keys, values, constants = [], [], [], [], {}
    texts = [BEFORE, *[BETWEEN] * (images - 1), AFTER]
    for index, names in enumerate(read_graph_inputs(images)):
        inputs += [_features(size_px, names[0]), *(_map(name, size_px) for name in names[1:])]
        feature, depth, deviation = (f"{name}_of_tokens" for name in names)
        nodes.append(_node("Slice", [names[0], "from", "to", "channel"], f"{names[0]}_red"))
        for name, tokens in zip(names[1:], (depth, deviation), strict=True):
            nodes.append(_node("Unsqueeze", [name, "channel"], f"{name}_plane"))
            nodes.append(
                _node(
                    "AveragePool",
                    [f"{name}_plane"],
                    f"{name}_pooled",
                    kernel_shape=[TOKEN_PX] * 2,
                    strides=[TOKEN_PX] * 2,
                )
            )
            nodes.append(_node("Reshape", [f"{name}_pooled", "as_tokens"], tokens))
        nodes.append(_node("Reshape", [f"{names[0]}_red", "as_tokens"], feature))
        for side, pair in ((keys, (feature, deviation)), (values, (depth, deviation))):
            joined = f"{'keys' if side is keys else 'values'}_{index}"
            nodes.append(_node("Concat", list(pair), joined, axis=4))
            side += [f"text_{index}", joined]
    for index, text in enumerate(texts):
        constants[f"text_{index}"] = np.zeros((1, 1, 1, len(text), 2), np.float32)
    last = f"text_{len(texts) - 1}"
    nodes += [_node("Concat", [*side, last], name, axis=3) for side, name in ((keys, "keys"), (values, "values"))]
    constants |= {"from": np.array([0]), "to": np.array([1]), "channel": np.array([1])}
    constants["as_tokens"] = np.array([1, 1, 1, -1, 1])
    length = sum(map(len, texts)) + images * (size_px[0] // TOKEN_PX) * (size_px[1] // TOKEN_PX)
    outputs = [helper.make_tensor_value_info(name, FLOAT, [1, 1, 1, length, 2]) for name in ("keys", "values")]
    return _model(nodes, inputs, outputs, constants)


def read_graph_inputs(images: int) -> tuple[tuple[str, ...], ...]:
    """Returns the names of the inputs for each image: numbered if there are two."""
    return (READ_INPUTS,) if images == 1 else tuple(tuple(f"{name}_{n}" for name in READ_INPUTS) for n in range(images))


def one_pass_graph(size_px: tuple[int, int], images: int) -> onnx.ModelProto:
    """One or two images -> depth_m of the first, keys, values: the look and read graphs in one."""
    model, names = read_graph(size_px, images), {"look_0_image": "image", "look_1_image": "second"}
    for index, inputs in enumerate(read_graph_inputs(images)):
        look = compose.add_prefix(look_graph(size_px), f"look_{index}_")
        given = [(f"look_{index}_{output}", name) for output, name in zip(READ_INPUTS, inputs, strict=True)]
        model = compose.merge_models(look, model, given)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    for value in model.graph.input:
        value.name = names[value.name]
    model.graph.node.append(_node("Identity", ["look_0_depth_m"], "depth_m"))
    model.graph.output.append(_map("depth_m", size_px))
    onnx.checker.check_model(model, full_check=True)
    return model


def step_graph() -> onnx.ModelProto:
    """Chooses the token of the largest depth in prefix_values and red in prefix_keys, for every row and every text."""
    shapes = {
        "ids": (INT64, ["n", "t"]),
        "positions": (INT64, ["n", "t"]),
        "last": (INT64, ["n"]),
        "prefix_keys": (FLOAT, [1, 1, 1, "p", 2]),
        "prefix_values": (FLOAT, [1, 1, 1, "p", 2]),
        "own_keys": (FLOAT, [1, "n", 1, "s", 2]),
        "own_values": (FLOAT, [1, "n", 1, "s", 2]),
        "own_mask": (FLOAT, ["n", "s"]),
    }
    nodes = [
        _node("Slice", ["prefix_values", "zero", "one", "last_axis"], "depths"),
        _node("ReduceMax", ["depths"], "farthest", keepdims=0),
        _node("Mul", ["farthest", "ten"], "far"),
        _node("Slice", ["prefix_keys", "zero", "one", "last_axis"], "reds"),
        _node("ReduceMax", ["reds"], "reddest", keepdims=0),
        _node("Add", ["far", "reddest"], "wanted"),
        _node("Sub", ["tokens", "wanted"], "miss"),
        _node("Mul", ["miss", "miss"], "square"),
        _node("Neg", ["square"], "score"),
        _node("Cast", ["ids"], "numbers", to=FLOAT),
        _node("Mul", ["numbers", "nothing"], "zeros"),
        _node("ReduceMax", ["zeros", "one"], "rows", keepdims=1),
        _node("Add", ["rows", "score"], "logits"),
        _node("Unsqueeze", ["zeros", "around"], "own"),
        _node("Concat", ["own", "own"], "keys", axis=4),
        _node("Concat", ["own", "own"], "values", axis=4),
    ]
    constants = {
        "zero": np.array([0]),
        "one": np.array([1]),
        "last_axis": np.array([4]),
        "around": np.array([0, 2, 4]),
        "ten": _float(10),
        "nothing": _float(0),
        "tokens": np.arange(VOCABULARY, dtype=np.float32)[None],
    }
    outputs = {"logits": ["n", VOCABULARY], "keys": [1, "n", 1, "t", 2], "values": [1, "n", 1, "t", 2]}
    return _model(
        nodes,
        [helper.make_tensor_value_info(name, *given) for name, given in shapes.items()],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()],
        constants,
    )


def grey_image(brightness: int, size_px: tuple[int, int] = SIZES_PX[0]) -> np.ndarray:
    """Returns a prompt's image, uint8 (1, h, w, 3)."""
    return np.full((1, size_px[1], size_px[0], 3), brightness, np.uint8)


def _map(name: str, size_px: tuple[int, int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, [1, size_px[1], size_px[0]])


def _features(size_px: tuple[int, int], name: str = "features") -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, [1, 3, size_px[1] // TOKEN_PX, size_px[0] // TOKEN_PX])


def _float(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def _node(operator: str, inputs: list[str], output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], name=f"{operator}_{output}", **attributes)


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray],
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model
