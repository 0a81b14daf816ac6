# SPDX-License-Identifier: Apache-2.0
"""`depthlm models`: lists the models, their licences, and where their files are or how to get them.

`depthlm models check MODEL` tells everything about one of them, or about a folder, and whether it can be run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from depthlm_ros.errors import BadBundle, BadQuestion, UnknownName
from depthlm_ros.families.registry import chat_named, family_named
from depthlm_ros.file_io import parse_json
from depthlm_ros.model_files.bundle import MANIFEST
from depthlm_ros.model_files.checkpoint import (
    download_advice,
    find_cached_checkpoint,
    installed_bundle,
    installed_bundle_names,
)
from depthlm_ros.model_files.depth_network import FAMILY as DEPTH_MAP
from depthlm_ros.model_files.hf_cache import cache_folder, download_command
from depthlm_ros.model_files.inspection import Inspection, inspect_model
from depthlm_ros.model_files.spec import ModelSpec
from depthlm_ros.model_files.spec_yaml import read_known_specs


@dataclass(frozen=True)
class ModelListing:
    """One model of the list.

    folder: where its files are, "" if they are missing or damaged. get: how to get the files, or what is wrong with
    them. short: `get` or the place in a few words.
    """

    name: str
    title: str
    licence: str
    folder: str
    get: str
    short: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    parser.add_argument(
        "action",
        nargs="?",
        choices=("check",),
        help="check: tell what a model or folder is taken for, how it is asked, and what is missing; without weights",
    )
    parser.add_argument("model", nargs="?", help="for check: name, NAME=FOLDER, folder or hub id")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")


def run(args: argparse.Namespace) -> None:
    """Prints the list, or what a check found. Exits with code 1 if the checked model cannot be run."""
    if args.action == "check":
        check(args.model, args.json)
        return
    models = list_models()
    print(json.dumps([asdict(model) for model in models], indent=1) if args.json else format_table(models))


def check(model: str | None, as_json: bool) -> None:
    """Prints what is known of a model. Raises UnknownName without a model, and SystemExit if it cannot be run."""
    if not model:
        raise UnknownName("name the model or the folder: depthlm models check MODEL.")
    found = inspect_model(model, lambda spec: chat_named(spec.chat).tokens)
    facts = dict([*found.facts, *describe_question(found)])
    if as_json:
        print(json.dumps({"model": model, "ready": not found.problems, **facts, "problems": found.problems}, indent=1))
    else:
        print("\n".join([*(f"{name + ':':14}{text}" for name, text in facts.items()), *describe_state(found)]))
    if found.problems:
        raise SystemExit(1)


def describe_question(found: Inspection) -> list[tuple[str, str]]:
    """Returns the question for the depth of a pixel, as (name, text), if a model is asked for it in words."""
    if found.spec is None or found.spec.head:
        return []
    try:
        prompt = family_named(found.spec.family, found.spec.most_coordinate).point_prompt(320.0, 240.0, (640, 480))
    except BadQuestion:
        return []
    marked = "; the pixel is marked by a red arrow" if prompt.markers_px else "; this pixel is the middle of an image"
    return [("question", f"{prompt.text!r}{marked}")]


def describe_state(found: Inspection) -> list[str]:
    """Returns a line for each problem, or one that says that the model can be run."""
    if found.problems:
        return [f"problem: {' '.join(problem.split())}" for problem in found.problems]
    is_checkpoint = any(name == "weights" for name, _ in found.facts)
    if is_checkpoint and importlib.util.find_spec("torch") is None:
        return ["ready: its files are complete. Backend torch runs it, in another environment: . ./env.sh torch"]
    return ["ready: its files are complete" + ("; backend torch runs it" if is_checkpoint else "")]


def list_models() -> list[ModelListing]:
    """Returns all models of config/models, then the bundles that the user made."""
    specs = read_known_specs()
    user_bundles = [_user_bundle(name) for name in installed_bundle_names() if name not in specs]
    return [_known_model(spec) for spec in specs.values()] + user_bundles


def format_table(models: list[ModelListing]) -> str:
    """Returns one line for each model, then a longer advice where one line is not enough."""
    rows = [("model", "weights", "licence"), *((model.name, model.short, model.licence) for model in models)]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{name:{widths[0]}}  {short:{widths[1]}}  {licence}".rstrip() for name, short, licence in rows]
    lines += ["", f"Downloads are searched in {cache_folder()}. Weights in another folder: NAME=FOLDER."]
    # A download command is already in the table.
    lines += [f"{model.name}: {model.get}" for model in models if model.get and not model.short.startswith("hf ")]
    return "\n".join(lines)


def _known_model(spec: ModelSpec) -> ModelListing:
    try:
        bundle = installed_bundle(spec.name)
        download = None if bundle else find_cached_checkpoint(spec)
    except BadBundle as exc:
        return ModelListing(spec.name, spec.title, spec.licence, "", str(exc), "here, but not usable")
    folder = bundle or (download and download.folder)
    if folder:
        short = "here (exported)" if bundle else "here"
        return ModelListing(spec.name, spec.title, spec.licence, str(folder), "", short)
    if spec.family == DEPTH_MAP:
        # An ONNX file that its user brings: the note says where from, and what was never tried.
        return ModelListing(spec.name, spec.title, spec.licence, "", download_advice(spec), "not here, never run here")
    size = f" ({spec.download_gb:g} GB)" if spec.download_gb else ""
    short = f"{download_command(spec.hub, spec.revision)}{size}" if spec.hub else "not here"
    return ModelListing(spec.name, spec.title, spec.licence, "", download_advice(spec), short)


def _user_bundle(name: str) -> ModelListing:
    folder = installed_bundle(name) or Path(name)
    try:
        licence = str(parse_json((folder / MANIFEST).read_text(encoding="utf-8")).get("licence", ""))
    except (OSError, ValueError, AttributeError) as exc:
        return ModelListing(name, "", "", "", f"{folder / MANIFEST} is damaged ({exc})", "here, but not usable")
    return ModelListing(name, "", licence, str(folder), "", "here (exported)")
