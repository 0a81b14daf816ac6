"""Finds models by name, and reads checkpoints as their makers released them (in Hugging Face's layout).

find_model: the model of a name, wherever it is: an exported model (bundle.py), a network for depth (depth_network.py)
    or a released checkpoint
open_checkpoint: reads and checks the folder of a released checkpoint, except for the weights themselves

Nothing is downloaded. No code of a checkpoint is run (auto_map in a config.json is never followed), and weights are
read from safetensors files only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from depthlm_ros.errors import BadBundle, UnknownName
from depthlm_ros.file_io import JsonObject
from depthlm_ros.model_files.bundle import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    ModelBundle,
    folder_fingerprint,
    load_bundle,
)
from depthlm_ros.model_files.depth_network import FAMILY, NETWORK_FILE, DepthNetwork, open_network
from depthlm_ros.model_files.hf_cache import (
    cache_folder,
    download_command,
    find_snapshot,
    has_unfinished_download,
    hub_id_of,
    is_hub_id,
    repository_folder,
)
from depthlm_ros.model_files.image_processor import apply_size_rule, read_size_rule
from depthlm_ros.model_files.install_paths import MANIFEST, engine_roots, installed_bundle, installed_bundle_names
from depthlm_ros.model_files.safetensors_files import WeightFiles, read_weight_files
from depthlm_ros.model_files.spec import ModelSpec
from depthlm_ros.model_files.spec_yaml import (
    OWN_FILE,
    find_spec,
    find_spec_file,
    list_spec_files,
    read_known_specs,
    read_spec,
)

# The field of config.json with the sizes of a model that `depthlm train` wrote. Its folder is loaded by the manifest.
EMBEDDED_FIELD = "depth_first_config"


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """A checkpoint as its makers released it. open_checkpoint has checked that its files are complete.

    spec: how the model is asked; spec.canvas holds the sizes of the checkpoint's own image processor.
    config: the fields of config.json. weights: which tensors the weight files hold.
    """

    folder: Path
    spec: ModelSpec
    config: JsonObject = field(compare=False, repr=False)
    weights: WeightFiles = field(compare=False, repr=False)

    @cached_property
    def fingerprint(self) -> str:
        """A text that changes with the checkpoint's files (see folder_fingerprint). It is computed at most once."""
        return folder_fingerprint(self.folder)


# Where a model's files are. All kinds have folder, spec and fingerprint.
ModelSource: TypeAlias = "ModelBundle | ReleasedCheckpoint | DepthNetwork"


def find_model(name: str | ModelSource) -> ModelSource:
    """Returns the model of that name, wherever it is, after a check of its files.

    name: one of
    - the name of a file in config/models, or FILE.yaml: its bundle in the engine folders, else its checkpoint in the
      local cache of Hugging Face
    - NAME=FOLDER: the weights of FOLDER, asked as the model NAME; with a depth_map.yaml in it, NAME is free
    - a folder: a bundle, a network for depth with its depth_map.yaml, or a checkpoint. A checkpoint is asked as its own
      depthlm.yaml says, else as the folder's name or its config.json tells
    - ORG/REPO: a checkpoint in the local cache of Hugging Face
    - a model that was found before, which is returned unchanged: its files are not hashed again

    Raises UnknownName; BadBundle for files that are missing or damaged, with advice; SetupError for a wrong YAML file.
    """
    if not isinstance(name, str):
        return name
    # Names come first: a folder "tiny" that happens to lie in the working directory is not the installed model.
    if bundle := installed_bundle(name):
        return load_bundle(bundle)
    if name in list_spec_files() or (name.endswith(".yaml") and Path(name).expanduser().is_file()):
        return _open_known(name)
    given = Path(name).expanduser()
    if name and given.is_dir():
        return _open_folder(given)
    model, equals, folder = name.partition("=")
    if equals:
        return _open_named_folder(model, Path(folder).expanduser())
    if is_hub_id(name):
        return _open_repository(name)
    known = ", ".join(sorted({*list_spec_files(), *installed_bundle_names()})) or "there are none"
    raise UnknownName(
        f"model {name!r} is not a known model ({known}), not a folder, and not of the form NAME=FOLDER or ORG/REPO; "
        f"looked in {', '.join(map(str, engine_roots())) or 'no engine folder'}."
    )


def find_cached_checkpoint(spec: ModelSpec) -> ReleasedCheckpoint | DepthNetwork | None:
    """Returns the model's checkpoint in the local cache, None if it was never downloaded.

    Raises BadBundle if it is incomplete.
    """
    folder = find_snapshot(spec.hub, spec.revision) if spec.hub else None
    if folder is None:
        return None
    if spec.family == FAMILY:
        return open_network(find_spec_file(spec.name), spec.name, folder)
    return open_checkpoint(folder, spec)


def download_advice(spec: ModelSpec) -> str:
    """Returns, in words, how to get the weights of a model."""
    own = "" if spec.canvas.canvases_px else f" Weights of your own: {spec.name}=FOLDER."
    if not spec.hub:
        return f"{spec.note or 'its weights are listed nowhere'}.{own}"
    size = f" about {spec.download_gb:g} GB;" if spec.download_gb else ""
    return (
        f"run `{download_command(spec.hub, spec.revision)}`;{size} licence: {spec.licence}, to be accepted at "
        f"https://huggingface.co/{spec.hub} if the download is refused. It is then found in {cache_folder()}.{own}"
    )


