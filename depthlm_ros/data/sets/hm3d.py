"""HM3D (DepthLM's script is unreleased; as DepthVLM reads it, from Omnidata's renderings, see omnidata.py).

Splits: where ROOT holds metadata.csv (of habitat-matterport-3dresearch: scene, split), --split chooses one.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from depthlm_ros.data.sets.omnidata import omnidata_set, table

SPLITS = "metadata.csv"


@lru_cache(maxsize=1)
def _splits(root: Path) -> dict[str, str]:
    return {row["scene"].strip(): row["split"].strip() for row in table(root / SPLITS)}


SET = omnidata_set(
    component="hm3d",
    title="HM3D",
    layout="rgb/hm3d/SCENE/*_domain_rgb.png with depth_zbuffer/ and point_info/ beside rgb/.",
    splits=_splits,
)
