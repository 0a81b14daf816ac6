"""`depthlm train`: trains the embedded model by a recipe and writes it as a bundle with its scores."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from depthlm_ros.eval.rendered_scenes import calibrate, rendered_scores
from depthlm_ros.export.write_bundle import write_bundle
from depthlm_ros.families.registry import family_named
from depthlm_ros.file_io import write_atomically
from depthlm_ros.geometry.resize_rules import CanvasRule
from depthlm_ros.model import load_model, read_tokenizer
from depthlm_ros.model_files.bundle import find_bundle, load_bundle
from depthlm_ros.model_files.install_paths import package_share_file
from depthlm_ros.model_files.spec import ModelSpec
from depthlm_ros.nets.small_model import load_checkpoint
from depthlm_ros.training.synthetic.recipe import (
    SyntheticRecipe,
    load_or_make_tokenizer,
    make_model,
    read_prompt_tokens,
    read_synthetic_recipe,
)
from depthlm_ros.training.synthetic.trainer import SyntheticTrainer
from depthlm_ros.training.synthetic.warm_start import copy_earlier_weights

DEFAULT_RECIPE = "config/train/tiny.yaml"
SCORES_FILE = "scores_rendered.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe", type=Path, default=None, help=f"YAML file (default: the installed {DEFAULT_RECIPE})"
    )
    parser.add_argument(
        "--run",
        type=Path,
        dest="run_folder",
        default=Path("runs/tiny"),
        help="folder of the run's checkpoint; a run that is there continues (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, default=None, help="write the bundle here (default: RUN/bundle)")
    parser.add_argument("--steps", type=int, default=None, help="number of steps, instead of the recipe's")
    parser.add_argument("--seed", type=int, default=None, help="seed of weights and scenes, instead of the recipe's")
    parser.add_argument(
        "--from", dest="start_from", metavar="MODEL", help="start from this bundle's weights instead of random ones"
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=None,
        help="learning rate, instead of the recipe's; use a lower one to continue a finished run",
    )
    parser.add_argument("--hours", type=float, default=None, help="stop after this time, with the schedule complete")
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where the model is trained (default: the GPU if there is one)",
    )
    parser.add_argument("--threads", type=int, default=0, help="torch threads on the CPU (default: all)")
    parser.add_argument("--workers", type=int, default=1, help="rendering processes (default: %(default)s)")
    parser.add_argument(
        "--validation-images", type=int, default=300, help="rendered images to validate on (default: %(default)s)"
    )
    parser.add_argument("--export-only", action="store_true", help="export the run's checkpoint without more training")


def run(args: argparse.Namespace) -> int:
    recipe = override(read_synthetic_recipe(args.recipe or package_share_file(DEFAULT_RECIPE)), args)
    if args.threads:
        torch.set_num_threads(args.threads)
    earlier = load_bundle(find_bundle(args.start_from)) if args.start_from else None
    earlier_tokenizer = read_tokenizer(earlier.tokenizer_path) if earlier else None
    tokenizer = load_or_make_tokenizer(recipe, args.run_folder, earlier_tokenizer)
    model = make_model(recipe, tokenizer)
    if earlier is not None and earlier_tokenizer is not None:
        copied = copy_earlier_weights(model, tokenizer, load_checkpoint(earlier.folder), earlier_tokenizer)
        print(f"started from {earlier.folder}: {copied} tensors", flush=True)
    trainer = SyntheticTrainer(
        model,
        family_named(recipe.family),
        tokenizer.to_str(),
        read_prompt_tokens(tokenizer),
        recipe.data,
        recipe.train,
        args.run_folder,
        recipe.seed,
        args.device,
    )
    if not args.export_only:
        trainer.run(args.workers)
    export(trainer, recipe, tokenizer, args.out or args.run_folder / "bundle", args.validation_images)
    return 0


def override(recipe: SyntheticRecipe, args: argparse.Namespace) -> SyntheticRecipe:
    """Returns the recipe with the settings of the command line. Raises SetupError for a wrong value."""
    settings = {name: getattr(args, name) for name in ("steps", "hours", "learning_rate")}
    train = replace(recipe.train, **{name: value for name, value in settings.items() if value is not None})
    return replace(recipe, train=train, seed=recipe.seed if args.seed is None else args.seed)


def export(trainer: SyntheticTrainer, recipe: SyntheticRecipe, tokenizer: Tokenizer, out: Path, images: int) -> None:
    """Writes the bundle, measures its errors through the runtime path, writes them into it, and scores it."""
    model, spec, history = trainer.model.cpu().eval(), bundle_spec(recipe, trainer), provenance(recipe, trainer)
    write_bundle(model, tokenizer, spec, out, provenance=history)
    calibration = calibrate(load_model(str(out)), images)
    write_bundle(model, tokenizer, replace(spec, calibration=calibration), out, provenance=history)
    scores = rendered_scores(load_model(str(out)), images)
    write_atomically(out / SCORES_FILE, json.dumps(scores, indent=1) + "\n")
    print(json.dumps(scores))


def bundle_spec(recipe: SyntheticRecipe, trainer: SyntheticTrainer) -> ModelSpec:
    """Returns the description of the model for its manifest. Its errors are unknown until they have been measured."""
    return ModelSpec(
        name=recipe.name,
        family=recipe.family,
        architecture="qwen3_vl",
        chat="qwen",
        canvas=CanvasRule(recipe.data.focal_px, recipe.data.canvases),
        pixels_per_token=trainer.model.pixels_per_token,
        head="dpt",
        licence=recipe.licence,
    )


def provenance(recipe: SyntheticRecipe, trainer: SyntheticTrainer) -> dict[str, object]:
    """Returns how the model was made."""
    return {
        "command": "depthlm train",
        "seed": recipe.seed,
        "model": asdict(recipe.model),
        "phases": trainer.phases,
        "steps_done": trainer.step,
        "seconds": round(trainer.spent_s),
        "torch": torch.__version__,
        "data": "rendered scenes of depthlm_ros.scenes only; no photograph",
    }
