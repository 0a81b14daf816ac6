"""Where a model's files are: a bundle of ours, or a checkpoint as its makers released it.

Nothing is downloaded, no code of a checkpoint is run (auto_map of a config.json is never followed), and weights come
from safetensors only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from depthlm_ros.errors import BadBundle, UnknownName
from depthlm_ros.model_files.bundle import MANIFEST, Bundle, engine_roots, load_bundle
from depthlm_ros.model_files.hf_cache import (
    cache_folder,
    download_command,
    hub_id_of,
    is_hub_id,
    repository_folder,
    snapshot,
    unfinished,
)
from depthlm_ros.model_files.image_processor import read_size_rule, settled
from depthlm_ros.model_files.safetensors_files import Shards, read_shards
from depthlm_ros.model_files.spec import ModelSpec
from depthlm_ros.model_files.spec_yaml import OWN_FILE, known_specs, read_spec, spec_files, spec_named

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
# config.json of what `depthlm train` writes has this field; such a folder is run by its manifest.
OWN_HEAD = "depth_head_config"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as its makers released it (Hugging Face's layout), whole as far as can be told without reading its
    weights. spec: how it is asked; spec.canvas holds the sizes of the checkpoint's own image processor."""

    folder: Path
    spec: ModelSpec


def find_model(name: str) -> Bundle | Checkpoint:
    """The model of that name, wherever it is.

    name: of a YAML in config/models (or FILE.yaml): its bundle in the engine folders, else its checkpoint in the local
    cache of Hugging Face; NAME=FOLDER: asked as NAME, with the weights of FOLDER; a folder: a bundle or a checkpoint,
    the latter asked as its own depthlm.yaml says, else as its name or its config.json tells; ORG/REPO: a checkpoint in
    the cache. Raises UnknownName, BadBundle (not there, or not whole: says what to do), SetupError (a YAML is wrong).
    """
    # Names first: a folder "tiny" that happens to lie in the working directory is not the installed model.
    if bundle := bundle_folder(name):
        return load_bundle(bundle)
    if _is_spec(name):
        return _cached(spec_named(name))
    given, known = Path(name).expanduser(), name.partition("=")
    if name and given.is_dir():
        return load_bundle(given) if (given / MANIFEST).is_file() else _checkpoint(given, None)
    if known[1]:
        return _named_folder(known[0], Path(known[2]).expanduser())
    if is_hub_id(name):
        return _from_hub(name)
    known_names = ", ".join(sorted({*spec_files(), *bundle_names()})) or "there are none"
    raise UnknownName(
        f"model {name!r} is no known model ({known_names}), no folder, and not of the form NAME=FOLDER or ORG/REPO; "
        f"looked in {', '.join(map(str, engine_roots())) or 'no engine folder'}."
    )


def bundle_folder(name: str) -> Path | None:
    """Folder of the bundle of that name in the engine folders."""
    plain = bool(name) and Path(name).name == name
    folders = (root / name for root in engine_roots() if plain and (root / name / MANIFEST).is_file())
    return next(folders, None)


def find_download(spec: ModelSpec) -> Checkpoint | None:
    """The model's checkpoint in the local cache, None where it was never downloaded. Raises BadBundle if not whole."""
    folder = snapshot(spec.hub, spec.revision) if spec.hub else None
    return None if folder is None else _checkpoint(folder, spec)


def bundle_names() -> list[str]:
    """Names of all bundles in the engine folders."""
    return sorted({path.parent.name for root in engine_roots() for path in root.glob(f"*/{MANIFEST}")})


def how_to_get(spec: ModelSpec) -> str:
    """What to do for a model whose files are not here."""
    own = "" if spec.canvas.canvases_px else f" Weights of your own: {spec.name}=FOLDER."
    if not spec.hub:
        return f"{spec.note or 'its weights are listed nowhere'}.{own}"
    size = f" about {spec.download_gb:g} GB;" if spec.download_gb else ""
    return (
        f"run `{download_command(spec.hub, spec.revision)}`;{size} licence: {spec.licence}, to be accepted at "
        f"https://huggingface.co/{spec.hub} if the download is refused. It is then found in {cache_folder()}.{own}"
    )


def _is_spec(name: str) -> bool:
    return name in spec_files() or (name.endswith(".yaml") and Path(name).expanduser().is_file())


