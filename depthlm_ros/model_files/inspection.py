# SPDX-License-Identifier: Apache-2.0
"""What a model's folder holds and what is wrong with it, told in seconds, without torch and without reading weights.

inspect_model: everything that is known of a model, and one line for each problem
check_weight_names: whether the weights are those that config.json describes
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from depthlm_ros.errors import BadBundle, SetupError
from depthlm_ros.file_io import JsonObject, JsonValue
from depthlm_ros.geometry.resize_rules import CanvasRule
from depthlm_ros.model_files.bundle import CONFIG_FILE, ModelBundle
from depthlm_ros.model_files.checkpoint import (
    VLM3,
    VLM3_CHECKPOINTS,
    ModelSource,
    ReleasedCheckpoint,
    Vlm3Checkpoints,
    find_model,
    find_source,
)
from depthlm_ros.model_files.checkpoint_settings import (
    ADAPTER_FILE,
    read_adapter,
    read_config,
    read_generation,
    read_quantisation,
)
from depthlm_ros.model_files.depth_network import DepthNetwork
from depthlm_ros.model_files.hf_cache import find_snapshot, is_hub_id
from depthlm_ros.model_files.image_processor import read_size_rule
from depthlm_ros.model_files.safetensors_files import HEAD_PREFIX, TensorEntry, read_weight_files
from depthlm_ros.model_files.spec import ModelSpec
from depthlm_ros.model_files.spec_yaml import list_spec_files, read_known_specs
from depthlm_ros.model_files.tokenizer_files import check_tokens, open_tokenizer

LANGUAGE = "model.language_model."
# Architecture -> beginning of its vision tower's names, a weight of each of its layers, and the field of vision_config
# with the number of layers.
TOWERS = {
    "qwen3_vl": ("model.visual.", "blocks.{}.attn.qkv", "depth"),
    "qwen2_5_vl": ("model.visual.", "blocks.{}.attn.qkv", "depth"),
    "llava": ("model.vision_tower.", "transformer.layers.{}.attention.q_proj", "num_hidden_layers"),
}
DEPTH_TYPES = {"z": "along the optical axis (z)", "range": "from the camera's centre (range)"}


@dataclass(frozen=True)
class Inspection:
    """What is known of a model.

    facts: (name, text) in the order of reading. problems: why it cannot be run, each with a file and what to do; empty
    if it can. spec: how it is asked; None if even that is unknown.
    """

    facts: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]
    spec: ModelSpec | None


def inspect_model(name: str, tokens_of: Callable[[ModelSpec], Sequence[str]]) -> Inspection:
    """Inspects a model by its name, NAME=FOLDER, folder or hub id (find_model). Problems are not raised.

    tokens_of: returns the special tokens with which a model is asked (ChatTemplate.tokens).
    """
    if name.partition("=")[0] == VLM3:
        return _inspect_vlm3(name)
    try:
        source = find_model(name)
    except SetupError as exc:
        spec = read_known_specs().get(name.partition("=")[0])
        others = _problems_of_folder(_folder_of(name))
        return Inspection(tuple(_rules(spec)) if spec else (), tuple(dict.fromkeys([str(exc), *others])), spec)
    problems: tuple[str, ...] = ()
    if isinstance(source, ReleasedCheckpoint):
        problems = tuple(_problems_of_checkpoint(source, tokens_of(source.spec)))
    return Inspection((*_contents(source), *_rules(source.spec)), problems, source.spec)


def _inspect_vlm3(name: str) -> Inspection:
    """Inspects VLM3's checkpoints together. They can be run if one of them is here."""
    try:
        checkpoints = find_source(name)
    except SetupError as exc:
        return Inspection((), (str(exc),), None)
    assert isinstance(checkpoints, Vlm3Checkpoints)
    facts, problems = [], []
    for ability, part in VLM3_CHECKPOINTS.items():
        try:
            facts.append((part, str(checkpoints.find(ability).folder)))
        except SetupError as exc:
            facts.append((part, "not usable here"))
            problems.append(str(exc))
    return Inspection(tuple(facts), tuple(problems) if len(problems) == len(facts) else (), None)


