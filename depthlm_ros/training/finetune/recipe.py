"""A recipe: what is trained from what, on which data and how. One YAML file each in config/train/.

Reads recipes and says what is wrong in one: the file, the field, its value and what is allowed.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from depthlm_ros.errors import SetupError

Span = tuple[float, float]
PARTS = ("vision", "language", "head")


@dataclass(frozen=True)
class DataSettings:
    """What is shown. Names of data sets are parts of the paths of the files (the first that occurs counts).

    mixture: "weights": the data set is drawn by its weight, then an image of it; "concatenate": every image once an
    epoch. weights: by name; empty: all the same. nominal: an epoch's samples per image, of "weights". held_out: by
    name, the share of records, the last after a shuffle, that is never shown. crop_height_px, crop_width_px: ranges of
    the random crop about the image's centre, None for none. stretch: by name, the range of width / height to which such
    an image is brought instead of cropped. centre_crop_px: by name, the most that is left of each axis. depth_type:
    what metres in replies and maps mean; "label": what the labels mean, mixed as they are. labels_mean: by name, what
    the labels mean where a file says it wrongly. images, depths: what paths in the files are relative to, "" for the
    files themselves. questions: about each image (or pair), at most. Caps of depth come with the records
    (data/caps.py).
    """

    mixture: str = "weights"
    weights: Mapping[str, float] = field(default_factory=dict)
    nominal: int = 1
    held_out: Mapping[str, float] = field(default_factory=dict)
    crop_height_px: Span | None = None
    crop_width_px: Span | None = None
    stretch: Mapping[str, Span] = field(default_factory=dict)
    centre_crop_px: Mapping[str, int] = field(default_factory=dict)
    depth_type: str = "z"
    labels_mean: Mapping[str, str] = field(default_factory=dict)
    images: str = ""
    depths: str = ""
    questions: int = 1


@dataclass(frozen=True)
class TextSettings:
    """How questions and replies become tokens.

    loss_on: the tokens that are learnt: "all" but those of the image, all "after_image", or the "reply" and its end.
    trailing_header: a reply is followed by the header of the next one. layout: several questions are "packed" behind
    one image without seeing each other, or are the "turns" of one conversation. sequence_tokens: longer rows are passed
    over. answers: whether replies are shown at all.
    """

    loss_on: str = "reply"
    trailing_header: bool = False
    layout: str = "packed"
    sequence_tokens: int = 4096
    answers: bool = True


@dataclass(frozen=True)
class TrainSettings:
    """How it is trained. batch: images (or pairs) per step over all devices; batch_per_device: at a time.

    samples or epochs: how long, the other one 0. learning_rate_batch: where not 0, the rate is scaled with
    sqrt(batch / learning_rate_batch). trains: of "vision", "language", "head"; head: DepthVLM's head, "" for none.
    fsdp: how weights are sharded where there are several processes. deterministic: slower, but a resumed run on a GPU
    is the same run too.
    """

    learning_rate: float
    batch: int
    batch_per_device: int
    samples: int = 0
    epochs: float = 0.0
    learning_rate_batch: int = 0
    schedule: str = "cosine"
    warmup: float = 0.1
    clip: float = 1.0
    weight_decay: float = 0.0
    depth_weight: float = 1.0
    trains: tuple[str, ...] = PARTS
    head: str = ""
    bf16: bool = True
    gradient_checkpointing: bool = True
    fsdp: str = "full"
    attention: str = "sdpa"
    deterministic: bool = True
    save_every: int = 500
    keep: int = 2
    log_every: int = 10
    workers: int = 4


@dataclass(frozen=True)
class FocalSettings:
    """For images without intrinsics. estimator: "auto" (Exif data, then the lines in the image), "exif", or
    package.module:name of a callable that makes a FocalEstimator. fallback_fov_deg: field of view along the longer
    side, where an image file says nothing."""

    estimator: str = "auto"
    fallback_fov_deg: float = 60.0


@dataclass(frozen=True)
class GrpoSettings:
    """Group-relative policy optimisation (trl). reward: of a reply; worst_m: the error that counts for a reply that
    cannot be read, and the largest that counts at all; beta: weight of the divergence from the start."""

    reward: str = "l1"
    worst_m: float = 80.0
    generations: int = 8
    reply_tokens: int = 64
    temperature: float = 1.0
    beta: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """model: name in config/models of what is made, whose prompts, sizes and focal length hold; base: of the checkpoint
    that it starts from. system: the system message in training, None for that of the model."""

    task: str
    model: str
    base: str
    train: TrainSettings
    method: str = "sft"
    seed: int = 42
    system: str | None = None
    data: DataSettings = DataSettings()
    text: TextSettings = TextSettings()
    focal: FocalSettings = FocalSettings()
    grpo: GrpoSettings = GrpoSettings()


def named(table: Mapping[str, Any], *paths: Path) -> Any | None:
    """The entry of a table by data set for files: that of the first name that occurs in one of the paths."""
    text = " ".join(map(str, paths)).lower()
    return next((value for name, value in table.items() if name.lower() in text), None)


# The least that a number may be, where something is.
LEAST = {
    "seed": 0,
    "data.questions": 1,
    "data.nominal": 1,
    "text.sequence_tokens": 1,
    "train.batch": 1,
    "train.batch_per_device": 1,
    "train.learning_rate": 0,
    "train.learning_rate_batch": 0,
    "train.samples": 0,
    "train.epochs": 0,
    "train.warmup": 0,
    "train.clip": 0,
    "train.weight_decay": 0,
    "train.depth_weight": 0,
    "train.save_every": 1,
    "train.keep": 1,
    "train.log_every": 1,
    "train.workers": 0,
    "grpo.generations": 2,
    "grpo.reply_tokens": 1,
    "grpo.temperature": 0,
    "grpo.beta": 0,
    "grpo.worst_m": 0,
}
CHOICES = {
    "task": ("depthlm", "depthvlm", "vlm3-depth", "vlm3-object", "vlm3-corr", "vlm3-pose"),
    "method": ("sft", "grpo"),
    "data.mixture": ("weights", "concatenate"),
    "data.depth_type": ("z", "range", "label"),
    "text.loss_on": ("all", "after_image", "reply"),
    "text.layout": ("packed", "turns"),
    "train.schedule": ("cosine", "linear", "constant", "constant_with_warmup"),
    "train.attention": ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"),
    "train.fsdp": ("full", "hybrid", "none"),
    "train.head": ("", "dpt", "mlp"),
    "grpo.reward": ("l1", "absrel", "delta1"),
}


def read_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """The recipe of a file. changes: "group.field=value" each, value as YAML.

    Raises SetupError naming the file, the field, its value and what is allowed.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise SetupError(f"recipe {path} is unusable: {' '.join(str(exc).split())}.") from exc
    if not isinstance(raw, dict):
        raise SetupError(f"recipe {path} holds no fields, but those of a recipe are needed: {_names(Recipe)}.")
    for change in changes:
        _apply(raw, change)
    return checked(_build(Recipe, raw, str(path), ""), str(path))


