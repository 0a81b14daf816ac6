# SPDX-License-Identifier: Apache-2.0
"""Finds models by name, and reads checkpoints as their makers released them (in Hugging Face's layout).

find_model: the model of a name, wherever it is: an exported model (bundle.py), a network for depth (depth_network.py)
    or a released checkpoint
find_source: the same, and "vlm3" for the four checkpoints of VLM3 together
open_checkpoint: reads and checks the folder of a released checkpoint, except for the weights themselves

Nothing is downloaded. No code of a checkpoint is run (auto_map in a config.json is never followed), and weights are
read from safetensors files only.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from depthlm_ros.errors import BadBundle, UnknownName
from depthlm_ros.file_io import JsonObject
from depthlm_ros.model_files.bundle import CONFIG_FILE, ModelBundle, folder_fingerprint, load_bundle
from depthlm_ros.model_files.checkpoint_settings import (
    ADAPTER_FILE,
    ON_LOAD,
    Adapter,
    GenerationFile,
    Quantisation,
    read_adapter,
    read_config,
    read_generation,
    read_quantisation,
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
from depthlm_ros.model_files.tokenizer_files import check_tokenizer_files

logger = logging.getLogger(__name__)

# The field of config.json with the sizes of a model that `depthlm train` wrote. Its folder is loaded by the manifest.
EMBEDDED_FIELD = "depth_first_config"
# Families whose checkpoints were trained for one task: a further training of one of them keeps its task.
TRAINED_FAMILIES = frozenset({"depthlm", "depthvlm", "vlm3-depth", "vlm3-object", "vlm3-corr", "vlm3-pose"})

# The name of VLM3's checkpoints together, and: what a question needs -> the checkpoint that can do it.
VLM3 = "vlm3"
VLM3_CHECKPOINTS = {"points": "vlm3-depth", "questions": "vlm3-object", "match": "vlm3-corr", "pose": "vlm3-pose"}


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """A checkpoint as its makers released it. open_checkpoint has checked that its files are complete.

    folder: of the weights, the tokenizer and the image processor; the folder of an adapter can be another one.
    spec: how the model is asked; spec.canvas holds the sizes of the checkpoint's own image processor, spec.generation
    what its generation_config.json says.
    config: the fields of config.json. weights: which tensors the weight files hold; whole tensors of an adapter have
    replaced those of its base.
    generation: the whole of generation_config.json. quantisation: None for plain weights. adapter: a LoRA adapter that
    is merged into the weights on loading, None if there is none.
    """

    folder: Path
    spec: ModelSpec
    config: JsonObject = field(compare=False, repr=False)
    weights: WeightFiles = field(compare=False, repr=False)
    generation: GenerationFile = field(default_factory=GenerationFile)
    quantisation: Quantisation | None = None
    adapter: Adapter | None = None

    @cached_property
    def fingerprint(self) -> str:
        """A text that changes with the checkpoint's files (see folder_fingerprint). It is computed at most once."""
        folders = dict.fromkeys([self.folder, *([self.adapter.folder] if self.adapter else [])])
        return "-".join(map(folder_fingerprint, folders))

    def quantised(self, precision: str) -> ReleasedCheckpoint:
        """Returns the checkpoint whose weights are quantised when they are loaded. precision: of ON_LOAD.

        Raises BadBundle for weights that are quantised already, and if a library is missing.
        """
        if self.quantisation is not None:
            raise BadBundle(f"{self.quantisation.path}: the weights are quantised already: load them as they are.")
        quantisation = Quantisation(self.folder / CONFIG_FILE, "bitsandbytes", on_load=ON_LOAD[precision])
        quantisation.check_libraries()
        return replace(self, quantisation=quantisation)

    def require_plain_weights(self, task: str) -> None:
        """Raises BadBundle for quantised weights and for an adapter. task: what needs plain weights, as a verb."""
        if self.quantisation is not None:
            raise BadBundle(
                f"{self.quantisation.path}: the weights are quantised by {self.quantisation.method}: they run on "
                f"backend torch, but cannot {task}; give the unquantised checkpoint."
            )
        if self.adapter is not None:
            raise BadBundle(f"{self.adapter.title}, which cannot {task}: merge it first: {self.adapter.merge_command}")