def check_weight_names(folder: Path, config: JsonObject, tensors: Mapping[str, TensorEntry]) -> None:
    """Raises BadBundle if tensors, by their current names, are not those that config.json describes.

    Layers are counted, and some sizes are compared; the torch backend compares every tensor when it loads them.
    """
    architecture = str(config.get("model_type"))
    tower, layer, count = TOWERS.get(architecture, ("", "", ""))
    if not tower:
        return
    modules = {name.rpartition(".")[0] for name in tensors}
    expected = [f"{LANGUAGE}embed_tokens"]
    expected += [f"{LANGUAGE}layers.{i}.self_attn.q_proj" for i in range(_number(_text(config), "num_hidden_layers"))]
    expected += [f"{tower}{layer.format(i)}" for i in range(_number(_group(config, "vision_config"), count))]
    # Quantised weights have parts with other names in the same module, or one deeper.
    missing = [name for name in expected if name not in modules and not any(m.startswith(f"{name}.") for m in modules)]
    if missing:
        raise BadBundle(
            f"{folder}: the weights lack {missing[0]} ({len(missing)} of {len(expected)} layers that {CONFIG_FILE} "
            f"describes): these are not the weights of this {architecture}; download the checkpoint again."
        )
    starts = (LANGUAGE, tower, "lm_head.", HEAD_PREFIX, "model.multi_modal_projector.")
    if odd := [name for name in tensors if not name.startswith(starts)]:
        raise BadBundle(
            f"{tensors[odd[0]].path} holds {odd[0]}, which no {architecture} has: the weights are another model's; "
            f"put the right ones beside {CONFIG_FILE}."
        )
    _check_sizes(folder, config, tensors)


def _check_sizes(folder: Path, config: JsonObject, tensors: Mapping[str, TensorEntry]) -> None:
    embedding = tensors.get(f"{LANGUAGE}embed_tokens.weight")
    sizes = tuple(_number(_text(config), name) for name in ("vocab_size", "hidden_size"))
    if embedding is not None and min(sizes) > 0 and len(embedding.shape) == 2 and embedding.shape != sizes:
        raise BadBundle(
            f"{embedding.path}: the embeddings are {' x '.join(map(str, embedding.shape))}, but {folder / CONFIG_FILE} "
            f"says {' x '.join(map(str, sizes))}: weights and configuration belong to different models."
        )


def _problems_of_checkpoint(source: ReleasedCheckpoint, tokens: Sequence[str]) -> Iterator[str]:
    """Yields what opening a checkpoint does not notice. tokens: those that the tokenizer must have."""
    folder = source.folder
    checks: list[Callable[[], object]] = [
        lambda: check_weight_names(folder, source.config, source.weights.tensors),
        lambda: check_tokens(open_tokenizer(folder), tokens, folder),
    ]
    if source.quantisation is not None:
        checks.append(source.quantisation.check_libraries)
    if source.adapter is not None:
        checks.append(source.adapter.check_library)
    if source.spec.head != source.weights.head:
        checks.append(lambda: _refuse_head(source))
    yield from _messages(checks)


def _refuse_head(source: ReleasedCheckpoint) -> None:
    has, wants = source.weights.head or "no", source.spec.head or "no"
    raise BadBundle(
        f"{source.folder} has {has} depth head, but {source.spec.name} has {wants} depth head: name another model "
        "(NAME=FOLDER), or download the checkpoint again."
    )


def _problems_of_folder(folder: Path | None) -> Iterator[str]:
    """Yields the problems of each file of a checkpoint folder that cannot be opened."""
    if folder is None or not ((folder / CONFIG_FILE).is_file() or (folder / ADAPTER_FILE).is_file()):
        return
    checks: list[Callable[[], object]] = [lambda: read_adapter(folder)]
    if (folder / CONFIG_FILE).is_file():
        checks += [
            lambda: read_quantisation(folder, read_config(folder)),
            lambda: check_weight_names(folder, read_config(folder), read_weight_files(folder).tensors),
            lambda: open_tokenizer(folder),
            lambda: read_size_rule(folder),
            lambda: read_generation(folder, read_config(folder)),
        ]
    yield from _messages(checks)


def _messages(checks: list[Callable[[], object]]) -> Iterator[str]:
    for check in checks:
        try:
            check()
        except SetupError as exc:
            yield str(exc)


def _folder_of(name: str) -> Path | None:
    """Returns the folder that a name means, None if there is none."""
    given = name.partition("=")[2] or name
    folder = Path(given).expanduser()
    try:
        if not folder.is_dir() and is_hub_id(given):
            folder = find_snapshot(given) or folder
        elif given in list_spec_files() and (spec := read_known_specs()[given]).hub:
            folder = find_snapshot(spec.hub, spec.revision) or folder
    except BadBundle:
        return None
    return folder if folder.is_dir() else None


