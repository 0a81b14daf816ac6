# SPDX-License-Identifier: Apache-2.0
"""Engines of small random models of the published architectures, with every depth head and precision.

Importing this module needs torch, transformers and onnx.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer

from depthlm_ros.export.precision import Precision, set_precision
from depthlm_ros.export.write_bundle import ExportOptions, write_engine
from depthlm_ros.geometry.resize_rules import CanvasRule
from depthlm_ros.model_files.bundle import ModelBundle, load_bundle
from depthlm_ros.model_files.spec import ModelSpec
from depthlm_ros.nets.backbone import Backbone, PixelRule
from depthlm_ros.nets.depth_heads import DptConfig, DptHead, MlpConfig, MlpHead
from depthlm_ros.nets.qwen3vl import Qwen3VLDepth
from depthlm_ros.nets.qwen25vl import Qwen25VLBackbone
from support.random_backbones import qwen3_config, qwen25_config, roughen

VOCAB, SINGLE = 512, Precision()
HEADS = {"dpt": lambda: DptHead(DptConfig(48, (8, 8, 16, 16), 16)), "mlp": lambda: MlpHead(MlpConfig(48, 32))}


def qwen3(head: str = "dpt") -> Backbone:
    """Returns a random Qwen3-VL with a head of DepthVLM, or with none. Its depth depends on the last hidden states."""
    config = qwen3_config()
    config.text_config.vocab_size = VOCAB
    config.tie_word_embeddings = True
    torch.manual_seed(1)
    model = Qwen3VLDepth(config, None)
    if head:
        model.depth_head = HEADS[head]()
    roughen(model, 0.05)
    # The depths are a few metres, where half precision has steps of millimetres.
    if head == "dpt":
        model.depth_head.out_conv3.bias.data.fill_(2.0)
    return model


def qwen25(head: str = "") -> Backbone:
    """Returns a random Qwen2.5-VL, which has no depth head."""
    config = qwen25_config()
    config.text_config.vocab_size = VOCAB
    torch.manual_seed(1)
    return roughen(Qwen25VLBackbone(config, PixelRule()), 0.05)


# Architecture -> what makes a model, sizes of its canvases, pixels of a token.
MODELS = {
    "qwen3_vl": (qwen3, ((128, 96), (96, 160)), 32),
    "qwen2_5_vl": (qwen25, ((140, 112), (112, 168)), 28),
}


def make_engine(
    folder: Path,
    tokenizer: Tokenizer,
    architecture: str = "qwen3_vl",
    precision: Precision = SINGLE,
    opset: int = 20,
    only_depth: bool = False,
    head: str = "dpt",
    sizes: int = 1,
) -> tuple[ModelBundle, Backbone, dict]:
    """Exports a model for its first canvases. Returns the engine, the same model in fp32, and the manifest."""
    make, sizes_px, token_px = MODELS[architecture]
    model, twin = make(head), make(head)
    canvas = CanvasRule(100.0, sizes_px[:sizes])
    spec = ModelSpec("small", "qwen3-vl", architecture, "qwen", canvas, token_px, head=head, system="Look.")
    options = ExportOptions(spec, opset, only_depth, set_precision(model, precision))
    manifest = write_engine(
        model.eval(), tokenizer, options, folder, lambda bundle: {}, lambda stage, done, total: None
    )
    return load_bundle(folder), twin.eval(), manifest
