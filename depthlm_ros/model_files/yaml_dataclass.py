# SPDX-License-Identifier: Apache-2.0
"""Reads YAML files into dataclasses: models and the recipes of both trainings.

    build_dataclass(Recipe, read_yaml(path, "recipe"), str(path), choices={"train.fsdp": ("full", "none")})

The types of a dataclass say what its fields may hold: texts, numbers, booleans, other dataclasses ("groups"), tuples,
mappings, and any of these or None. Errors name the file, the field, its value and what is allowed. Fields inside a
group are named "group.field".
"""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

import yaml

from depthlm_ros.errors import SetupError, UnknownName
from depthlm_ros.model_files.bounded_files import MAX_FIELDS_BYTES, check_size

Limits = tuple[float, float]

# YAML 1.1 reads 3e-4 and 1.5e3 as text: its numbers need a point and a sign.
EXPONENT_FORM = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
UNLIMITED: Limits = (-math.inf, math.inf)


class DataclassInstance(Protocol):
    """An instance of any dataclass, as `dataclasses.fields` takes it."""

    __dataclass_fields__: ClassVar[dict[str, Field[object]]]


T = TypeVar("T", bound=DataclassInstance)


MAX_YAML_DEPTH = 50


class _PlainLoader(yaml.SafeLoader):
    """Refuses aliases, of which ten lines can stand for a billion values, and deep nesting, which takes hours."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read: write the values out", mark)
        if self._depth > MAX_YAML_DEPTH:
            raise yaml.composer.ComposerError(None, None, "it is nested too deeply", mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def read_yaml(path: Path, kind: str = "file") -> dict[str, object]:
    """Returns the fields of a YAML file. kind: what the file is, for messages.

    Raises SetupError if the file cannot be read or does not hold fields.
    """
    try:
        check_size(path, MAX_FIELDS_BYTES)
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)
    except (OSError, ValueError, yaml.YAMLError) as exc:
        raise SetupError(f"{kind} {path} is unusable: {_one_line(exc)}.") from exc
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise SetupError(f"{kind} {path} is unusable: it must hold lines of the form FIELD: VALUE.")
    return values


def apply_change(values: dict[str, object], change: str, option: str) -> None:
    """Changes one field as a command line asks for: "group.field=value", with the value in YAML.

    option: name of the command-line option, for messages. Raises SetupError.
    """
    name, equals, text = change.partition("=")
    if not equals:
        raise SetupError(f"{option} {change}: write it as group.field=value, for example train.batch=64.")
    *groups, last = name.strip().split(".")
    group = values
    for key in groups:
        inner = group.setdefault(key, {})
        if not isinstance(inner, dict):
            raise SetupError(f"{option} {change}: {key} is a value, not a group of fields.")
        group = inner
    try:
        group[last] = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as exc:
        raise SetupError(f"{option} {change}: the value cannot be read ({_one_line(exc)}).") from exc


def build_dataclass(
    kind: type[T],
    values: Mapping[str, object],
    where: str,
    choices: Mapping[str, Sequence[object]] | None = None,
    limits: Mapping[str, Limits] | None = None,
    default_limits: Limits = UNLIMITED,
) -> T:
    """Makes a dataclass from the fields of a YAML file and checks every value.

    where: the file, for messages. choices: the allowed values by field name. limits: the least and the greatest number
    by field name; default_limits holds for all other numbers. Numbers must be finite. A dataclass may check itself in
    __post_init__ and raise SetupError("FIELD is ..."): the file and the group are put before that message.

    Raises UnknownName for a field that does not exist, and SetupError for a field that is missing or wrong.
    """
    return _Builder(where, choices or {}, limits or {}, default_limits).build(kind, values, group="")


def check_limits(settings: DataclassInstance, limits: Mapping[str, Limits]) -> None:
    """Raises SetupError if a field of settings is not a number within its limits.

    limits: least and greatest value by field name; two integers ask for a whole number.
    """
    for name, (least, most) in limits.items():
        value, kind = getattr(settings, name), int if isinstance(least, int) else float
        if not _is_number(value, kind) or not least <= value <= most:
            raise SetupError(f"{name} is {value!r}: a {_describe_number(kind, (least, most))} is needed.")


@dataclass(frozen=True)
class _Builder:
    where: str
    choices: Mapping[str, Sequence[object]]
    limits: Mapping[str, Limits]
    default_limits: Limits

    def build(self, kind: type[T], values: Mapping[str, object], group: str) -> T:
        """group: "data." inside the group data, else ""."""
        hints = typing.get_type_hints(kind)
        names = [field.name for field in fields(kind)]
        for key in values:
            if key not in names:
                raise UnknownName(f"{self.where}: there is no field {group}{key}; there are {', '.join(names)}.")
        for field in fields(kind):
            if field.default is MISSING and field.default_factory is MISSING and field.name not in values:
                allowed = self._describe(hints[field.name], group + field.name)
                raise SetupError(f"{self.where}: {group}{field.name} is missing: {allowed} is needed.")
        checked = {key: self._field(hints[key], value, group + key) for key, value in values.items()}
        try:
            return kind(**checked)
        except SetupError as exc:
            raise SetupError(f"{self.where}: {group}{exc}") from exc

    def _field(self, hint: object, value: object, name: str) -> object:
        group = next((one for one in _members(hint) if is_dataclass(one)), None)
        if group is not None and isinstance(value, dict):
            return self.build(typing.cast("type[DataclassInstance]", group), value, f"{name}.")
        try:
            converted = self._convert(hint, value, name)
        except (ValueError, OverflowError) as exc:
            raise SetupError(f"{self.where}: {name} is {value!r}: {self._describe(hint, name)} is needed.") from exc
        if name in self.choices and converted not in self.choices[name]:
            raise SetupError(f"{self.where}: {name} is {value!r}: {self._describe(hint, name)} is needed.")
        return converted

    def _convert(self, hint: object, value: object, name: str) -> object:
        """Returns the value as its type asks for. Raises ValueError if it does not fit."""
        for member in _members(hint):
            try:
                return self._convert_one(member, value, name)
            except ValueError:
                continue
        raise ValueError

    def _convert_one(self, hint: object, value: object, name: str) -> object:
        origin, inner = typing.get_origin(hint), typing.get_args(hint)
        if origin is tuple:
            kinds = inner[:1] * len(value) if isinstance(value, list) and Ellipsis in inner else inner
            if not isinstance(value, list) or len(value) != len(kinds):
                raise ValueError
            return tuple(self._convert(kind, item, name) for kind, item in zip(kinds, value, strict=True))
        if origin is not None and isinstance(value, dict):
            return {str(key): self._convert(inner[1], item, name) for key, item in value.items()}
        if hint is float and isinstance(value, str) and EXPONENT_FORM.fullmatch(value):
            value = float(value)
        if hint in (int, float) and _is_number(value, hint):
            least, most = self.limits.get(name, self.default_limits)
            if least <= value <= most:
                return float(value) if hint is float else value
        elif hint not in (int, float) and type(value) is hint:
            return value
        raise ValueError

    def _describe(self, hint: object, name: str) -> str:
        """Returns what a field may hold, in words."""
        if name in self.choices:
            return " or ".join(repr(choice) for choice in self.choices[name])
        members = _members(hint)
        limits = self.limits.get(name, self.default_limits)
        words = " or ".join(_describe(one, limits) for one in members if one is not type(None))
        return f"{words} (or null)" if type(None) in members else words


def _describe(hint: object, limits: Limits, plural: bool = False) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        count = "" if Ellipsis in inner else f"{len(inner)} "
        return f"{'lists' if plural else 'a list'} of {count}{_describe(inner[0], limits, plural=True)}"
    if origin is not None:
        return f"{'groups' if plural else 'a group'} of names with {_describe(inner[1], limits, plural=True)}"
    if is_dataclass(hint):
        return "groups of fields" if plural else "a group of fields"
    if hint is bool:
        return "true or false"
    if hint is int or hint is float:
        return ("" if plural else "a ") + _describe_number(hint, limits, "numbers" if plural else "number")
    return "texts" if plural else "a text"


def _describe_number(kind: object, limits: Limits, noun: str = "number") -> str:
    (least, most), words = limits, f"whole {noun}" if kind is int else noun
    if math.isinf(most):
        return words if math.isinf(least) else f"{words} of at least {least}"
    return f"{words} from {least} to {most}"


def _members(hint: object) -> tuple[object, ...]:
    """Returns the types of a union, or the type alone."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return typing.get_args(hint)
    return (hint,)


def _is_number(value: object, kind: object) -> typing.TypeGuard[float]:
    kinds = (int,) if kind is int else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and -math.inf < value < math.inf


def _one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split())
