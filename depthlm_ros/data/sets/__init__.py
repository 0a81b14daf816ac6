"""The public data sets that can be curated, one file each."""

from __future__ import annotations

import importlib

from depthlm_ros.data.view import DataSet
from depthlm_ros.errors import UnknownName

NAMES = (
    "argoverse2",
    "ddad",
    "eth3d",
    "folder",
    "hm3d",
    "ibims1",
    "matterport3d",
    "nuscenes",
    "nyuv2",
    "scannetpp",
    "sunrgbd",
    "taskonomy",
    "waymo",
)
# Those whose views know where the camera was: pairs need that.
POSED = ("eth3d", "folder", "matterport3d", "scannetpp")


def data_set(name: str) -> DataSet:
    """Raises UnknownName, naming those there are."""
    if name not in NAMES:
        raise UnknownName(f"data set '{name}' is unknown: choose one of {', '.join(NAMES)}.")
    return importlib.import_module(f"depthlm_ros.data.sets.{name}").SET
