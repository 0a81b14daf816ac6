"""Reads recipes and says what is wrong in one: the file, the field, its value and what is allowed."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from depthlm_ros.errors import SetupError
from depthlm_ros.finetune.settings import PARTS, Recipe

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