def _contents(source: ModelSource) -> Iterator[tuple[str, str]]:
    """Yields what the files are."""
    spec = source.spec
    yield "folder", str(source.folder)
    if isinstance(source, DepthNetwork):
        yield "taken for", f"{spec.name}: a network for depth ({source.path.name}), {spec.title or 'without title'}"
        return
    if isinstance(source, ModelBundle):
        sizes = ", ".join(f"{width} x {height}" for width, height in source.canvases_px)
        yield "taken for", f"{spec.name}: an exported model of family {spec.family} in {source.precision}"
        yield "images", f"{sizes} pixels{', depth only' if source.only_depth else ''}"
        return
    yield "taken for", f"{_system_of(spec)}: family {spec.family}, architecture {spec.architecture}"
    yield "weights", _weights_text(source)
    yield "depth head", spec.head or "none: depth is told in words, pixel by pixel"
    if source.adapter is not None:
        yield "adapter", f"{source.adapter.title}; it is merged on loading"
    if source.quantisation is not None:
        yield "quantised", f"{source.quantisation.method}: backend torch only"
    yield "replies", _generation_text(source)


def _system_of(spec: ModelSpec) -> str:
    """Returns the name of the known model as which a checkpoint is asked; its own name if it is like none of them."""
    known = read_known_specs()
    kind = (spec.family, spec.architecture)
    like = next((name for name, each in known.items() if (each.family, each.architecture) == kind), spec.name)
    return spec.name if spec.name in known else like


def _weights_text(source: ReleasedCheckpoint) -> str:
    tensors = source.weights.tensors.values()
    size = sum(tensor.end - tensor.begin for tensor in tensors)
    types = Counter(tensor.dtype for tensor in tensors)
    numbers = sum(math.prod(tensor.shape) for tensor in tensors)
    layers = _number(_text(source.config), "num_hidden_layers")
    named = ", ".join(kind for kind, _ in types.most_common())
    return (
        f"{size / 1e9:.2f} GB, {numbers / 1e9:.2f} G numbers of type {named}, {len(tensors)} tensors in "
        f"{len(source.weights.paths)} files" + (f", {layers} layers of language" if layers else "")
    )


def _generation_text(source: ReleasedCheckpoint) -> str:
    settings = source.spec.generation
    parts = ["greedy"]
    if settings.repetition_penalty != 1.0:
        parts.append(f"repetition penalty {settings.repetition_penalty:g}")
    if settings.stop_ids:
        parts.append(f"also ended by tokens {', '.join(map(str, settings.stop_ids))}")
    if source.generation.sampling:
        parts.append(f"sampling is not used ({', '.join(source.generation.sampling)})")
    if source.generation.unsupported:
        parts.append(f"NOT supported: {', '.join(source.generation.unsupported)}")
    return "; ".join(parts)


def _rules(spec: ModelSpec) -> Iterator[tuple[str, str]]:
    """Yields how a model is asked."""
    focal_px = spec.canvas.focal_px
    yield "focal length", f"images are resized to {focal_px:g} px" if focal_px else "images keep that of their camera"
    yield "steps", _canvas_text(spec.canvas)
    if spec.system:
        yield "system text", spec.system
    yield "depth", f"metres {DEPTH_TYPES[spec.depth_type]}"
    yield "licence", spec.licence or "not known here: see the card of the model"
    if spec.hub:
        yield "repository", spec.hub + (f" at {spec.revision}" if spec.revision else "")


def _canvas_text(rule: CanvasRule) -> str:
    """Returns the fields of a rule that differ from the defaults and are used."""
    unused = {"focal_px", *([] if rule.snap_px else ["snap_filter"])}
    defaults = {each.name: None if each.default is MISSING else each.default for each in fields(rule)}
    changed = {name: getattr(rule, name) for name in defaults if getattr(rule, name) != defaults[name]}
    return ", ".join(f"{name} {value}" for name, value in changed.items() if name not in unused) or "none"


def _text(config: JsonObject) -> JsonObject:
    """Returns the fields of the language model, which the first Qwen2.5-VL has at the top."""
    return _group(config, "text_config") or config


def _group(config: JsonObject, name: str) -> JsonObject:
    value: JsonValue = config.get(name)
    return value if isinstance(value, dict) else {}


def _number(group: JsonObject, name: str) -> int:
    """Returns a whole number, 0 where the field is missing."""
    value = group.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
