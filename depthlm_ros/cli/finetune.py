"""`depthlm finetune`: a published recipe, data, a base checkpoint -> a checkpoint in the released layout."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from depthlm_ros.errors import UnknownName
from depthlm_ros.model_files.install_paths import share_folders
from depthlm_ros.training.finetune.dataset import LeftOut
from depthlm_ros.training.finetune.model import find_base
from depthlm_ros.training.finetune.recipe import read_recipe
from depthlm_ros.training.finetune.run import MakeTeacher, Run, check_data, is_first_process, make_teacher, train

RECIPES = Path("config") / "train"
TASK = re.compile(r"^task:", re.MULTILINE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help=f"{', '.join(recipes())}, or a file FILE.yaml")
    parser.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="JSONL",
        help="files of records, one data set each; FILE=WEIGHT gives a weight that the recipe does not know",
    )
    parser.add_argument(
        "--model", help="where to start: a model's name, its folder, or NAME=FOLDER (default: the recipe's base)"
    )
    parser.add_argument("--out", type=Path, help="folder of the run and of what it makes (default: runs/RECIPE)")
    parser.add_argument("--resume", action="store_true", help="go on from the last whole checkpoint in the folder")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="another value, such as train.batch=64"
    )
    parser.add_argument("--steps", type=int, help="steps to train, instead of the recipe's samples or epochs")


def run(args: argparse.Namespace) -> int:
    path = recipe_file(args.recipe)
    recipe = read_recipe(path, args.set)
    base = find_base(recipe, args.model or recipe.base)
    made = Run(recipe, base, tuple(args.data), args.out or Path("runs") / path.stem, args.steps)
    check_data(made)
    history = train(made, args.resume, _maker(recipe.method))
    if not is_first_process():
        return 0
    for line in LeftOut(**history["left_out"]).lines():
        print(f"depthlm: {line}", file=sys.stderr)
    for file, count in history["repeated_lines"].items():
        print(
            f"depthlm: {file}: {count} lines equal an earlier one; each was shown as a record of its own.",
            file=sys.stderr,
        )
    print(f"{made.out}: a {recipe.model} in the released layout; run it by its folder (--model {made.out}).")
    return 0


def _maker(method: str) -> MakeTeacher:
    """trl is needed, and imported, for reinforcement only."""
    if method == "sft":
        return make_teacher
    from depthlm_ros.training.finetune.grpo import make_grpo

    return make_grpo


def recipes() -> list[str]:
    """Names of the recipes that are installed; those of the embedded model's trainer name no task."""
    paths = [path for folder in share_folders() for path in (folder / RECIPES).glob("*.yaml")]
    return sorted({path.stem for path in paths if TASK.search(path.read_text(encoding="utf-8"))})


def recipe_file(name: str) -> Path:
    """Raises UnknownName listing the recipes that there are."""
    if name.endswith(".yaml") and Path(name).is_file():
        return Path(name)
    for folder in share_folders():
        path = folder / RECIPES / f"{name}.yaml"
        if name in recipes() and path.is_file():
            return path
    raise UnknownName(f"recipe {name!r} is not one of {', '.join(recipes())}, and no file FILE.yaml.")
