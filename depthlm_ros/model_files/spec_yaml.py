# SPDX-License-Identifier: Apache-2.0
"""Reads models from YAML files: one file for each model in config/models/, with the fields of spec.ModelSpec.

    like: NAME                          start with the fields of another model
    canvas, calibration, generation     groups of fields; fields that are left out keep the value of the model in `like`

A folder with weights may hold the same fields in a file depthlm.yaml, for models of your own. Networks for depth
(family: depth_map) have other fields: depth_network.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from depthlm_ros.errors import SetupError, UnknownName
from depthlm_ros.geometry.antialiased_resize import FILTERS
from depthlm_ros.geometry.resize_rules import MULTIPLES_BY, PIXEL_RULES, ROUNDINGS, SCALE_BY
from depthlm_ros.model_files.depth_network import build_network_fields, is_network_file
from depthlm_ros.model_files.install_paths import package_share_folders
from depthlm_ros.model_files.spec import ARCHITECTURES, CHATS, DEPTH_TYPES, DTYPES, HEADS, ModelSpec
from depthlm_ros.model_files.yaml_dataclass import build_dataclass, read_yaml

MODELS = Path("config") / "models"
OWN_FILE = "depthlm.yaml"

CHOICES = {
    "architecture": ARCHITECTURES,
    "chat": CHATS,
    "depth_type": DEPTH_TYPES,
    "dtype": DTYPES,
    "head": HEADS,
    **{f"canvas.{step}_filter": ("", *FILTERS) for step in ("canonical", "snap", "processor")},
    "canvas.multiple_by": MULTIPLES_BY,
    "canvas.pixel_rule": PIXEL_RULES,
    "canvas.released_pixel_rule": PIXEL_RULES,
    "canvas.rounding": ROUNDINGS,
    "canvas.scale_by": SCALE_BY,
}
# The least and the greatest value of a number. All other numbers must be at least 0.
LIMITS = {
    "canvas.canvases_px": (1, 1 << 16),
    "canvas.built_px": (1, 1 << 16),
    "canvas.focal_px": (1.0, 1e5),
    "canvas.longest_px": (1, 1 << 16),
    "canvas.most_px": (1, 1 << 16),
    "canvas.multiple_px": (1, 1 << 10),
    "generation.repetition_penalty": (0.01, 100.0),
    "most_coordinate": (1999, 2000),
    "pixels_per_token": (1, 1 << 10),
    **{f"calibration.{name}": (0.0, 10.0) for name in ("dense_spread", "dense_relative")},
    **{f"calibration.{name}": (0.0, 10.0) for name in ("words_spread", "words_relative")},
    **{f"calibration.{name}": (0.0, 10.0) for name in ("map_std_factor", "map_std_floor", "map_std_growth")},
    "calibration.map_std_centre_m": (0.01, 1000.0),
    "calibration.map_std_upper": (0.0, 10.0),
    "calibration.confidence_gain": (0.0, 10.0),
    "calibration.confidence_offset": (-20.0, 20.0),
}


def find_spec(name: str) -> ModelSpec:
    """Returns a known model, or the model of a file FILE.yaml.

    Raises UnknownName with the names of the known models, and SetupError for a wrong file.
    """
    return read_spec(find_spec_file(name))


def list_spec_files() -> dict[str, Path]:
    """Returns the file of every known model by name, in alphabetical order."""
    found: dict[str, Path] = {}
    for folder in package_share_folders():
        for path in (folder / MODELS).glob("*.yaml"):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def read_known_specs() -> dict[str, ModelSpec]:
    """Returns every known model by name. Raises SetupError for a wrong file."""
    return {name: read_spec(path) for name, path in list_spec_files().items()}


def read_spec(path: Path) -> ModelSpec:
    """Reads the model of a YAML file. Its name is the file's name, or for depthlm.yaml the name of its folder.

    Raises SetupError with the file, the field, its value and what is allowed.
    """
    values = _read_fields(path, earlier=())
    if is_network_file(values):
        return build_network_fields(values, path).model_spec(path.stem)
    values["name"] = path.resolve().parent.name if path.name == OWN_FILE else path.stem
    spec = build_dataclass(ModelSpec, values, str(path), CHOICES, LIMITS, default_limits=(0, math.inf))
    for size in spec.canvas.canvases_px:
        if any(side % spec.pixels_per_token for side in size):
            raise SetupError(
                f"{path}: canvas.canvases_px has {size[0]} x {size[1]}: sides must be multiples of pixels_per_token "
                f"({spec.pixels_per_token})."
            )
    return spec


def find_spec_file(name: str) -> Path:
    """Returns the file of a known model, or the file FILE.yaml. Raises UnknownName with the names that exist."""
    if name.endswith(".yaml") and Path(name).expanduser().is_file():
        return Path(name).expanduser()
    files = list_spec_files()
    if name not in files:
        raise UnknownName(f"model {name!r} is not one of {', '.join(files) or 'none: config/models is not installed'}.")
    return files[name]


def _read_fields(path: Path, earlier: tuple[Path, ...]) -> dict[str, object]:
    """Returns the fields of a file, including those of the model in `like`. earlier: the files that led here."""
    if path in earlier:
        names = " -> ".join(file.name for file in (*earlier, path))
        raise SetupError(f"{path}: like leads back to the same file: {names}.")
    values = read_yaml(path, "model file")
    if (like := values.pop("like", None)) is None:
        return values
    if not isinstance(like, str):
        raise SetupError(f"{path}: like is {like!r}: it must be the name of a model.")
    return _merge(_read_fields(find_spec_file(like), (*earlier, path)), values)


def _merge(base: Mapping[str, object], changes: Mapping[str, object]) -> dict[str, object]:
    """Returns the fields of base with the changes, also inside groups."""
    merged = dict(base)
    for key, value in changes.items():
        group = merged.get(key)
        merged[key] = _merge(group, value) if isinstance(value, dict) and isinstance(group, dict) else value
    return merged
