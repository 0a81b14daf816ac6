"""Accuracy against latency: the embedded model's recipe in other sizes and from other seeds, each trained from nothing
on the same number of pictures, then exported, scored and timed as a robot would use it.

  python bench/sizes.py --steps 250 --variants narrow middle fine
  python bench/sizes.py --steps 250 --variants chosen --seeds 7 8 9
  python bench/sizes.py --steps 0                          only one look of each, with random weights

A step is as many pictures for all; what it costs is reported in seconds of CPU. One thread. The last line is JSON.
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
from depthlm_ros.model import Model, load_model
from depthlm_ros.training.synthetic.config import canvas_camera
from depthlm_ros.training.synthetic.recipe import Recipe, affixes, make_model, make_tokenizer, read_recipe
from depthlm_ros.training.synthetic.trainer import Trainer

CAMERA_PX, REPEATS = (640, 480), 30
# Layers of the vision tower -> those that feed the depth head and the language model.
DEEPSTACK = {4: (1, 2, 3), 6: (1, 3, 4), 8: (1, 3, 6)}


def sized(
    recipe: Recipe, focal_px: float, canvas: tuple[int, int], width: int, layers: int, language_layers: int = 5
) -> Recipe:
    """The recipe with another canvas and other towers; wide cameras are left out."""
    towers = {"vision_width": width, "vision_depth": layers, "deepstack": DEEPSTACK[layers], "depth": language_layers}
    model = replace(recipe.model, **towers)
    data = replace(recipe.data, focal_px=focal_px, canvases=(canvas,), wide_share=0.0, pair_share=0.0)
    return replace(recipe, model=model, data=data)


# The canonical focal length scales with the canvas: each sees the same field of view in another resolution.
VARIANTS: dict[str, Callable[[Recipe], Recipe]] = {
    "coarse": lambda recipe: sized(recipe, 72.0, (96, 80), 192, 6),
    "narrow": lambda recipe: sized(recipe, 96.0, (128, 96), 128, 6),
    "shallow": lambda recipe: sized(recipe, 96.0, (128, 96), 192, 4),
    "middle": lambda recipe: sized(recipe, 96.0, (128, 96), 192, 6),
    "chosen": lambda recipe: sized(recipe, 96.0, (128, 96), 192, 8, 7),
    "wide": lambda recipe: sized(recipe, 96.0, (128, 96), 256, 6),
    "fine": lambda recipe: sized(recipe, 144.0, (192, 144), 192, 6),
}


def measure(recipe: Recipe, tokenizer: Tokenizer, folder: Path, steps: int, images: int) -> dict[str, float]:
    """Trains, exports, times and scores one variant."""
    family = family_named(recipe.family)
    net = make_model(recipe, tokenizer)
    config = replace(recipe.train, steps=max(steps, 1), hours=0.0)
    texts = (tokenizer.to_str(), affixes(tokenizer))
    trainer = Trainer(net, family, *texts, recipe.data, config, folder / "run", recipe.seed)
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
    """Smallest seconds of a look at a picture of CAMERA_PX, from its pixels to its depth at that size."""
    camera = canvas_camera(CAMERA_PX, CAMERA_PX[0] * 0.9)
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
    parser.add_argument("--steps", type=int, default=250, help="of training, of each (default: %(default)s)")
    parser.add_argument("--validation-images", type=int, default=150)
    args = parser.parse_args()
    torch.set_num_threads(1)
    base = read_recipe(args.recipe)
    tokenizer, results = make_tokenizer(base), {}
    for name in args.variants:
        for seed in args.seeds:
            recipe = replace(VARIANTS[name](base), seed=seed)
            with tempfile.TemporaryDirectory() as folder:
                found = measure(recipe, tokenizer, Path(folder), args.steps, args.validation_images)
            results[f"{name}_{seed}"] = {key: round(value, 4) for key, value in found.items() if value == value}
            print(f"{name:8} seed {seed}: {results[f'{name}_{seed}']}", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
