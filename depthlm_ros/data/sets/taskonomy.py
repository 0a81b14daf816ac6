"""Taskonomy (DepthLM's script is unreleased; as DepthVLM reads it, from Omnidata's renderings, see omnidata.py).

Splits: where ROOT holds train_val_test_fullplus.csv (Taskonomy's own list: id, train, val, test), --split chooses one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from depthlm_ros.data.caps import CAPS_M
from depthlm_ros.data.sets import omnidata
from depthlm_ros.data.view import Choice, DataSet, Maker

SPLITS = "train_val_test_fullplus.csv"


def items(root: Path, choice: Choice) -> Sequence[str]:
    return omnidata.items("taskonomy", root, choice, _splits(root))


def views(root: Path, item: str, choice: Choice) -> Iterator[Maker]:
    return omnidata.views("taskonomy", root, item, choice, _splits(root).get(item, ""))


@lru_cache(maxsize=1)
def _splits(root: Path) -> dict[str, str]:
    """Building -> train, val or test."""
    rows = omnidata.table(root / SPLITS)
    return {row["id"].strip(): name for row in rows for name in ("train", "val", "test") if row[name].strip() == "1"}


SET = DataSet(
    name="taskonomy",
    title="Taskonomy",
    layout="rgb/taskonomy/BUILDING/*_domain_rgb.png, depth_zbuffer/ and point_info/ beside rgb/; or BUILDING/rgb/ ...",
    items=items,
    views=views,
    corrections=("the focal length is reckoned for the image's own width; DepthVLM takes the one in point_info",),
    caps_m=CAPS_M["taskonomy"],
)