def _cached(spec: ModelSpec) -> Checkpoint:
    found = find_download(spec)
    if found is None:
        raise BadBundle(f"model {spec.name} is not here: {how_to_get(spec)}")
    return found


def _named_folder(name: str, folder: Path) -> Checkpoint:
    spec = spec_named(name)
    if not folder.is_dir():
        raise BadBundle(
            f"{name}={folder}: there is no such folder; give that of a checkpoint ({CONFIG}, *.safetensors)."
        )
    if (folder / MANIFEST).is_file():
        raise BadBundle(f"{folder} is an exported model, which knows how it is asked: name the folder without {name}=.")
    return _checkpoint(folder, spec)


def _from_hub(hub_id: str) -> Checkpoint:
    for spec in known_specs().values():
        if spec.hub == hub_id:
            return _cached(spec)
    folder = snapshot(hub_id)
    if folder is None:
        raise BadBundle(
            f"{hub_id} is not in the local cache ({repository_folder(hub_id)}), and no folder of that name is here: "
            f"run `{download_command(hub_id)}`."
        )
    return _checkpoint(folder, None)


def _checkpoint(folder: Path, spec: ModelSpec | None) -> Checkpoint:
    """Checks a folder. spec None: from the folder itself."""
    try:
        facts = _read_config(folder)
        shards = read_shards(folder)
        spec = spec or _spec_of(folder, facts, shards)
        if facts.get("model_type") != spec.architecture:
            raise BadBundle(
                f"{folder / CONFIG} is of the kind {facts.get('model_type')!r}, but {spec.name} is "
                f"{spec.architecture!r}: name and weights do not belong together."
            )
        if not (folder / TOKENIZER).is_file():
            raise BadBundle(f"{folder} has no {TOKENIZER}: copy it from the model that was trained further.")
        canvas = settled(spec.canvas, read_size_rule(folder))
    except BadBundle as exc:
        if not unfinished(folder):
            raise
        again = download_command(hub_id_of(folder))
        raise BadBundle(f"{exc} Its download was broken off: `{again}` goes on where it stopped.") from exc
    return Checkpoint(folder, replace(spec, canvas=canvas))


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise BadBundle(f"{folder} is no model: it has neither {MANIFEST} nor {CONFIG} ({exc.strerror}).") from exc
    except ValueError as exc:
        raise BadBundle(f"{path} is damaged ({exc}): download the checkpoint again.") from exc
    if not isinstance(facts, dict):
        raise BadBundle(f"{path} holds no fields: download the checkpoint again.")
    return facts


def _spec_of(folder: Path, facts: dict[str, Any], shards: Shards) -> ModelSpec:
    """How a folder's model is asked: its own depthlm.yaml, else a known repository's name, else what it can only be."""
    if (folder / OWN_FILE).is_file():
        return read_spec(folder / OWN_FILE)
    name = hub_id_of(folder.resolve() if folder.name in ("", ".", "..") else folder)
    for spec in known_specs().values():
        if spec.hub and name in (spec.hub, spec.hub.partition("/")[2]):
            return spec
    if OWN_HEAD in facts:
        raise BadBundle(
            f"{folder} is what `depthlm train` writes, without its {MANIFEST}: restore it, or let `depthlm train "
            "--export-only` write the model again."
        )
    like = _like(facts, shards.head)
    if like is None:
        code = " (code of a checkpoint, auto_map, is never run)" if "auto_map" in facts else ""
        raise BadBundle(
            f"{folder / CONFIG} is of the kind {facts.get('model_type')!r}{code}, which does not tell how the model is "
            f"asked: say it as NAME=FOLDER, with one of {', '.join(spec_files())}."
        )
    return replace(spec_named(like), name=name.rpartition("/")[2], head=shards.head, title="", licence="", hub="")


def _like(facts: dict[str, Any], head: str) -> str | None:
    """Name of a model that is asked as these weights are, as far as their architecture tells."""
    kind, vision = facts.get("model_type"), facts.get("vision_config")
    if kind == "qwen3_vl":
        return "depthvlm-4b" if head else "qwen3-vl-4b"
    if kind == "qwen2_5_vl":
        return "qwen2.5-vl-3b"
    if kind == "llava" and isinstance(vision, dict) and vision.get("model_type") == "pixtral":
        return "depthlm-12b"
    return None
