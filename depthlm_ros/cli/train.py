"""`depthlm train`: a recipe in, a checked bundle with its scores out."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from depthlm_ros.eval.rendered_scenes import calibrate, rendered_scores
from depthlm_ros.export.write_bundle import write_bundle
from depthlm_ros.families.registry import family_named
from depthlm_ros.model import load_model, read_tokenizer
from depthlm_ros.model_files.bundle import find_bundle, load_bundle
from depthlm_ros.model_files.install_paths import shared_file
from depthlm_ros.model_files.spec import CanvasRule, ModelSpec
from depthlm_ros.nets.checkpoint import load_checkpoint
from depthlm_ros.training.synthetic.recipe import Recipe, affixes, make_model, make_tokenizer, read_recipe
from depthlm_ros.training.synthetic.trainer import Trainer
from depthlm_ros.training.synthetic.warm_start import start_from

DEFAULT_RECIPE = "config/train/tiny.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe", type=Path, default=None, help=f"YAML file (default: the installed {DEFAULT_RECIPE})"
    )
    parser.add_argument(
        "--run", type=Path, dest="run_folder", default=Path("runs/tiny"), help="folder of checkpoints; resumes from it"
    )
    parser.add_argument("--out", type=Path, default=None, help="write the bundle here (default: RUN/bundle)")
    parser.add_argument("--steps", type=int, default=None, help="override the recipe's number of steps")
    parser.add_argument("--seed", type=int, default=None, help="override the recipe's: other weights, other scenes")
    parser.add_argument(
        "--from", dest="start_from", metavar="MODEL", help="start from this bundle's weights instead of random ones"
    )
    parser.add_argument("--learning-rate", type=float, default=None, help="override the recipe's: lower to go on")
    parser.add_argument("--hours", type=float, default=None, help="stop (with the schedule complete) after this long")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="torch threads on the CPU (default: all)")
    parser.add_argument("--workers", type=int, default=1, help="rendering processes")
    parser.add_argument("--validation-images", type=int, default=300)
    parser.add_argument("--export-only", action="store_true", help="export the run's checkpoint without training on")


def run(args: argparse.Namespace) -> int:
    recipe = read_recipe(args.recipe or shared_file(DEFAULT_RECIPE))
    changes = {
        name: getattr(args, name) for name in ("steps", "hours", "learning_rate") if getattr(args, name) is not None
    }
    recipe = replace(recipe, train=replace(recipe.train, **changes))
    if args.seed is not None:
        recipe = replace(recipe, seed=args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    earlier = load_bundle(find_bundle(args.start_from)) if args.start_from else None
    words = read_tokenizer(earlier.tokenizer_path) if earlier else None
    tokenizer = run_tokenizer(recipe, args.run_folder, words)
    family = family_named(recipe.family)
    model = make_model(recipe, tokenizer)
    if earlier is not None and words is not None:
        copied = start_from(model, tokenizer, load_checkpoint(earlier.folder), words)
        print(f"started from {earlier.folder}: {copied} tensors", flush=True)
    trainer = Trainer(
        model,
        family,
        tokenizer.to_str(),
        affixes(tokenizer),
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


def run_tokenizer(recipe: Recipe, folder: Path, earlier: Tokenizer | None) -> Tokenizer:
    """The run's tokenizer, kept beside the checkpoint: that of the model it starts from, as long as the recipe has room
    for all its words, else learnt from the recipe's own texts."""
    path = folder / "tokenizer.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        kept = earlier if earlier is not None and earlier.get_vocab_size() <= recipe.model.vocab else None
        (kept or make_tokenizer(recipe)).save(str(path))
    return Tokenizer.from_file(str(path))


def export(trainer: Trainer, recipe: Recipe, tokenizer: Tokenizer, out: Path, images: int) -> None:
    """Writes the bundle, learns through the runtime path how large its errors are, writes that down, and scores it."""
    model, spec, done = trainer.model.cpu().eval(), bundle_spec(recipe, trainer), provenance(recipe, trainer)
    write_bundle(model, tokenizer, spec, out, provenance=done)
    calibration = calibrate(load_model(str(out)), images)
    write_bundle(model, tokenizer, replace(spec, calibration=calibration), out, provenance=done)
    exported = load_model(str(out))
    scores = rendered_scores(exported, images)
    (out / "scores_rendered.json").write_text(json.dumps(scores, indent=1) + "\n")
    print(json.dumps(scores))


def bundle_spec(recipe: Recipe, trainer: Trainer) -> ModelSpec:
    """What the manifest says; its errors are unknown until they have been measured."""
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


def provenance(recipe: Recipe, trainer: Trainer) -> dict[str, Any]:
    """How the model was made."""
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
