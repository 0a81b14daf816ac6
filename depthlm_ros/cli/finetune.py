# SPDX-License-Identifier: Apache-2.0
"""`depthlm finetune`: trains a published system by its recipe and writes a checkpoint in the released layout."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from depthlm_ros.errors import UnknownName
from depthlm_ros.model_files.install_paths import package_share_folders
from depthlm_ros.training.finetune.dataset import SkippedRecords
from depthlm_ros.training.finetune.model import find_base
from depthlm_ros.training.finetune.recipe import read_finetune_recipe
from depthlm_ros.training.finetune.run import (
    FinetuneRun,
    TrainerMaker,
    check_data,
    is_first_process,
    make_trainer,
    train,
)

RECIPES_FOLDER = Path("config") / "finetune"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help=f"{', '.join(recipe_names())}, or a file FILE.yaml")
    parser.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="JSONL",
        help="files of records, one data set each; FILE=WEIGHT gives the weight of a data set, instead of the recipe's",
    )
    parser.add_argument(
        "--model",
        help="checkpoint to start from: a model's name, its folder, or NAME=FOLDER (default: the recipe's base)",
    )
    parser.add_argument("--out", type=Path, help="folder of the run and its result (default: runs/RECIPE)")
    parser.add_argument("--resume", action="store_true", help="continue from the folder's last complete checkpoint")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting of the recipe, for example train.batch=64",
    )
    parser.add_argument("--steps", type=int, help="number of steps, instead of the recipe's samples or epochs")


def run(args: argparse.Namespace) -> int:
    path = recipe_file(args.recipe)
    recipe = read_finetune_recipe(path, args.set)
    base = find_base(recipe, args.model or recipe.base)
    finetune_run = FinetuneRun(recipe, base, tuple(args.data), args.out or Path("runs") / path.stem, args.steps)
    check_data(finetune_run)
    history = train(finetune_run, args.resume, _trainer_maker(recipe.method))
    if not is_first_process():
        return 0
    skipped = SkippedRecords()
    skipped.restore(history["left_out"])
    for line in skipped.lines():
        print(f"depthlm: {line}", file=sys.stderr)
    for file, count in history["repeated_lines"].items():
        print(
            f"depthlm: {file}: {count} lines are equal to an earlier one; each was used as a record of its own.",
            file=sys.stderr,
        )
    out = finetune_run.out
    print(f"{out}: a {recipe.model} in the released layout; run it by its folder (--model {out}).")
    return 0


def _trainer_maker(method: str) -> TrainerMaker:
    """Returns what makes the trainer. trl is needed, and imported, for reinforcement only."""
    if method == "sft":
        return make_trainer
    from depthlm_ros.training.finetune.grpo import make_grpo_trainer

    return make_grpo_trainer


def recipe_names() -> list[str]:
    """Returns the names of the installed recipes."""
    files = [path for folder in package_share_folders() for path in (folder / RECIPES_FOLDER).glob("*.yaml")]
    return sorted({path.stem for path in files})


def recipe_file(name: str) -> Path:
    """Returns the file of a recipe, by its name or its path. Raises UnknownName listing the installed recipes."""
    if name.endswith(".yaml") and Path(name).is_file():
        return Path(name)
    for folder in package_share_folders():
        path = folder / RECIPES_FOLDER / f"{name}.yaml"
        if path.is_file():
            return path
    raise UnknownName(f"recipe {name!r} is not one of {', '.join(recipe_names())}, and not a file FILE.yaml.")
