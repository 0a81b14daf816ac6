"""SUN RGB-D without its NYUv2 (nyuv2.py); filled depth, as both releases take it. See sun.py for what is on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from depthlm_ros.data.caps import CAPS_M
from depthlm_ros.data.sets import sun
from depthlm_ros.data.view import Choice, DataSet, Maker


def items(root: Path, choice: Choice) -> Sequence[str]:
    """The scenes."""
    found = (path.relative_to(root).as_posix() for path in sun.scenes(root / "SUNRGBD"))
    return [name for name in found if "/NYUdata/" not in name]


def views(root: Path, item: str, choice: Choice) -> Iterator[Maker]:
    key = item.removeprefix("SUNRGBD/")
    return sun.views(root / item, key, "depth_bfx", CAPS_M["sunrgbd"], choice)


SET = DataSet(
    name="sunrgbd",
    title="SUN RGB-D",
    layout="SUNRGBD/{kv1,kv2,realsense,xtion}/.../SCENE/{image,depth_bfx}/ and intrinsics.txt.",
    items=items,
    views=views,
    corrections=(*sun.CORRECTIONS, "0.005 to 8 m, as far as the sensors reach; DepthLM's release takes up to 25 m"),
    caps_m=CAPS_M["sunrgbd"],
)
