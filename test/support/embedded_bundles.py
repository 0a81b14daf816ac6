# SPDX-License-Identifier: Apache-2.0
"""Small random models of the embedded architecture (depth first), and bundles of them."""

import math
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from depthlm_ros.export.write_bundle import write_bundle
from depthlm_ros.geometry.resize_rules import CanvasRule
from depthlm_ros.model_files.bundle import ModelBundle, load_bundle
from depthlm_ros.model_files.spec import ModelSpec
from depthlm_ros.nets.depth_first import DepthFirstModel, EmbeddedConfig, build_embedded_model
from depthlm_ros.nets.depth_pyramid import DepthPyramidConfig
from support.paths import TINY

FOCAL_PX = 96.0
SMALL_EMBEDDED = EmbeddedConfig(
    encoder="lite0",
    depth=DepthPyramidConfig((16, 16, 16, 16), (1, 1, 1, 1), context_layers=1, bins=16, focal_px=FOCAL_PX),
    vocab=1536,
    width=48,
    layers=2,
    heads=2,
    heads_kv=1,
    feed_forward=64,
    semantic_channels=16,
)
CANVASES_PX = ((64, 64), (96, 64))


def random_embedded_model(config: EmbeddedConfig = SMALL_EMBEDDED, seed: int = 1) -> DepthFirstModel:
    """Returns a model whose outputs depend on every part of its inputs, unlike those after torch's initialisation."""
    torch.manual_seed(seed)
    model = build_embedded_model(config, pad_id=0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, math.sqrt(2 / fan_in))
                module.bias.normal_(0, 0.1)
        for parameter in model.vlm.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval().requires_grad_(False)


def tiny_tokenizer() -> Tokenizer:
    """Returns the tokenizer of the embedded model."""
    return Tokenizer.from_file(str(TINY / "tokenizer.json"))


def embedded_spec(name: str, canvases_px: tuple[tuple[int, int], ...] = CANVASES_PX) -> ModelSpec:
    canvas = CanvasRule(FOCAL_PX, canvases_px)
    return ModelSpec(name, "tiny", "depth_first", "qwen", canvas, 16, head="bins", licence="Apache-2.0")


def write_random_bundle(folder: Path, config: EmbeddedConfig = SMALL_EMBEDDED) -> ModelBundle:
    """Writes a random model as a bundle with its checkpoint, and loads it."""
    write_bundle(random_embedded_model(config), tiny_tokenizer(), embedded_spec(folder.name), folder)
    return load_bundle(folder)
