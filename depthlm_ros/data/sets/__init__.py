# SPDX-License-Identifier: Apache-2.0
"""Readers of the public data sets, one module each.

`data_set(name)` returns the reader of a data set. A reader's module is imported only when its data set is requested.
"""

from __future__ import annotations

import importlib

from depthlm_ros.data.source_view import DataSet
from depthlm_ros.errors import UnknownName

__all__ = ["NAMES", "NAMES_WITH_POSES", "data_set"]

# Name of a data set -> (module in this folder, name of the DataSet in that module).
_REGISTRY = {
    "argoverse2": ("argoverse2", "SET"),
    "ddad": ("ddad", "SET"),
    "eth3d": ("eth3d", "SET"),
    "folder": ("folder", "SET"),
    "hm3d": ("omnidata", "HM3D"),
    "ibims1": ("ibims1", "SET"),
    "matterport3d": ("matterport3d", "SET"),
    "nuscenes": ("nuscenes", "SET"),
    "nyuv2": ("sunrgbd", "NYUV2"),
    "scannetpp": ("scannetpp", "SET"),
    "sunrgbd": ("sunrgbd", "SUNRGBD"),
    "taskonomy": ("omnidata", "TASKONOMY"),
    "waymo": ("waymo", "SET"),
}
NAMES = tuple(_REGISTRY)
# The data sets whose views have camera poses, which pairs of views need.
NAMES_WITH_POSES = ("eth3d", "folder", "matterport3d", "scannetpp")


def data_set(name: str) -> DataSet:
    """Returns a data set by name. Raises UnknownName, which lists the known names."""
    if name not in _REGISTRY:
        raise UnknownName(f"data set '{name}' is unknown: choose one of {', '.join(NAMES)}.")
    module, attribute = _REGISTRY[name]
    found: DataSet = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    return found
