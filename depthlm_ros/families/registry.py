"""The families by name."""

from __future__ import annotations

from depthlm_ros.errors import UnknownName
from depthlm_ros.families.base import Family
from depthlm_ros.families.tiny import Tiny

FAMILIES: dict[str, type[Family]] = {Tiny.name: Tiny}


def family_named(name: str) -> Family:
    """Raises UnknownName listing the families that exist."""
    if name not in FAMILIES:
        raise UnknownName(f"family {name!r} is not one of {', '.join(sorted(FAMILIES))}.")
    return FAMILIES[name]()