def open_checkpoint(folder: Path, spec: ModelSpec | None = None) -> ReleasedCheckpoint:
    """Reads a checkpoint folder and checks that its files are complete and fit each other. No weights are read.

    spec: how the model is asked; None: the folder tells. Raises BadBundle with the file and advice, and SetupError for
    a wrong depthlm.yaml in the folder.
    """
    try:
        config = read_config(folder)
        weights = read_weight_files(folder)
        spec = spec or _guess_spec(folder, config, weights.head)
        if config.get("model_type") != spec.architecture:
            raise BadBundle(
                f"{folder / CONFIG_FILE} is of the kind {config.get('model_type')!r}, but {spec.name} is "
                f"{spec.architecture!r}: name and weights do not belong together."
            )
        if not (folder / TOKENIZER_FILE).is_file():
            raise BadBundle(f"{folder} has no {TOKENIZER_FILE}: copy it from the model that was trained further.")
        canvas = apply_size_rule(spec.canvas, read_size_rule(folder))
    except BadBundle as exc:
        if not has_unfinished_download(folder):
            raise
        command = download_command(hub_id_of(folder))
        raise BadBundle(f"{exc} Its download was interrupted: `{command}` continues it.") from exc
    return ReleasedCheckpoint(folder, replace(spec, canvas=canvas), config, weights)


def read_config(folder: Path) -> JsonObject:
    """Returns the fields of a checkpoint's config.json. Raises BadBundle, also for quantised weights."""
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise BadBundle(
            f"{folder} is not a model: it has neither {MANIFEST} nor {CONFIG_FILE} nor {NETWORK_FILE} ({exc.strerror})."
        ) from exc
    except ValueError as exc:
        raise BadBundle(f"{path} is damaged ({exc}): download the checkpoint again.") from exc
    if not isinstance(config, dict):
        raise BadBundle(f"{path} holds no fields: download the checkpoint again.")
    if "quantization_config" in config:
        raise BadBundle(f"{path}: the checkpoint is quantised; only unquantised weights can be used.")
    return config


def _open_known(name: str) -> ReleasedCheckpoint | DepthNetwork:
    """Opens the model of a file in config/models, or of FILE.yaml, beside which the file of a network may lie."""
    spec = find_spec(name)
    if spec.family == FAMILY and not spec.hub and name.endswith(".yaml"):
        return open_network(find_spec_file(name), spec.name)
    return _require_download(spec)


def _open_folder(folder: Path) -> ModelSource:
    if (folder / MANIFEST).is_file():
        return load_bundle(folder)
    if (folder / NETWORK_FILE).is_file():
        return open_network(folder / NETWORK_FILE, folder.resolve().name)
    return open_checkpoint(folder)


def _require_download(spec: ModelSpec) -> ReleasedCheckpoint | DepthNetwork:
    found = find_cached_checkpoint(spec)
    if found is None:
        raise BadBundle(f"model {spec.name} is not on this machine: {download_advice(spec)}")
    return found


def _open_named_folder(name: str, folder: Path) -> ReleasedCheckpoint | DepthNetwork:
    if name and (folder / NETWORK_FILE).is_file():
        return open_network(folder / NETWORK_FILE, name)
    spec = find_spec(name)
    if not folder.is_dir():
        kind = "the ONNX file" if spec.family == FAMILY else f"a checkpoint ({CONFIG_FILE}, *.safetensors)"
        raise BadBundle(f"{name}={folder}: there is no such folder; give the folder of {kind}.")
    if spec.family == FAMILY:
        return open_network(find_spec_file(name), spec.name, folder)
    if (folder / MANIFEST).is_file():
        raise BadBundle(f"{folder} is an exported model, which knows how it is asked: name the folder without {name}=.")
    return open_checkpoint(folder, spec)


def _open_repository(hub_id: str) -> ReleasedCheckpoint | DepthNetwork:
    for spec in read_known_specs().values():
        if spec.hub == hub_id:
            return _require_download(spec)
    folder = find_snapshot(hub_id)
    if folder is None:
        raise BadBundle(
            f"{hub_id} is not in the local cache ({repository_folder(hub_id)}), and there is no folder of that name: "
            f"run `{download_command(hub_id)}`."
        )
    return open_checkpoint(folder)


def _guess_spec(folder: Path, config: JsonObject, head: str) -> ModelSpec:
    """Returns how a folder's model is asked: as its own depthlm.yaml says, else like the known repository of the same
    name, else like the only model that its architecture allows."""
    if (folder / OWN_FILE).is_file():
        return read_spec(folder / OWN_FILE)
    name = hub_id_of(folder.resolve() if folder.name in ("", ".", "..") else folder)
    for spec in read_known_specs().values():
        if spec.hub and name in (spec.hub, spec.hub.partition("/")[2]):
            return spec
    if EMBEDDED_FIELD in config:
        raise BadBundle(
            f"{folder} was written by `depthlm train`, but has no {MANIFEST}: restore it, or let `depthlm train "
            "--export-only` write the model again."
        )
    base = _base_model(config, head)
    if base is None:
        code = " (code of a checkpoint, auto_map, is never run)" if "auto_map" in config else ""
        raise BadBundle(
            f"{folder / CONFIG_FILE} is of the kind {config.get('model_type')!r}{code}, which does not tell how the "
            f"model is asked: write NAME=FOLDER, with one of {', '.join(list_spec_files())}."
        )
    return replace(find_spec(base), name=name.rpartition("/")[2], head=head, title="", licence="", hub="")


def _base_model(config: JsonObject, head: str) -> str | None:
    """Returns the name of the known model whose questions suit this architecture, None if there is none."""
    kind, vision = config.get("model_type"), config.get("vision_config")
    if kind == "qwen3_vl":
        return "depthvlm-4b" if head else "qwen3-vl-4b"
    if kind == "qwen2_5_vl":
        return "qwen2.5-vl-3b"
    if kind == "llava" and isinstance(vision, dict) and vision.get("model_type") == "pixtral":
        return "depthlm-12b"
    return None
