"""Models by name: one YAML file each in config/models/, its fields those of spec.ModelSpec.

    like: NAME          start from another model's fields
    canvas, calibration: groups of fields, each field optional once the model it is like has it

A folder with weights may hold the same as depthlm.yaml, for models of one's own.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from depthlm_ros.errors import SetupError, UnknownName
from depthlm_ros.model_files.install_paths import share_folders
from depthlm_ros.model_files.spec import (
    ARCHITECTURES,
    CHATS,
    DEPTH_TYPES,
    DTYPES,
    HEADS,
    MULTIPLES_BY,
    ROUNDINGS,
    SCALE_BY,
    ModelSpec,
)

MODELS = Path("config") / "models"
OWN_FILE = "depthlm.yaml"

CHOICES = {
    "architecture": ARCHITECTURES,
    "chat": CHATS,
    "depth_type": DEPTH_TYPES,
    "dtype": DTYPES,
    "head": HEADS,
    "canvas.multiple_by": MULTIPLES_BY,
    "canvas.rounding": ROUNDINGS,
    "canvas.scale_by": SCALE_BY,
}
# Least and greatest value; a number that is not named here must be at least 0.
LIMITS = {
    "canvas.focal_px": (1.0, 1e5),
    "canvas.longest_px": (1, 1 << 16),
    "canvas.most_px": (1, 1 << 16),
    "canvas.multiple_px": (1, 1 << 10),
    "most_coordinate": (1999, 2000),
    "pixels_per_token": (1, 1 << 10),
    **{f"calibration.{name}": (0.0, 10.0) for name in ("dense_spread", "dense_relative")},
    **{f"calibration.{name}": (0.0, 10.0) for name in ("words_spread", "words_relative")},
}


def read_spec(path: Path) -> ModelSpec:
    """The model of a YAML file. It is called as its file, unless that is depthlm.yaml: then as its folder.

    Raises SetupError naming the file, the field, its value and what is allowed.
    """
    raw = _read(path, seen=())
    raw["name"] = path.resolve().parent.name if path.name == OWN_FILE else path.stem
    spec = _build(ModelSpec, raw, str(path), "")
    for size in spec.canvas.canvases_px:
        if any(side % spec.pixels_per_token for side in size):
            raise SetupError(
                f"{path}: canvas.canvases_px has {size[0]} x {size[1]}: sides must be multiples of pixels_per_token "
                f"({spec.pixels_per_token})."
            )
    return spec


def spec_files() -> dict[str, Path]:
    """File of every known model by name, in the order of names."""
    found: dict[str, Path] = {}
    for folder in share_folders():
        for path in (folder / MODELS).glob("*.yaml"):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def known_specs() -> dict[str, ModelSpec]:
    """Every known model by name. Raises SetupError for a file that is wrong."""
    return {name: read_spec(path) for name, path in spec_files().items()}


def spec_named(name: str) -> ModelSpec:
    """A known model, or that of a file FILE.yaml. Raises UnknownName listing the names, SetupError for a wrong file."""
    return read_spec(_file_of(name))


def _file_of(name: str) -> Path:
    if name.endswith(".yaml") and Path(name).expanduser().is_file():
        return Path(name).expanduser()
    files = spec_files()
    if name not in files:
        raise UnknownName(f"model {name!r} is not one of {', '.join(files) or 'none: config/models is not installed'}.")
    return files[name]


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The raw fields, those of the model it is like included."""
    if path in seen:
        raise SetupError(f"{path}: like leads back to the same file: {' -> '.join(p.name for p in (*seen, path))}.")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise SetupError(f"model file {path} is unusable: {' '.join(str(exc).split())}.") from exc
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise SetupError(f"model file {path} holds no fields, but those of a model are needed: family, canvas, ...")
    if (like := raw.pop("like", None)) is None:
        return raw
    if not isinstance(like, str):
        raise SetupError(f"{path}: like is {like!r}: it must be the name of a model.")
    return _merged(_read(_file_of(like), (*seen, path)), raw)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """over's fields instead of base's, within groups too."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _build(kind: type, raw: Mapping[str, Any], file: str, group: str) -> Any:
    """A dataclass of checked values; group: "canvas." within a group, else ""."""
    hints = typing.get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}
    for key in raw:
        if key not in known:
            raise SetupError(f"{file}: there is no field {group}{key}; there are {', '.join(known)}.")
    for name, field in known.items():
        if field.default is MISSING and name not in raw:
            raise SetupError(f"{file}: {group}{name} is missing: {_allowed(hints[name], group + name)} is needed.")
    return kind(**{name: _value(hints[name], value, file, group + name) for name, value in raw.items()})


def _value(hint: Any, value: Any, file: str, name: str) -> Any:
    if is_dataclass(hint) and isinstance(value, dict):
        return _build(typing.cast(type, hint), value, file, f"{name}.")
    kinds = _kinds(hint)
    if typing.get_origin(hint) is tuple:
        good, value = _is_sizes(value), tuple(map(tuple, value)) if _is_sizes(value) else value
    elif float in kinds:
        good = _is_number(value) and _in_limits(value, name)
    elif int in kinds:
        good = _is_number(value, whole=True) and _in_limits(value, name)
    else:
        good = str in kinds and isinstance(value, str) and value in CHOICES.get(name, (value,))
    if not good and not (value is None and type(None) in kinds):
        raise SetupError(f"{file}: {name} is {value!r}: {_allowed(hint, name)} is needed.")
    return float(value) if float in kinds and value is not None else value


def _allowed(hint: Any, name: str) -> str:
    """What may stand in a field, in words."""
    kinds = _kinds(hint)
    if name in CHOICES:
        return " or ".join(repr(choice) for choice in CHOICES[name])
    if is_dataclass(hint):
        return "a group of fields"
    if typing.get_origin(hint) is tuple:
        return "a list of sizes such as [[640, 480]]"
    if str in kinds:
        return "a text"
    least, most = LIMITS.get(name, (0, math.inf))
    what = "a number" if float in kinds else "a whole number"
    return f"{what} from {least} to {most}" + (" (or null)" if type(None) in kinds else "")


def _kinds(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _is_number(value: Any, whole: bool = False) -> bool:
    kinds = (int,) if whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)


def _in_limits(value: float, name: str) -> bool:
    least, most = LIMITS.get(name, (0, math.inf))
    return least <= value <= most


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(size, list) and len(size) == 2 and all(_is_number(side, whole=True) and side > 0 for side in size)
        for size in value
    )
