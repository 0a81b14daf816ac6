"""`depthlm models`: which models there are, under which licence, and where their files are or how to get them."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from depthlm_ros.errors import BadBundle
from depthlm_ros.model_files.bundle import MANIFEST
from depthlm_ros.model_files.checkpoint import bundle_folder, bundle_names, find_download, how_to_get
from depthlm_ros.model_files.hf_cache import cache_folder, download_command
from depthlm_ros.model_files.spec import ModelSpec
from depthlm_ros.model_files.spec_yaml import known_specs


@dataclass(frozen=True)
class Entry:
    """One model. folder: where it is, "" if it is not here; get: how to get it, or what is wrong with what is here;
    short: the same in a few words."""

    name: str
    title: str
    licence: str
    folder: str
    get: str
    short: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="a JSON list instead of a table")


def run(args: argparse.Namespace) -> None:
    """List the models."""
    listed = entries()
    print(json.dumps([asdict(entry) for entry in listed], indent=1) if args.json else table(listed))


def entries() -> list[Entry]:
    """All known models and all bundles of one's own."""
    specs = known_specs()
    own = [_own_bundle(name) for name in bundle_names() if name not in specs]
    return [_entry(spec) for spec in specs.values()] + own


def table(listed: list[Entry]) -> str:
    """For people: one line for each model, then what does not fit on a line."""
    rows = [("model", "weights", "licence"), *((entry.name, entry.short, entry.licence) for entry in listed)]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{name:{widths[0]}}  {short:{widths[1]}}  {licence}".rstrip() for name, short, licence in rows]
    lines += ["", f"Downloads are looked for in {cache_folder()}. A folder with weights: NAME=FOLDER."]
    return "\n".join(lines + [f"{entry.name}: {entry.get}" for entry in listed if _needs_words(entry)])


def _needs_words(entry: Entry) -> bool:
    return bool(entry.get) and not entry.short.startswith("hf ")


def _entry(spec: ModelSpec) -> Entry:
    try:
        bundle = bundle_folder(spec.name)
        download = None if bundle else find_download(spec)
    except BadBundle as exc:
        return Entry(spec.name, spec.title, spec.licence, "", str(exc), "here, but not usable")
    folder = bundle or (download and download.folder)
    if folder:
        return Entry(spec.name, spec.title, spec.licence, str(folder), "", "here" + (" (exported)" if bundle else ""))
    size = f" ({spec.download_gb:g} GB)" if spec.download_gb else ""
    short = f"{download_command(spec.hub, spec.revision)}{size}" if spec.hub else "not here"
    return Entry(spec.name, spec.title, spec.licence, "", how_to_get(spec), short)


def _own_bundle(name: str) -> Entry:
    folder = bundle_folder(name) or Path(name)
    try:
        licence = str(json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("licence", ""))
    except (OSError, ValueError, AttributeError) as exc:
        return Entry(name, "", "", "", f"{folder / MANIFEST} is damaged ({exc})", "here, but not usable")
    return Entry(name, "", licence, str(folder), "", "here (exported)")
