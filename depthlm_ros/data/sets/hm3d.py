"""HM3D (DepthLM's script is unreleased; as DepthVLM reads it, from Omnidata's renderings, see omnidata.py).

Splits: where ROOT holds metadata.csv (of habitat-matterport-3dresearch: scene, split), --split chooses one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from depthlm_ros.data.caps import CAPS_M
from depthlm_ros.data.sets import omnidata
from depthlm_ros.data.view import Choice, DataSet, Maker

SPLITS = "metadata.csv"


def items(root: Path, choice: Choice) -> Sequence[str]:
    return omnidata.items("hm3d", root, choice, _splits(root))


def views(root: Path, item: str, choice: Choice) -> Iterator[Maker]:
    return omnidata.views("hm3d", root, item, choice, _splits(root).get(item, ""))


@lru_cache(maxsize=1)
def _splits(root: Path) -> dict[str, str]:
    return {row["scene"].strip(): row["split"].strip() for row in omnidata.table(root / SPLITS)}


SET = DataSet(
    name="hm3d",
    title="HM3D",
    layout="rgb/hm3d/SCENE/*_domain_rgb.png with depth_zbuffer/ and point_info/ beside rgb/.",
    items=items,
    views=views,
    corrections=("the focal length is reckoned for the image's own width; DepthVLM takes the one in point_info",),
    caps_m=CAPS_M["hm3d"],
)
