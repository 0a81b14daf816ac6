"""Taskonomy (DepthLM's script is unreleased; as DepthVLM reads it, from Omnidata's renderings, see omnidata.py).

Splits: where ROOT holds train_val_test_fullplus.csv (Taskonomy's own list: id, train, val, test), --split chooses one.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from depthlm_ros.data.sets.omnidata import omnidata_set, table

SPLITS = "train_val_test_fullplus.csv"


@lru_cache(maxsize=1)
def _splits(root: Path) -> dict[str, str]:
    """Building -> train, val or test."""
    rows = table(root / SPLITS)
    return {row["id"].strip(): name for row in rows for name in ("train", "val", "test") if row[name].strip() == "1"}


SET = omnidata_set(
    component="taskonomy",
    title="Taskonomy",
    layout="rgb/taskonomy/BUILDING/*_domain_rgb.png, depth_zbuffer/ and point_info/ beside rgb/; or BUILDING/rgb/ ...",
    splits=_splits,
)
