"""`depthlm models`: lists the models, their licences, and where their files are or how to get them."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from depthlm_ros.errors import BadBundle
from depthlm_ros.model_files.bundle import MANIFEST
from depthlm_ros.model_files.checkpoint import (
    download_advice,
    find_cached_checkpoint,
    installed_bundle,
    installed_bundle_names,
)
from depthlm_ros.model_files.depth_network import FAMILY as DEPTH_MAP
from depthlm_ros.model_files.hf_cache import cache_folder, download_command
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
    parser.add_argument("--json", action="store_true", help="a JSON list instead of a table")


def run(args: argparse.Namespace) -> None:
    """Prints the list."""
    models = list_models()
    print(json.dumps([asdict(model) for model in models], indent=1) if args.json else format_table(models))


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
        licence = str(json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("licence", ""))
    except (OSError, ValueError, AttributeError) as exc:
        return ModelListing(name, "", "", "", f"{folder / MANIFEST} is damaged ({exc})", "here, but not usable")
    return ModelListing(name, "", licence, str(folder), "", "here (exported)")
