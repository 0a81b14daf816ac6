"""Compares accuracy and latency of the embedded model in other sizes and with other seeds.

Each variant of the recipe is trained from random weights on the same number of pictures. Then it is exported, scored
and timed in the way in which a robot uses it.

  python bench/sizes.py --steps 250 --variants narrow middle fine
  python bench/sizes.py --steps 250 --variants chosen --seeds 7 8 9
  python bench/sizes.py --steps 0                          only times one look of each, with random weights

A step has the same number of pictures in all variants; its cost is given in seconds of CPU. Everything runs on one
thread. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from depthlm_ros.cli.train import DEFAULT_RECIPE, bundle_spec
from depthlm_ros.core import Frame
from depthlm_ros.eval.rendered_scenes import validate
from depthlm_ros.export.write_bundle import write_bundle
from depthlm_ros.families.registry import family_named
from depthlm_ros.geometry.pinhole import centred_camera
from depthlm_ros.model import Model, load_model
from depthlm_ros.training.synthetic.recipe import (
    SyntheticRecipe,
    make_model,
    make_tokenizer,
    read_prompt_tokens,
    read_synthetic_recipe,
)
from depthlm_ros.training.synthetic.trainer import SyntheticTrainer

CAMERA_PX, REPEATS = (640, 480), 30
# Layers of the vision tower -> those that feed the depth head and the language model.
DEEPSTACK = {4: (1, 2, 3), 6: (1, 3, 4), 8: (1, 3, 6)}


def resize_recipe(
    recipe: SyntheticRecipe, focal_px: float, canvas: tuple[int, int], width: int, layers: int, language_layers: int = 5
) -> SyntheticRecipe:
    """Returns the recipe with another canvas (width, height) and other towers, and without wide cameras and pairs."""
    towers = {"vision_width": width, "vision_depth": layers, "deepstack": DEEPSTACK[layers], "depth": language_layers}
    model = replace(recipe.model, **towers)
    data = replace(recipe.data, focal_px=focal_px, canvases=(canvas,), wide_share=0.0, pair_share=0.0)
    return replace(recipe, model=model, data=data)


# The canonical focal length is proportional to the canvas, so that all variants see the same field of view.
VARIANTS: dict[str, Callable[[SyntheticRecipe], SyntheticRecipe]] = {
    "coarse": lambda recipe: resize_recipe(recipe, 72.0, (96, 80), 192, 6),
    "narrow": lambda recipe: resize_recipe(recipe, 96.0, (128, 96), 128, 6),
    "shallow": lambda recipe: resize_recipe(recipe, 96.0, (128, 96), 192, 4),
    "middle": lambda recipe: resize_recipe(recipe, 96.0, (128, 96), 192, 6),
    "chosen": lambda recipe: resize_recipe(recipe, 96.0, (128, 96), 192, 8, 7),
    "wide": lambda recipe: resize_recipe(recipe, 96.0, (128, 96), 256, 6),
    "fine": lambda recipe: resize_recipe(recipe, 144.0, (192, 144), 192, 6),
}


def measure(recipe: SyntheticRecipe, tokenizer: Tokenizer, folder: Path, steps: int, images: int) -> dict[str, float]:
    """Trains, exports, times and scores one variant. Without steps it only exports and times it."""
    family = family_named(recipe.family)
    net = make_model(recipe, tokenizer)
    config = replace(recipe.train, steps=max(steps, 1), hours=0.0)
    texts = (tokenizer.to_str(), read_prompt_tokens(tokenizer))
    trainer = SyntheticTrainer(net, family, *texts, recipe.data, config, folder / "run", recipe.seed)
    began_s = time.process_time()
    if steps:
        trainer.run(workers=1, report=lambda line: None)
    step_s = (time.process_time() - began_s) / max(steps, 1)
    write_bundle(net.eval(), tokenizer, bundle_spec(recipe, trainer), folder / "bundle", provenance={})
    model = load_model(str(folder / "bundle"), backend="onnxruntime", threads=1)
    result = {
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "look_ms": 1e3 * look_seconds(model),
        "step_cpu_s": step_s,
        "pictures": trainer.step * recipe.data.batch,
    }
    if not steps:
        return result
    report = validate(model, images)
    answers = {f"{subject}_right": share.right for subject, share in report.questions.items()}
    answers["object_pointed"] = report.questions["object_distance"].pointed
    dense = {name: value for name, value in asdict(report.dense).items() if name.startswith(("delta1", "absrel"))}
    return {**result, **dense, "words_delta1": report.words.delta1, **answers}


def look_seconds(model: Model) -> float:
    """Returns the smallest seconds from a picture of the size CAMERA_PX to its depth map of the same size."""
    camera = centred_camera(CAMERA_PX, CAMERA_PX[0] * 0.9)
    image = np.random.default_rng(0).integers(0, 255, (*CAMERA_PX[::-1], 3), dtype=np.uint8)
    least = float("inf")
    for _ in range(REPEATS):
        began_s = time.perf_counter()
        model.look(Frame(image, camera)).depth()
        least = min(least, time.perf_counter() - began_s)
    return least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path(DEFAULT_RECIPE))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[7])
    parser.add_argument("--steps", type=int, default=250, help="training steps of each variant (default: %(default)s)")
    parser.add_argument("--validation-images", type=int, default=150)
    args = parser.parse_args()
    torch.set_num_threads(1)
    base = read_synthetic_recipe(args.recipe)
    tokenizer, results = make_tokenizer(base), {}
    for name in args.variants:
        for seed in args.seeds:
            recipe = replace(VARIANTS[name](base), seed=seed)
            with tempfile.TemporaryDirectory() as folder:
                scores = measure(recipe, tokenizer, Path(folder), args.steps, args.validation_images)
            results[f"{name}_{seed}"] = {key: round(value, 4) for key, value in scores.items() if value == value}
            print(f"{name:8} seed {seed}: {results[f'{name}_{seed}']}", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
