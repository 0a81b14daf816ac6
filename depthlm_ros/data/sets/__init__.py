"""The public data sets that can be curated, one file each."""

from __future__ import annotations

import importlib

from depthlm_ros.data.source_view import DataSet
from depthlm_ros.errors import UnknownName

# Name -> module of this folder, and what it calls the data set. Modules are imported when asked for.
_WHERE = {
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
NAMES = tuple(_WHERE)
# Those whose views know where the camera was: pairs need that.
POSED = ("eth3d", "folder", "matterport3d", "scannetpp")


def data_set(name: str) -> DataSet:
    """Raises UnknownName, naming those there are."""
    if name not in NAMES:
        raise UnknownName(f"data set '{name}' is unknown: choose one of {', '.join(NAMES)}.")
    module, attribute = _WHERE[name]
    return getattr(importlib.import_module(f"depthlm_ros.data.sets.{module}"), attribute)
