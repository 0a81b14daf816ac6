"""The families by name."""

from __future__ import annotations

from depthlm_ros.errors import UnknownName
from depthlm_ros.families.base import Family
from depthlm_ros.families.depthlm import DepthLM
from depthlm_ros.families.qwen_vl import DepthVLM, Qwen3VL, Qwen25VL
from depthlm_ros.families.tiny import Tiny
from depthlm_ros.families.vlm3 import Vlm3Corr, Vlm3Depth, Vlm3Object, Vlm3Pose

FAMILIES: dict[str, type[Family]] = {
    family.name: family
    for family in (Tiny, DepthLM, DepthVLM, Vlm3Depth, Vlm3Object, Vlm3Corr, Vlm3Pose, Qwen3VL, Qwen25VL)
}


def family_named(name: str, most_coordinate: int = 2000) -> Family:
    """Raises UnknownName listing the families that exist. most_coordinate: the model's ModelSpec.most_coordinate."""
    if name not in FAMILIES:
        raise UnknownName(f"family {name!r} is not one of {', '.join(sorted(FAMILIES))}.")
    return FAMILIES[name](most_coordinate)
