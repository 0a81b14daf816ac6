# SPDX-License-Identifier: Apache-2.0
"""Times one look of the embedded model in other sizes, with random weights, as a robot runs it (ONNX Runtime).

  python bench/sizes.py --encoders lite0 lite1 lite2 --widths 0.75 1.0 1.25 --threads 1

A width multiplies the channels of the depth decoder. All sizes are timed in turns, so that other work on the machine
slows them alike; the least time counts. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from depthlm_ros.cli.train import DEFAULT_RECIPE, bundle_spec
from depthlm_ros.core import Frame
from depthlm_ros.export.write_bundle import write_bundle
from depthlm_ros.geometry.pinhole import centred_camera
from depthlm_ros.model import Model, load_model
from depthlm_ros.nets.efficientnet_lite import VERSIONS
from depthlm_ros.training.embedded.recipe import EmbeddedRecipe, read_embedded_recipe
from depthlm_ros.training.embedded.tokenizer import train_tokenizer
from depthlm_ros.training.embedded.trainer import make_model

CAMERA_PX = (640, 480)
# Channels stay multiples of this, which attention heads and vector instructions need.
CHANNEL_STEP = 8


def resize_recipe(recipe: EmbeddedRecipe, encoder: str, width: float) -> EmbeddedRecipe:
    """Returns the recipe with another encoder and with `width` times the channels in the decoder."""
    first, second, third, last = (
        max(round(width * count / CHANNEL_STEP), 1) * CHANNEL_STEP for count in recipe.model.depth.channels
    )
    depth = replace(recipe.model.depth, channels=(first, second, third, last))
    return replace(recipe, model=replace(recipe.model, encoder=encoder, depth=depth))


def open_model(recipe: EmbeddedRecipe, folder: Path, threads: int) -> tuple[Model, int]:
    """Returns an exported model with random weights, and its number of parameters."""
    tokenizer = train_tokenizer(["How far is the chair?"], recipe.model.vocab)
    net = make_model(recipe, tokenizer, None).eval()
    write_bundle(net, tokenizer, bundle_spec(recipe), folder)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    return load_model(str(folder), backend="onnxruntime", threads=threads), parameters


def time_looks(models: Mapping[str, Model], repeats: int) -> dict[str, float]:
    """Returns the least milliseconds from a picture to its depth map of the same size, by name."""
    camera = centred_camera(CAMERA_PX, CAMERA_PX[0] * 0.9)
    image = np.random.default_rng(0).integers(0, 255, (*CAMERA_PX[::-1], 3), dtype=np.uint8)
    least_ms = dict.fromkeys(models, float("inf"))
    for _ in range(repeats):
        for name, model in models.items():
            began_s = time.perf_counter()
            model.look(Frame(image, camera)).depth(with_std=False)
            least_ms[name] = min(least_ms[name], 1e3 * (time.perf_counter() - began_s))
    return least_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path(DEFAULT_RECIPE))
    parser.add_argument("--encoders", nargs="+", choices=VERSIONS, default=list(VERSIONS))
    parser.add_argument("--widths", nargs="+", type=float, default=[0.75, 1.0, 1.25])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    base = read_embedded_recipe(args.recipe)
    models, parameters = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for encoder in args.encoders:
            for width in args.widths:
                name = f"{encoder}_x{width:g}"
                sizes = resize_recipe(base, encoder, width)
                models[name], parameters[name] = open_model(sizes, Path(folder) / name, args.threads)
        looks_ms = time_looks(models, args.repeats)
    for name, look_ms in looks_ms.items():
        print(f"{name:12} {parameters[name] / 1e6:5.1f} M parameters, {look_ms:6.1f} ms a look")
    print(
        json.dumps({name: {"parameters": parameters[name], "look_ms": round(ms, 2)} for name, ms in looks_ms.items()})
    )


if __name__ == "__main__":
    main()