# Where a model's files are. All kinds have folder, spec and fingerprint.
ModelSource: TypeAlias = "ModelBundle | ReleasedCheckpoint | DepthNetwork"


def find_model(name: str | ModelSource) -> ModelSource:
    """Returns the model of that name, wherever it is, after a check of its files.

    name: one of
    - the name of a file in config/models, or FILE.yaml: its bundle in the engine folders, else its checkpoint in the
      local cache of Hugging Face
    - NAME=FOLDER: the weights of FOLDER, asked as the model NAME; with a depth_map.yaml in it, NAME is free. FOLDER may
      be ORG/REPO
    - a folder: a bundle, a network for depth with its depth_map.yaml, a checkpoint, or a LoRA adapter whose base is on
      this machine. A checkpoint is asked as its own depthlm.yaml says, else as the folder's name tells, else like the
      only known system with such weights. If several systems have such weights, NAME=FOLDER is demanded: they are asked
      in different ways, and the wrong one gives wrong depth without an error
    - ORG/REPO: a checkpoint in the local cache of Hugging Face
    - a model that was found before, which is returned unchanged: its files are not hashed again

    Raises UnknownName; BadBundle for files that are missing or damaged, with advice; SetupError for a wrong YAML file.
    """
    if not isinstance(name, str):
        return name
    _check_name_is_text(name)
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