def checked(recipe: Recipe, where: str) -> Recipe:
    """The recipe, if its fields go together. Raises SetupError."""
    train = recipe.train
    if unknown := set(train.trains) - set(PARTS):
        raise SetupError(f"{where}: train.trains has {sorted(unknown)}: parts are {', '.join(PARTS)}.")
    if (train.samples > 0) == (train.epochs > 0):
        raise SetupError(f"{where}: give train.samples or train.epochs, one of them, and not 0.")
    if "head" in train.trains and not train.head:
        recipe = replace(recipe, train=replace(train, trains=tuple(part for part in train.trains if part != "head")))
    if recipe.text.layout == "packed" and train.attention not in ("sdpa", "eager"):
        raise SetupError(
            f"{where}: text.layout: packed needs a mask that train.attention: {train.attention} does not take: use "
            "sdpa, or layout: turns."
        )
    return recipe


def _apply(raw: dict[str, Any], change: str) -> None:
    name, given, value = change.partition("=")
    if not given:
        raise SetupError(f"--set {change}: write it as group.field=value, for example train.batch=64.")
    *groups, last = name.strip().split(".")
    for group in groups:
        raw = raw.setdefault(group, {})
        if not isinstance(raw, dict):
            raise SetupError(f"--set {change}: {group} is a value, not a group of fields.")
    try:
        raw[last] = yaml.safe_load(value)
    except yaml.YAMLError as exc:
        raise SetupError(f"--set {change}: the value cannot be read ({' '.join(str(exc).split())}).") from exc


def _build(kind: type, raw: Mapping[str, Any], where: str, group: str) -> Any:
    """A dataclass of checked values; group: "data." within a group, else ""."""
    hints = typing.get_type_hints(kind)
    for key in raw:
        if key not in hints:
            raise SetupError(f"{where}: there is no field {group}{key}; there are {_names(kind)}.")
    for one in fields(kind):
        if one.default is MISSING and one.default_factory is MISSING and one.name not in raw:
            raise SetupError(f"{where}: {group}{one.name} is missing.")
    return kind(**{key: _value(hints[key], value, where, group + key) for key, value in raw.items()})


def _value(hint: Any, value: Any, where: str, name: str) -> Any:
    if is_dataclass(hint) and isinstance(value, dict):
        return _build(typing.cast(type, hint), value, where, f"{name}.")
    try:
        found = _typed(hint, value)
    except (TypeError, ValueError) as exc:
        raise SetupError(f"{where}: {name} is {value!r}: {_words(hint)} is needed.") from exc
    if name in CHOICES and found not in CHOICES[name]:
        raise SetupError(f"{where}: {name} is {value!r}: it must be one of {', '.join(map(repr, CHOICES[name]))}.")
    if name in LEAST and not found >= LEAST[name]:
        raise SetupError(f"{where}: {name} is {value!r}: at least {LEAST[name]} is needed.")
    return found


def _typed(hint: Any, value: Any) -> Any:
    """The value as the type says; raises TypeError or ValueError if it is none."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return None if value is None and type(None) in inner else _typed(inner[0], value)
    if origin is tuple:
        kinds = inner[:1] * len(value) if Ellipsis in inner else inner
        if not isinstance(value, list) or len(value) != len(kinds):
            raise TypeError
        return tuple(_typed(kind, item) for kind, item in zip(kinds, value, strict=True))
    if origin is not None:
        return {str(key): _typed(inner[1], item) for key, item in dict(value).items()}
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        return float(value)  # YAML 1.1 takes 1e-5 for a text
    if type(value) is not hint:
        raise TypeError
    return value


def _words(hint: Any) -> str:
    return str(getattr(hint, "__name__", hint)) if typing.get_origin(hint) is None else str(hint)


def _names(kind: type) -> str:
    return ", ".join(one.name for one in fields(kind))
