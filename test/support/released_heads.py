# SPDX-License-Identifier: Apache-2.0
"""Random depth heads in the released layouts, and the published DPT head step by step."""

import torch
from torch.nn import functional as F

WIDTH = 24  # of the language model
GRID = (3, 5)


def released_dpt(projected=(8, 12, 16, 20), features=16, narrow=32, width=WIDTH):
    """Returns names and shapes of the tensors of DepthVLM's DPT head."""
    shapes = {"norm.weight": (width,), "norm.bias": (width,)}
    for i, channels in enumerate(projected):
        shapes |= {f"projects.{i}.weight": (channels, width, 1, 1), f"projects.{i}.bias": (channels,)}
        shapes[f"scratch.layer{i + 1}_rn.weight"] = (features, channels, 3, 3)
    for i, factor in enumerate((8, 4, 2)):
        channels = projected[i]
        shapes |= {
            f"resize_layers.{i}.weight": (channels, channels, factor, factor),
            f"resize_layers.{i}.bias": (channels,),
        }
    for level in (1, 2, 3, 4):
        block = f"scratch.refinenet{level}"
        shapes |= {f"{block}.out_conv.weight": (features, features, 1, 1), f"{block}.out_conv.bias": (features,)}
        for unit in ("resConfUnit1", "resConfUnit2") if level < 4 else ("resConfUnit2",):
            for conv in ("conv1", "conv2"):
                shapes[f"{block}.{unit}.{conv}.weight"] = (features, features, 3, 3)
                shapes[f"{block}.{unit}.{conv}.bias"] = (features,)
    shapes |= {
        "scratch.output_conv1.weight": (features // 2, features, 3, 3),
        "scratch.output_conv1.bias": (features // 2,),
        "scratch.output_conv2.0.weight": (narrow, features // 2, 3, 3),
        "scratch.output_conv2.0.bias": (narrow,),
        "scratch.output_conv2.2.weight": (1, narrow, 1, 1),
        "scratch.output_conv2.2.bias": (1,),
    }
    return {f"depth_head.{name}": shape for name, shape in shapes.items()}


def released_mlp(mode, hidden=20, side=32, width=WIDTH):
    """Returns names and shapes of the tensors of DepthVLM's MLP head."""
    read = 4 * width if mode == "concat" else width
    shapes = {
        "norm.weight": (read,),
        "norm.bias": (read,),
        "mlp.0.weight": (hidden, read),
        "mlp.0.bias": (hidden,),
        "mlp.2.weight": (side * side, hidden),
        "mlp.2.bias": (side * side,),
    }
    return {f"depth_head.{name}": shape for name, shape in shapes.items()}


def random_tensors(shapes):
    generator = torch.Generator().manual_seed(4)
    return {name: torch.randn(shape, generator=generator) * 0.15 for name, shape in shapes.items()}


def published_dpt(tensors, features, grid):
    """Computes the published head step by step from its own tensors."""
    w = {name.removeprefix("depth_head."): tensor for name, tensor in tensors.items()}

    def conv(x, name, **kwargs):
        return F.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), **kwargs)

    def unit(x, name):
        x.relu_()  # in place: the residual below is the rectified x
        return conv(conv(x, f"{name}.conv1", padding=1).relu_(), f"{name}.conv2", padding=1) + x

    def fuse(x, level, skip, size):
        block = f"scratch.refinenet{level}"
        if skip is not None:
            x = x + unit(skip, f"{block}.resConfUnit1")
        x = unit(x, f"{block}.resConfUnit2")
        return conv(F.interpolate(x, size=size, mode="bilinear", align_corners=True), f"{block}.out_conv")

    maps = []
    for i, tokens in enumerate(features):
        x = F.layer_norm(tokens, (tokens.shape[-1],), w["norm.weight"], w["norm.bias"])
        x = conv(x.transpose(1, 2).reshape(len(x), -1, *grid), f"projects.{i}")
        if i < 3:
            factor = (8, 4, 2)[i]
            x = F.conv_transpose2d(x, w[f"resize_layers.{i}.weight"], w[f"resize_layers.{i}.bias"], stride=factor)
        maps.append(conv(x, f"scratch.layer{i + 1}_rn", padding=1))
    rows, columns = grid
    x = fuse(maps[3], 4, None, (2 * rows, 2 * columns))
    x = fuse(x, 3, maps[2], (4 * rows, 4 * columns))
    x = fuse(x, 2, maps[1], (8 * rows, 8 * columns))
    x = fuse(x, 1, maps[0], (16 * rows, 16 * columns))
    x = conv(x, "scratch.output_conv1", padding=1)
    x = F.interpolate(x, size=(32 * rows, 32 * columns), mode="bilinear", align_corners=True)
    x = conv(conv(x, "scratch.output_conv2.0", padding=1).relu_(), "scratch.output_conv2.2")
    return F.softplus(x)[:, 0]