def _check_name_is_text(name: str) -> None:
    """Raises BadBundle for a path that Python cannot write as text, since the libraries that read models take text."""
    if name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name):
        return
    raise BadBundle(
        f"model {name!r}: its path is no text in the encoding of this shell, {sys.getfilesystemencoding()}: set the "
        "variable PYTHONUTF8=1 (or LC_ALL=C.UTF-8), or give the folder a name in ASCII."
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

    spec: how the model is asked; None: the folder tells. If the folder holds a LoRA adapter alone, its base is opened.
    Raises BadBundle with the file and advice, and SetupError for a wrong depthlm.yaml in the folder.
    """
    try:
        adapter = read_adapter(folder)
        base = folder if adapter is None or (folder / CONFIG_FILE).is_file() else _find_base_folder(adapter)
        return _open_files(folder, base, spec, adapter)
    except BadBundle as exc:
        if not has_unfinished_download(folder):
            raise
        command = download_command(hub_id_of(folder))
        raise BadBundle(f"{exc} Its download was interrupted: `{command}` continues it.") from exc


def _open_files(named: Path, folder: Path, spec: ModelSpec | None, adapter: Adapter | None) -> ReleasedCheckpoint:
    """Opens the weights in `folder`. named: the folder that was named, which tells how the model is asked."""
    config = read_config(folder)
    weights = read_weight_files(folder)
    quantisation = read_quantisation(folder, config)
    if adapter is not None:
        _check_adapter(adapter, folder, weights, quantisation)
        weights = replace(weights, tensors={**weights.tensors, **adapter.replaced})
    spec = spec or _guess_spec(named, folder, config, weights.head)
    if config.get("model_type") != spec.architecture:
        raise BadBundle(
            f"{folder / CONFIG_FILE} is of the kind {config.get('model_type')!r}, but {spec.name} is "
            f"{spec.architecture!r}: name and weights do not belong together."
        )
    check_tokenizer_files(folder)
    generation = read_generation(folder, config)
    if generation.unsupported:
        logger.warning(
            "%s: %s would change the replies and is not supported", folder, ", ".join(generation.unsupported)
        )
    canvas = apply_size_rule(spec.canvas, read_size_rule(folder))
    spec = replace(spec, canvas=canvas, generation=generation.settings or spec.generation)
    return ReleasedCheckpoint(folder, spec, config, weights, generation, quantisation, adapter)


def _check_adapter(adapter: Adapter, folder: Path, weights: WeightFiles, quantisation: Quantisation | None) -> None:
    """Raises BadBundle if an adapter does not belong to the weights in a folder."""
    known = {spec.hub.lower() for spec in read_known_specs().values() if spec.hub}
    here, base = hub_id_of(folder).lower(), adapter.base.lower()
    if here != base and {here, base} <= known:
        raise BadBundle(f"{adapter.title}, but the weights in {folder} are {hub_id_of(folder)}: give it its own base.")
    if quantisation is not None and adapter.folder == folder:
        raise BadBundle(
            f"{adapter.title} beside weights that are quantised by {quantisation.method}: move {ADAPTER_FILE} and the "
            f"adapter's weights into a folder of their own, and let base_model_name_or_path name {folder}."
        )
    adapter.check_base(weights.tensors, folder)
    if adapter.folder == folder:
        logger.warning(
            "%s; it is merged into the weights beside it: remove %s if they hold it already",
            adapter.title,
            ADAPTER_FILE,
        )


def _find_base_folder(adapter: Adapter) -> Path:
    """Returns the folder of an adapter's base on this machine. Raises BadBundle with the command that gets it."""
    places = [Path(adapter.base).expanduser(), adapter.folder / adapter.base] if adapter.base else []
    found = next((place for place in places if (place / CONFIG_FILE).is_file()), None)
    if found is None and is_hub_id(adapter.base):
        found = find_snapshot(adapter.base)
    if found is not None:
        return found
    get = f"`{download_command(adapter.base)}`, or " if is_hub_id(adapter.base) else ""
    raise BadBundle(
        f"{adapter.title}, and its base is not on this machine: {get}write the base's folder into "
        f"base_model_name_or_path of {adapter.folder / ADAPTER_FILE}. Merged once, it is a model by itself: "
        f"{adapter.merge_command}"
    )


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
    if not folder.is_dir() and is_hub_id(str(folder)):
        folder = find_snapshot(str(folder)) or folder
    if not folder.is_dir():
        kind = "the ONNX file" if spec.family == FAMILY else f"a checkpoint ({CONFIG_FILE}, *.safetensors)"
        raise BadBundle(f"{name}={folder}: there is no such folder; give the folder of {kind}.")
    if spec.family == FAMILY:
        return open_network(find_spec_file(name), spec.name, folder)
    if (folder / MANIFEST).is_file():
        raise BadBundle(f"{folder} is an exported model, which knows how it is asked: name the folder without {name}=.")
    found = open_checkpoint(folder, spec)
    named = _spec_of_name(folder, spec.architecture)
    if named is not None and named.name != spec.name:
        logger.warning("%s is named like %s, but it is asked as %s", folder, named.name, spec.name)
    return found


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


def _guess_spec(named: Path, folder: Path, config: JsonObject, head: str) -> ModelSpec:
    """Returns how a folder's model is asked: as its own depthlm.yaml says, else like the known model of the same name,
    else like the only known system that has such weights.

    named: the folder that was named. folder: the folder of the weights, another one for an adapter alone. Raises
    BadBundle, with the names to choose from, if several known systems have such weights.
    """
    if (named / OWN_FILE).is_file():
        return read_spec(named / OWN_FILE)
    architecture = str(config.get("model_type"))
    if spec := _spec_of_name(named, architecture):
        return spec
    if EMBEDDED_FIELD in config:
        raise BadBundle(
            f"{folder} was written by `depthlm train`, but has no {MANIFEST}: restore it, or let `depthlm train "
            "--export-only` write the model again."
        )
    names = _systems_with(config, head)
    base = _spec_of_name(folder, architecture) if folder != named else None
    if base is not None and base.family in TRAINED_FAMILIES:
        names = [base.name]
    if not names:
        code = " (code of a checkpoint, auto_map, is never run)" if "auto_map" in config else ""
        raise BadBundle(
            f"{folder / CONFIG_FILE} is of the kind {config.get('model_type')!r}{code}, which does not tell how the "
            f"model is asked: write NAME=FOLDER, with one of {', '.join(list_spec_files())}."
        )
    name = _name_of(named)
    given = name if is_hub_id(name) else named
    if len(names) > 1:
        raise BadBundle(
            f"{named} holds weights of the kind {architecture!r}, but its name does not tell of which system, and each "
            f"is asked in another way: say which, for example {names[0]}={given} ({', '.join(names)})."
        )
    logger.warning("%s is taken for %s; if it is another system, write NAME=%s", named, names[0], given)
    return replace(find_spec(names[0]), name=name.rpartition("/")[2], head=head, title="", licence="", hub="")


def _name_of(folder: Path) -> str:
    """Returns ORG/REPO for a snapshot folder of a cache, and the folder's name for any other folder."""
    return hub_id_of(folder.resolve() if folder.name in ("", ".", "..") else folder)


def _spec_of_name(folder: Path, architecture: str) -> ModelSpec | None:
    """Returns the known model of an architecture whose name or repository a folder is called after, None without."""
    name = _name_of(folder).lower()
    for spec in read_known_specs().values():
        hub = spec.hub.lower()
        if spec.architecture == architecture and name in {spec.name, hub, hub.partition("/")[2]} - {""}:
            return spec
    return None


def _systems_with(config: JsonObject, head: str) -> list[str]:
    """Returns the names of the known systems with weights of this architecture, those trained for depth first.

    Sizes of one system, which are asked alike, count once.
    """
    kind, vision = config.get("model_type"), config.get("vision_config")
    if kind == "qwen3_vl":
        return ["depthvlm-4b"] if head else ["vlm3-depth", "vlm3-object", "vlm3-corr", "vlm3-pose", "qwen3-vl-4b"]
    if kind == "qwen2_5_vl":
        return ["depthlm-3b", "qwen2.5-vl-3b"]
    if kind == "llava" and isinstance(vision, dict) and vision.get("model_type") == "pixtral":
        return ["depthlm-12b"]
    return []


@dataclass(frozen=True)
class Vlm3Checkpoints:
    """VLM3's checkpoints under one name.

    folder: holds one folder for each, named like the checkpoint (vlm3-depth or VLM3-depth); None if they are found by
    their names (find_model).
    """

    folder: Path | None = None

    @property
    def spec(self) -> ModelSpec:
        """That of the checkpoint for depth, under the name and with the abilities of all."""
        return replace(find_spec(VLM3_CHECKPOINTS["points"]), name=VLM3, family=VLM3)

    def find(self, ability: str) -> ModelSource:
        """Returns the checkpoint with one of the abilities in VLM3_CHECKPOINTS. Raises BadBundle, with advice."""
        name = VLM3_CHECKPOINTS[ability]
        if self.folder is None:
            return find_model(name)
        for folder in (self.folder / name, self.folder / name.replace(VLM3, VLM3.upper())):
            if folder.is_dir():
                return find_model(f"{name}={folder}")
        raise BadBundle(f"{self.folder} holds no folder {name}, which this question needs: put the checkpoint there.")


Source: TypeAlias = "ModelSource | Vlm3Checkpoints"


def find_source(name: str | Source) -> Source:
    """Returns where a model's files are, as checkpoint.find_model does; "vlm3" and vlm3=FOLDER are Vlm3Checkpoints."""
    if isinstance(name, Vlm3Checkpoints):
        return name
    if isinstance(name, str) and name.partition("=")[0] == VLM3:
        _, equals, text = name.partition("=")
        folder = Path(text).expanduser() if equals else None
        if folder is not None and not (text and folder.is_dir()):
            raise BadBundle(f"{name}: there is no such folder; give one that holds vlm3-depth, vlm3-object, ...")
        return Vlm3Checkpoints(folder)
    return find_model(name)
